# SPDX-License-Identifier: Apache-2.0
"""Kernel maps: which rows of the input each row of the result needs, and through which slot.

P pairs, K slots (positions of the kernel), N rows. Slots count the kernel's cells with the last
coordinate fastest, like the weight (C_out, k_x, k_y, k_z, C_in):
slot = (i_x * k_y + i_y) * k_z + i_z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, product
from operator import rshift, sub
from typing import Any

import torch
from torch import Tensor

from lidar_kd.errors import DataError

MARGINS = (0, 4, 4, 4)  # free cells around the occupied ones: a neighbour's key never wraps


@dataclass(eq=False)
class KernelMap:
    """Pairs slot by slot; inside a slot both columns increase, so the transpose is a swap."""

    in_rows: Tensor  # (P,) int32
    out_rows: Tensor  # (P,) int32
    starts: tuple[int, ...]  # (K + 1)
    n_in: int
    n_out: int
    derived: dict[str, Any] = field(default_factory=dict)  # what an engine computes once per map
    trusted: bool = False  # its builder vouches for the rows; else an engine in C looks at them
    mirrored: bool = False  # its transpose is itself with the slots in reverse

    @property
    def slots(self) -> int:
        return len(self.starts) - 1

    @property
    def pairs(self) -> int:
        return self.starts[-1]

    def slot(self, k: int) -> tuple[Tensor, Tensor]:
        part = slice(self.starts[k], self.starts[k + 1])
        return self.in_rows[part], self.out_rows[part]

    def with_results(self, kept: Tensor) -> KernelMap:
        """The map to the kept (n_out,) rows of the result alone."""
        chosen = kept[self.out_rows.long()]
        counts = [int(part.sum()) for part in chosen.split(self._sizes)]
        rows = kept.cumsum(0, dtype=torch.int32) - 1
        out_rows = rows[self.out_rows[chosen].long()]
        starts = (0, *accumulate(counts))
        return KernelMap(self.in_rows[chosen], out_rows, starts, self.n_in, int(kept.sum()))

    @property
    def _sizes(self) -> list[int]:
        return [b - a for a, b in zip(self.starts, self.starts[1:])]

    @cached_property
    def transposed(self) -> KernelMap:
        turned = self.out_rows, self.in_rows, self.starts, self.n_out, self.n_in
        return KernelMap(*turned, trusted=self.trusted)

    @cached_property
    def parents(self) -> Tensor:
        """(n_in,) of a strided map: the coarse row that each fine row lies in."""
        parent = torch.empty(self.n_in, dtype=torch.long, device=self.in_rows.device)
        parent[self.in_rows.long()] = self.out_rows.long()
        return parent

    @cached_property
    def centre(self) -> int:
        """The slot that maps every row to itself (submanifold), or -1."""
        middle = self.slots // 2
        whole = self.starts[middle + 1] - self.starts[middle] == self.n_out == self.n_in
        return middle if self.slots % 2 and whole else -1


@dataclass(frozen=True)
class KeyLayout:
    """How (batch, x, y, z) become one integer, z fastest: cells from `lowest` to `highest`, and a
    margin around them.
    """

    lowest: tuple[int, ...]
    highest: tuple[int, ...]

    @cached_property
    def low(self) -> tuple[int, ...]:
        return tuple(value - margin for value, margin in zip(self.lowest, MARGINS))

    @cached_property
    def bits(self) -> tuple[int, ...]:
        spans = map(sub, self.highest, self.low)
        return tuple(max(1, (span + margin).bit_length()) for span, margin in zip(spans, MARGINS))

    def keys(self, coords: Tensor) -> Tensor:
        key = coords[:, 0].long() - self.low[0]
        for axis in (1, 2, 3):
            key = (key << self.bits[axis]) | (coords[:, axis].long() - self.low[axis])
        return key

    def coarser(self, stride: Sequence[int]) -> KeyLayout:
        """Of the cells `stride`, each 1 or 2, times as wide in which ours lie."""
        shifts = (0, *(step - 1 for step in stride))
        lowest, highest = (map(rshift, end, shifts) for end in (self.lowest, self.highest))
        return KeyLayout(tuple(lowest), tuple(highest))


def key_layout(coords: Tensor) -> KeyLayout:
    """The narrowest layout of the occupied cells."""
    if not len(coords):
        return KeyLayout((0, 0, 0, 0), (0, 0, 0, 0))
    lowest, highest = torch.stack(coords.aminmax(dim=0)).tolist()
    layout = KeyLayout(tuple(lowest), tuple(highest))
    if sum(layout.bits) > 63:
        extent = ' x '.join(str(b - a) for a, b in zip(lowest[1:], highest[1:]))
        raise DataError(
            f'voxels: the cells span {extent} and need {sum(layout.bits)} key bits of 63: '
            'drop far outliers or choose a larger voxel'
        )
    return layout


def columns_of(kernel: Sequence[int], layout: KeyLayout) -> list[tuple[int, int, int]]:
    """(key shift, first slot, z offsets) of the later half of the kernel, column by column."""
    rx, ry, rz = (size // 2 for size in kernel)
    columns = []
    for dx in range(rx + 1):
        for dy in range(-ry if dx else 0, ry + 1):
            z0 = -rz if dx or dy else 1
            if z0 > rz:
                continue
            shift = (((dx << layout.bits[2]) + dy) << layout.bits[3]) + z0
            slot = ((dx + rx) * kernel[1] + dy + ry) * kernel[2] + z0 + rz
            columns.append((shift, slot, rz - z0 + 1))
    return columns


def submanifold_pairs(keys: Tensor, kernel: Sequence[int], layout: KeyLayout) -> KernelMap:
    """One search per column of z neighbours; the earlier half of the kernel mirrors the later."""
    n, slots = len(keys), kernel[0] * kernel[1] * kernel[2]
    half = slots // 2
    columns = keys.new_tensor(columns_of(kernel, layout)).view(-1, 3, 1)
    shift, slot, width = columns.unbind(1)
    low = keys + shift
    first = torch.searchsorted(keys, low)
    # row `half` of the table takes what is not a neighbour; it is never read
    table = torch.full((half + 1, n), -1, dtype=torch.int32, device=keys.device)
    rows = torch.arange(n, device=keys.device).expand_as(first)
    for step in range(kernel[2]):  # of the longest column
        at = first + step
        found = at.clamp(max=n - 1)
        distance = keys[found] - low
        near = (at < n) & (distance < width)
        table[torch.where(near, distance + (slot - half - 1), half), rows] = found.int()
    present = table[:half] >= 0
    slot_of, out_rows = torch.nonzero(present, as_tuple=True)
    in_rows = table[slot_of, out_rows]
    return mirrored(in_rows, out_rows.int(), present.sum(1).tolist(), n)


def mirrored(in_rows: Tensor, out_rows: Tensor, counts: list[int], n: int) -> KernelMap:
    """The whole map from the pairs of its later half."""
    parts_in, parts_out = list(in_rows.split(counts)), list(out_rows.split(counts))
    identity = torch.arange(n, dtype=torch.int32, device=in_rows.device)
    sizes = counts[::-1] + [n] + counts
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return KernelMap(
        torch.cat([*parts_out[::-1], identity, *parts_in]),
        torch.cat([*parts_in[::-1], identity, *parts_out]),
        tuple(starts),
        n,
        n,
        mirrored=True,
    )


def strided_pairs(
    coords: Tensor, stride: Sequence[int], layout: KeyLayout
) -> tuple[Tensor, KernelMap]:
    """The coarse cells (M, 4), sorted, and the map from fine to coarse rows."""
    shift = torch.tensor([0, *(s - 1 for s in stride)], dtype=torch.int32, device=coords.device)
    cells = coords >> shift
    coarse, group = distinct(cells, layout.coarser(stride))
    inside = (coords & shift)[:, 1:].long()
    slot = (inside[:, 0] * stride[1] + inside[:, 1]) * stride[2] + inside[:, 2]
    order = torch.argsort(slot, stable=True)
    slots = stride[0] * stride[1] * stride[2]
    ends = torch.bincount(slot, minlength=slots).cumsum(0).tolist()
    pairs = KernelMap(order.int(), group[order].int(), (0, *ends), len(coords), len(coarse))
    return coarse, pairs


def distinct(cells: Tensor, layout: KeyLayout) -> tuple[Tensor, Tensor]:
    """The different ones of the cells (N, 4), sorted, and the row of each given one there."""
    _, group = torch.unique(layout.keys(cells), return_inverse=True)
    found = cells.new_empty((int(group.max()) + 1 if len(group) else 0, 4))
    found[group] = cells  # every row of a group writes the same cell
    return found, group


def reaching_pairs(
    coords: Tensor, kernel: Sequence[int], stride: Sequence[int], layout: KeyLayout
) -> tuple[Tensor, KernelMap]:
    """Like strided_pairs with an odd kernel around each coarse cell's first fine one: a fine cell
    lies in several kernels, and every coarse cell is there whose kernel meets an occupied one.
    """
    step = torch.tensor([1, *stride], dtype=torch.int32, device=coords.device)
    in_parts, out_parts = [], []
    for offset in product(*(range(-(size // 2), size // 2 + 1) for size in kernel)):
        first = coords - torch.tensor([0, *offset], dtype=torch.int32, device=coords.device)
        rows = torch.nonzero((first % step == 0).all(1)).squeeze(1)
        in_parts.append(rows)
        out_parts.append(first[rows] // step)
    coarse, group = distinct(torch.cat(out_parts), layout.coarser(stride))
    starts = (0, *accumulate(len(rows) for rows in in_parts))
    pairs = KernelMap(torch.cat(in_parts).int(), group.int(), starts, len(coords), len(coarse))
    return coarse, pairs
