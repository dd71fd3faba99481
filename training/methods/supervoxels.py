# SPDX-License-Identifier: Apache-2.0
"""Supervoxels: boxes of a cylinder grid, drawn by how hard they are, and their members.

f_i = 4 exp(-2 n_i) + 1 with n_i voxels of minority classes, W_i = d_i / (R f_i), P_i = W_i / sum W
over the boxes with at least two voxels; d_i is the distance of the box's outer arc, R the radius.
SRKD draws by another weight, (1 - share of the box's majority class) d_i / (R N), N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
import torch
from torch import Tensor

from training.methods.draws import Indices
from training.methods.inputs import Inputs, LabelStatistics, Rows
from training.methods.without_wait import bring

Cells = tuple[PositiveInt, PositiveInt, PositiveInt]  # along radius, angle, height
Labels = NDArray[np.uint8]
_LEAST_VOXELS = 2  # of a box that can be drawn: one member has no affinity


class BoxSettings(BaseModel):
    """The boxes and what is drawn of them."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    grid: Cells = (480, 360, 32)  # cells of the cylinder; [pub]
    box: Cells = (120, 60, 8)  # cells of a box; [pub], 96 boxes
    radius_m: PositiveFloat = 50.0  # what lies beyond belongs to the outermost boxes; [pub]
    height_m: tuple[float, float] | None = None  # above the sensor; None: as the student's grid
    draw: Literal['difficulty', 'class_aware'] = 'difficulty'  # PVKD's way or SRKD's
    per_scan: NonNegativeInt = 4  # boxes drawn of a scan (K); 0: none; [pub], low confidence
    points: PositiveInt = Field(default=1024, ge=2)  # members of a box at most; [ours]
    voxels: PositiveInt = Field(default=512, ge=2)  # likewise; [ours]
    minority_share: PositiveFloat = 0.01  # of the points: rarer classes are minorities; [pub]

    @model_validator(mode='after')
    def _fit(self) -> BoxSettings:
        if any(cells % box for cells, box in zip(self.grid, self.box)):
            raise ValueError(f'box: {self.box} does not divide the grid {self.grid} evenly')
        if not self.span_m[0] < self.span_m[1]:
            raise ValueError(f'height_m: {self.height_m}: the first must be below the second')
        return self

    @property
    def span_m(self) -> tuple[float, float]:
        """The lowest and the highest of the boxes; SemanticKITTI's where no grid tells. [pub]"""
        return self.height_m or (-4.0, 2.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Boxes along radius, angle and height."""
        rings, sectors, layers = (cells // box for cells, box in zip(self.grid, self.box))
        return rings, sectors, layers

    @property
    def arcs(self) -> NDArray[np.float64]:
        """(boxes,) distance of each box's outer arc as a share of the radius, in (0, 1]."""
        rings, sectors, layers = self.shape
        return np.repeat(np.arange(1, rings + 1) / rings, sectors * layers)


@dataclass(frozen=True, kw_only=True, eq=False)
class Members:
    """K boxes of all scans with at most n members each: rows (K, n), valid (K, n)."""

    rows: Tensor
    valid: Tensor

    def gather(self, features: Rows) -> Tensor:
        """(K, n, D) features of the members, anything where there is none."""
        flat = features(self.rows.flatten())
        return flat.view(*self.rows.shape, flat.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """K drawn boxes: their points, their voxels, and the weight SRKD gives each (K,)."""

    points: Members
    voxels: Members
    weight: Tensor


def find_boxes(xyz: Tensor, settings: BoxSettings) -> Tensor:
    """(V, 3) metres -> (V,) int64 the box that each lies in; none lies outside."""
    bottom, top = settings.span_m
    share = torch.stack(
        [
            torch.hypot(xyz[:, 0], xyz[:, 1]) / settings.radius_m,
            (torch.atan2(xyz[:, 1], xyz[:, 0]) + math.pi) / (2 * math.pi),
            (xyz[:, 2] - bottom) / (top - bottom),
        ]
    )
    count = torch.tensor(settings.shape, device=xyz.device)[:, None]
    ring, sector, layer = (share * count).long().clamp(min=torch.zeros_like(count), max=count - 1)
    return (ring * settings.shape[1] + sector) * settings.shape[2] + layer


def probabilities(
    voxels: NDArray[np.int64], rare: NDArray[np.int64], settings: BoxSettings
) -> NDArray[np.float64]:
    """(boxes,) chance of each box, of its voxels and those of minority classes among them."""
    easiness = 4 * np.exp(-2.0 * rare) + 1
    weight = np.where(voxels >= _LEAST_VOXELS, settings.arcs / easiness, 0.0)
    return weight / max(weight.sum(), 1e-300)


def class_aware_weights(
    voxels: NDArray[np.int64], majority_share: NDArray[np.float64], settings: BoxSettings
) -> NDArray[np.float64]:
    """(boxes,) SRKD's weight of each box, 0 of those that cannot be drawn; N are those that can.

    majority_share (boxes,): of the training points, of each box's majority class.
    """
    possible = voxels >= _LEAST_VOXELS
    weight = (1 - majority_share) * settings.arcs / max(1, possible.sum())
    return np.where(possible, weight, 0.0)


def draw_boxes(
    chance: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Numbers of `count` different boxes, all that can be drawn if there are fewer."""
    possible = np.flatnonzero(chance)
    if len(possible) <= count:
        return possible
    return np.sort(rng.choice(len(chance), count, replace=False, p=chance))


def choose_members(
    rows: Indices, rare: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Indices:
    """At most `count` of a box's rows; those of frequent classes (rare is False) go first."""
    if len(rows) <= count:
        return rows
    first = rng.permutation(rows[rare])[:count]
    others = rng.permutation(rows[~rare])[: count - len(first)]
    return np.sort(np.concatenate([first, others]))


def pad_members(sets: list[Indices], device: torch.device) -> Members:
    """One row per set; what pads it is not valid."""
    longest = max((len(rows) for rows in sets), default=0)
    rows = np.zeros((len(sets), longest), np.int64)
    valid = np.zeros((len(sets), longest), np.bool_)
    for index, members in enumerate(sets):
        rows[index, : len(members)] = members
        valid[index, : len(members)] = True
    return Members(
        rows=bring(torch.from_numpy(rows), device), valid=bring(torch.from_numpy(valid), device)
    )


class Sampler:
    """Draws the boxes of a batch and their members."""

    def __init__(self, settings: BoxSettings, statistics: LabelStatistics) -> None:
        self._settings, self._shares = settings, statistics.class_shares
        self._rare = np.zeros(256, np.bool_)  # by label; 255 is none of them
        self._rare[: len(self._shares)] = self._shares < settings.minority_share

    def draw(self, inputs: Inputs, rng: np.random.Generator) -> Boxes:
        s, device, host = self._settings, inputs.voxel_xyz.device, inputs.host
        box = find_boxes(host.voxel_xyz, s)
        box += host.voxel_scan.long() * len(s.arcs)  # another number in every scan
        of_voxel, labels = box.numpy(), host.voxel_label_array
        of_point = box.index_select(0, host.point_voxel).numpy()
        drawn, weights = self._draw(of_voxel, labels, inputs.scans, rng)
        point_sets = self._members(drawn, of_point, host.label_array, s.points, rng)
        voxel_sets = self._members(drawn, of_voxel, labels, s.voxels, rng)
        return Boxes(
            points=pad_members(point_sets, device),
            voxels=pad_members(voxel_sets, device),
            weight=bring(torch.tensor(weights, dtype=torch.float32), device),
        )

    def _draw(
        self, of_voxel: Indices, labels: Labels, scans: int, rng: np.random.Generator
    ) -> tuple[list[int], list[float]]:
        """Numbers of the drawn boxes of all scans, and the weight of each."""
        boxes = len(self._settings.arcs)
        counts = np.bincount(of_voxel, minlength=scans * boxes).reshape(scans, boxes)
        shares = self._majority_shares(of_voxel, labels, scans * boxes).reshape(scans, boxes)
        rare = of_voxel[self._rare[labels]]
        rare_counts = np.bincount(rare, minlength=scans * boxes).reshape(scans, boxes)
        drawn: list[int] = []
        weights: list[float] = []
        for scan in range(scans):
            chance, weight = self._weigh(counts[scan], rare_counts[scan], shares[scan])
            chosen = draw_boxes(chance, self._settings.per_scan, rng)
            drawn += (scan * boxes + chosen).tolist()
            weights += weight[chosen].tolist()
        return drawn, weights

    def _weigh(
        self, voxels: Indices, rare: Indices, shares: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(boxes,) the chance and the weight of a scan's boxes."""
        s = self._settings
        if s.draw == 'class_aware':
            weight = class_aware_weights(voxels, shares, s)
            return weight / max(weight.sum(), 1e-300), weight
        return probabilities(voxels, rare, s), (1 - shares) * s.arcs / max(1, s.per_scan)

    def _majority_shares(self, box: Indices, labels: Labels, boxes: int) -> NDArray[np.float64]:
        """(boxes,) share, of the training points, of each box's majority class; 0 without any."""
        classes = len(self._shares)
        known = labels < classes
        cell = box[known] * classes + labels[known]
        counts = np.bincount(cell, minlength=boxes * classes).reshape(boxes, classes)
        return np.where(counts.any(1), self._shares[counts.argmax(1)], 0.0)

    def _members(
        self, drawn: list[int], box: Indices, labels: Labels, count: int, rng: np.random.Generator
    ) -> list[Indices]:
        sets = [np.flatnonzero(box == number) for number in drawn]
        return [choose_members(rows, self._rare[labels[rows]], count, rng) for rows in sets]
