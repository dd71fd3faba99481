# SPDX-License-Identifier: Apache-2.0
"""What the steps gave: on the device until somebody asks, for to ask is to wait for it."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import NoReturn

import torch
from torch import Tensor

from lidar_kd.errors import DataError
from training.methods.inputs import refuse_teacher
from training.run.loss import Terms
from training.run.running_mean import RunningMean

MOST_IN_A_ROW = 100  # overflows: a scale of 2 ** 16 has then become nothing long ago


@dataclass(frozen=True, kw_only=True, eq=False)
class TakenStep:
    """Of one step; gradient: its norm before it was clipped."""

    step: int
    scans: tuple[str, ...]
    terms: Terms
    gradient: Tensor

    def tensors(self) -> list[Tensor]:
        """() each: loss, gradient, whether the teachers were finite, the terms."""
        loss, raw, weighted, finite = self.terms
        whole = torch.ones_like(loss) if finite is None else finite.to(loss.dtype)
        return [loss.detach(), self.gradient.detach(), whole, *weighted.values(), *raw.values()]


class TakenSteps:
    """Adds finished steps to the running mean, and stops the run at one that is not finite.

    skips: a float16 step whose gradient overflowed has been left out by the scaler; it is counted.
    """

    def __init__(self, running_mean: RunningMean, *, skips: bool) -> None:
        self._running_mean, self._skips = running_mean, skips
        self._waiting: list[TakenStep] = []
        self._in_a_row = 0

    def add(self, taken: TakenStep) -> None:
        self._waiting.append(taken)

    def settle(self) -> None:
        """One wait for all steps since the last time; before anything is logged or saved."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        parts = [taken.tensors() for taken in waiting]
        numbers = torch.stack([tensor for part in parts for tensor in part]).tolist()
        for taken, part in zip(waiting, parts):
            self._take(taken, numbers[: len(part)])
            del numbers[: len(part)]

    def _take(self, taken: TakenStep, numbers: list[float]) -> None:
        loss, gradient, teachers_finite, *terms = numbers
        weighted = dict(zip(taken.terms.weighted, terms))
        if not teachers_finite:
            refuse_teacher(taken.scans)
        if self._skips and not math.isfinite(gradient):
            self._in_a_row += 1
            self._running_mean.leave_out()
            if self._in_a_row >= MOST_IN_A_ROW:
                self._refuse('gradient', taken, terms[len(weighted) :])
            return
        for what, value in (('loss', loss), ('gradient', gradient)):
            if not math.isfinite(value):
                self._refuse(what, taken, terms[len(weighted) :])
        self._in_a_row = 0
        self._running_mean.add({'loss': loss, **weighted, 'gradient': gradient})

    def _refuse(self, what: str, taken: TakenStep, raw: list[float]) -> NoReturn:
        named = zip(taken.terms.raw, raw)
        values = ', '.join(f'{name} {value:.3g}' for name, value in named)
        last = ', '.join(f'{name} {value:.3g}' for name, value in self._running_mean.last.items())
        again = f', {self._in_a_row} times in a row,' if self._in_a_row else ''
        raise DataError(
            f'step {taken.step}: the {what} is not finite{again} ({values}) on '
            f'{" ".join(taken.scans)}; the last finite terms were {last or "none"}; lower '
            'optim.lr or use precision float32 and add --fresh, or the same command goes on from '
            'the last checkpoint.'
        )
