# SPDX-License-Identifier: Apache-2.0
"""spconv 2 on CUDA: its masked implicit GEMM over our kernel maps, if it passes a self-test.

N rows, K slots. spconv reads a kernel map as a table of input rows and one bit mask per row of
the result, and visits the rows in the order of their masks, so that rows with the same
neighbours share a tile. Its weights are laid out like ours, and its slots are counted like ours.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
import hashlib
from importlib.util import find_spec
import logging
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_kd.sparse.engines.maps import KernelMap, key_layout, strided_pairs, submanifold_pairs
from lidar_kd.sparse.engines.plain_torch import TorchEngine

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
    passed = _mark([*origins, __file__])
    if passed.exists():
        return ''
    reason = _run_self_test(torch.cuda.current_device())
    if not reason:
        with suppress(OSError):  # without a cache the next start tests again
            passed.parent.mkdir(parents=True, exist_ok=True)
            passed.touch()
    return reason


def _mark(files: list[str]) -> Path:
    """The file whose presence says that these files passed with this torch on this device."""
    state = [f'{file} {os.stat(file).st_mtime_ns}' for file in files]
    state += [torch.__version__, torch.cuda.get_device_name()]
    digest = hashlib.sha256('\n'.join(state).encode()).hexdigest()[:16]
    folder = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(folder, 'lidar_kd', f'spconv-{digest}')


def _run_self_test(device: int) -> str:
    """In a process of its own: a build for another driver or GPU may die by a signal."""
    code = SELF_TEST.format(path=sys.path, device=device)
    try:
        done = subprocess.run(
            [sys.executable, '-c', code],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f'its self-test took longer than {TIMEOUT_S} s'
    if done.returncode < 0:
        return f'its self-test failed (signal {-done.returncode})'
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or [f'exit status {done.returncode}']
        return f'its self-test failed ({complaint[-1]})'
    return ''


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


def maps_to_test(coords: Tensor) -> dict[str, KernelMap]:
    """coords: sorted, distinct cells (N, 4)."""
    layout = key_layout(coords)
    keys = layout.keys(coords)
    down = strided_pairs(coords, (2, 2, 2), layout)[1]
    return {
        'submanifold 3': submanifold_pairs(keys, (3, 3, 3), layout),
        'submanifold 5': submanifold_pairs(keys, (5, 5, 5), layout),
        'strided 2': down,
        'inverse 2': down.transposed,
    }


def largest_error(
    engine: TorchEngine, pairs: KernelMap, c_in: int, c_out: int, dtype: torch.dtype
) -> float:
    """Of result, dX and dW against plain torch in float32, relative to each one's largest."""
    device = pairs.in_rows.device
    x = torch.randn(pairs.n_in, c_in, device=device).to(dtype)
    weight = torch.randn(c_out, pairs.slots, c_in, device=device).to(dtype) / c_in
    dy = torch.randn(pairs.n_out, c_out, device=device).to(dtype)
    got = [engine.forward(x, weight, pairs)]
    got += [g for g in engine.backward(x, weight, dy, pairs, need_x=True) if g is not None]
    oracle = TorchEngine()
    x, weight, dy = x.float(), weight.float(), dy.float()
    wanted = [oracle.forward(x, weight, pairs)]
    wanted += [g for g in oracle.backward(x, weight, dy, pairs, need_x=True) if g is not None]
    errors = [(a.float() - b).abs().max() / b.abs().max() for a, b in zip(got, wanted)]
    return torch.stack(errors).max().item()  # unlike max() it keeps a NaN
