# SPDX-License-Identifier: Apache-2.0
"""Supervision against its definitions, and the weights that are measured beside it."""

from __future__ import annotations

import math
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
import pytest
import torch
from torch import distributed, Tensor
from torch.nn.functional import cross_entropy

from lidar_kd.labels import IGNORE
from training.methods.inputs import class_weights
from training.methods.pvkd import PvkdSettings
from training.methods.supervised import lovasz_softmax, mean_cross_entropy, mean_lovasz
from training.methods.weights import Auto, Weight, Weights


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_class_weights_are_those_worked_out_by_hand() -> None:
    # shares 0.64, 0.36, 0: 1/0.8 = 1.25 and 1/0.6 = 1.667, divided by their mean 1.4583
    weights = class_weights(np.array([64, 36, 0]))
    assert np.allclose(weights, [1.25 / 1.458333, 1.666667 / 1.458333, 1])
    assert class_weights(np.array([5, 95]), power=0).tolist() == [1, 1]
    assert class_weights(np.zeros(3, np.int64)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ('written', 'meant'), [(0.3, 0.3), (0, 0.0), ('auto', Auto()), ({'auto': 0.2}, Auto(auto=0.2))]
)
def test_a_weight_is_a_number_or_a_share_and_can_be_written_down(
    written: Any, meant: float | Auto
) -> None:
    adapter: TypeAdapter[float | Auto] = TypeAdapter(Weight)
    weight = adapter.validate_python(written)
    assert weight == meant
    assert adapter.validate_python(adapter.dump_python(weight, mode='json')) == meant


@pytest.mark.parametrize('written', [-1, 'automatic', {'auto': 0}, {'share': 0.1}, float('inf')])
def test_other_weights_are_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        PvkdSettings(point_output=written)


def measure_twice(weights: Weights, place: Tensor) -> None:
    """Supervision's gradient has length 2, the term's 0.5 and 1.5: ratios 1/4 and 3/4."""
    for length in (0.5, 1.5):
        weights.measure({'a': (place * length).sum()}, (place * 2).sum(), [place])


def test_an_automatic_weight_is_a_share_of_the_supervised_gradient() -> None:
    place = torch.zeros(1, requires_grad=True)
    weights = Weights({'a': Auto(auto=0.1)})
    assert weights.factors() == {'a': 0}  # nothing is known yet
    measure_twice(weights, place)
    # mean ratio 0.5: 0.2 times the term has a tenth of supervision's gradient
    assert weights.factors()['a'] == pytest.approx(0.2)
    ((_, *figures),) = weights.table()
    assert figures == pytest.approx([0.2, 0.5, 0.1])


def test_two_methods_share_what_one_of_them_would_weigh() -> None:
    place = torch.zeros(1, requires_grad=True)
    weights = Weights({'a': Auto(auto=0.1), 'b': 3.0}, methods=2)
    measure_twice(weights, place)
    assert weights.factors() == pytest.approx({'a': 0.1, 'b': 3.0})  # half of the 0.2 above


def test_a_given_weight_stays_and_its_ratio_is_reported() -> None:
    place = torch.zeros(1, requires_grad=True)
    weights = Weights({'a': 3.0})
    measure_twice(weights, place)
    ((_, *figures),) = weights.table()
    assert figures == pytest.approx([3.0, 0.5, 1.5])


def test_gradients_are_wanted_often_in_the_warm_up_and_seldom_after_it() -> None:
    weights, wanted = Weights({'a': Auto()}, warm_up=20, every=5, later=15), []
    for step in range(50):
        if weights.wants_gradients:
            wanted.append(step)
        weights.advance()
    assert wanted == [0, 5, 10, 15, 30, 45]
    assert not Weights({}).wants_gradients


def test_a_term_is_measured_where_it_has_a_gradient_or_not_at_all() -> None:
    early, other = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    last = early * 2
    supervised = (last * 3).sum()  # gradient 3 at the last features, 6 at the early ones
    terms = {
        'early': early.sum() * 1.5,
        'absent': last.sum() * 0,
        'elsewhere': other.sum(),
        'constant': torch.zeros(()),
    }
    weights = Weights(dict.fromkeys(terms, Auto()))
    weights.measure(terms, supervised, [last, early])
    ratios = {name: ratio for name, _, ratio, _ in weights.table()}
    assert ratios == {'early': 0.25, 'absent': 0, 'elsewhere': 0, 'constant': 0}
    assert weights.factors() == {
        'early': pytest.approx(0.4),
        'absent': 0,
        'elsewhere': 0,
        'constant': 0,
    }
    weights.measure(terms, last.sum() * 0, [last, early])  # no label: nothing to compare with
    assert [ratio for _, _, ratio, _ in weights.table()][0] == 0.25
    (supervised + sum(terms.values())).backward()  # the graph is still there


