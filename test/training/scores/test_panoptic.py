# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality on cases worked out by hand, and against the definition written as loops."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.errors import DataError
from training.data.kinds import open_dataset
from training.data.scan import Scan
from training.evaluate import main, score_objects, ScoringOptions
from training.scores.panoptic import PanopticQuality, ScoredObjects

NONE = 255
Segments = list[tuple[int, int, int]]  # class, object number, points


def spread(segments: Segments) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    counts = [count for _, _, count in segments]
    labels = np.repeat(np.array([label for label, _, _ in segments], np.uint8), counts)
    return labels, np.repeat(np.array([number for _, number, _ in segments], np.uint32), counts)


def quality_of(
    truth: Segments, answer: Segments, *, classes: int = 2, min_points: int = 50
) -> PanopticQuality:
    quality = PanopticQuality(classes, min_points=min_points)
    quality.add(*spread(truth), *spread(answer))
    return quality


def test_a_perfect_answer_has_a_quality_of_one() -> None:
    segments = [(0, 1, 60), (0, 2, 70), (1, 0, 100)]
    quality = quality_of(segments, segments)
    assert quality.pq().tolist() == [1, 1]
    assert quality.counts.tolist() == [[2, 1], [0, 0], [0, 0]]


def test_the_numbers_of_the_objects_do_not_matter() -> None:
    quality = quality_of([(0, 1, 60), (0, 2, 70)], [(0, 9, 60), (0, 4, 70)])
    assert quality.pq()[0] == 1


def test_one_object_found_and_one_cut_in_halves() -> None:
    # A: 80 of 100 points found, IoU 0.8. B: two halves of 100, IoU 0.5 each, which is no match:
    # TP 1, FP 2, FN 1: SQ 0.8, RQ 1 / (1 + 1 + 0.5) = 0.4
    truth = [(0, 1, 100), (0, 2, 200)]
    answer = [(0, 1, 80), (1, 0, 20), (0, 2, 100), (0, 3, 100)]
    quality = quality_of(truth, answer)
    assert quality.counts[:, 0].tolist() == [1, 2, 1]
    assert (quality.sq()[0], quality.rq()[0]) == pytest.approx((0.8, 0.4))
    assert quality.pq()[0] == pytest.approx(0.32)


def test_two_objects_in_one_segment_match_the_larger() -> None:
    # 150 and 50 points as one of 200: IoU 0.75 with the larger, the smaller is missed:
    # SQ 0.75, RQ 1 / 1.5
    quality = quality_of([(0, 1, 150), (0, 2, 50)], [(0, 1, 200)])
    assert quality.pq()[0] == pytest.approx(0.5)


def test_points_without_a_truth_cost_nothing() -> None:
    # 60 of the 160 points of the first segment and all of the second lie on no truth
    truth = [(0, 1, 100), (NONE, 0, 60), (NONE, 0, 300)]
    quality = quality_of(truth, [(0, 1, 160), (0, 2, 300)])
    assert quality.pq()[0] == 1
    assert quality.counts[:, 0].tolist() == [1, 0, 0]


def test_small_segments_are_no_mistakes_and_may_match() -> None:
    # 49 points: the missed and the invented one do not count, the found one does
    truth = [(0, 1, 49), (1, 0, 49), (0, 2, 10)]
    answer = [(1, 0, 49), (0, 1, 49), (0, 2, 10)]
    assert quality_of(truth, answer).counts[:, 0].tolist() == [1, 0, 0]
    assert quality_of(truth, answer, min_points=49).counts[:, 0].tolist() == [1, 1, 1]


def test_points_without_an_answer_are_missed() -> None:
    # 40 of 100 unanswered: IoU 0.6
    quality = quality_of([(0, 1, 100)], [(0, 1, 60), (NONE, 0, 40)])
    assert quality.counts[:, 0].tolist() == [1, 0, 0]
    assert quality.pq()[0] == pytest.approx(0.6)


def test_the_example_of_the_paper() -> None:
    # grass 0, sky 1: 50 points each, 10 of each answered as the other: IoU 40 / 60
    # person 2: 150 + 50 points answered as one (IoU 0.75), 100 right (1): SQ 0.875, RQ 2 / 2.5;
    # 50 points of dog 3 answered as a person: one more FP, RQ 2 / 3; dog 0
    truth = [(0, 0, 50), (1, 0, 50), (3, 22, 50), (2, 33, 150), (2, 42, 50), (2, 11, 100)]
    answer = [
        (0, 0, 40),
        (1, 0, 10),
        (1, 0, 40),
        (0, 0, 10),
        (2, 35, 50),
        (2, 8, 200),
        (2, 95, 100),
    ]
    quality = quality_of(truth, answer, classes=4, min_points=1)
    assert quality.pq() == pytest.approx([2 / 3, 2 / 3, 0.875 * 2 / 3, 0])
    assert quality.pq().mean() == pytest.approx(0.4791666666666667)


