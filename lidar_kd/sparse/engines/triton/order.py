# SPDX-License-Identifier: Apache-2.0
"""The order of rows: a number for each, by which they are sorted. It needs no Triton.

Rows whose neighbours lie in the same slots go into the same tile, which then leaves the other
slots out: the number has one bit a slot. The rarest slots, the corners of the kernel, have the
highest bits, and the sort is by Gray code, so that rows beside each other differ in few.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_BITS = 62  # of a mask; the slots of a larger kernel share them
GRAY_STEPS = 6  # halvings of 64 bits


def bits_of_slots(slots: int) -> list[int]:
    """The bit of each slot: the middle of the kernel lowest, what is farthest from it highest."""
    ranks = sorted(range(slots), key=lambda slot: _distance(slot, slots))
    bits = [0] * slots
    for rank, slot in enumerate(ranks):
        bits[slot] = min(rank, MOST_BITS - 1) if slots <= MOST_BITS else rank * MOST_BITS // slots
    return bits


def _distance(slot: int, slots: int) -> int:
    """Steps from the middle of a cube; of other kernels from the middle of the list."""
    size = round(slots ** (1 / 3))
    if size**3 != slots:
        return abs(slot - slots // 2)
    cell = slot // size**2, slot // size % size, slot % size
    return sum(abs(part - size // 2) for part in cell)


def visit_numbers(table: Tensor, bits: list[int], none: int) -> Tensor:
    """What the kernel read_masks writes, in plain torch: (n_out,) of a table (n_out, K)."""
    mask = torch.zeros(len(table), dtype=torch.int64, device=table.device)
    for slot, bit in enumerate(bits):
        mask |= (table[:, slot] > none).long() << bit
    for step in range(GRAY_STEPS):
        mask ^= mask >> (1 << step)
    return mask


def count_products(table: Tensor, rows: int, groups: int, none: int, *, sorts: bool = True) -> int:
    """Rows times slots that tiles of a table (n_out, K) multiply, the useless ones with them."""
    slots, total = table.shape[1], 0
    bits = bits_of_slots(slots)
    ends = [slots * part // groups for part in range(groups + 1)]
    for first, last in pairwise(ends):
        part = table[:, first:last]
        if sorts:
            part = part[visit_numbers(part, bits[first:last], none).argsort()]
        there = F.pad(part > none, (0, 0, 0, -len(part) % rows))
        tiles = there.view(-1, rows, last - first)
        total += rows * int(tiles.any(1).sum())
    return total