def test_a_term_that_hardly_has_a_gradient_is_not_blown_up() -> None:
    place = torch.zeros(1, requires_grad=True)
    weights = Weights({'a': Auto()})
    weights.measure({'a': (place * 1e-9).sum()}, place.sum(), [place])
    assert weights.factors() == {'a': 1000}


def test_gradients_that_float16_cannot_hold_are_measured_all_the_same() -> None:
    place = torch.zeros(1, requires_grad=True, dtype=torch.float16)
    weights = Weights({'a': Auto()})
    exact = place.float()
    weights.measure({'a': (exact * 2e-8).sum()}, (exact * 1e-6).sum(), [place])
    assert weights.factors() == {'a': pytest.approx(0.1 / 0.02, rel=1e-2)}
    assert weights.without_gradient() == []


def test_a_term_without_any_gradient_is_named() -> None:
    place = torch.zeros(1, requires_grad=True)
    weights = Weights({'a': Auto(), 'given': 2.0})
    weights.measure({'a': place.sum() * 0, 'given': place.sum() * 0}, place.sum(), [place])
    assert weights.without_gradient() == ['a']


def measure_on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    place = torch.zeros(1, requires_grad=True)
    weights = Weights({'a': Auto(), 'b': 1.0})
    # term a: 0.5 here, nothing there; term b: 1 and 3
    terms = {'a': place.sum() * 0.5 * (1 - rank), 'b': place.sum() * (1.0 + 2 * rank)}
    weights.measure(terms, place.sum(), [place])
    assert [ratio for _, _, ratio, _ in weights.table()] == [0.5, 2.0]
    distributed.destroy_process_group()


