# SPDX-License-Identifier: Apache-2.0
"""Scores against both official formulas, written out here, and on cases worked out by hand."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
from numpy.typing import NDArray
import pytest
import torch
from torch import distributed

from training.scores.metrics import Confusion, horizontal_range, range_names

NONE = 255  # ignored truth, or no answer
Ids = NDArray[np.uint8]


def confusion_of(truth: Ids | list[int], answer: Ids | list[int], classes: int) -> Confusion:
    confusion = Confusion(classes)
    confusion.add(np.array(truth), np.array(answer), np.zeros(len(truth)))
    return confusion


def shift(ids: Ids) -> NDArray[np.int64]:
    """Our ids to the benchmarks': 255 -> 0, 0.. -> 1.."""
    return np.where(ids == NONE, 0, ids.astype(np.int64) + 1)


def semantickitti_official(truth: Ids, answer: Ids) -> tuple[float, NDArray[np.float64]]:
    """20 classes, rows are answers; column 0 (ignored truth) is removed, row 0 stays a miss."""
    matrix = np.zeros((20, 20), np.int64)
    np.add.at(matrix, (shift(answer), shift(truth)), 1)
    matrix[:, 0] = 0
    hits = np.diag(matrix)
    union = matrix.sum(1) + matrix.sum(0) - hits + 1e-15
    return (hits[1:] / union[1:]).mean(), (hits / union)[1:]


def nuscenes_official(truth: Ids, answer: Ids) -> tuple[float, NDArray[np.float64]]:
    """17 classes, rows are truths; row and column 0 are removed, the mean leaves NaN out."""
    matrix = np.bincount(17 * shift(truth) + shift(answer), minlength=289).reshape(17, 17)
    matrix[0] = 0
    matrix[:, 0] = 0
    hits = np.diag(matrix)
    with np.errstate(invalid='ignore'):
        iou = hits / (matrix.sum(0) + matrix.sum(1) - hits)
    return float(np.nanmean(iou[1:])), iou[1:]


def random_ids(rng: np.random.Generator, classes: int, of: int) -> Ids:
    """Some of the classes only, and some points without one."""
    present = rng.permutation(of)[: rng.integers(1, of + 1)]
    ids = rng.choice(present, classes).astype(np.uint8)
    ids[rng.random(classes) < 0.1] = NONE
    return ids


@pytest.mark.parametrize('seed', range(20))
def test_semantickitti_scores_equal_the_official_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, answer = random_ids(rng, 500, of=19), random_ids(rng, 500, of=19)
    answer = np.where(rng.random(500) < 0.6, truth, answer)
    expected, per_class = semantickitti_official(truth, answer)
    confusion = confusion_of(truth, answer, 19)
    assert confusion.semantickitti().value == pytest.approx(expected, abs=1e-12)
    assert np.allclose(np.nan_to_num(confusion.iou()), per_class, atol=1e-12)


@pytest.mark.parametrize('seed', range(20))
def test_nuscenes_scores_equal_the_official_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, answer = random_ids(rng, 500, of=16), random_ids(rng, 500, of=16)
    answer = np.where(rng.random(500) < 0.6, truth, answer)
    expected, _ = nuscenes_official(truth, answer)
    assert confusion_of(truth, answer, 16).nuscenes().value == pytest.approx(expected, abs=1e-12)


def test_conventions_differ_as_worked_out_by_hand() -> None:
    # Class 0 has 3 points, 2 hits, and 1 point of class 1 is taken for it: 2 / (3 + 1).
    # Class 1: 1 hit, 1 miss: 1 / 2. Class 2: not in the truth, but answered: 0 / 1.
    # Class 3 is nowhere but on an ignored point, which does not count.
    truth = [0, 0, 0, 1, 1, NONE, NONE]
    answer = [0, 0, 2, 1, 0, 3, 0]
    confusion = confusion_of(truth, answer, 4)
    assert np.allclose(confusion.iou(), [2 / 4, 1 / 2, 0, np.nan], equal_nan=True)
    assert confusion.semantickitti().value == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)
    assert confusion.nuscenes().value == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert confusion.occurring().value == pytest.approx((0.5 + 0.5) / 2)
    assert confusion.points.tolist() == [3, 2, 0, 0]
    assert confusion.accuracy() == pytest.approx(3 / 5)


def test_a_class_that_is_absent_costs_a_nineteenth_in_semantickitti_only() -> None:
    ids = list(range(18))
    confusion = confusion_of(ids, ids, 19)
    assert confusion.semantickitti().value == pytest.approx(18 / 19)
    assert confusion.nuscenes().value == confusion.occurring().value == 1
    assert [confusion.semantickitti().classes, confusion.occurring().classes] == [19, 18]


def test_no_answer_on_a_valid_point_is_a_miss_except_for_nuscenes() -> None:
    confusion = confusion_of([0, 0, 1], [0, NONE, 1], 2)
    assert confusion.iou().tolist() == [0.5, 1]
    assert confusion.semantickitti().value == 0.75
    assert confusion.nuscenes().value == 1  # the tool removes column 0
    assert confusion.unanswered == 1


