# SPDX-License-Identifier: Apache-2.0
"""Keys of cells whose bits interleave: the cell twice as wide has the key without the last three.

So one sort serves every level of a U-Net, and the last three bits are the slot of a cell in a
2 x 2 x 2 kernel, z fastest.
"""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 20  # of an axis
MIDDLE = 1 << BITS - 1  # cells are counted from here: their numbers may be negative
PAD = 1 << 3 * BITS  # after every cell, and of no cell: it finds no neighbours, not even itself
_HALF = 10  # bits of an axis that one table spreads
_AXIS = (2, 1, 0)  # the place of x, y and z among three bits
_COMPACT = (  # shift right and keep, so that bits three apart end side by side
    (2, 0x10C30C30C30C30C3),
    (4, 0x100F00F00F00F00F),
    (8, 0x1F0000FF0000FF),
    (16, 0x1F00000000FFFF),
    (32, 0x1FFFFF),
)


def spread(value: int) -> int:
    """Its bits three places apart."""
    return sum((value >> bit & 1) << 3 * bit for bit in range(BITS))


class MortonKeys:
    """Encodes cells on one device; its constants are there before the first scan."""

    def __init__(self, device: torch.device) -> None:
        table = torch.tensor([spread(value) for value in range(1 << _HALF)])
        halves, axes = torch.tensor([0, _HALF]), torch.tensor(_AXIS)
        self._spread = table.to(device)
        self._halves = halves[:, None, None].to(device)  # the bits below each half
        self._places = (3 * halves[:, None] + axes)[:, :, None].to(device)

    def encode(self, cells: Tensor) -> Tensor:
        """(N, 3) integers -> (N,) int64; of cells within MIDDLE of the origin."""
        parts = ((cells.T + MIDDLE).long() >> self._halves) & ((1 << _HALF) - 1)
        return (self._spread.take(parts) << self._places).sum((0, 1))


def cells_of_keys(keys: Tensor, level: int) -> Tensor:
    """(N,) keys of a level -> (N, 3) its cells; anything where a key is nobody's."""
    number = torch.stack([keys >> place for place in _AXIS], 1) & 0x1249249249249249
    for shift, mask in _COMPACT:
        number = (number | number >> shift) & mask
    return number - (MIDDLE >> level)


class Neighbours:
    """The keys around each cell, as the slots of a cube of odd size count them: z fastest."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.slots = size**3
        reach = size // 2
        steps = range(-reach, reach + 1)
        masks = [spread((1 << BITS) - 1) << place for place in _AXIS]
        # upwards, the carry runs over the other axes' bits where they are set; downwards, where
        # they are not
        fill = [[~mask & PAD - 1 if step > 0 else 0 for step in steps] for mask in masks]
        move = [[_signed(spread(abs(s)) << place, s) for s in steps] for place in _AXIS]
        self._masks = torch.tensor(masks)[:, None, None].to(device)
        self._fill = torch.tensor(fill)[:, :, None].to(device)
        self._move = torch.tensor(move)[:, :, None].to(device)

    def keys(self, keys: Tensor) -> Tensor:
        """(L, N) -> (L, K, N)"""
        own = keys[:, None, None] & self._masks
        x, y, z = (((own | self._fill) + self._move) & self._masks).unbind(1)
        around = x[:, :, None, None] | y[:, None, :, None] | z[:, None, None, :]
        return around.flatten(1, 3)


def _signed(value: int, sign: int) -> int:
    return value if sign > 0 else -value


def cell_of_key(key: int) -> tuple[int, int, int]:
    """The cell of a key, for people and tests."""
    bits = [sum((key >> 3 * bit + place & 1) << bit for bit in range(BITS)) for place in _AXIS]
    x, y, z = (value - MIDDLE for value in bits)
    return x, y, z
