# SPDX-License-Identifier: Apache-2.0
"""Cells on a line: z-order and Hilbert curves, and the patches that attention looks at.

V cells of a level, S scans of a batch, K the patch size. A scan's codes, orders and patches depend
on its own cells alone. A scan with a negative cell is first moved to the origin, by whole cells of
the coarsest level, so that pooling eight cells is dropping three bits of the code. Cells that are
all 0 or more stay where they are, as in the published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lidar_kd.errors import DataError
from lidar_kd.sparse import batch_sizes, Level

ORDERS = ('z', 'z-trans', 'hilbert', 'hilbert-trans')  # trans: x and y change places
KEY_BITS = 63  # of an int64 that are not its sign
HALF = (2, 2, 2)
_SPREAD = (  # shift left and keep, so that the bits of a 21 bit number end three apart
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def encode(cells: Tensor, depth: Tensor, order: str) -> Tensor:
    """(V,) int64 place on a curve; cells (V, 3), of row i each 0 .. 2**depth[i] - 1."""
    x, y, z = cells.long().unbind(1)
    if order.endswith('-trans'):
        x, y = y, x
    return interleave(x, y, z) if order.startswith('z') else hilbert(x, y, z, depth)


def interleave(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The bits of three numbers in turn, x highest: the z-order code."""
    return _spread(x) << 2 | _spread(y) << 1 | _spread(z)


def _spread(number: Tensor) -> Tensor:
    for shift, mask in _SPREAD:
        number = (number | number << shift) & mask
    return number


def hilbert(x: Tensor, y: Tensor, z: Tensor, depth: Tensor) -> Tensor:
    """Skilling, Programming the Hilbert curve (2004), on whole numbers instead of single bits."""
    x, y, z = x.clone(), y.clone(), z.clone()
    for bit in reversed(range(int(depth.max()))):
        lower = torch.where(depth > bit, (1 << bit) - 1, 0)  # the curve of a row starts at depth
        for axis in (x, y, z):
            on = (axis >> bit & 1).bool()
            swap = torch.where(on, 0, (x ^ axis) & lower)
            x ^= torch.where(on, lower, swap)  # where on: turn the lower bits of x round
            if axis is not x:
                axis ^= swap
    code = interleave(x, y, z)
    for shift in (1, 2, 4, 8, 16, 32):  # from a Gray code to the number
        code ^= code >> shift
    return code


@dataclass(frozen=True, eq=False)
class Patches:
    """rows: per group (P, K) rows that attend to each other; answers (V,): where each row's result
    is among the group's results, (P * K) after (P * K)."""

    rows: list[Tensor]
    answers: Tensor


class Serialized:
    """A level whose cells lie in several orders; its patches are found once per order and size."""

    def __init__(self, level: Level, codes: list[Tensor], sizes: list[int]) -> None:
        self.level = level
        self._codes = codes  # per order (V,), increasing inside a scan along the curve
        self._sizes = sizes  # cells per scan
        self._sorted: dict[int, Tensor] = {}
        self._patches: dict[tuple[int, int], Patches] = {}

    def __len__(self) -> int:
        return len(self.level)

    def order(self, index: int) -> Tensor:
        """(V,) the rows scan by scan along curve `index`."""
        if index not in self._sorted:
            parts, start = [], 0
            for part in self._codes[index].split(self._sizes):  # a level is sorted by scan
                parts.append(torch.argsort(part) + start)
                start += len(part)
            self._sorted[index] = torch.cat(parts)
        return self._sorted[index]

    def patches(self, index: int, size: int) -> Patches:
        """The patches of at most `size` cells along a curve, counted round and round."""
        index %= len(self._codes)
        if (index, size) not in self._patches:
            self._patches[index, size] = cut(self.order(index), self._sizes, size)
        return self._patches[index, size]

    def pooled(self) -> tuple[Serialized, Tensor]:
        """The level of cells twice as wide, and for each of our cells the row of its own there."""
        level, pairs = self.level.coarser(HALF)
        parent = torch.empty(len(self), dtype=torch.long, device=level.coords.device)
        parent[pairs.in_rows.long()] = pairs.out_rows.long()
        codes = []
        for code in self._codes:
            coarse = code.new_empty(len(level))
            codes.append(coarse.index_copy_(0, parent, code >> 3))  # one value per coarse cell
        return Serialized(level, codes, batch_sizes(level.coords)), parent

    def shuffled(self) -> Serialized:
        """The same with the orders in random turn, as training wants them."""
        turn = torch.randperm(len(self._codes)).tolist()
        return Serialized(self.level, [self._codes[k] for k in turn], self._sizes)


def serialize(level: Level, orders: Sequence[str], strides: int) -> Serialized:
    """The finest level in every order; `strides`: how often it will be pooled."""
    if not len(level):
        raise DataError('ptv3: there are no voxels: pass a scan with points inside the grid')
    sizes = batch_sizes(level.coords)
    cells, depths = place(level.coords[:, 1:].long(), sizes, strides)
    scans = len(sizes)
    bits = 3 * max(depths) + scans.bit_length()
    if bits > KEY_BITS:
        raise DataError(
            f'ptv3: a scan spans up to {1 << max(depths)} cells and the {scans} scans need {bits} '
            f'code bits of {KEY_BITS}: drop far outliers or choose a larger voxel'
        )
    depth = torch.repeat_interleave(cells.new_tensor(depths), cells.new_tensor(sizes))
    return Serialized(level, [encode(cells, depth, order) for order in orders], sizes)


def place(cells: Tensor, sizes: list[int], strides: int) -> tuple[Tensor, list[int]]:
    """Cells (V, 3) from 0 on, and per scan how many bits they have."""
    moved, tops = [], []
    for part in cells.split(sizes):
        if len(part):
            low = part.amin(0)
            origin = torch.where((low < 0).any(), low >> strides << strides, 0)
            moved.append(part - origin)
        tops.append(moved[-1].amax() if len(part) else cells.new_tensor(-1))
    return torch.cat(moved), [(int(top) + 1).bit_length() for top in torch.stack(tops).tolist()]


def cut(order: Tensor, sizes: list[int], size: int) -> Patches:
    """Patches of `size` rows; a scan of fewer is one patch.

    The last patch of a scan is filled up with the rows before its own, which take their results
    from their own patch.
    """
    parts = order.split(sizes)
    whole = [part for part in parts if len(part) >= size]
    small = [part for part in parts if 0 < len(part) < size]
    first = [_patch_starts(len(part), size, order.device) for part in whole]
    steps = torch.arange(size, device=order.device)
    rows = [part[start[:, None] + steps] for part, start in zip(whole, first)]
    answers, taken = torch.empty_like(order), 0
    for part, start in zip(whole, first):
        place_in_scan = torch.arange(len(part), device=order.device)
        patch = place_in_scan // size
        answers[part] = taken + patch * size + place_in_scan - start[patch]
        taken += len(start) * size
    for part in small:
        answers[part] = taken + torch.arange(len(part), device=order.device)
        taken += len(part)
    groups = [torch.cat(rows)] if rows else []
    return Patches([*groups, *(part[None] for part in small)], answers)


def _patch_starts(count: int, size: int, device: torch.device) -> Tensor:
    """Where each patch begins in a scan of `count` cells; the last one ends with the scan."""
    return torch.arange(0, count, size, device=device).clamp(max=count - size)
