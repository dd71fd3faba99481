# SPDX-License-Identifier: Apache-2.0
"""How many threads a run has changes no bit of what it learns, however many cores there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_run import (
    check_same,
    fit,
    make_config,
    make_scan,
    make_street,
    save_teacher,
    settings_on,
)
import torch
from torch import Tensor

from training.methods.terms import sum_in_order

COUNTS = (1, 2, 3, 4, 8)


@pytest.fixture
def dense_street(tmp_path: Path) -> Path:
    """Scans of 8,120 points: torch shares sums of 32,768 numbers and more among its threads."""
    street = make_street(tmp_path / 'street')
    for path in street.rglob('*.bin'):
        draws = [make_scan(np.random.default_rng(number), int(path.stem)) for number in range(4)]
        points, raw = (np.concatenate(parts) for parts in zip(*draws))
        points.tofile(path)
        raw.tofile(path.parents[1] / 'labels' / f'{path.stem}.label')
    return street


def test_a_minkunet_is_taught_the_same_bits_on_1_to_8_threads(
    dense_street: Path, tmp_path: Path
) -> None:
    bundle = save_teacher(tmp_path / 'teacher.safetensors', name='minkunet')
    changes = {
        'model__settings': {'width': 0.25},
        'model__grid__voxel_m': 0.3,
        'teacher': {'bundle': str(bundle)},
        'method': ['srkd', 'pvkd', 'm2skd'],
    }
    learnt = [_learn(dense_street, tmp_path, threads, changes) for threads in COUNTS]
    assert len(learnt[0]) > 200
    for other in learnt[1:]:
        check_same(learnt[0], other)


def _learn(street: Path, folder: Path, threads: int, changes: dict) -> dict[str, Tensor]:
    settings = settings_on(street, threads=threads, optim__steps=2, validate__every=9, **changes)
    run = fit(make_config(folder, settings), folder / f'run{threads}')
    assert torch.get_num_threads() == threads
    return run.distillation.student.state_dict()


def test_a_sum_of_many_is_the_same_bits_on_any_number_of_threads() -> None:
    values = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    sums = []
    for threads in COUNTS:
        torch.set_num_threads(threads)
        sums.append(sum_in_order(values))
    assert sums == [sums[0]] * len(COUNTS)
    assert float(sums[0]) == pytest.approx(float(values.double().sum()), rel=1e-4)
    assert float(sum_in_order(torch.tensor([[1.0, 2.0], [4.0, 8.0]]))) == 15.0
