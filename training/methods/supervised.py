# SPDX-License-Identifier: Apache-2.0
"""Supervision: cross-entropy and Lovasz-softmax, at the points, at the voxels, or at both.

Both are means over the labelled rows of one scan, then over the scans of the batch, so that the
mean over ranks of the same size is the loss of the whole batch. A scan without labels adds 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
import math
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat
import torch
from torch import nn, Tensor
from torch.nn.functional import cross_entropy

from lidar_kd.labels import IGNORE
from training.methods.inputs import Inputs
from training.methods.terms import sum_in_order
from training.methods.without_wait import bring

Merged = Sequence[tuple[int, ...]]  # train ids


class SupervisedSettings(BaseModel):
    """Weights of the four losses, and how classes are weighted in the cross-entropies."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    point_ce: NonNegativeFloat = 0.0  # PVKD: 1 beside the losses at the voxels
    point_lovasz: NonNegativeFloat = 0.0
    voxel_ce: NonNegativeFloat = 1.0  # at the majority label; [pub]
    voxel_lovasz: NonNegativeFloat = 1.0  # [pub]
    fused_ce: NonNegativeFloat | None = None  # of a student that is its own teacher: only this
    # cross-entropy where fused voxels have another label, [code] 0.2; None: all of the above
    class_power: NonNegativeFloat = 0.5  # class weight = share ** -power; 0: all the same [ours]
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)  # of the cross-entropies: the share of
    # a label that is spread over all classes (Szegedy et al., 2016)


class Supervised(nn.Module):
    """The losses by name, weighted: their sum is the supervised loss.

    merged: the classes of each label that does not tell them apart; these labels follow those of
    the classes. A point of one counts as of the first class, with the probability of all.
    """

    class_weights: Tensor

    def __init__(
        self, settings: SupervisedSettings, class_weights: Tensor, merged: Merged = ()
    ) -> None:
        super().__init__()
        self.settings, self._merged = settings, tuple(merged)
        self.register_buffer('class_weights', class_weights.float(), persistent=False)

    @property
    def labels(self) -> int:
        """How many there are: classes and merged ones."""
        return len(self.class_weights) + len(self._merged)

    def leave_out_merged(self, inputs: Inputs) -> Inputs:
        """For whoever knows classes alone."""
        if not self._merged:
            return inputs
        classes, kept = len(self.class_weights), inputs.kept
        of_points, of_voxels = (
            labels.masked_fill(labels >= classes, IGNORE)
            for labels in (inputs.labels, inputs.voxel_labels)
        )
        kept = kept and kept.of_classes(classes)
        return replace(inputs, labels=of_points, voxel_labels=of_voxels, kept=kept)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        s, ours = self.settings, inputs.student
        scans = _starts_of(inputs.host.voxel_scan, inputs.scans)
        voxels = self._fold(_Rows(ours.voxel_logits, inputs.voxel_labels, scans))
        points = self._fold(_Rows(ours.point_logits, inputs.labels, inputs.starts))
        losses = {
            'voxel_ce': (s.voxel_ce, self._cross_entropy, voxels),
            'voxel_lovasz': (s.voxel_lovasz, _lovasz, voxels),
            'point_ce': (s.point_ce, self._cross_entropy, points),
            'point_lovasz': (s.point_lovasz, _lovasz, points),
        }
        with torch.autocast(inputs.labels.device.type, enabled=False):
            return {
                name: weight * loss(rows)
                for name, (weight, loss, rows) in losses.items()
                if weight
            }

    def _fold(self, rows: _Rows) -> _Rows:
        if not self._merged:
            return rows
        first = len(self.class_weights)
        labels = rows.labels
        for label, classes in enumerate(self._merged, start=first):
            labels = labels.masked_fill(labels == label, classes[0])
        logits = partial(fold_logits, rows.logits, rows.labels, self._merged)
        return _Rows(logits, labels, rows.starts)

    def of_fused(self, logits: Tensor, labels: Tensor, weight: float) -> Tensor:
        """Weighted cross-entropy at a fused batch's voxels, whose labels (V,) are 255 but where
        the past says something else than the present.
        """
        with torch.autocast(labels.device.type, enabled=False):
            whole = (0, len(labels))
            return weight * mean_cross_entropy(logits, labels, whole, self.class_weights)

    def _cross_entropy(self, rows: _Rows) -> Tensor:
        return mean_cross_entropy(
            rows.logits(),
            rows.labels,
            rows.starts,
            self.class_weights,
            self.settings.label_smoothing,
        )


class _Rows(NamedTuple):
    """What is supervised: points or voxels, scan by scan."""

    logits: Callable[[], Tensor]
    labels: Tensor
    starts: Sequence[int]


