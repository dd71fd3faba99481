# SPDX-License-Identifier: Apache-2.0
"""The optimiser, its schedule, and averaged weights, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn, Tensor
from torch.optim import Optimizer, SGD

from lidar_kd.models import build_model
from lidar_kd.models.transformer import AttentionBlock
from training.run.config import Optim
from training.run.optimiser import Average, make_optimizer, make_schedule

SMALL_PTV3 = {
    'encoder_depths': (1, 1),
    'encoder_channels': (16, 32),
    'encoder_heads': (1, 2),
    'decoder_depths': (1,),
    'decoder_channels': (16,),
    'decoder_heads': (1,),
}


def rates(settings: Optim, steps: int) -> list[float]:
    """The rate of every step, and the one after the last."""
    optimizer = make_optimizer(nn.Linear(2, 2), settings)
    schedule = make_schedule(optimizer, settings, steps)
    found = []
    for _ in range(steps + 1):
        found.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return found


def test_the_one_cycle_starts_low_peaks_after_the_warm_up_and_ends_near_zero() -> None:
    # 10 steps, 2 of them warm-up; half a cosine is 1/2 halfway: 0.04 + 0.96 / 2 = 0.52
    found = rates(Optim(lr=0.1, warmup=0.2), 10)
    assert found[:3] == pytest.approx([0.004, 0.052, 0.1])
    # halfway from step 2 to step 10: 1 - (1 - 1e-4) / 2 = 0.50005
    assert found[6] == pytest.approx(0.050005)
    assert found[10] == pytest.approx(1e-5)
    assert found[2:] == sorted(found[2:], reverse=True)


def test_the_cosine_ends_at_zero_and_a_constant_rate_stays() -> None:
    cosine = rates(Optim(lr=0.1, warmup=0.2, schedule='cosine'), 10)
    assert cosine[6] == pytest.approx(0.05)
    assert cosine[10] == pytest.approx(0, abs=1e-9)
    constant = rates(Optim(lr=0.1, warmup=0.2, schedule='constant'), 10)
    assert constant[:2] == pytest.approx([0.004, 0.052])
    assert constant[2:] == pytest.approx([0.1] * 9)


def test_a_run_of_one_step_has_a_rate() -> None:
    assert rates(Optim(lr=0.1, warmup=1.0), 1)[0] == pytest.approx(0.004)
    assert rates(Optim(lr=0.1, warmup=0.0), 1)[0] == pytest.approx(0.004)


def settings_of(optimizer: Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """name -> rate and decay."""
    of = {id(p): (g['lr'], g['weight_decay']) for g in optimizer.param_groups for p in g['params']}
    return {name: of[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ('name', 'settings'),
    [('minkunet', {'width': 0.125}), ('ptv3', SMALL_PTV3)],
)
def test_norms_and_biases_do_not_decay_and_all_else_does(name: str, settings: dict) -> None:
    model = build_model(name, classes=3, **settings)
    found = settings_of(make_optimizer(model, Optim(weight_decay=0.05)), model)
    norms = (nn.BatchNorm1d, nn.LayerNorm)
    still = {
        f'{path}.{part}'
        for path, module in model.named_modules()
        for part, _ in module.named_parameters(recurse=False)
        if isinstance(module, norms) or part == 'bias'
    }
    assert still
    assert {key for key, (_, decay) in found.items() if decay == 0} == still
    assert {decay for key, (_, decay) in found.items() if key not in still} == {0.05}


def test_the_transformers_rate_is_that_of_attention_blocks_alone() -> None:
    model = build_model('ptv3', classes=3, **SMALL_PTV3)
    optimizer = make_optimizer(model, Optim(lr=0.1, transformer_lr=0.1))
    found = settings_of(optimizer, model)
    blocks = [path for path, module in model.named_modules() if isinstance(module, AttentionBlock)]
    assert len(blocks) == 3
    for name, (rate, _) in found.items():
        inside = any(name.startswith(f'{path}.') for path in blocks)
        assert rate == pytest.approx(0.01 if inside else 0.1), name
    # and the schedule moves both by the same share
    schedule = make_schedule(optimizer, Optim(schedule='constant'), 10)
    assert sorted(set(schedule.get_last_lr())) == pytest.approx([0.01 * 0.04, 0.1 * 0.04])


def test_sgd_has_momentum() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), Optim(name='sgd', lr=0.5, momentum=0.8))
    assert isinstance(optimizer, SGD)
    assert {group['momentum'] for group in optimizer.param_groups} == {0.8}


class Counter(nn.Module):
    """One weight, and one number that batch norms would count."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer('count', torch.zeros(1))


def test_averaged_weights_follow_the_decay_and_buffers_are_copied() -> None:
    model = Counter()
    average = Average(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(10)
        model.count.fill_(3)
    # step 0: the decay is min(0.5, 1/10): 0 + 0.9 * 10 = 9; step 8: min(0.5, 9/18) = 0.5
    average.update(model, 0)
    assert average.model.get_parameter('weight').item() == pytest.approx(9)
    assert average.model.get_buffer('count').item() == 3
    average.update(model, 8)
    assert average.model.get_parameter('weight').item() == pytest.approx(9.5)
    assert not average.model.get_parameter('weight').requires_grad
    assert not average.model.training