def test_dagger_takes_the_iou_where_there_are_no_things() -> None:
    quality = quality_of([(0, 1, 100)], [(0, 1, 60), (NONE, 0, 40)])
    assert quality.dagger([0], np.array([0.9, 0.7])) == pytest.approx([0.6, 0.7])


def by_definition(
    truth: tuple[NDArray, NDArray], answer: tuple[NDArray, NDArray], classes: int, least: int
) -> NDArray[np.float64]:
    """Sets of points and two loops."""
    found = np.zeros((4, classes))
    voided = set(np.flatnonzero(truth[0] >= classes).tolist())
    for label in range(classes):
        segments = []
        for labels, numbers in (truth, answer):
            members = [
                set(np.flatnonzero((labels == label) & (numbers == number)).tolist()) - voided
                for number in np.unique(numbers)
            ]
            segments.append([points for points in members if points])
        pairs = [
            (i, j, len(a & b) / len(a | b))
            for i, a in enumerate(segments[0])
            for j, b in enumerate(segments[1])
        ]
        matches = [(i, j, iou) for i, j, iou in pairs if iou > 0.5]
        missed = set(range(len(segments[0]))) - {i for i, _, _ in matches}
        invented = set(range(len(segments[1]))) - {j for _, j, _ in matches}
        found[:, label] = (
            sum(iou for _, _, iou in matches),
            len(matches),
            sum(len(segments[1][j]) >= least for j in invented),
            sum(len(segments[0][i]) >= least for i in missed),
        )
    return found


@pytest.mark.parametrize('seed', range(40))
def test_random_labels_agree_with_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, NONE], 200, p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8)
    numbers = rng.integers(0, 4, 200).astype(np.uint32)
    changed = rng.random(200) < rng.uniform(0, 0.5)
    answer = np.where(changed, rng.choice([0, 1, 2, NONE], 200), labels).astype(np.uint8)
    objects = np.where(rng.random(200) < 0.2, rng.integers(0, 5, 200), numbers).astype(np.uint32)
    quality = PanopticQuality(3, min_points=12)
    quality.add(labels, numbers, answer, objects)
    expected = by_definition((labels, numbers), (answer, objects), 3, 12)
    assert quality.sums == pytest.approx(expected)


def test_scans_and_processes_add_up() -> None:
    first = quality_of([(0, 1, 100)], [(0, 1, 60), (NONE, 0, 40)])
    first += quality_of([(0, 1, 100)], [(1, 1, 100)])
    # 0.6, and one missed: SQ 0.6, RQ 1 / 1.5
    assert first.pq()[0] == pytest.approx(0.4)


def test_an_empty_scan_changes_nothing() -> None:
    assert quality_of([], []).pq().tolist() == [0, 0]


def test_points_of_the_past_are_not_scored() -> None:
    labels, numbers = spread([(0, 1, 60), (0, 2, 60)])
    past = np.repeat([False, True], 60)
    scan = Scan(points=np.zeros((120, 4), np.float32), labels=labels, instances=numbers, past=past)
    scored = ScoredObjects(lambda scan: scan.labels, lambda *_: numbers, PanopticQuality(2))
    assert (scored(scan) == labels).all()
    assert scored.quality.counts[:, 0].tolist() == [1, 0, 0]


def test_every_object_of_the_truth_is_found_in_its_own_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_street(tmp_path)
    words = ['--data', str(tmp_path), '--panoptic', 'truth', '--json', str(tmp_path / 'f.json')]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert 'car (thing)' in shown
    figures = json.loads((tmp_path / 'f.json').read_text())
    # two cars and a road, all found: 2 of 19 classes at 1, the others absent and thus 0
    assert figures['pq'] == pytest.approx(2 / 19)
    assert (figures['pq_car'], figures['pq_road']) == (1, 1)
    assert figures['pq_things'] == pytest.approx(1 / 8)
    assert figures['pq_dagger'] == pytest.approx(2 / 19)


def test_data_without_object_numbers_are_refused(tmp_path: Path) -> None:
    write_street(tmp_path)
    scans = open_dataset('semantickitti', tmp_path, None)
    bare = replace(scans, read_raw=lambda path: (np.fromfile(path, '<u4') & 0xFFFF, None))
    options = ScoringOptions(data=tmp_path, panoptic='truth')
    with pytest.raises(DataError, match='no object numbers'):
        score_objects(options, lambda scan: scan.labels, bare)


def write_street(root: Path) -> None:
    """Two cars of 60 points, 5 m apart, and 100 points of road."""
    rng = np.random.default_rng(0)
    places = np.repeat([[5.0, 2, -1], [10, 2, -1], [7, -3, -1.7]], [60, 60, 100], axis=0)
    points = np.zeros((220, 4), '<f4')
    points[:, :3] = places + rng.uniform(-0.2, 0.2, places.shape)
    raw = np.repeat(np.array([1 << 16 | 10, 2 << 16 | 252, 40], '<u4'), [60, 60, 100])
    folder = root / 'sequences' / '00'
    for name, values in (('velodyne/000000.bin', points), ('labels/000000.label', raw)):
        (folder / name).parent.mkdir(parents=True)
        values.tofile(folder / name)
