# SPDX-License-Identifier: Apache-2.0
"""spconv 2 on CUDA: its masked implicit GEMM over our kernel maps, if it passes a self-test.

N rows, K slots. spconv reads a kernel map as a table of input rows and one bit mask per row of
the result, and visits the rows in the order of their masks, so that rows with the same
neighbours share a tile. Its weights are laid out like ours, and its slots are counted like ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
import logging
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.sparse.engines.trial import largest_error, maps_to_test, run_apart, tried_once

log = logging.getLogger(__name__)
TYPES = (torch.float32, torch.float16)  # it has no kernels for bfloat16
MOST_SLOTS = 31  # in one table: the bits of a positive int32
CHANNELS = 8  # all of its kernels take multiples of this
EVERY_SLOT = [np.array([0xFFFFFFFF], dtype=np.uint32)]
INSTALL = 'pip install spconv-cu120 "numpy<2"'  # its tensors die of a signal under numpy 2
TIMEOUT_S = 180  # of the self-test, which also loads torch and tunes kernels
SELF_TEST = (
    'import sys; sys.path[:] = {path!r}; '
    'from lidar_kd.sparse.engines.spconv import self_test; self_test({device})'
)


@dataclass(frozen=True)
class Table:
    """Slots [first, last) of a kernel map as spconv reads them."""

    first: int
    last: int
    rows: Tensor  # (K, N) int32: the input row, -1 for none
    masks: Tensor  # (N, 1) int32, ascending; bit k: there is an input row in slot k
    order: Tensor  # (N,) int32: the row of the result that each mask belongs to


def tables_of(pairs: KernelMap) -> list[Table]:
    """One table, or several of nearly equal size for a large kernel; made once per map."""
    if 'spconv' not in pairs.derived:
        count = -(-pairs.slots // MOST_SLOTS)
        ends = [pairs.slots * part // count for part in range(count + 1)]
        pairs.derived['spconv'] = [_table(pairs, a, b) for a, b in zip(ends, ends[1:])]
    tables: list[Table] = pairs.derived['spconv']
    return tables


def _table(pairs: KernelMap, first: int, last: int) -> Table:
    device, starts = pairs.in_rows.device, pairs.starts
    sizes = torch.tensor([starts[k + 1] - starts[k] for k in range(first, last)], device=device)
    part = slice(starts[first], starts[last])
    slot = torch.repeat_interleave(sizes, output_size=part.stop - part.start)
    rows = torch.full((last - first, pairs.n_out), -1, dtype=torch.int32, device=device)
    rows[slot, pairs.out_rows[part].long()] = pairs.in_rows[part]
    bits = 1 << torch.arange(last - first, device=device)
    masks, order = torch.where(rows >= 0, bits[:, None], 0).sum(0).int().sort(stable=True)
    return Table(first, last, rows, masks[:, None], order.int())


class SpconvEngine(TorchEngine):
    """float32 (never TF32) and float16."""

    name = 'spconv'

    def __init__(self) -> None:
        from spconv.pytorch import ops

        self._ops: Any = ops

    def computes(self, dtype: torch.dtype) -> bool:
        return dtype in TYPES

    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        if not _takes(x, weight, pairs):
            return super().forward(x, weight, pairs)
        c_out = weight.shape[0]
        x, weight = _whole(x, 1), _whole(_whole(weight, 2), 0)
        y, *others = (self._multiply(x, weight, pairs, table) for table in tables_of(pairs))
        for other in others:
            y += other
        return y if y.shape[1] == c_out else y[:, :c_out].contiguous()

    def _multiply(self, x: Tensor, weight: Tensor, pairs: KernelMap, table: Table) -> Tensor:
        part = weight[:, table.first : table.last].contiguous()
        with torch.cuda.device_of(x):
            y, tiles, width = self._ops.implicit_gemm(
                x.contiguous(),
                part,
                table.rows,
                [table.masks],
                [table.order],
                pairs.n_out,
                EVERY_SLOT,
                'spconv tiles' not in pairs.derived,  # is_train: return the masks of the tiles
                False,  # is_subm: only saves clearing the result
            )
        if tiles is not None:
            pairs.derived['spconv tiles'] = tiles, width
        result: Tensor = y
        return result

    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        return self.forward(dy, weight.permute(2, 1, 0), pairs.transposed)

    def backward(
        self, x: Tensor, weight: Tensor, dy: Tensor, pairs: KernelMap, *, need_x: bool
    ) -> tuple[Tensor | None, Tensor]:
        if pairs.slots > MOST_SLOTS or not _takes(x, weight, pairs):
            return super().backward(x, weight, dy, pairs, need_x=need_x)
        [table], [back] = tables_of(pairs), tables_of(pairs.transposed)
        tiles, width = pairs.derived['spconv tiles']  # the forward left them
        with torch.cuda.device_of(x):
            dx, dw = self._ops.implicit_gemm_backward(
                _whole(x, 1).contiguous(),
                _whole(_whole(weight, 2), 0).contiguous(),
                _whole(dy, 1).contiguous(),
                table.rows,
                back.rows,
                [table.masks],
                [back.masks],
                [table.order],
                [back.order],
                tiles,
                EVERY_SLOT,
                width,
                False,  # is_subm
            )
        c_out, _, c_in = weight.shape
        return dx[:, :c_in] if need_x else None, dw[:c_out, :, :c_in]


def _takes(x: Tensor, weight: Tensor, pairs: KernelMap) -> bool:
    """Whether spconv computes this: it has no empty launches and 32-bit offsets in bytes."""
    if x.dtype not in TYPES:
        _say_slow(x.dtype)
        return False
    c_out, _, c_in = (size + CHANNELS for size in weight.shape)
    largest = max(pairs.n_in * c_in, pairs.n_out * c_out) * x.element_size()
    return pairs.pairs > 0 and largest < 2**31


@cache
def _say_slow(dtype: torch.dtype) -> None:
    log.warning('engine spconv has no %s: plain torch computes it (slower)', dtype)


def _whole(tensor: Tensor, axis: int) -> Tensor:
    """Zeros appended until the axis is a multiple of what every kernel of spconv takes."""
    missing = -tensor.shape[axis] % CHANNELS
    return F.pad(tensor, [0, 0] * (tensor.ndim - 1 - axis) + [0, missing]) if missing else tensor


# --- whether it works here ---


@cache
def spconv_missing() -> str:
    """Why spconv cannot compute on this machine's CUDA device; empty when it can."""
    specs = [find_spec(name) for name in ('spconv', 'cumm')]
    origins = [spec.origin for spec in specs if spec and spec.origin]
    if len(origins) < len(specs):
        return f'it is not installed (on x86: {INSTALL})'
    return tried_once(
        'spconv', [*origins, __file__], lambda: _run_self_test(torch.cuda.current_device())
    )


def _run_self_test(device: int) -> str:
    return run_apart(SELF_TEST.format(path=sys.path, device=device), TIMEOUT_S)


def self_test(device: int) -> None:
    """Results and gradients of every kind of layer against plain torch; exits when one is off."""
    from spconv.cppconstants import CPU_ONLY_BUILD

    if CPU_ONLY_BUILD:
        raise SystemExit(f'this is its CPU build: {INSTALL} instead')
    torch.manual_seed(0)
    torch.cuda.set_device(device)
    coords = torch.nonzero(torch.rand(2, 20, 20, 20) < 0.2).to('cuda')
    for name, pairs in maps_to_test(coords.int()).items():
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.float16, 5e-2)):
            for c_in, c_out in ((4, 32), (32, 48), (128, 96)):
                off = largest_error(SpconvEngine(), pairs, c_in, c_out, dtype)
                if not off <= tolerance:  # NaN too
                    raise SystemExit(f'{name} {c_in} -> {c_out} in {dtype} is off by {off:.1e}')