def test_answers_on_ignored_points_do_not_count() -> None:
    confusion = confusion_of([NONE, NONE, 0], [1, NONE, 0], 2)
    assert np.allclose(confusion.iou(), [1, np.nan], equal_nan=True)
    assert confusion.unanswered == 0


def test_an_empty_truth_scores_nothing() -> None:
    for confusion in (Confusion(3), confusion_of([NONE, NONE], [0, 1], 3)):
        assert np.isnan(confusion.iou()).all()
        assert confusion.semantickitti().value == 0
        assert np.isnan(confusion.nuscenes().value)
        assert np.isnan(confusion.occurring().value)
        assert np.isnan(confusion.accuracy())


def test_a_score_always_names_its_convention() -> None:
    confusion = confusion_of([0, 1], [0, 0], 2)
    texts = [str(score) for score in (confusion.semantickitti(), confusion.nuscenes())]
    assert texts == [
        '25.00 mIoU (SemanticKITTI official: absent class = 0, 2 classes)',
        '25.00 mIoU (nuScenes official: absent class left out, 2 classes)',
    ]
    assert 'classes that occur in the truth' in str(confusion.occurring())
    assert confusion.official('semantickitti') == confusion.semantickitti()
    assert confusion.official('nuscenes') == confusion.nuscenes()
    assert confusion.official('mine') == confusion.occurring()


def test_hard_classes_are_scored_apart() -> None:
    confusion = confusion_of([0, 1, 1, 2], [0, 1, 2, 2], 4)
    # class 1: 1 of 2; class 2: 1 hit, 1 false: 1 / 2; class 3 is nowhere
    assert confusion.semantickitti([1, 3]).value == 0.25
    assert confusion.nuscenes([1, 3]).value == confusion.occurring([1, 3]).value == 0.5
    assert confusion.occurring([1, 3]).classes == 1
    assert confusion.semantickitti([]).classes == 0


def test_distance_bins_hold_their_lower_end() -> None:
    confusion = Confusion(2)
    range_m = np.array([0, 9.99, 10, 24, 25, 50, 1e4, np.nan])
    truth = np.array([0, 0, 0, 0, 0, 0, 0, 0])
    answer = np.array([0, 1, 0, 0, 1, 0, 1, 1])
    confusion.add(truth, answer, range_m)
    assert range_names() == ['0-10 m', '10-25 m', '25-50 m', '> 50 m']
    assert confusion.counts.sum((1, 2)).tolist() == [2, 2, 1, 3]
    by_range = {name: iou[0] for name, iou in confusion.iou_by_range().items()}
    assert by_range == {'0-10 m': 1 / 2, '10-25 m': 1, '25-50 m': 0, '> 50 m': 1 / 3}
    assert confusion.iou()[0] == 4 / 8  # all bins together
    # class 1 is answered but never true, so a bin's mean is that of class 0
    assert confusion.occurring_by_range()['> 50 m'].value == pytest.approx(1 / 3)
    assert horizontal_range(np.array([[3, 4, 12, 1]], np.float32)).tolist() == [5]


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r'truth \(2,\), answers \(1,\)'):
        Confusion(2).add([0, 1], [0], [1.0, 1.0])


ids = arrays(np.uint8, 40, elements=st.sampled_from([0, 1, 2, 3, NONE]))


@settings(max_examples=50, deadline=None)
@given(ids, ids, arrays(np.float64, 40, elements=st.floats(0, 100)))
def test_parts_add_up_to_the_whole_in_any_order(truth: Ids, answer: Ids, far: NDArray) -> None:
    whole, first, second = (Confusion(4) for _ in range(3))
    whole.add(truth, answer, far)
    first.add(truth[:15], answer[:15], far[:15])
    second.add(truth[15:], answer[15:], far[15:])
    second += first
    assert (second.counts == whole.counts).all()
    assert whole.matrix.sum() == (truth != NONE).sum()


def count_on_rank(rank: int, folder: str) -> None:
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    confusion = confusion_of([rank, 0], [0, 0], 2)
    confusion.sum_over_ranks()
    # rank 0 counts (0 -> 0) twice; rank 1 counts (1 -> 0) and (0 -> 0)
    assert confusion.matrix.tolist() == [[3, 0, 0], [1, 0, 0]]
    distributed.destroy_process_group()


def test_every_rank_gets_the_sum_of_all(tmp_path: Path) -> None:
    context = multiprocessing.get_context('fork')  # spawn would import torch twice: 6 s
    ranks = [context.Process(target=count_on_rank, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
    assert [process.exitcode for process in ranks] == [0, 0]


def test_a_single_process_sums_nothing() -> None:
    confusion = confusion_of([0], [0], 1)
    confusion.sum_over_ranks(torch.device('cpu'))
    assert confusion.matrix.tolist() == [[1, 0]]
