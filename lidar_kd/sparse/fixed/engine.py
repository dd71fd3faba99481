# SPDX-License-Identifier: Apache-2.0
"""Convolution over maps of fixed shape: a gather and a product a layer, and no bookkeeping.

Inference only. Every result's row 0 is zero, since it stands for missing neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.engines.plain_torch import TABLE_VALUES


class FixedShapeEngine(Engine):
    name = 'fixed shapes'

    def __init__(self, *, clears: bool = False) -> None:
        """clears: row 0 of what a layer is given is not zero, as behind layers that know of no
        missing neighbours.
        """
        self._clears = clears
        self._biases: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def computes(self, dtype: torch.dtype) -> bool:
        return True

    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        return self.infer(x, self.pack(weight, x.dtype), pairs, weight.shape[0])

    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        raise NotImplementedError('fixed shapes are for inference')

    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor:
        raise NotImplementedError('fixed shapes are for inference')

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
        offset = None if bias is None else self._in_type(bias, x.dtype)
        if self._clears and pairs is not None:
            x[0].zero_()
        if pairs is not None and 'up' in pairs.derived:
            products = torch.matmul(x, packed).view(-1, out_channels)
            y = products.index_select(0, pairs.derived['up'])
            y = y if offset is None else y.add_(offset)
            fused = False
        else:
            fused = relu and residual is None and offset is not None
            y = _multiply(_gather(x, pairs), packed.flatten(0, 1), offset, relu=fused)
        y = y if residual is None else y.add_(residual)
        y = y.relu_() if relu and not fused else y
        if pairs is not None:
            y[0].zero_()
        return y

    def _in_type(self, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """Converted once; the bias is kept with it, so that no other one gets its number."""
        if bias.dtype == dtype:
            return bias
        if (id(bias), dtype) not in self._biases:
            self._biases[id(bias), dtype] = bias, bias.to(dtype)
        return self._biases[id(bias), dtype][1]


def _gather(x: Tensor, pairs: KernelMap | None) -> list[Tensor]:
    """The rows of the product, in parts that are not too large at once: (rows, K C_in)."""
    if pairs is None:
        return [x]
    width = pairs.slots * x.shape[1]
    parts = pairs.derived['table'].split(max(1, TABLE_VALUES // width))
    return [x.index_select(0, part.flatten()).view(-1, width) for part in parts]


def _multiply(parts: list[Tensor], weight: Tensor, bias: Tensor | None, *, relu: bool) -> Tensor:
    if bias is None:
        results = [part @ weight for part in parts]
    elif relu:  # one kernel for all three on CUDA
        results = [torch.ops.aten._addmm_activation(bias, part, weight) for part in parts]
    else:
        results = [torch.addmm(bias, part, weight) for part in parts]
    return results[0] if len(results) == 1 else torch.cat(results)
