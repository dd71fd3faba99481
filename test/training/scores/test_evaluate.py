# SPDX-License-Identifier: Apache-2.0
"""Scores come from the original points; every mistake of the user gets one sentence and exit 2."""

from __future__ import annotations

from dataclasses import replace
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import POINTS, write_bundle, write_kitti

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import IGNORE, NUSCENES, SEMANTICKITTI
from lidar_kd.segmenter import Segmenter
from training.data.scan import Scan, ScanSet
from training.evaluate import main
from training.scores.augmented import make_views, segment_augmented
from training.scores.predictions import layout_of, StoredPredictions
from training.scores.scoring import check_tables, score, score_answers

CAR, ROAD = SEMANTICKITTI.names.index('car'), SEMANTICKITTI.names.index('road')


@pytest.fixture(scope='module')
def scans(tmp_path_factory: pytest.TempPathFactory) -> ScanSet:
    return write_kitti(tmp_path_factory.mktemp('kitti'), ('07', '08'))


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp('bundle') / 'tiny.safetensors')


def all_road(points: np.ndarray) -> np.ndarray:
    return np.full(len(points), ROAD, np.uint8)


def test_every_labelled_point_counts_once(scans: ScanSet) -> None:
    labels = np.concatenate([scans[i].labels for i in range(4)])
    confusion = score(all_road, scans)
    assert confusion.points.sum() == (labels != IGNORE).sum()
    # all points are answered road: its hits are the points that are, its union all labelled ones
    assert confusion.iou()[ROAD] == (labels == ROAD).sum() / (labels != IGNORE).sum()


def test_shares_of_the_ranks_add_up_to_the_whole(scans: ScanSet) -> None:
    parts = [score(all_road, scans, rank=rank, world=3) for rank in range(3)]
    parts[0] += parts[1]
    parts[0] += parts[2]
    assert (parts[0].counts == score(all_road, scans).counts).all()


class Fused:
    """One scan of two points, the second one added from the past."""

    table = SEMANTICKITTI

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Scan:
        points, labels = np.ones((2, 4), np.float32), np.array([ROAD, CAR], np.uint8)
        return Scan(points=points, labels=labels, past=np.array([False, True]))


def test_points_of_the_past_are_seen_and_not_counted() -> None:
    seen = []

    def look(points: np.ndarray) -> np.ndarray:
        seen.append(len(points))
        return all_road(points)

    confusion = score(look, Fused())
    assert (seen, confusion.points.sum(), confusion.iou()[ROAD]) == ([2], 1, 1)


def test_an_answer_for_every_point_is_asked_for(scans: ScanSet) -> None:
    with pytest.raises(DataError, match=r'07/000000: 1 answers for 60 points'):
        score_answers(lambda scan: np.zeros(1, np.uint8), scans)


def test_classes_must_be_those_of_the_data() -> None:
    check_tables(SEMANTICKITTI, SEMANTICKITTI)
    with pytest.raises(ConfigError, match="classes of 'semantickitti'.* those of 'nuscenes'"):
        check_tables(SEMANTICKITTI, NUSCENES)


def test_the_views_are_the_eight_symmetries_of_a_square() -> None:
    views = make_views(np.array([[1, 2, 3, 4]], np.float32))
    places = {(float(view[0, 0]), float(view[0, 1])) for view in views}
    assert places == {
        (a * x, b * y) for a in (1, -1) for b in (1, -1) for x, y in ((1, 2), (2, 1))
    }
    assert all((view[0, 2:] == [3, 4]).all() for view in views)


def test_augmented_labels_are_the_best_mean_probability(bundle: Path, scans: ScanSet) -> None:
    segmenter, points = Segmenter(bundle, precision='float32'), scans[0].points.copy()
    points[5, 0] = np.nan
    single = segmenter.probabilities(points)
    assert np.isnan(single[5]).all()
    seen = np.delete(np.arange(POINTS), 5)
    assert np.allclose(single[seen].sum(1), 1, atol=1e-5)
    result = segmenter.segment(points)
    assert np.allclose(single[seen].max(1), result.probability[seen], atol=1e-5)
    mean = np.mean([segmenter.probabilities(view) for view in make_views(points)], 0)
    labels = segment_augmented(segmenter, points)
    assert (labels[seen] == mean[seen].argmax(1)).all()
    assert labels[5] == IGNORE


