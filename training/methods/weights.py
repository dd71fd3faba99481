# SPDX-License-Identifier: Apache-2.0
"""How much each term counts: a number, or a share of the supervised loss's gradient.

The published weights span 1e-3..1e3 because the terms are normalised differently, so a copied one
says nothing until its gradient has been compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, NonNegativeFloat, PositiveFloat
import torch
from torch import distributed, Tensor

WARM_UP = 200  # steps in which gradients are measured often
EVERY = 10  # steps between two measurements of the warm-up
LATER = 50  # likewise, for the rest of the run: a few backward passes through the terms alone
_HALF_SCALE = 2.0**16  # as torch's GradScaler begins: float16 holds no gradient below 6e-8
_LARGEST = 1e3  # automatic weight: what hardly has a gradient is not blown up; as published ones


class Auto(BaseModel):
    """YAML: `auto`, or `{auto: 0.2}`."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    auto: PositiveFloat = 0.1  # gradient norm of the weighted term, in those of supervision [ours]


def _read(value: Any) -> Any:
    """Refuses here what is no weight, since a union complains once per member."""
    if value == 'auto':
        return Auto()
    if isinstance(value, Auto):
        return value
    is_share = isinstance(value, Mapping) and value.keys() == {'auto'}
    number = value['auto'] if is_share else value
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not is_number or not 0 <= number < math.inf or (is_share and not number):
        raise ValueError('not a weight: write a number from 0 up, auto, or {auto: SHARE}')
    return value


Weight = Annotated[NonNegativeFloat | Auto, BeforeValidator(_read)]


class Weights:
    """The factor of every term: given, or by the mean of what was measured in the whole run so
    far: often during the warm-up, then now and again, for gradients change as the student learns.

    methods: how many the terms belong to; automatic shares are divided by it, so that a sum of
    methods weighs beside the labels what one of them does.

    A step: `if weights.wants_gradients: weights.measure(...)`, then `weights.factors()`, then
    `weights.advance()`. The same bits when resumed from `state_dict`.
    """

    def __init__(
        self,
        weights: Mapping[str, float | Auto],
        *,
        methods: int = 1,
        warm_up: int = WARM_UP,
        every: int = EVERY,
        later: int = LATER,
    ) -> None:
        self._weights, self._methods = dict(weights), methods
        self._warm_up, self._every, self._later = warm_up, every, later
        self._sums: dict[str, float] = dict.fromkeys(self._weights, 0.0)  # of ratios
        self._counts: dict[str, int] = dict.fromkeys(self._weights, 0)
        self._step = 0
        self._ends_with_warm_up = False  # a run of version 0.1, which goes on as it began

    @property
    def wants_gradients(self) -> bool:
        """Whether this step is one to measure at: every few of the warm-up, fewer afterwards."""
        warming_up = self._step < self._warm_up
        if self._ends_with_warm_up and not warming_up:
            return False
        every = self._every if warming_up else self._later
        return bool(self._weights) and self._step % every == 0

    def settled_within(self, steps: int) -> bool:
        """Whether the warm-up has ended in the last so many steps."""
        return bool(self._weights) and 0 <= self._step - self._warm_up < steps

    def measure(
        self, terms: Mapping[str, Tensor], supervised: Tensor, shared: Sequence[Tensor]
    ) -> None:
        """Gradients of the unweighted terms beside that of supervision, at the same features.

        shared: the student's last shared features, then earlier ones for the terms that do not
        depend on the last. Steps in which a term has no gradient (no object in sight) are left
        out, as are all without supervision.
        """
        nothing = torch.zeros((), device=shared[0].device)
        norms = [_gradient_norm(supervised, place) for place in shared]
        whole = [nothing if norm is None else norm for norm in norms]
        ratios = torch.stack([_ratio(term, whole, shared) for term in terms.values()])
        for name, ratio in zip(terms, _mean_over_ranks(ratios).tolist()):
            if math.isfinite(ratio) and ratio > 0:
                self._sums[name] += ratio
                self._counts[name] += 1

    def factors(self) -> dict[str, float]:
        """name -> what to multiply the term with at this step."""
        return {name: self._factor(name) for name in self._weights}

    def advance(self) -> None:
        self._step += 1

    def table(self) -> list[tuple[str, float, float, float]]:
        """name, factor, gradient norm of the term, of the weighted term; supervision's is 1."""
        rows = [(name, self._factor(name), self._ratio(name)) for name in self._weights]
        return [(name, factor, ratio, factor * ratio) for name, factor, ratio in rows]

    def without_gradient(self) -> list[str]:
        """Terms with an automatic weight that has had nothing to measure, and so is 0."""
        return [name for name, weight in self._weights.items()
                if isinstance(weight, Auto) and not self._counts[name]]  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {
            'step': self._step,
            'sums': dict(self._sums),
            'counts': dict(self._counts),
            'ends_with_warm_up': self._ends_with_warm_up,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Version 0.1 kept every single ratio, and measured none after the warm-up."""
        self._step = state['step']
        self._ends_with_warm_up = 'ratios' in state or state.get('ends_with_warm_up', False)
        kept: Mapping[str, list[float]] = state.get('ratios', {})
        sums = state.get('sums') or {name: sum(each) for name, each in kept.items()}
        counts = state.get('counts') or {name: len(each) for name, each in kept.items()}
        self._sums = {name: float(sums.get(name, 0.0)) for name in self._weights}
        self._counts = {name: int(counts.get(name, 0)) for name in self._weights}

    def _factor(self, name: str) -> float:
        weight = self._weights[name]
        if not isinstance(weight, Auto):
            return weight
        ratio = self._ratio(name)
        return min(_LARGEST, weight.auto / self._methods / ratio) if ratio else 0.0

    def _ratio(self, name: str) -> float:
        return self._sums[name] / self._counts[name] if self._counts[name] else 0.0


def _ratio(term: Tensor, whole: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
    """() at the first of the features that the term depends on; 0 if there is none.

    Whether it depends is the same on all ranks, whatever their scans: a backward pass may wait
    for the other ranks.
    """
    for norm, place in zip(whole, shared):
        mine = _gradient_norm(term, place)
        if mine is not None:
            return torch.where(norm > 0, mine / norm, 0.0)
    return torch.zeros((), device=shared[0].device)


def shares_as_numbers(weights: Mapping[str, float | Auto]) -> dict[str, float | Auto]:
    """For runs without a label: no gradient of supervision is there to measure a share of."""
    return {
        name: weight.auto if isinstance(weight, Auto) else weight
        for name, weight in weights.items()
    }


def _gradient_norm(loss: Tensor, place: Tensor) -> Tensor | None:
    """() of the gradient at some features; None if the loss does not depend on them."""
    if not loss.requires_grad:
        return None
    scale = _HALF_SCALE if place.dtype == torch.float16 else 1.0
    (gradient,) = torch.autograd.grad(loss * scale, place, retain_graph=True, allow_unused=True)
    return None if gradient is None else gradient.float().norm() / scale


def _mean_over_ranks(ratios: Tensor) -> Tensor:
    """The same on every rank: the mean over those that have one, 0 without any."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ratios
    sums = torch.stack([ratios, (ratios > 0).to(ratios)])
    distributed.all_reduce(sums)
    return sums[0] / sums[1].clamp(min=1)
