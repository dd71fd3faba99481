# SPDX-License-Identifier: Apache-2.0
"""Which points of a scan take part in a term: the same ones for both networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from lidar_kd.labels import IGNORE
from training.methods.inputs import Inputs
from training.methods.without_wait import bring

Indices = NDArray[np.int64]
Draw = Callable[[NDArray[np.uint8], int, np.random.Generator], Indices]


def draw_balanced(labels: NDArray[np.uint8], count: int, rng: np.random.Generator) -> Indices:
    """Indices of `count` points (all if there are fewer), as many of each class as there can be.

    The rarest class has its turn first; what it lacks is shared among the more frequent ones.
    Unlabelled points fill up what the labelled ones cannot.
    """
    numbers = np.bincount(labels, minlength=256)
    present = np.flatnonzero(numbers[:IGNORE])
    classes = present[np.argsort(numbers[present], kind='stable')]
    taken: list[Indices] = []
    left = count
    for turn, train_id in enumerate(classes):
        rows = _some(np.flatnonzero(labels == train_id), left // (len(classes) - turn), rng)
        left -= len(rows)
        taken.append(rows)
    taken.append(_some(np.flatnonzero(labels == IGNORE), left, rng))
    return np.sort(np.concatenate(taken))


def draw_uniform(labels: NDArray[np.uint8], count: int, rng: np.random.Generator) -> Indices:
    """Indices of `count` points (all if there are fewer), whatever they are."""
    return np.sort(_some(np.arange(len(labels)), count, rng))


def draw_rows(
    inputs: Inputs, count: int, rng: np.random.Generator, draw: Draw = draw_balanced
) -> list[Tensor]:
    """For each scan the rows, among the batch's points, of `count` of its points."""
    return _draw_of_scans(inputs.host.label_array, inputs.starts, count, rng, draw, inputs.labels)


def draw_voxel_rows(
    inputs: Inputs, count: int, rng: np.random.Generator, draw: Draw = draw_balanced
) -> list[Tensor]:
    """For each scan the rows, among the batch's voxels, of `count` of its voxels."""
    owner = inputs.host.voxel_scan.numpy()
    starts = np.searchsorted(owner, np.arange(inputs.scans + 1)).tolist()
    return _draw_of_scans(inputs.host.voxel_label_array, starts, count, rng, draw, inputs.labels)


def _draw_of_scans(
    labels: NDArray[np.uint8],
    starts: Sequence[int],
    count: int,
    rng: np.random.Generator,
    draw: Draw,
    like: Tensor,
) -> list[Tensor]:
    return [
        bring(torch.from_numpy(draw(labels[first:stop], count, rng) + first), like.device)
        for first, stop in zip(starts, starts[1:])
    ]


def _some(rows: Indices, count: int, rng: np.random.Generator) -> Indices:
    return rows if len(rows) <= count else rng.choice(rows, count, replace=False, shuffle=False)
