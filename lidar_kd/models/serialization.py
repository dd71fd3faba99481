# SPDX-License-Identifier: Apache-2.0
"""Cells on a line: z-order and Hilbert curves, and the patches that attention looks at.

V cells of a level, S scans of a batch, K the patch size. A scan's codes, orders and patches depend
on its own cells alone. A scan with a negative cell is first moved to the origin, by whole cells of
the coarsest level, so that pooling eight cells is dropping three bits of the code. Cells that are
all 0 or more stay where they are, as in the published code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from lidar_kd.errors import DataError
from lidar_kd.models.blocks import HALF
from lidar_kd.sparse import batch_sizes, Level

ORDERS = ('z', 'z-trans', 'hilbert', 'hilbert-trans')  # trans: x and y change places
KEY_BITS = 63  # of an int64 that are not its sign
ROWS_PER_THREAD = 1 << 15  # more are shared between threads by torch
_State = tuple[tuple[int, int, int], tuple[int, int, int], int]  # of the Hilbert curve
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
    return torch.cat([place_on_curve(part, bits, order) for part, bits in parts])


def place_on_curve(cells: Tensor, depth: Tensor, order: str, deepest: int | None = None) -> Tensor:
    """deepest: no depth is larger; None: to be asked of the device."""
    x, y, z = cells.T.contiguous()
    if order.endswith('-trans'):
        x, y = y, x
    return interleave(x, y, z) if order.startswith('z') else hilbert(x, y, z, depth, deepest)


def interleave(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The bits of three numbers in turn, x highest: the z-order code."""
    return _spread(x) << 2 | _spread(y) << 1 | _spread(z)


def _spread(number: Tensor) -> Tensor:
    for shift, mask in _SPREAD:
        number = (number | number << shift) & mask
    return number


def hilbert(x: Tensor, y: Tensor, z: Tensor, depth: Tensor, deepest: int | None = None) -> Tensor:
    """The curve of Skilling, Programming the Hilbert curve (2004), octant by octant from above."""
    deepest = int(depth.max()) if deepest is None else deepest
    lift = deepest - depth  # the curve of a row starts at its own depth
    octants = interleave(x << lift, y << lift, z << lift)
    digits, states = hilbert_tables(x.device)
    code, state = torch.zeros_like(octants), torch.zeros_like(octants)
    for bit in reversed(range(deepest)):
        here = (octants >> 3 * bit & 7) + state
        code = code << 3 | digits[here]
        state = states[here]
    return code >> 3 * lift


@cache
def hilbert_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """(8 S,) the place of an octant on the curve and 8 times the state inside it, by 8 state +
    octant; state 0 is where the curve starts.

    A state is what the curve does to the bits below: which axes take each other's place, which
    are turned round, and whether the curve has come to an odd place (its code is a Gray code).
    """
    states: list[_State] = [((0, 1, 2), (0, 0, 0), 0)]
    digits, following = [], []
    for state in states:  # grows on the way
        for octant in range(8):
            digit, inside = _enter(state, octant)
            if inside not in states:
                states.append(inside)
            digits.append(digit)
            following.append(8 * states.index(inside))
    return torch.tensor(digits, device=device), torch.tensor(following, device=device)


def _enter(state: _State, octant: int) -> tuple[int, _State]:
    """The place of an octant (x the highest bit) on the curve, and the state inside it."""
    axes, turned, odd = list(state[0]), list(state[1]), state[2]
    bits = [(octant >> 2 - axes[axis] & 1) ^ turned[axis] for axis in range(3)]
    digit = 0
    for axis, bit in enumerate(bits):
        odd ^= bit
        digit = digit << 1 | odd
        if bit:
            turned[0] ^= 1
        else:
            axes[0], axes[axis] = axes[axis], axes[0]
            turned[0], turned[axis] = turned[axis], turned[0]
    return digit, ((axes[0], axes[1], axes[2]), (turned[0], turned[1], turned[2]), odd)


@dataclass(frozen=True, eq=False)
class Patches:
    """rows: per group (P, K) rows that attend to each other; answers (V,): where each row's result
    is among the group's results, (P * K) after (P * K)."""

    rows: list[Tensor]
    answers: Tensor


class Serialized:
    """A level whose cells lie in several orders; codes and patches are found once, when asked for.

    sizes: cells of each scan; encode: order -> (V,) codes, increasing inside a scan along a curve.
    """

    def __init__(
        self,
        level: Level,
        sizes: list[int],
        orders: Sequence[str],
        encode: Callable[[str], Tensor],
    ) -> None:
        self.level, self.orders = level, orders
        self.code = cache(encode)
        self._sizes = sizes
        self._patches: dict[tuple[str, int], Patches] = {}

    def __len__(self) -> int:
        return len(self.level)

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
        """The level of cells twice as wide, and for each of our cells the row of its own there."""
        level, pairs = self.level.coarser(HALF)
        parent = pairs.parents

        def shorten(order: str) -> Tensor:
            """A code there is a code here without its last three bits, on every curve."""
            codes = parent.new_empty(len(level))
            codes[parent] = self.code(order) >> 3  # every row of a cell writes the same
            return codes

        return Serialized(level, batch_sizes(level.coords), self.orders, shorten), parent

    def shuffled(self) -> Serialized:
        """The same with the orders in random turn, as training wants them."""
        orders = [self.orders[k] for k in torch.randperm(len(self.orders)).tolist()]
        return Serialized(self.level, self._sizes, orders, self.code)


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
    depth_of = torch.repeat_interleave(cells.new_tensor(depths), cells.new_tensor(sizes))
    return Serialized(level, sizes, orders, partial(encode, cells, depth_of))


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
