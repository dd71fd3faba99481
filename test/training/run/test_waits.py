# SPDX-License-Identifier: Apache-2.0
"""Between two log lines a training step makes no one wait for a GPU but where it has to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pretend_device import DEVICE, pretend_device, PretendDevice
import pytest
from small_run import find_teachers, make_config, prepare, save_teacher, settings_on
import torch

from lidar_kd.cli.console import Console
from lidar_kd.errors import DataError
from training.methods.supervised import fold_logits, lovasz_of_all, lovasz_softmax
from training.methods.terms import divergence
from training.methods.without_wait import count_rows
from training.run.loop import Run

# where a step still waits, and why it has to
REMAINING = {
    'lidar_kd/sparse/': 'so much memory is asked for as there are cells and pairs of them',
    'lidar_kd/models/output.py:early_cell': 'a stride goes up; twelve bytes',
    'training/methods/weights.py:measure': 'every 10th step of the warm-up, then every 50th',
}


SMALL = {'width': 0.125}


def places(device: PretendDevice) -> set[str]:
    return {where for _, where in device.waits}


def unexpected(device: PretendDevice) -> dict[Any, int]:
    known = tuple(REMAINING)
    return {what: n for what, n in device.waits.items() if not what[1].startswith(known)}


def make_run(street: Path, folder: Path, method: str | None, **changes: Any) -> Run:
    """On the pretended device; nothing has been learnt yet."""
    folder.mkdir()
    if method is not None:
        bundle = save_teacher(folder / 'teacher.safetensors', name='minkunet', settings=SMALL)
        changes |= {'method': [method], 'teacher__bundle': str(bundle)}
    settings = settings_on(street, log_every=100, threads=1, **changes)
    config = make_config(folder, settings)
    teachers = find_teachers(config)
    for teacher in teachers.values():
        teacher.network.to(DEVICE)
    parts = prepare(config, folder / 'run', teachers=teachers)
    return Run(replace(parts, device=DEVICE), Console(quiet=True))


@pytest.mark.parametrize('method', [None, 'srkd', 'pvkd', 'm2skd'])
def test_a_step_waits_only_where_it_has_to(
    method: str | None, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretend_device(monkeypatch) as device:
        run = make_run(street, tmp_path / 'one', method, optim__ema=0.9)
        batches = run._batches()
        run._learn(next(batches))  # measures gradients: a wait that the other steps do not have
        device.waits.clear()
        run._learn(next(batches))
        assert unexpected(device) == {}
        assert 'training/methods/weights.py:measure' not in places(device)
        device.waits.clear()
        run._taken.settle()
        assert sum(device.waits.values()) == 1  # both steps come down together
    assert run._running_mean.state()['counts']['loss'] == 2


def test_a_gradient_that_is_not_finite_is_told_with_its_step_when_the_log_asks(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretend_device(monkeypatch):
        run = make_run(street, tmp_path / 'one', None)
        batches = run._batches()
        run._learn(next(batches))
        weight = run.distillation.student.get_parameter('head.weight')
        weight.register_hook(lambda gradient: gradient * float('nan'))
        for _ in range(2):
            run._learn(next(batches))
        with pytest.raises(DataError, match='step 1: the gradient is not finite .voxel_ce'):
            run._log()


def test_a_teacher_that_answers_nan_is_told_when_the_log_asks(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretend_device(monkeypatch):
        run = make_run(street, tmp_path / 'one', 'srkd')
        teacher: Any = run.distillation._teachers['teacher'].network
        with torch.no_grad():
            teacher.network.get_parameter('head.bias').fill_(float('nan'))
        run._learn(next(run._batches()))
        with pytest.raises(DataError, match='00/00000.: the teacher answers with numbers'):
            run._log()


def test_what_a_gpu_does_without_waiting_is_what_a_cpu_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 5, generator=generator)
    other = torch.randn(300, 5, generator=generator)
    labels = torch.randint(0, 4, (300,), generator=generator).to(torch.uint8)  # no class 4
    labels[::7] = 255
    rows = torch.randint(0, 9, (300,), generator=generator)
    weight = (labels != 255).long()
    found = {
        'lovasz': lambda logits, *_: lovasz_softmax(logits, labels_of(logits)),
        'divergence': lambda logits, weight: divergence(
            logits, other.to(logits.device), tau=3.3, weight=weight
        ),
        'count': lambda logits, weight: count_rows(rows.to(logits.device), 11, weight.bool()),
        # label 3 is merged here: of classes 1 and 2
        'fold': lambda logits, *_: fold_logits(lambda: logits[:, :3], labels_of(logits), [(1, 2)]),
    }

    def labels_of(logits: torch.Tensor) -> torch.Tensor:
        return labels.to(logits.device)

    expected = {name: work(logits, weight) for name, work in found.items()}
    with pretend_device(monkeypatch) as device:
        there, weights = logits.to(DEVICE), weight.to(DEVICE)
        labels, other, rows = (each.to(DEVICE) for each in (labels, other, rows))
        device.waits.clear()
        answers = {name: work(there, weights) for name, work in found.items()}
        assert device.waits == {}
        for name, answer in answers.items():
            torch.testing.assert_close(answer.cpu(), expected[name], rtol=1e-5, atol=1e-6)


def test_lovasz_of_all_rows_has_the_gradient_of_those_that_count() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 2, 255, 2, 0, 255], dtype=torch.uint8)  # no class 1
    one = torch.randn(6, 3, generator=generator).requires_grad_()
    two = one.detach().clone().requires_grad_()
    lovasz_softmax(one, labels).backward()
    lovasz_of_all(two, labels).backward()
    assert one.grad is not None
    assert two.grad is not None
    torch.testing.assert_close(two.grad, one.grad)
    assert (two.grad[[2, 5]] == 0).all()
    nothing = lovasz_of_all(two, torch.full_like(labels, 255))
    assert nothing == 0
