# SPDX-License-Identifier: Apache-2.0
"""Labels that several classes share: what they are in data, and what the loss makes of them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from made_up_batch import Answers, make_inputs, STUDENT, TEACHER
import numpy as np
from pydantic import ValidationError
import pytest
from small_run import make_config, make_street, prepare, save_teacher, settings_on
import torch
from torch import Tensor

from lidar_kd.bundle import SensorSpec
from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from training.data.merged import merge_labels
from training.data.settings import Data, LabelledSource
from training.methods.supervised import (
    fold_logits,
    mean_cross_entropy,
    mean_lovasz,
    Supervised,
    SupervisedSettings,
)
from training.run.sources import open_sources

QUIET = Console(quiet=True)
CAR, ROAD, PARKING, BUILDING, FENCE, TREES = 0, 8, 9, 12, 13, 14
EITHER = 3  # of three classes and a merged label of the last two


def logits_of(*probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log().float()


def losses(probabilities: list[float], label: int) -> tuple[float, float]:
    """Cross-entropy and Lovasz-softmax of one point; class 0 counts once, 1 twice, 2 thrice."""
    folded = fold_logits(lambda: logits_of(probabilities), torch.tensor([label]), [(1, 2)])
    labels = torch.tensor([1 if label == EITHER else label], dtype=torch.uint8)
    weights = torch.tensor([1.0, 2.0, 3.0])
    return (
        float(mean_cross_entropy(folded, labels, (0, 1), weights)),
        float(mean_lovasz(folded, labels, (0, 1))),
    )


def test_the_probabilities_of_a_merged_label_add_up() -> None:
    # 0.3 + 0.5 = 0.8: cross-entropy -ln 0.8; one point that is all of its class: 1 - 0.8 lost
    assert losses([0.2, 0.3, 0.5], EITHER) == pytest.approx((-math.log(0.8), 0.2))
    assert losses([0.2, 0.5, 0.3], EITHER) == pytest.approx((-math.log(0.8), 0.2))
    assert losses([0.2, 0.3, 0.5], 1) == pytest.approx((-math.log(0.3), 0.7))  # as ever


def test_no_class_of_a_merged_label_is_pulled_or_pushed_against_the_others() -> None:
    logits = logits_of([0.2, 0.3, 0.5]).requires_grad_()
    folded = fold_logits(lambda: logits, torch.tensor([EITHER]), [(1, 2)])
    mean_cross_entropy(folded, torch.tensor([1]), (0, 1), torch.ones(3)).backward()
    # d(-ln(p1 + p2)): p0 for class 0, and -p0 p1 / 0.8, -p0 p2 / 0.8 for the two: in proportion
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.2, -0.2 * 0.3 / 0.8, -0.2 * 0.5 / 0.8])


def test_an_exact_class_is_not_lost_to_points_that_may_be_of_it() -> None:
    # two points: the first surely of class 2, the second of 1 or 2 and told as 2 by all of 0.9
    logits = logits_of([0.1, 0.1, 0.8], [0.05, 0.05, 0.9])
    labels = torch.tensor([2, EITHER])
    folded = fold_logits(lambda: logits, labels, [(1, 2)])
    # errors: class 2: 0.2 and 0 for it is folded into class 1; class 1: 0.1 (not its) and 0.05
    # class 2: worst row is its only one: 0.2 * 1. class 1: rows by error 0.1, 0.05: the first is
    # no member: 1 - 1 / 2 = 0.5, then 1: 0.1 * 0.5 + 0.05 * 0.5
    lost = float(mean_lovasz(folded, torch.tensor([2, 1], dtype=torch.uint8), (0, 2)))
    assert lost == pytest.approx((0.2 + 0.1 * 0.5 + 0.05 * 0.5) / 2)


def test_without_a_merged_label_the_losses_are_the_very_same() -> None:
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    weights, settings = torch.ones(19), SupervisedSettings(point_ce=1.0, point_lovasz=1.0)
    plain = Supervised(settings, weights)(inputs)
    merged = Supervised(settings, weights, [(1, 2)])(inputs)
    assert {name: float(term) for name, term in plain.items()} == {
        name: float(term) for name, term in merged.items()
    }


def test_the_methods_are_shown_classes_alone() -> None:
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    labels = inputs.labels.clone()
    labels[:2] = 19
    supervised = Supervised(SupervisedSettings(), torch.ones(19), [(1, 2)])
    assert supervised.labels == 20
    shown = supervised.leave_out_merged(dataclasses.replace(inputs, labels=labels))
    assert shown.labels[:2].tolist() == [IGNORE, IGNORE]
    assert torch.equal(shown.labels[2:], labels[2:])


def test_merged_labels_follow_the_classes_and_are_shared_by_data_sets() -> None:
    house = ('building', 'fence')
    ours = {'building': house, 'person': (), 'fence': ('building',)}
    theirs = {'road': ('road', 'parking'), 'building': house}
    merged = merge_labels(SEMANTICKITTI, [ours, theirs])
    assert merged.classes == ((BUILDING, FENCE), (ROAD, PARKING))
    first, second = merged.lookups
    assert first[[BUILDING, FENCE, 5, CAR, IGNORE]].tolist() == [19, BUILDING, IGNORE, CAR, IGNORE]
    assert second[[BUILDING, FENCE, ROAD]].tolist() == [19, FENCE, 20]


def test_a_class_that_does_not_exist_is_told() -> None:
    with pytest.raises(ConfigError, match=r"merged: 'wall' is no class of 'semantickitti'"):
        merge_labels(SEMANTICKITTI, [{'building': ('building', 'wall')}])


def source_of(root: Path, **changes: Any) -> LabelledSource:
    return LabelledSource(root=root, sequences=('00',), **changes)


def test_several_folders_are_learnt_from_in_one_run(tmp_path: Path) -> None:
    street, other = make_street(tmp_path / 'street'), make_street(tmp_path / 'other')
    more = source_of(other, merged={'car': ('car', 'truck'), 'vegetation': ()}, repeat=2)
    data = Data(kind='semantickitti', root=street, train=('00',), validation=('08',))
    plain = open_sources(data, QUIET)
    opened = open_sources(data.model_copy(update={'labelled': (more,)}), QUIET)
    (theirs,) = opened.labelled
    assert opened.merged == ((CAR, 3),)
    assert len(theirs) == 2 * len(plain.train)
    told, known = theirs[0].labels, plain.train[0].labels
    assert (told[known == CAR] == 19).all()
    assert (told[known == TREES] == IGNORE).all()
    assert np.array_equal(told[known == ROAD], known[known == ROAD])


def test_scans_can_be_brought_to_the_mounting_that_the_bundle_will_tell(tmp_path: Path) -> None:
    street, other = make_street(tmp_path / 'street'), make_street(tmp_path / 'other')
    raise_by_1_m(other / 'sequences' / '00' / 'velodyne')
    data = Data(
        kind='semantickitti',
        root=street,
        train=('00',),
        validation=('08',),
        sensor=SensorSpec(height_m=1.7),
        labelled=(source_of(other, mounting='auto'),),
    )
    opened = open_sources(data, QUIET)
    heights = [np.median(s[0].points[s[0].labels == ROAD, 2]) for s in each(opened)]
    assert heights[1] == pytest.approx(heights[0], abs=0.05)
    with pytest.raises(ConfigError, match=r'data.sensor: missing'):
        open_sources(data.model_copy(update={'sensor': None}), QUIET)


def test_the_scans_of_the_run_itself_can_be_brought_there_too(tmp_path: Path) -> None:
    street = make_street(tmp_path / 'street')
    raise_by_1_m(street / 'sequences' / '00' / 'velodyne')
    data = Data(
        kind='semantickitti',
        root=street,
        train=('00',),
        validation=('08',),
        sensor=SensorSpec(height_m=1.7),
        mounting='auto',
    )
    scan = open_sources(data, QUIET).train[0]
    assert np.median(scan.points[scan.labels == ROAD, 2]) == pytest.approx(-1.7, abs=0.05)


def test_of_the_scans_to_learn_from_some_can_be_taken_evenly(tmp_path: Path) -> None:
    street = make_street(tmp_path / 'street')
    data = Data(kind='semantickitti', root=street, train=('00',), validation=('08',))
    names = [frame.name for frame in open_sources(data, QUIET).train.frames]
    few = open_sources(data.model_copy(update={'train_scans': 2}), QUIET).train
    assert [frame.name for frame in few.frames] == [names[0], names[-1]]


def each(opened: Any) -> list[Any]:
    return [opened.train, *opened.labelled]


def raise_by_1_m(velodyne: Path) -> None:
    for scan in velodyne.glob('*.bin'):
        points = np.fromfile(scan, '<f4').reshape(-1, 4)
        points[:, 2] -= 1
        points.tofile(scan)


def test_a_bundle_names_all_the_data_that_it_was_made_of(tmp_path: Path) -> None:
    street = make_street(tmp_path / 'street')
    for name in ('ika', 'ouster'):
        make_street(tmp_path / name)
    save_teacher(tmp_path / 'teacher.safetensors')
    settings = settings_on(
        street,
        method=[],
        teacher={'bundle': str(tmp_path / 'teacher.safetensors'), 'pseudo_labels': 0.5},
        data__labelled=[{'root': str(tmp_path / 'ika'), 'sequences': ['00']}],
        data__unlabelled=[{'root': str(tmp_path / 'ouster'), 'sequences': ['00']}],
    )
    parts = prepare(make_config(tmp_path, settings), tmp_path / 'run')
    assert parts.spec.provenance['more_data'] == 'ika, ouster without labels'
    assert ' in the layout of semantickitti, ' in parts.spec.provenance['data']


def test_smoothing_and_merged_labels_exclude_each_other(tmp_path: Path) -> None:
    street = make_street(tmp_path / 'street')
    merged = [{'root': str(street), 'merged': {'car': ['car', 'truck']}}]
    with pytest.raises((ConfigError, ValidationError), match='label_smoothing'):
        make_config(
            tmp_path, settings_on(street, data__labelled=merged, loss__label_smoothing=0.1)
        )
