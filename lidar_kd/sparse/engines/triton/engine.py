# SPDX-License-Identifier: Apache-2.0
"""The Triton engine: masked implicit GEMM in kernels of our own, on any GPU that Triton compiles
for. The same numbers every time: no sum depends on which block of threads is first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.engines.parts import check_classes, RowAnswers
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.sparse.engines.triton.kernels import (
    add_parts,
    answer_tiles,
    convolve_tiles,
    correlate_pairs,
)
from lidar_kd.sparse.engines.triton.launch import interpreted, launch
from lidar_kd.sparse.engines.triton.plan import plans_of, shares_of, VisitPlan
from lidar_kd.sparse.engines.triton.tiles import DeviceTiles, tiles_of

TYPES = (torch.float32, torch.float16, torch.bfloat16)
ADDED = 1024  # values of a gradient that a program adds up
ANSWERED = 32  # rows a program answers


class TritonEngine(Engine):
    """float16 and bfloat16 summed in float32; float32 exact, or under
    torch.set_float32_matmul_precision('high') as three products of TF32 (error 1e-6).
    """

    name = 'triton'
    joins = True

    def __init__(self, device_type: str, tiles: DeviceTiles | int) -> None:
        """tiles: or the compute capability of the GPU, times ten."""
        self.tiles = tiles_of(tiles) if isinstance(tiles, int) else tiles
        self.answers = TritonAnswers()
        self._plain = TorchEngine(device_type)  # for what the kernels do not take

    def computes(self, dtype: torch.dtype) -> bool:
        return dtype in TYPES

    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        return self.infer(x, self.pack(weight, x.dtype), pairs, weight.shape[0])

    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        turned = weight.to(dy.dtype).permute(1, 0, 2)
        if pairs.mirrored:
            return self.infer(dy, turned.flip(0).contiguous(), pairs, weight.shape[2])
        return self.infer(dy, turned.contiguous(), pairs.transposed, weight.shape[2])

    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor:
        if not _takes(x, x.shape[1], dy.shape[1], pairs):
            return self._plain.grad_weight(x, dy, pairs)
        c_in, c_out = x.shape[1], dy.shape[1]
        x, dy = _rows_of(x), _rows_of(dy)
        shares, tile = (
            shares_of(pairs, self.tiles.share),
            self.tiles.gradient(x.dtype, c_in, c_out),
        )
        parts = torch.empty(len(shares), c_out, c_in, device=x.device)
        grid = len(shares), -(-c_out // tile.rows), -(-c_in // tile.columns)
        launch(
            correlate_pairs, grid, x, dy, pairs.in_rows, pairs.out_rows,
            shares.firsts, shares.ends, parts,
            C_IN=c_in, C_OUT=c_out, X_STRIDE=x.stride(0), Y_STRIDE=dy.stride(0),
            ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, STAGES=tile.stages,
            PRECISION=precision_of(x.dtype), UPCAST=upcasts(x.dtype), warps=tile.warps,
        )  # fmt: skip
        dw = torch.empty(c_out, pairs.slots, c_in, dtype=x.dtype, device=x.device)
        launch(
            add_parts, (pairs.slots, -(-c_out * c_in // ADDED)), parts, shares.starts, dw,
            pairs.slots, c_in, c_out, ROWS=ADDED,
        )  # fmt: skip
        return dw

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """(C_out, K, C_in) -> (K, C_in, C_out)"""
        return weight.permute(1, 2, 0).to(dtype).contiguous()

    def infer(
        self,
        x: Tensor,
        packed: Tensor,
        pairs: KernelMap | None,
        out_channels: int,
        *,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        n_out = len(x) if pairs is None else pairs.n_out
        out = torch.empty(n_out, out_channels, dtype=x.dtype, device=x.device)
        return self.infer_into(out, x, packed, pairs, bias=bias, residual=residual, relu=relu)

    def infer_into(
        self,
        out: Tensor,
        x: Tensor,
        packed: Tensor,
        pairs: KernelMap | None,
        *,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        c_in, c_out = packed.shape[1:]
        if not _takes(x, c_in, max(c_out, out.stride(0)), pairs):
            y = self._plain.infer(
                x, packed.permute(2, 0, 1), pairs, c_out, bias=bias, residual=residual, relu=relu
            )
            return out.copy_(y)
        if pairs is None:
            self._convolve(x, packed, None, out, bias=bias, residual=residual, relu=relu)
            return out
        groups = self.tiles.groups(pairs.slots, c_in, c_out)
        *plans, last = plans_of(pairs, self.tiles.rows, groups)
        sums = torch.empty(out.shape, device=x.device) if plans else out  # in float32
        for plan in plans:
            part = packed[plan.first : plan.last]
            self._convolve(x, part, plan, sums, bias=bias, residual=residual, relu=False)
            bias, residual = None, sums
        self._convolve(
            x, packed[last.first : last.last], last, out,
            bias=bias, residual=residual, relu=relu,
        )  # fmt: skip
        return out

    def _convolve(
        self, x: Tensor, packed: Tensor, plan: VisitPlan | None, out: Tensor,
        *, bias: Tensor | None, residual: Tensor | None, relu: bool,
    ) -> None:  # fmt: skip
        slots, c_in, c_out = packed.shape
        x = _rows_of(x)
        shortcut = x if residual is None else _rows_of(residual)
        sizes = self.tiles.linear if plan is None else self.tiles.convolution
        tile = sizes(x.dtype, c_in, c_out)
        grid = -(-len(out) // tile.rows), -(-c_out // tile.columns)
        if plan is None:  # nothing of a plan is read: x stands for what is not there
            lists, padded, none = (x,) * 4, 0, -1
        else:
            lists = plan.table, plan.order, plan.slots, plan.counts
            padded, none = plan.table.shape[1], plan.none
        launch(
            convolve_tiles, grid, x, packed, *lists, x if bias is None else bias, shortcut, out,
            len(out), padded, slots, C_IN=c_in, C_OUT=c_out, X_STRIDE=x.stride(0),
            RESIDUAL_STRIDE=shortcut.stride(0), Y_STRIDE=out.stride(0), BIAS=bias is not None,
            RESIDUAL=residual is not None, RELU=relu, GATHERS=plan is not None, NONE=none,
            ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, STAGES=tile.stages,
            PRECISION=precision_of(x.dtype), UPCAST=upcasts(x.dtype), warps=tile.warps,
        )  # fmt: skip


class TritonAnswers(RowAnswers):
    """In one kernel."""

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_classes(logits)
        rows, classes = logits.shape
        logits = _rows_of(logits)
        labels = torch.empty(rows, dtype=torch.uint8, device=logits.device)
        probability, entropy = torch.empty(2, rows, device=logits.device)
        launch(
            answer_tiles, (-(-rows // ANSWERED),), logits, labels, probability, entropy, rows,
            1 / math.log(max(2, classes)), CLASSES=classes, STRIDE=logits.stride(0),
            WIDTH=1 << (classes - 1).bit_length(), ROWS=ANSWERED,
        )  # fmt: skip
        return labels, probability, entropy


def precision_of(dtype: torch.dtype) -> str:
    """How a tensor core multiplies; never one TF32 product, which keeps 11 bits."""
    exact = dtype != torch.float32 or torch.get_float32_matmul_precision() == 'highest'
    return 'ieee' if exact else 'tf32x3'


def upcasts(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 and interpreted()


def _rows_of(x: Tensor) -> Tensor:
    """With channels side by side; rows may lie any distance apart."""
    return x if x.stride(1) == 1 else x.contiguous()


def _takes(x: Tensor, c_in: int, c_out: int, pairs: KernelMap | None) -> bool:
    """Whether the kernels' 32-bit offsets reach every value."""
    slots = 1 if pairs is None else pairs.slots
    rows = len(x) if pairs is None else max(pairs.n_in, pairs.n_out)
    width = max(c_in, c_out, slots, x.stride(0))
    return x.dtype in TYPES and (rows + 256) * width < 2**31
