# SPDX-License-Identifier: Apache-2.0
"""Boxes, their chances, and their members, on scans small enough to work out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
import pytest
import torch

from lidar_kd.labels import IGNORE, SEMANTICKITTI
from training.methods.inputs import AlignedOutput, Inputs, LabelStatistics
from training.methods.supervoxels import (
    Boxes,
    BoxSettings,
    choose_members,
    class_aware_weights,
    draw_boxes,
    find_boxes,
    pad_members,
    probabilities,
    Sampler,
)

PUBLISHED = BoxSettings()
# 2 rings of 25 m, 2 sectors of 180 degrees, 1 layer: box = 2 ring + sector
SMALL = BoxSettings(grid=(2, 2, 1), box=(1, 1, 1), per_scan=2, points=4, voxels=2)
COMMON, OTHER, RARE = 0, 1, 2  # classes of 80, 19.5 and 0.5 % of the points
SHARES = np.array([0.8, 0.195, 0.005] + [0.0] * 16)
CONTEXT = LabelStatistics(table=SEMANTICKITTI, class_shares=SHARES)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def say(width: int) -> AlignedOutput:
    return AlignedOutput(
        point_logits=lambda: torch.zeros(0, 19),
        voxel_logits=lambda: torch.zeros(0, 19),
        point_features=lambda rows: torch.zeros(len(rows), width),
        voxel_features=lambda rows: torch.zeros(len(rows), width),
    )


def make_inputs(scans: list[list[tuple[tuple[float, float], int]]], per_voxel: int = 3) -> Inputs:
    """Voxels ((x, y), label) of each scan, each with `per_voxel` points of its label."""
    voxels = [voxel for scan in scans for voxel in scan]
    labels = torch.tensor([label for _, label in voxels], dtype=torch.uint8)
    xyz = torch.tensor([[x, y, 0.0] for (x, y), _ in voxels]).view(-1, 3)
    lengths = torch.tensor([len(scan) for scan in scans])
    point_voxel = torch.arange(len(voxels)).repeat_interleave(per_voxel)
    starts = [0, *(lengths.cumsum(0) * per_voxel).tolist()]
    points = torch.zeros(len(point_voxel), 4)
    points[:, :3] = xyz[point_voxel]
    return Inputs(
        points=points,
        labels=labels[point_voxel],
        instances=None,
        starts=tuple(starts),
        point_voxel=point_voxel,
        voxel_scan=torch.arange(len(scans)).repeat_interleave(lengths),
        voxel_xyz=xyz,
        voxel_labels=labels,
        student=say(3),
        teacher=say(3),
    )


NEAR, FAR = (1.0, 10.0), (1.0, 30.0)  # in the upper half: boxes 1 and 3
# the lower half, near: box 0; here and in the far half nothing is rare
SCAN = [
    *[(NEAR, COMMON)] * 3,
    *[(FAR, COMMON)] * 2,
    *[(FAR, RARE)] * 2,
    ((1.0, -10.0), COMMON),
]


def test_the_published_cylinder_has_96_boxes() -> None:
    assert PUBLISHED.shape == (4, 6, 4)
    assert len(PUBLISHED.arcs) == 96
    # 24 boxes in each of 4 rings of 12.5 m
    assert PUBLISHED.arcs.reshape(4, 24).tolist() == [[s] * 24 for s in (0.25, 0.5, 0.75, 1.0)]


@pytest.mark.parametrize(
    ('xyz', 'box'),
    [
        # ring = r / 12.5, sector = (angle + 180) / 60, layer = (z + 4) / 1.5
        ((-10.0, -0.1, -3.9), 0),  # r 10, just above -180 degrees, the bottom
        ((13.0, 0.1, 1.9), 24 + 3 * 4 + 3),  # r 13, just above 0 degrees, the top
        ((0.0, 40.0, -1.5), 3 * 24 + 4 * 4 + 1),  # r 40, 90 degrees
        ((300.0, 0.1, 30.0), 3 * 24 + 3 * 4 + 3),  # beyond: the outermost
        ((-10.0, 0.0, -9.0), 5 * 4),  # exactly 180 degrees is the last sector
    ],
)
def test_a_voxel_lies_in_the_box_worked_out_by_hand(
    xyz: tuple[float, float, float], box: int
) -> None:
    assert find_boxes(torch.tensor([xyz]), PUBLISHED).tolist() == [box]


def test_the_chances_of_boxes_follow_the_formula() -> None:
    # box 0: one voxel, cannot be drawn; box 1: 3 voxels, none rare, near; box 2: empty;
    # box 3: 4 voxels, 2 of them rare, far
    chance = probabilities(np.array([1, 3, 0, 4]), np.array([0, 0, 0, 2]), SMALL)
    near = 0.5 / (4 * math.exp(0) + 1)  # d / R = 25 / 50
    far = 1.0 / (4 * math.exp(-4) + 1)
    np.testing.assert_allclose(chance, [0, near / (near + far), 0, far / (near + far)])


def test_a_scan_without_rare_classes_is_drawn_by_distance() -> None:
    chance = probabilities(np.array([5, 5, 5, 5]), np.zeros(4, np.int64), SMALL)
    np.testing.assert_allclose(chance, np.array([1, 1, 2, 2]) / 6)


def test_a_scan_without_boxes_has_no_chances() -> None:
    nothing = np.zeros(4, np.int64)
    chance = probabilities(nothing, nothing, SMALL)
    assert chance.tolist() == [0, 0, 0, 0]
    assert draw_boxes(chance, 2, rng()).tolist() == []


def test_boxes_are_drawn_as_often_as_their_chance_says() -> None:
    chance, draws = np.array([0.1, 0.0, 0.6, 0.3]), 4000
    random = rng()
    drawn = np.concatenate([draw_boxes(chance, 1, random) for _ in range(draws)])
    # standard deviation of a share: at most sqrt(0.25 / 4000) = 0.008
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / draws, chance, atol=0.03)


def test_boxes_are_drawn_without_replacement_and_all_if_they_are_few() -> None:
    chance = np.array([0.1, 0.0, 0.6, 0.3])
    random = rng()
    assert all(len(set(draw_boxes(chance, 2, random))) == 2 for _ in range(50))
    assert draw_boxes(chance, 3, random).tolist() == [0, 2, 3]
    assert draw_boxes(chance, 9, random).tolist() == [0, 2, 3]
    assert draw_boxes(chance, 0, random).tolist() == []


def test_members_of_frequent_classes_are_left_out_first() -> None:
    rows = np.arange(10, 20)
    rare = np.isin(rows, [11, 14, 19])
    chosen = choose_members(rows, rare, 5, rng())
    assert {11, 14, 19} <= set(chosen)
    assert len(set(chosen)) == 5
    assert set(choose_members(rows, rare, 2, rng())) < {11, 14, 19}
    assert choose_members(rows, rare, 10, rng()).tolist() == rows.tolist()


def test_short_sets_are_padded_and_say_so() -> None:
    members = pad_members([np.array([4, 5, 6]), np.array([7])], torch.device('cpu'))
    assert members.valid.tolist() == [[True, True, True], [True, False, False]]
    assert members.rows[members.valid].tolist() == [4, 5, 6, 7]
    features = members.gather(lambda rows: rows[:, None] * torch.ones(2))
    assert features.shape == (2, 3, 2)
    assert features[0, :, 0].tolist() == [4, 5, 6]


def draw(inputs: Inputs, settings: BoxSettings = SMALL, seed: int = 0) -> Boxes:
    return Sampler(settings, CONTEXT).draw(inputs, rng(seed))


def members_of(rows: torch.Tensor, valid: torch.Tensor) -> list[list[int]]:
    return [r[v].tolist() for r, v in zip(rows, valid)]


def test_drawn_boxes_hold_their_own_points_and_voxels() -> None:
    # two scans: the boxes of one never hold what is in the other
    inputs = make_inputs([SCAN, SCAN])
    settings = SMALL.model_copy(update={'points': 100, 'voxels': 100})
    boxes = draw(inputs, settings)
    voxels = members_of(boxes.voxels.rows, boxes.voxels.valid)
    assert voxels == [[0, 1, 2], [3, 4, 5, 6], [8, 9, 10], [11, 12, 13, 14]]
    points = members_of(boxes.points.rows, boxes.points.valid)
    expected = [[3 * voxel + k for voxel in box for k in range(3)] for box in voxels]
    assert points == expected


def test_a_full_box_keeps_its_rare_members() -> None:
    boxes = draw(make_inputs([SCAN]))
    far = members_of(boxes.voxels.rows, boxes.voxels.valid)[1]
    assert far == [5, 6]  # of four voxels two are rare
    points = members_of(boxes.points.rows, boxes.points.valid)[1]
    assert len(points) == 4
    assert set(points) < set(range(15, 21))


def test_the_weight_of_a_box_follows_srkd() -> None:
    # near: majority 0, share 0.8, d / R = 0.5; far: two voxels of 0 and two of 2: the lower id
    # wins the tie; K = 2
    weight = draw(make_inputs([SCAN])).weight
    np.testing.assert_allclose(weight, [0.2 * 0.5 / 2, 0.2 * 1.0 / 2], rtol=1e-6)
    unlabelled = [(where, IGNORE) for where, _ in SCAN]
    weight = draw(make_inputs([unlabelled])).weight
    np.testing.assert_allclose(weight, [0.5 / 2, 1.0 / 2], rtol=1e-6)


@pytest.mark.parametrize('seed', range(5))
def test_no_drawn_box_is_empty(seed: int) -> None:
    random = rng(seed)
    where: NDArray[np.float64] = random.normal(0, 20, (60, 2))
    label = random.integers(0, 3, 60)
    scan = [((float(x), float(y)), int(k)) for (x, y), k in zip(where, label)]
    boxes = draw(make_inputs([scan, scan[:7]]), PUBLISHED, seed)
    assert len(boxes.weight) > 0
    assert (boxes.voxels.valid.sum(1) >= 2).all()
    assert (boxes.points.valid.sum(1) >= 2).all()


def test_no_box_and_no_voxel_give_empty_sets() -> None:
    none = SMALL.model_copy(update={'per_scan': 0})
    for boxes in (draw(make_inputs([SCAN]), none), draw(make_inputs([[(NEAR, 0)], []]))):
        assert boxes.points.rows.shape == boxes.voxels.rows.shape == (0, 0)
        assert boxes.weight.tolist() == []


def test_the_same_seed_draws_the_same() -> None:
    inputs = make_inputs([SCAN * 4])
    one, two, other = draw(inputs), draw(inputs), draw(inputs, seed=1)
    assert torch.equal(one.points.rows, two.points.rows)
    assert not torch.equal(one.points.rows, other.points.rows)


@pytest.mark.parametrize(
    ('settings', 'reason'),
    [
        ({'box': (7, 60, 8)}, 'does not divide the grid'),
        ({'height_m': (2.0, -4.0)}, 'the first must be below'),
        ({'per_scan': -1}, 'per_scan'),
        ({'points': 1}, 'points'),
        ({'boxes': 4}, 'boxes'),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        BoxSettings(**settings)


def test_srkd_draws_and_weighs_boxes_by_their_majority_class_and_distance() -> None:
    # box 0 cannot be drawn; the majority of box 1 has 80 % of the training points, of box 3 5 %
    settings = SMALL.model_copy(update={'draw': 'class_aware'})
    weight = class_aware_weights(np.array([1, 3, 0, 4]), np.array([0.8, 0.8, 0.0, 0.05]), settings)
    # (1 - share) * d / R / 2 boxes that can be drawn
    np.testing.assert_allclose(weight, [0, 0.2 * 0.5 / 2, 0, 0.95 * 1.0 / 2])


def test_class_aware_boxes_come_with_their_weight_as_often_as_it_says() -> None:
    settings = SMALL.model_copy(update={'draw': 'class_aware', 'per_scan': 1})
    near, far = 0.2 * 0.5 / 2, (1 - 0.195) * 1.0 / 2
    inputs = make_inputs([[*[(NEAR, COMMON)] * 3, *[(FAR, OTHER)] * 2, *[(FAR, RARE)]]])
    drawn = [draw(inputs, settings, seed).weight.item() for seed in range(400)]
    assert set(np.round(drawn, 6)) == {round(near, 6), round(far, 6)}
    # standard deviation of a share: at most sqrt(0.25 / 400) = 0.025
    assert np.mean(np.array(drawn) > 0.1) == pytest.approx(far / (near + far), abs=0.08)
