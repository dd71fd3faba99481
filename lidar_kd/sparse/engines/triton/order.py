# SPDX-License-Identifier: Apache-2.0
"""The order of rows: a number for each, by which they are sorted. It needs no Triton.

Rows whose neighbours lie in the same slots go into the same tile, which then leaves the other
slots out. The highest bits of a row's number tell on which sides of it there is anybody: above,
below, left, and so on; then there is a bit for every slot, the rarest, those at the corners of
the kernel, before the others. The sort is by Gray code, so that rows beside each other differ in
few bits.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_BITS = 62  # of a mask; the slots of a larger kernel share them
SIDES = 6  # of a row, the highest bits: 9 % fewer products at 0.1 m than without
GRAY_STEPS = 6  # halvings of 64 bits


def marks_of_slots(slots: int) -> list[int]:
    """What each slot sets in the mask of a row: a bit of its own, the middle of the kernel
    lowest, what is farthest from it highest, and above these the sides on which it lies.
    """
    steps = [_steps(slot, slots) for slot in range(slots)]
    room = min(slots, MOST_BITS - SIDES)
    marks = [0] * slots
    ranks = sorted(range(slots), key=lambda slot: sum(map(abs, steps[slot])))
    for rank, slot in enumerate(ranks):
        marks[slot] = 1 << rank * room // slots | _sides(steps[slot]) << room
    return marks


def _steps(slot: int, slots: int) -> tuple[int, ...]:
    """From the middle of a cube to a slot, along each axis; of other kernels from the middle of
    the list.
    """
    size = round(slots ** (1 / 3))
    if size**3 != slots:
        return (slot - slots // 2,)
    cell = slot // size**2, slot // size % size, slot % size
    return tuple(part - size // 2 for part in cell)


def _sides(steps: tuple[int, ...]) -> int:
    """Two bits an axis; none of a kernel that is no cube."""
    if len(steps) < 3:
        return 0
    pairs = [(step > 0) | (step < 0) << 1 for step in steps]
    return sum(pair << 2 * axis for axis, pair in enumerate(pairs))


def visit_numbers(table: Tensor, marks: list[int], none: int) -> Tensor:
    """What the kernel read_masks writes, in plain torch: (n_out,) of a table (n_out, K)."""
    mask = torch.zeros(len(table), dtype=torch.int64, device=table.device)
    for slot, mark in enumerate(marks):
        mask |= (table[:, slot] > none).long() * mark
    for step in range(GRAY_STEPS):
        mask ^= mask >> (1 << step)
    return mask


def count_products(table: Tensor, rows: int, groups: int, none: int, *, sorts: bool = True) -> int:
    """Rows times slots that tiles of a table (n_out, K) multiply, the useless ones with them."""
    slots, total = table.shape[1], 0
    marks = marks_of_slots(slots)
    ends = [slots * part // groups for part in range(groups + 1)]
    for first, last in pairwise(ends):
        part = table[:, first:last]
        if sorts:
            part = part[visit_numbers(part, marks[first:last], none).argsort()]
        there = F.pad(part > none, (0, 0, 0, -len(part) % rows))
        tiles = there.view(-1, rows, last - first)
        total += rows * int(tiles.any(1).sum())
    return total
