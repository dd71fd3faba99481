# SPDX-License-Identifier: Apache-2.0
"""One step's lesson: a batch -> named terms and their weighted sum, the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn, Tensor

from lidar_kd.models.output import Network, Output
from lidar_kd.voxels import Voxels
from training.data.batch import Batch, voxel_labels
from training.methods.inputs import check_teacher, Inputs
from training.methods.supervised import Supervised
from training.methods.weights import Auto, Weights
from training.run.belief import believe
from training.run.sides import detached, make_inputs


class Terms(NamedTuple):
    loss: Tensor
    raw: dict[str, Tensor]  # detached; supervision as it counts, methods without their weights
    weighted: dict[str, Tensor]  # detached; these add up to the loss


class Method(Protocol):
    weights: dict[str, float | Auto]

    def __call__(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]: ...


class Explains(Protocol):
    """A frozen teacher."""

    def __call__(self, voxels: Voxels) -> Output: ...


class Lesson(nn.Module):
    """The student and what is trained beside it; its parameters are what the optimiser gets.

    Methods without a teacher: the student is its own, looking at the fused scans. believed: how
    sure a teacher must be for its answers to be labels of scans that have none.
    """

    def __init__(
        self,
        student: nn.Module,
        supervised: Supervised,
        *,
        methods: nn.ModuleDict | None = None,
        teacher: Explains | None = None,
        believed: float | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.supervised = supervised
        self.methods = methods or nn.ModuleDict()
        self.weights = Weights({name: w for m in self._listed() for name, w in m.weights.items()})
        self._believed = believed
        self._teacher = teacher  # no module: neither trained nor saved with the student

    def forward(self, batch: Batch, rng: np.random.Generator) -> Terms:
        output = self._ask(batch.voxels)
        inputs = self._compare(output, batch)
        with torch.autocast(batch.points.device.type, enabled=False):
            supervision = self._supervise(inputs)
            inputs = replace(inputs, teacher=detached(inputs.teacher))
            terms = {k: v for m in self._listed() for k, v in m(inputs, rng).items()}
        factors = self._weigh(terms, supervision, output)
        weighted = supervision | {name: factors[name] * term for name, term in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        return Terms(loss, _detached(supervision | terms), _detached(weighted))

    def _supervise(self, inputs: Inputs) -> dict[str, Tensor]:
        """A student that is its own teacher learns from what it sees as a teacher, too."""
        terms: dict[str, Tensor] = self.supervised(inputs)
        if self._teacher is None and self.methods:
            fused = self.supervised(replace(inputs, student=inputs.teacher))
            terms |= {f'fused_{name}': term for name, term in fused.items()}
        return terms

    def state(self) -> dict[str, Any]:
        """What a run needs beside the student to go on: adapters and measured weights."""
        return {'methods': self.methods.state_dict(), 'weights': self.weights.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.methods.load_state_dict(state['methods'])
        self.weights.load_state_dict(state['weights'])

    def _ask(self, voxels: Voxels) -> Output:
        cast(Network, self.student).build_maps(voxels.level)
        output: Output = self.student(voxels)
        return output

    def _compare(self, output: Output, batch: Batch) -> Inputs:
        classes = output.voxel_logits.shape[1]
        labels = voxel_labels(batch, classes)
        if not self.methods and self._believed is None:
            return make_inputs(output, None, batch, labels)
        view = batch.voxels if batch.teacher is None else batch.teacher.voxels
        theirs = self._teacher(view) if self._teacher else self._ask(view)
        inputs = make_inputs(output, theirs, batch, labels)
        check_teacher(inputs)
        if self._believed is None:
            return inputs
        return believe(inputs, batch.owner, self._believed)

    def _weigh(
        self, terms: dict[str, Tensor], supervision: dict[str, Tensor], output: Output
    ) -> dict[str, float]:
        if not terms:
            return {}
        if self.weights.wants_gradients:
            whole = torch.stack(list(supervision.values())).sum()
            places = (output.voxel_features, output.own_point_features, output.early_features)
            shared = [features for features in places if features is not None]
            self.weights.measure(terms, whole, shared)
        factors = self.weights.factors()
        self.weights.advance()
        return factors

    def _listed(self) -> list[Method]:
        return [cast(Method, method) for method in self.methods.values()]


def _detached(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: term.detach() for name, term in terms.items()}