def test_all_ranks_use_the_same_weights(tmp_path: Path) -> None:
    statistics = multiprocessing.get_context('fork')  # spawn would import torch twice: 6 s
    ranks = [statistics.Process(target=measure_on_rank, args=(r, str(tmp_path))) for r in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
    assert [process.exitcode for process in ranks] == [0, 0]


def test_weights_go_on_where_they_stopped() -> None:
    place = torch.zeros(1, requires_grad=True)
    weights, resumed = Weights({'a': Auto(), 'b': 1.0}), Weights({'a': Auto(), 'b': 1.0})
    measure_twice(weights, place)
    for _ in range(7):
        weights.advance()
    resumed.load_state_dict(weights.state_dict())
    assert resumed.factors() == weights.factors()
    assert resumed.state_dict() == weights.state_dict()
    assert not resumed.wants_gradients
    measure_twice(resumed, place)
    assert resumed.state_dict() != weights.state_dict()


def test_a_weight_follows_what_is_measured_after_the_warm_up() -> None:
    place = torch.zeros(1, requires_grad=True)
    weights = Weights({'a': Auto(auto=0.1)}, warm_up=1, later=1)
    measure_twice(weights, place)
    weights.advance()
    assert weights.wants_gradients
    weights.measure({'a': (place * 4).sum()}, (place * 2).sum(), [place])
    # ratios 1/4, 3/4 and 2: their mean is 1
    assert weights.factors()['a'] == pytest.approx(0.1)


def test_a_state_that_kept_every_ratio_still_loads() -> None:
    weights = Weights({'a': Auto(auto=0.1), 'new': Auto()})
    weights.load_state_dict({'step': 300, 'ratios': {'a': [0.25, 0.75], 'gone': [1.0]}})
    assert weights.factors() == {'a': pytest.approx(0.2), 'new': 0}
    assert weights.state_dict()['counts'] == {'a': 2, 'new': 0}
    assert not weights.wants_gradients  # it measured none after the warm-up
    resumed = Weights({'a': Auto()})
    resumed.load_state_dict(weights.state_dict())
    assert not resumed.wants_gradients


def brute_force_lovasz(logits: Tensor, labels: Tensor) -> float:
    """The definition: the extension of the Jaccard loss as a sum over sorted errors."""
    known = labels != IGNORE
    posterior, truth = logits[known].softmax(1).tolist(), labels[known].tolist()
    losses = []
    for c in set(truth):
        errors = [abs((t == c) - p[c]) for p, t in zip(posterior, truth)]
        order = sorted(range(len(errors)), key=lambda row: -errors[row])
        loss, wrong, before = 0.0, set[int](), 0.0
        positives = {row for row, t in enumerate(truth) if t == c}
        for row in order:
            wrong.add(row)  # 1 - IoU when exactly these rows are wrong
            jaccard = 1 - len(positives - wrong) / len(positives | wrong)
            loss, before = loss + errors[row] * (jaccard - before), jaccard
        losses.append(loss)
    return sum(losses) / len(losses)


def labelled_rows(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = rng(seed)
    classes = np.array([0, 1, 3, IGNORE], np.uint8)  # class 2 does not occur
    labels = torch.from_numpy(classes[random.integers(0, 4, rows)])
    return torch.from_numpy(random.normal(0, 2, (rows, 4))).float(), labels


@pytest.mark.parametrize('seed', range(3))
def test_lovasz_equals_its_definition(seed: int) -> None:
    logits, labels = labelled_rows(40, seed)
    expected = brute_force_lovasz(logits, labels)
    assert lovasz_softmax(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_lovasz_of_hard_answers_is_one_minus_the_mean_iou() -> None:
    # truth 0 0 1 1, answers 0 1 1 1: IoU of class 0 is 1/2, of class 1 2/3
    logits = 100 * torch.eye(2)[[0, 1, 1, 1]]
    loss = lovasz_softmax(logits, torch.tensor([0, 0, 1, 1], dtype=torch.uint8))
    assert loss.item() == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)


def test_lovasz_goes_down_along_its_gradient() -> None:
    logits, labels = labelled_rows(40)
    logits.requires_grad_()
    loss = lovasz_softmax(logits, labels)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[labels == IGNORE] == 0).all()
    direction = torch.from_numpy(rng(1).normal(size=(40, 4))).float()
    with torch.no_grad():
        ahead, behind = (lovasz_softmax(logits + h * direction, labels) for h in (1e-3, -1e-3))
    slope = float((logits.grad * direction).sum())
    assert float(ahead - behind) / 2e-3 == pytest.approx(slope, rel=0.02)


def test_a_batch_is_supervised_scan_by_scan() -> None:
    # the mean over two ranks with one scan each is the loss of the batch of two
    logits, labels = labelled_rows(30)
    weights = torch.tensor([1.0, 2.0, 1.0, 0.5])
    parts = [mean_cross_entropy(logits[:10], labels[:10], (0, 10), weights)]
    parts.append(mean_cross_entropy(logits[10:], labels[10:], (0, 20), weights))
    whole = mean_cross_entropy(logits, labels, (0, 10, 30), weights)
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    alone = cross_entropy(logits[:10], labels[:10].long(), weights, ignore_index=IGNORE)
    torch.testing.assert_close(parts[0], alone)
    lovasz = [lovasz_softmax(logits[:10], labels[:10]), lovasz_softmax(logits[10:], labels[10:])]
    torch.testing.assert_close(mean_lovasz(logits, labels, (0, 10, 30)), sum(lovasz) / 2)


def test_smoothed_labels_are_worked_out_by_hand() -> None:
    # posteriors 3/4, 1/4 and 1/2, 1/2; a fifth of each label is halved between both classes
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    labels, weights = torch.tensor([0, 1], dtype=torch.uint8), torch.tensor([2.0, 5.0])
    first = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    loss = mean_cross_entropy(logits, labels, (0, 2), weights, 0.2)
    assert float(loss) == pytest.approx((2 * first + 5 * math.log(2)) / 7)
    bare = torch.tensor([0, IGNORE], dtype=torch.uint8)
    assert float(mean_cross_entropy(logits, bare, (0, 2), weights, 0.2)) == pytest.approx(first)


def test_scans_without_labels_are_not_supervised() -> None:
    logits = torch.randn(6, 4).requires_grad_()
    labels = torch.full((6,), IGNORE, dtype=torch.uint8)
    loss = mean_cross_entropy(logits, labels, (0, 3, 6), torch.ones(4))
    loss = loss + mean_lovasz(logits, labels, (0, 3, 6))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