def fold_logits(logits: Callable[[], Tensor], labels: Tensor, merged: Merged) -> Tensor:
    """(N, C) where rows of a merged label give its first class the probability of all of them."""
    folded = logits().float()
    for label, classes in enumerate(merged, start=folded.shape[1]):
        if folded.is_cuda:  # which would have to tell how many rows there are
            here = (labels == label)[:, None]
            folded = torch.where(here, _fold_all(folded, classes), folded)
            continue
        rows = torch.nonzero(labels == label).squeeze(1)
        if len(rows):
            theirs = _fold_all(folded.index_select(0, rows), classes)
            folded = folded.index_copy(0, rows, theirs)
    return folded


def _fold_all(logits: Tensor, classes: tuple[int, ...]) -> Tensor:
    members = bring(torch.tensor(classes), logits.device)
    together = logits.index_select(1, members).logsumexp(1, keepdim=True)
    logits = logits.index_fill(1, members, -math.inf)
    return logits.index_copy(1, members[:1], together)


def _lovasz(rows: _Rows) -> Tensor:
    return mean_lovasz(rows.logits(), rows.labels, rows.starts)


def mean_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    starts: Sequence[int],
    class_weights: Tensor,
    smoothing: float = 0.0,
) -> Tensor:
    """logits (N, C), labels (N,) uint8 or int, class_weights (C,); weighted mean per scan.

    smoothing: the share of each label that is spread over the classes; a row keeps the weight of
    its own, so that what is spread does not favour rare classes.
    """
    known = labels < len(class_weights)
    weight = class_weights.index_select(0, labels.long().masked_fill(~known, 0)) * known
    each = weight * cross_entropy(
        logits.float(),
        labels.long(),
        ignore_index=IGNORE,
        reduction='none',
        label_smoothing=smoothing,
    )
    scans = list(zip(starts, starts[1:]))
    means = [
        sum_in_order(each[a:b]) / sum_in_order(weight[a:b]).clamp(min=1e-12) for a, b in scans
    ]
    return torch.stack(means).mean()


def mean_lovasz(logits: Tensor, labels: Tensor, starts: Sequence[int]) -> Tensor:
    """logits (N, C), labels (N,); the mean over scans of `lovasz_softmax`."""
    losses = [
        lovasz_softmax(logits[start:stop], labels[start:stop])
        for start, stop in zip(starts, starts[1:])
    ]
    return torch.stack(losses).mean()


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """The Lovasz extension of 1 - IoU, mean over the classes that occur (Berman et al., 2018).

    logits (N, C), labels (N,); rows labelled 255 do not count; 0 where no row does.
    """
    if logits.is_cuda:
        return lovasz_of_all(logits, labels)
    rows = torch.nonzero(labels != IGNORE).squeeze(1)
    if len(rows) == 0:
        return logits.sum() * 0.0
    known = labels.index_select(0, rows).long()
    present = known.unique()
    # the gradient of softmax() itself depends on the number of threads
    posterior = logits.float().index_select(0, rows).log_softmax(1).exp()
    belongs = (known == present[:, None]).float()  # (classes that occur, rows)
    errors = (belongs - posterior.index_select(1, present).t()).abs()
    with torch.no_grad():
        slopes = _slopes(errors, belongs)
    return sum_in_order(errors * slopes) / len(present)


def lovasz_of_all(logits: Tensor, labels: Tensor) -> Tensor:
    """The same for a GPU, which would have to tell which rows and classes count: those that do
    not go behind the others, and count for nothing.
    """
    known = labels != IGNORE
    belongs = (labels.long() == _numbers(logits)[:, None]).float()  # (C, rows)
    errors = (belongs - logits.float().softmax(1).t()).abs()
    with torch.no_grad():
        slopes = _slopes(errors.masked_fill(~known, -1.0), belongs)
        present = belongs.any(1)
        slopes = slopes * (present[:, None] & known)
    return (errors * slopes).sum() / present.sum().clamp(min=1)


def _numbers(logits: Tensor) -> Tensor:
    """(C,) of the classes."""
    return torch.arange(logits.shape[1], device=logits.device)


def _slopes(errors: Tensor, belongs: Tensor) -> Tensor:
    """(K, N) what 1 - IoU rises by when a row joins those that are wrong, worst rows first."""
    order = _descending(errors)
    hits = belongs.gather(1, order).cumsum(1)
    total = hits[:, -1:]
    rank = torch.arange(1, errors.shape[1] + 1, device=errors.device)
    loss = 1.0 - (total - hits) / (total + rank - hits)
    rises = torch.diff(loss, dim=1, prepend=torch.zeros_like(total))
    return torch.empty_like(errors).scatter_(1, order, rises)


def _descending(values: Tensor) -> Tensor:
    """The order of each row. Numpy's sort is vectorised and takes a tenth of torch's on a CPU."""
    if values.is_cuda:
        return values.argsort(dim=1, descending=True)
    return torch.from_numpy(np.argsort(-values.detach().numpy(), axis=1))


def _starts_of(owner: Tensor, scans: int) -> tuple[int, ...]:
    """Where each scan's rows begin, and the end; owner ascends."""
    edges = torch.arange(scans + 1, device=owner.device, dtype=owner.dtype)
    return tuple(torch.searchsorted(owner, edges).tolist())
