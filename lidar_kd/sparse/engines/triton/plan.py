# SPDX-License-Identifier: Apache-2.0
"""In which order a convolution visits the rows of its result, and what each tile needs.

A plan is made on the device, without asking it anything, and once per map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor

from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.engines.triton.kernels import arrange_tiles, arrange_ups, read_masks
from lidar_kd.sparse.engines.triton.launch import launch
from lidar_kd.sparse.engines.triton.order import marks_of_slots
from lidar_kd.sparse.engines.triton.tiles import MOST_TOGETHER

MASK_ROWS = 128  # rows a program reads masks of


@dataclass(frozen=True, eq=False)
class VisitPlan:
    """What convolve_tiles reads, see there, of the slots first .. last - 1 of a map."""

    first: int
    last: int
    rows: int  # of a tile
    n_out: int
    none: int  # the entry of a table that stands for no neighbour
    table: Tensor  # (K, tiles * rows) int32
    order: Tensor  # (n_out,)
    slots: Tensor  # (tiles, K) int32
    counts: Tensor  # (tiles,) int32

    @property
    def tiles(self) -> int:
        return len(self.counts)


def plans_of(pairs: KernelMap, rows: int, groups: int) -> list[VisitPlan]:
    """One after the other they give a convolution; made once per map, height and groups.

    Two groups of slots, each with an order of its own, leave out more, and cost a pass over the
    result. Maps of fixed shape have a table, or for the way up a place among the products of all
    slots, in which row 0 stands for nobody; every scan makes them anew, so that they have one
    group, and small ones the order that they come in.
    """
    if 'up' in pairs.derived or 'nobody' in pairs.derived:
        groups = 1
    key = f'plans {rows} {groups}'
    if key not in pairs.derived:
        if 'up' in pairs.derived:
            pairs.derived[key] = [_plan_up(pairs.derived['up'], pairs, rows)]
        elif 'nobody' in pairs.derived:
            table, none = pairs.derived['table'], pairs.derived['nobody']
            pairs.derived[key] = make_plans(
                table, rows, groups, none, sorts=pairs.slots > MOST_TOGETHER
            )
        else:
            pairs.derived[key] = make_plans(table_of_pairs(pairs), rows, groups, none=-1)
    return cast(list[VisitPlan], pairs.derived[key])


def table_of_pairs(pairs: KernelMap) -> Tensor:
    """(n_out, K) int32: the input row in each slot, -1 where there is none."""
    device = pairs.in_rows.device
    table = torch.full((pairs.n_out, pairs.slots), -1, dtype=torch.int32, device=device)
    sizes = torch.tensor([b - a for a, b in pairwise(pairs.starts)], device=device)
    slot = torch.repeat_interleave(sizes, output_size=pairs.pairs)
    table[pairs.out_rows.long(), slot] = pairs.in_rows
    return table


def make_plans(
    table: Tensor, rows: int, groups: int, none: int, *, sorts: bool = True
) -> list[VisitPlan]:
    """table (n_out, K); an entry of `none` or less is no neighbour."""
    if not sorts:
        order = _as_they_come(len(table), table.device)
        return [_arrange(table, (0, table.shape[1]), rows, none, order)]
    ends = [table.shape[1] * part // groups for part in range(groups + 1)]
    return [
        _arrange(table, (a, b), rows, none, _visit_order(table, a, b, none))
        for a, b in pairwise(ends)
    ]


@cache
def _as_they_come(rows: int, device: torch.device) -> Tensor:
    return torch.arange(rows, device=device)


def _visit_order(table: Tensor, first: int, last: int, none: int) -> Tensor:
    """(n_out,) of the slots first .. last - 1 alone."""
    n_out, stride = table.shape
    masks = torch.empty(n_out, dtype=torch.int64, device=table.device)
    launch(
        read_masks, (-(-n_out // MASK_ROWS),), table[:, first:last],
        _marks(stride, table.device)[first:last], masks, n_out, last - first, stride,
        NONE=none, ROWS=MASK_ROWS,
    )  # fmt: skip
    return torch.sort(masks)[1]


def _arrange(
    table: Tensor, span: tuple[int, int], rows: int, none: int, order: Tensor
) -> VisitPlan:
    n_out, stride = table.shape
    plan = _room(span, rows, none, order)
    launch(
        arrange_tiles, (plan.tiles,), table[:, slice(*span)], plan.order, plan.table, plan.slots,
        plan.counts, n_out, plan.table.shape[1], span[1] - span[0], stride,
        NONE=none, ROWS=rows,
    )  # fmt: skip
    return plan


def _plan_up(up: Tensor, pairs: KernelMap, rows: int) -> VisitPlan:
    """Every row has one slot; its place counts slot by slot, so that places sort it."""
    ordered, order = torch.sort(up)
    plan = _room((0, pairs.slots), rows, 0, order)
    launch(
        arrange_ups, (plan.tiles,), ordered, plan.table, plan.slots, plan.counts,
        len(up), plan.table.shape[1], pairs.n_in, pairs.slots, ROWS=rows,
    )  # fmt: skip
    return plan


def _room(span: tuple[int, int], rows: int, none: int, order: Tensor) -> VisitPlan:
    """A plan of the slots of a span, to be filled in."""
    tiles, slots = -(-len(order) // rows), span[1] - span[0]
    shapes = (slots, tiles * rows), (tiles, slots), (tiles,)
    table, active, counts = (
        torch.empty(shape, dtype=torch.int32, device=order.device) for shape in shapes
    )
    return VisitPlan(*span, rows, len(order), none, table, order, active, counts)


@cache
def _marks(slots: int, device: torch.device) -> Tensor:
    """(K,) int64, see order.py."""
    return torch.tensor(marks_of_slots(slots)).to(device)


@dataclass(frozen=True, eq=False)
class PairShares:
    """The pairs of a map in parts of fixed length, none of which spans two slots."""

    firsts: Tensor  # (S,) int32
    ends: Tensor  # (S,) int32
    starts: Tensor  # (K + 1,) int32: the first share of each slot

    def __len__(self) -> int:
        return len(self.firsts)


def shares_of(pairs: KernelMap, length: int) -> PairShares:
    """Made once per map and length."""
    key = f'shares {length}'
    if key not in pairs.derived:
        cuts = cut_slots(pairs.starts, length)
        ends = [min(a + length, end) for part, end in zip(cuts, pairs.starts[1:]) for a in part]
        firsts = [first for part in cuts for first in part]
        starts = [0, *accumulate(len(part) for part in cuts)]
        numbers = torch.tensor([*firsts, *ends, *starts], dtype=torch.int32)
        parts = numbers.to(pairs.in_rows.device).split([len(firsts), len(ends), len(starts)])
        pairs.derived[key] = PairShares(*parts)
    return cast(PairShares, pairs.derived[key])


def cut_slots(starts: Sequence[int], length: int) -> list[range]:
    """Of each slot the first pairs of its shares."""
    return [range(a, b, length) for a, b in pairwise(starts)]
