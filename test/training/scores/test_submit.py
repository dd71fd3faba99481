# SPDX-License-Identifier: Apache-2.0
"""Archives hold every scan in the servers' formats, are resumed, and are checked before upload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import errno
import json
from pathlib import Path
from typing import Any
import zipfile

import numpy as np
import pytest
from tiny import POINTS, write_bundle, write_kitti

from lidar_kd.labels import IGNORE, NUSCENES, SEMANTICKITTI
from lidar_kd.segmenter import Segmenter
from training.data.scan import Frame, ScanSet
from training.scores.predictions import layout_of
from training.scores.submission import fill_unanswered, find_problems, pack
from training.submit import main

FIRST = 'sequences/11/predictions/000000.label'


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    write_kitti(tmp_path / 'data', ('11', '12'))
    bundle = write_bundle(tmp_path / 'tiny.safetensors')
    data = ['--data', str(tmp_path / 'data'), '--sequences', '11', '12']
    return ['--bundle', str(bundle), *data, '--out', str(tmp_path / 's.zip')]


def test_the_archive_holds_raw_ids_for_every_scan(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    segmenter = Segmenter(tmp_path / 'tiny.safetensors')
    with zipfile.ZipFile(tmp_path / 's.zip') as archive:
        places = [f'sequences/{s}/predictions/{n:06}.label' for s in (11, 12) for n in (0, 1)]
        assert archive.namelist() == places
        stored = np.frombuffer(archive.read(FIRST), '<u4')
    points = np.fromfile(tmp_path / 'data/sequences/11/velodyne/000000.bin', '<f4')
    labels = segmenter.segment(points.reshape(-1, 4)).labels
    assert (stored == SEMANTICKITTI.to_raw(labels)).all()
    assert set(stored) <= {ids[0] for ids in SEMANTICKITTI.raw_ids}


def test_an_interrupted_submission_goes_on(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    folder = tmp_path / 's_predictions'
    kept, gone, cut = (folder / f'sequences/{place}.label' for place in (
        '11/predictions/000000', '11/predictions/000001', '12/predictions/000000'
    ))  # fmt: skip
    whole = (tmp_path / 's.zip').read_bytes()
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-4])
    stamp = kept.stat().st_mtime_ns
    capsys.readouterr()
    assert main(words) == 0
    assert '2 predicted before' in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == stamp
    with zipfile.ZipFile(tmp_path / 's.zip') as archive:
        assert archive.read(FIRST) == kept.read_bytes()
    assert len((tmp_path / 's.zip').read_bytes()) == len(whole)


def test_predictions_of_two_networks_are_not_mixed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    write_bundle(tmp_path / 'tiny.safetensors', seed=1)
    assert main(words) == 2
    assert 's_predictions: holds predictions of another network' in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_archive_whole(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words) == 0
    before = (tmp_path / 's.zip').read_bytes()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(zipfile.ZipFile, 'write', refuse)
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert 's.zip: cannot be written (No space left on device); free some space' in error
    assert (tmp_path / 's.zip').read_bytes() == before
    assert not list(tmp_path.glob('*.tmp')) + list(tmp_path.glob('.*.tmp'))


Members = dict[str, bytes]
RAW_UNLABELLED, RAW_UNKNOWN = (np.full(POINTS, raw, '<u4').tobytes() for raw in (0, 9))


@pytest.mark.parametrize(
    ('spoil', 'sentence'),
    [
        (lambda m: m.pop(FIRST), f'{FIRST}: is missing; predict scan 11/000000'),
        (lambda m: m.update({FIRST: m[FIRST][:-4]}), '236 bytes for the 60 points of 000000.bin'),
        (lambda m: m.update({FIRST: RAW_UNKNOWN}), 'raw label ids 9'),
        (lambda m: m.update({FIRST: RAW_UNLABELLED}), f'{FIRST}: 60 points have no class'),
        (lambda m: m.update({'readme.md': b'hello'}), 'readme.md: belongs to no scan'),
    ],
)
def test_the_check_finds(
    spoil: Callable[[Members], Any],
    sentence: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words) == 0
    path = tmp_path / 's.zip'
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    check = ['check', str(path), *words[2:-2]]
    assert main(check) == 0
    spoil(members)
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    capsys.readouterr()
    assert main(check) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert '1 problems' in shown.out


def test_what_is_no_archive_is_said(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'text.zip').write_text('no archive')
    with zipfile.ZipFile(tmp_path / 'new.zip', 'w') as archive:
        archive.writestr(FIRST, b'')
    data = bytearray((tmp_path / 'new.zip').read_bytes())
    data[data.index(b'PK\1\2') + 6] = 92  # the version that it takes to unpack
    (tmp_path / 'new.zip').write_bytes(data)
    for name, sentence in (
        ('text.zip', 'no complete zip archive'),
        ('new.zip', 'no complete zip archive (zip file version 9.2)'),
        ('none.zip', 'cannot be read'),
    ):
        assert main(['check', str(tmp_path / name), *words[2:-2]]) == 2
        assert f'{name}: {sentence}' in capsys.readouterr().err


def test_a_member_without_a_name_is_told(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.writestr('some name', b'')
    data = (tmp_path / 'a.zip').read_bytes().replace(b'some name', b'\0ome name')
    (tmp_path / 'a.zip').write_bytes(data)  # a name ends at its first zero
    assert main(['check', str(tmp_path / 'a.zip'), *words[2:-2]]) == 2
    assert 'a file without a name: belongs to no scan of this split' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('packing', 'sentence'),
    [
        (zipfile.ZIP_DEFLATED, 'cannot be unpacked (Error -3 while decompressing data'),
        (zipfile.ZIP_LZMA, 'packed as servers need not unpack'),
    ],
)
def test_a_member_that_is_damaged_inside_is_named(
    packing: int,
    sentence: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words) == 0
    path = tmp_path / 's.zip'
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    data = bytearray(path.read_bytes())
    start = 30 + len(FIRST)  # of what is packed, behind the header of the first member
    data[start : start + 12] = b'\xff' * 12
    path.write_bytes(data)
    capsys.readouterr()
    assert main(['check', str(path), *words[2:-2]]) == 2
    assert f'{FIRST}: {sentence}' in capsys.readouterr().err


def test_points_without_an_answer_take_their_neighbours() -> None:
    points = np.zeros((4, 4), np.float32)
    points[:, 0] = [0, 10, 8, np.nan]  # the third is near the second; NaN counts as the origin
    labels = np.array([3, 5, IGNORE, IGNORE], np.uint8)
    assert fill_unanswered(points, labels).tolist() == [3, 5, 5, 3]
    assert fill_unanswered(points, np.full(4, IGNORE, np.uint8)).tolist() == [IGNORE] * 4


def test_a_nuscenes_archive_has_challenge_ids_and_its_description(tmp_path: Path) -> None:
    scan = tmp_path / 'a.pcd.bin'
    np.zeros((3, 5), '<f4').tofile(scan)
    frame = Frame(name='scene-0077/token', scan=scan)
    kitti = write_kitti(tmp_path / 'any')
    scans: ScanSet = replace(kitti, kind='nuscenes', table=NUSCENES, frames=(frame,))
    layout = layout_of('nuscenes')
    place = 'lidarseg/test/token_lidarseg.bin'
    assert layout.place(frame, 'test') == place
    layout.write(tmp_path / 'p' / place, np.array([0, 3, 15], np.uint8), NUSCENES)
    pack(tmp_path / 'n.zip', tmp_path / 'p', scans, 'test', lambda: None)
    with zipfile.ZipFile(tmp_path / 'n.zip') as archive:
        assert set(archive.namelist()) == {'test/submission.json', place}
        assert list(archive.read(place)) == [1, 4, 16]
        meta = json.loads(archive.read('test/submission.json'))['meta']
    sensors = ('camera', 'lidar', 'radar', 'map', 'external')
    assert meta == {f'use_{sensor}': sensor == 'lidar' for sensor in sensors}
    assert find_problems(tmp_path / 'n.zip', scans, 'test') == []
    layout.write(tmp_path / 'p' / place, np.array([0, 3, IGNORE], np.uint8), NUSCENES)
    pack(tmp_path / 'n.zip', tmp_path / 'p', scans, 'test', lambda: None)
    assert find_problems(tmp_path / 'n.zip', scans, 'test') == [
        f'{place}: 1 points have no class; every point needs one.'
    ]
