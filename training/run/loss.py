# SPDX-License-Identifier: Apache-2.0
"""One step's distillation: a batch -> named terms and their weighted sum, the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn, Tensor

from lidar_kd.models.output import Output, SegmentationNetwork
from lidar_kd.voxels import Voxels
from training.data.batch import Batch, newly_labelled, TeacherInput
from training.methods.inputs import AlignedOutput, check_teacher, Inputs
from training.methods.supervised import Supervised
from training.methods.weights import Auto, Weights
from training.run.align import align_teacher, detached, make_inputs
from training.run.config import MAIN
from training.run.pseudo_labels import has_bare, pseudo_label


class Terms(NamedTuple):
    loss: Tensor
    raw: dict[str, Tensor]  # detached; supervision as it counts, methods without their weights
    weighted: dict[str, Tensor]  # detached; these add up to the loss
    teachers_finite: Tensor | None = None  # () whether their answers are


class Method(Protocol):
    weights: dict[str, float | Auto]

    def __call__(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]: ...


class TeacherNetwork(Protocol):
    """A frozen teacher, or the student itself."""

    def __call__(self, voxels: Voxels) -> Output: ...


class Teacher(NamedTuple):
    """A teacher, and how it looks at the scans."""

    network: TeacherNetwork
    teacher_input: TeacherInput


class DistillationLoss(nn.Module):
    """The student and what is trained beside it; its parameters are what the optimiser gets.

    teachers: MAIN, and those that methods have for themselves by the method's name. itself: how
    the student looks at the scans as its own teacher. pseudo_label_confidence: how sure the
    teachers must be, in the mean, for their answers to be labels of scans that have none.
    """

    def __init__(
        self,
        student: nn.Module,
        supervised: Supervised,
        *,
        methods: nn.ModuleDict | None = None,
        teachers: Mapping[str, Teacher] | None = None,
        itself: TeacherInput | None = None,
        pseudo_label_confidence: float | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.supervised = supervised
        self.methods = methods or nn.ModuleDict()
        weights = {name: w for m in self._listed() for name, w in m.weights.items()}
        self.weights = Weights(weights, methods=max(1, len(self.methods)))
        self._pseudo_label_confidence = pseudo_label_confidence
        self._is_its_own = itself is not None
        # no modules: neither trained nor saved with the student
        self._teachers = {MAIN: Teacher(self._ask, itself)} if itself else dict(teachers or {})

    def forward(self, batch: Batch, rng: np.random.Generator) -> Terms:
        output = self._ask(batch.voxels)
        inputs = make_inputs(output, batch, self.supervised.labels)
        asked = self._teachers if self._has_question(inputs) else {}
        aligned = {name: self._align(teacher, batch) for name, teacher in asked.items()}
        finite = [check_teacher(answers, batch.names) for answers in aligned.values()]
        if aligned and self._pseudo_label_confidence is not None:
            inputs = pseudo_label(
                inputs, list(aligned.values()), batch.owner, self._pseudo_label_confidence
            )
        with torch.autocast(batch.points.device.type, enabled=False):
            supervision = self._supervise(inputs, aligned, batch)
            terms = self._compare(self.supervised.leave_out_merged(inputs), aligned, rng)
        factors = self._weigh(terms, supervision, output)
        weighted = supervision | {name: factors[name] * term for name, term in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        return Terms(
            loss,
            _detached(supervision | terms),
            _detached(weighted),
            torch.stack(finite).all() if finite else None,
        )

    def _has_question(self, inputs: Inputs) -> bool:
        """Without a method a teacher is there for scans without labels alone."""
        return bool(len(self.methods)) or has_bare(inputs)

    def _align(self, teacher: Teacher, batch: Batch) -> AlignedOutput:
        view = batch.views.get(teacher.teacher_input)
        answers = teacher.network(batch.voxels if view is None else view.voxels)
        return align_teacher(answers, view, batch)

    def _supervise(
        self, inputs: Inputs, aligned: Mapping[str, AlignedOutput], batch: Batch
    ) -> dict[str, Tensor]:
        """A student that is its own teacher learns from what it sees as a teacher, too."""
        terms: dict[str, Tensor] = self.supervised(inputs)
        weight = self.supervised.settings.fused_ce
        if self._is_its_own and weight is not None:
            terms |= {'fused_ce': self._supervise_past(aligned[MAIN], batch, weight)}
        elif self._is_its_own:
            fused = self.supervised(replace(inputs, student=aligned[MAIN]))
            terms |= {f'fused_{name}': term for name, term in fused.items()}
        return terms

    def _supervise_past(self, aligned: AlignedOutput, batch: Batch, weight: float) -> Tensor:
        """Where the past gives voxels of the fused scans another label; M2SKD's joint variant."""
        logits = aligned.voxel_logits() if aligned.seen is None else aligned.seen()
        view = batch.views.get(self._teachers[MAIN].teacher_input)
        if view is None:
            return logits.sum() * 0.0  # no scan of the batch has a past
        labels = newly_labelled(view, batch, logits.shape[1])
        return self.supervised.of_fused(logits, labels, weight)

    def _compare(
        self, inputs: Inputs, aligned: Mapping[str, AlignedOutput], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            teacher = detached(aligned[name] if name in aligned else aligned[MAIN])
            terms |= method(replace(inputs, teacher=teacher), rng)
        return terms

    def state(self) -> dict[str, Any]:
        """What a run needs beside the student to go on: adapters and measured weights."""
        return {'methods': self.methods.state_dict(), 'weights': self.weights.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.methods.load_state_dict(state['methods'])
        self.weights.load_state_dict(state['weights'])

    def _ask(self, voxels: Voxels) -> Output:
        cast(SegmentationNetwork, self.student).build_maps(voxels.level)
        output: Output = self.student(voxels)
        return output

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