def test_a_report_a_json_and_pictures_are_left(
    bundle: Path, scans: ScanSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['--bundle', str(bundle), '--data', str(scans.root), '--sequences', '08']
    out = tmp_path / 'new' / 'report'
    words += ['--out', str(out), '--pictures', '1', '--json', str(tmp_path / 'f.json')]
    words += ['--html', str(tmp_path / 'pages' / 'look.html')]
    assert main(words) == 0
    page = (tmp_path / 'pages' / 'look.html').read_text()
    assert page.count('lidarKd.arrive()</script>') == 2
    assert page.count('"truth", "probability"') == 2
    names = {path.name for path in out.iterdir()}
    expected = {'report.txt', 'report.md', 'report.json', 'report.csv', 'confusion.png'}
    assert names == expected | {'bev_08_000001.png'}
    flat = json.loads((tmp_path / 'f.json').read_text())
    assert flat['points'] == sum((scans[i].labels != IGNORE).sum() for i in (2, 3))
    assert flat['latency_ms'] > 0
    shown = capsys.readouterr().out
    for text in (
        'SemanticKITTI official',
        'nuScenes official',
        '> 50 m',
        'a single one',
        '(hard)',
    ):
        assert text in shown


def test_stored_predictions_score_what_the_network_scored(
    bundle: Path, scans: ScanSet, tmp_path: Path
) -> None:
    segmenter, layout = Segmenter(bundle), layout_of('semantickitti')
    for index, frame in enumerate(scans.frames):
        labels = segmenter.segment(scans[index].points).labels
        layout.write(tmp_path / layout.place(frame, ''), labels, SEMANTICKITTI)
    live = score(lambda points: segmenter.segment(points).labels, scans)
    for folder in (tmp_path, tmp_path / 'sequences'):
        stored = score_answers(StoredPredictions(folder, scans), scans)
        assert (stored.counts == live.counts).all()


def test_challenge_ids_of_nuscenes_are_one_above_ours(tmp_path: Path) -> None:
    layout = layout_of('nuscenes')
    ours = np.array([0, 15, IGNORE], np.uint8)
    layout.write(tmp_path / 'a.bin', ours, NUSCENES)
    stored = (tmp_path / 'a.bin').read_bytes()
    assert list(stored) == [1, 16, 0]
    assert layout.read(stored, NUSCENES, 'a.bin').tolist() == ours.tolist()
    with pytest.raises(DataError, match='a.bin: holds id 17'):
        layout.read(bytes([17]), NUSCENES, 'a.bin')


def spoil(scans: ScanSet, root: Path, what: str) -> None:
    """A copy of the data with one thing wrong."""
    copy = write_kitti(root, ('08',))
    label = copy.frames[0].labels
    assert label is not None
    stored = label.read_bytes()
    {
        'short labels': lambda: label.write_bytes(stored[:-8]),
        'half a label': lambda: label.write_bytes(stored[:-1]),
        'unknown class': lambda: label.write_bytes(b'\x09\x00\x00\x00' * POINTS),
        'no labels': lambda: label.unlink(),
        'cut scan': lambda: copy.frames[0].scan.write_bytes(b'\0' * 17),
        'empty split': lambda: [frame.scan.unlink() for frame in copy.frames],
    }[what]()


@pytest.mark.parametrize(
    ('what', 'sentence'),
    [
        ('short labels', '58 labels for the 60 points'),
        ('half a label', 'no whole number of uint32 labels'),
        ('unknown class', 'raw label ids 9 (60 points) are not in the label table'),
        ('no labels', '1 of 2 scans have no labels'),
        ('cut scan', '000000.bin: '),
        ('empty split', 'no .bin files; unpack the scans'),
    ],
)
def test_bad_data_are_one_sentence_and_exit_2(
    what: str,
    sentence: str,
    bundle: Path,
    scans: ScanSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(scans, tmp_path, what)
    assert main(['--bundle', str(bundle), '--data', str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert sentence in error
    assert error.count('\n') == 1


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--data', 'nowhere'], 'nowhere: no such folder'),
        (['--data', '{data}', '--sequences', '05'], 'no sequence 05; here are 07, 08'),
        (['--data', '{data}', '--bundle', 'nowhere'], 'nowhere: no such bundle'),
        (['--data', '{data}', '--predictions', 'nowhere'], 'nowhere: no such folder'),
        (['--data', '{data}', '--predictions', '{data}'], '4 of 4 predictions are missing'),
        (['--data', '{data}', '--predictions', '{data}', '--tta'], '--tta needs a network'),
        (['--data', '{data}', '--device', 'abacus'], "device 'abacus' is unknown"),
        (['--data', '{data}', '--bundle', '{other}'], "classes of 'nuscenes'"),
        (['--data', '{data}', '--out', '{file}/report'], 'cannot be written (Not a directory)'),
    ],
)
def test_bad_paths_are_one_sentence_and_exit_2(
    words: list[str],
    sentence: str,
    bundle: Path,
    scans: ScanSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = write_bundle(tmp_path / 'nuscenes.safetensors', NUSCENES)
    places = {'data': scans.root, 'other': other, 'file': bundle}
    given = [word.format(**places) for word in words]
    if '--bundle' not in given and '--predictions' not in given:
        given += ['--bundle', str(bundle)]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert sentence in error
    assert error.count('\n') == 1


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_leaves_the_old_report_whole(
    code: int,
    bundle: Path,
    scans: ScanSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ['--bundle', str(bundle), '--data', str(scans.root), '--pictures', '0']
    words += ['--out', str(tmp_path)]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        self.write_bytes(b'half')  # what got onto the disk before it was full
        raise OSError(code, 'the disk takes nothing', str(self))

    monkeypatch.setattr(Path, 'write_text', refuse)
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f'error: {tmp_path}: cannot be written (the disk takes nothing)')
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_some_scans_are_spread_over_the_set(bundle: Path, scans: ScanSet, tmp_path: Path) -> None:
    path = tmp_path / 'f.json'
    words = ['--bundle', str(bundle), '--data', str(scans.root), '--scans', '2']
    assert main([*words, '--json', str(path)]) == 0
    # of scans 0 to 3 the middles of both halves: 1 and 3
    middles = replace(scans, frames=(scans.frames[1], scans.frames[3]))
    points = json.loads(path.read_text())['points']
    assert points == score(all_road, middles).points.sum()
