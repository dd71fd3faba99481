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
from lidar_kd.models.blocks import HALF
from lidar_kd.sparse import batch_sizes, Level

ORDERS = ('z', 'z-trans', 'hilbert', 'hilbert-trans')  # trans: x and y change places
KEY_BITS = 63  # of an int64 that are not its sign
ROWS_PER_THREAD = 1 << 15  # more are shared between threads by torch
_SPREAD = (  # shift left and keep, so that the bits of a 21 bit number end three apart
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def encode(cells: Tensor, depth: Tensor, order: str) -> Tensor:
    """(V,) int64 place on a curve; cells (V, 3), of row i each 0 .. 2**depth[i] - 1.

    On a CPU in blocks for which torch wakes no second thread: there are hundreds of small steps.
    """
    rows = len(cells) if cells.is_cuda else ROWS_PER_THREAD
    parts = zip(cells.long().split(rows), depth.split(rows))
    return torch.cat([_encode(part, bits, order) for part, bits in parts])


def _encode(cells: Tensor, depth: Tensor, order: str) -> Tensor:
    x, y, z = cells.T.contiguous()
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
    """A level whose cells lie in several orders; codes and patches are found once, when asked for.

    cells (V, 3) from 0 on; depths, sizes: bits of a cell and cells of each scan.
    """

    def __init__(
        self,
        level: Level,
        cells: Tensor,
        depths: list[int],
        sizes: list[int],
        orders: Sequence[str],
    ) -> None:
        self.level, self.orders = level, orders
        self._cells, self._depths, self._sizes = cells, depths, sizes
        self._codes: dict[str, Tensor] = {}
        self._patches: dict[tuple[str, int], Patches] = {}

    def __len__(self) -> int:
        return len(self.level)

    def code(self, order: str) -> Tensor:
        """(V,) increasing inside a scan along a curve."""
        if order not in self._codes:
            sizes = self._cells.new_tensor(self._sizes)
            depth = torch.repeat_interleave(self._cells.new_tensor(self._depths), sizes)
            self._codes[order] = encode(self._cells, depth, order)
        return self._codes[order]

    def patches(self, index: int, size: int) -> Patches:
        """The patches of at most `size` cells along curve `index`, counted round and round."""
        order = self.orders[index % len(self.orders)]
        if (order, size) not in self._patches:
            rows, start = [], 0
            for part in self.code(order).split(self._sizes):  # a level is sorted by scan
                rows.append(torch.argsort(part) + start)
                start += len(part)
            self._patches[order, size] = cut(rows, size)
        return self._patches[order, size]

    def pooled(self) -> tuple[Serialized, Tensor]:
        """The level of cells twice as wide, and for each of our cells the row of its own there.

        A code there is a code here without its last three bits, on every curve.
        """
        level, pairs = self.level.coarser(HALF)
        parent = pairs.parents
        cells = self._cells.new_empty(len(level), 3)
        cells[parent] = self._cells >> 1  # every row of a cell writes the same
        depths = [max(0, depth - 1) for depth in self._depths]
        return Serialized(level, cells, depths, batch_sizes(level.coords), self.orders), parent

    def shuffled(self) -> Serialized:
        """The same with the orders in random turn, as training wants them."""
        orders = [self.orders[k] for k in torch.randperm(len(self.orders)).tolist()]
        return Serialized(self.level, self._cells, self._depths, self._sizes, orders)


def serialize(level: Level, orders: Sequence[str], strides: int) -> Serialized:
    """The finest level in every order; `strides`: how often it will be pooled."""
    if not len(level):
        raise DataError('ptv3: there are no voxels: pass a scan with points inside the grid')
    sizes = batch_sizes(level.coords)
    cells, depths = place(level.coords[:, 1:].long(), sizes, strides)
    scans, depth = len(sizes), max(depths)
    bits = 3 * depth + scans.bit_length()
    if bits > KEY_BITS:
        raise DataError(
            f'ptv3: a scan spans {1 << depth - 1} cells or more, and {scans} scans of it need '
            f'{bits} code bits of {KEY_BITS}: drop far outliers or choose a larger voxel'
        )
    return Serialized(level, cells, depths, sizes, orders)


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


def cut(scans: Sequence[Tensor], size: int) -> Patches:
    """Patches of `size` rows; scans: the rows of each in their order; one of fewer is one patch.

    The last patch of a scan is filled up with the rows before its own, which take their results
    from their own patch.
    """
    whole, small, taken = [], [], 0
    answers = torch.empty_like(torch.cat(list(scans)))
    # the stable sort puts the scans with whole patches first, whose results come in one piece
    for rows in sorted(scans, key=lambda rows: len(rows) < size):
        place = torch.arange(len(rows), device=rows.device)
        if len(rows) < size:
            answers[rows] = taken + place
            taken += len(rows)
            small += [rows[None]] if len(rows) else []
            continue
        starts = place[::size].clamp(max=len(rows) - size)
        patch = place // size
        answers[rows] = taken + patch * size + place - starts[patch]
        taken += len(starts) * size
        whole.append(rows[starts[:, None] + place[:size]])
    return Patches([torch.cat(whole), *small] if whole else small, answers)
