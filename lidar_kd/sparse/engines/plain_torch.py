# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution in plain torch: any device, always there, and the oracle of the others.

A CPU is slow at arithmetic: one product per slot over the pairs that exist. A GPU is slow to be
asked: one product, over a table with a row of zeros wherever a neighbour is missing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap

TABLE_VALUES = 1 << 26  # of an unrolled input at a time: 256 MB in float32


class TorchEngine(Engine):
    name = 'torch'
    unrolls_on_cpu = False  # what a GPU always does; tests set it

    def __init__(self, device_type: str = 'cpu') -> None:
        self.device_type = device_type

    def computes(self, dtype: torch.dtype) -> bool:
        return dtype == torch.float32 or self.device_type == 'cuda'

    def _unrolls(self, x: Tensor) -> bool:
        return x.is_cuda or self.unrolls_on_cpu

    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        if self._unrolls(x):
            return convolve_unrolled(x, weight, pairs)
        return accumulate(x, weight.permute(1, 2, 0), pairs)

    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        if self._unrolls(dy):
            return convolve_unrolled(dy, weight.permute(2, 1, 0), pairs.transposed)
        return accumulate(dy, weight.permute(1, 0, 2), pairs.transposed)

    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor:
        if self._unrolls(x):
            return correlate_unrolled(x, dy, pairs)
        grad = x.new_empty(dy.shape[1], pairs.slots, x.shape[1])
        for k in range(pairs.slots):
            if k == pairs.centre:
                grad[:, k] = dy.T @ x
                continue
            in_rows, out_rows = pairs.slot(k)
            grad[:, k] = dy[out_rows].T @ x[in_rows]
        return grad


def convolve_unrolled(x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    """y[out] = sum over its pairs of weight[:, k] x[in]; weight (C_out, K, C_in)."""
    flat = weight.flatten(1).T
    parts = [part @ flat for _, part in _unrolled(x, pairs)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def correlate_unrolled(x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor:
    """The gradient (C_out, K, C_in) of the weight."""
    # a sum in bfloat16 stops growing where a part is below 1/256 of it
    dtype = torch.promote_types(x.dtype, torch.float32)
    grad = x.new_zeros(dy.shape[1], pairs.slots * x.shape[1], dtype=dtype)
    for rows, part in _unrolled(x, pairs):
        grad += dy[rows].T @ part
    return grad.view(dy.shape[1], pairs.slots, x.shape[1]).to(x.dtype)


def _unrolled(x: Tensor, pairs: KernelMap) -> Iterator[tuple[slice, Tensor]]:
    """(rows of the result, (rows, K C_in) their neighbours' features), some at a time."""
    if 'table' not in pairs.derived:
        pairs.derived['table'] = neighbour_table(pairs)
    table: Tensor = pairs.derived['table']
    padded = F.pad(x, (0, 0, 0, 1))
    width = pairs.slots * x.shape[1]
    step = max(1, TABLE_VALUES // width)
    for first in range(0, max(1, pairs.n_out), step):
        rows = slice(first, first + step)
        yield rows, padded.index_select(0, table[rows].flatten()).view(-1, width)


def neighbour_table(pairs: KernelMap) -> Tensor:
    """(n_out, K) int32: the input row in each slot, n_in where there is none."""
    device = pairs.in_rows.device
    table = torch.full((pairs.n_out, pairs.slots), pairs.n_in, dtype=torch.int32, device=device)
    sizes = [b - a for a, b in zip(pairs.starts, pairs.starts[1:])]
    slot = torch.repeat_interleave(torch.tensor(sizes, device=device), output_size=pairs.pairs)
    table[pairs.out_rows.long(), slot] = pairs.in_rows
    return table


def accumulate(x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    """y[out] += x[in] @ weight[k] over all pairs; weight: (K, C_in, C_out)."""
    centre = pairs.centre
    if centre >= 0:
        y = x @ weight[centre]
    else:
        y = x.new_zeros(pairs.n_out, weight.shape[2])
    if pairs.pairs == (pairs.n_out if centre >= 0 else 0):
        return y
    return y.add_(_bag(x, weight, pairs))


def _bag(x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    """The sum over every slot but the centre: gather, multiply per slot, and add up once per row.

    One embedding_bag takes half the time of an index_add per slot, and its order is fixed.
    """
    if 'bag' not in pairs.derived:
        pairs.derived['bag'] = _bag_order(pairs)
    in_rows, sizes, order, offsets = pairs.derived['bag']
    products = x.new_empty(len(in_rows), weight.shape[2])
    slots = [k for k in range(pairs.slots) if k != pairs.centre]
    for k, rows, out in zip(slots, in_rows.split(sizes), products.split(sizes)):
        torch.mm(x.index_select(0, rows), weight[k], out=out)
    return F.embedding_bag(order, products, offsets, mode='sum')


def _bag_order(pairs: KernelMap) -> tuple[Tensor, list[int], Tensor, Tensor]:
    sizes = [b - a for a, b in zip(pairs.starts, pairs.starts[1:])]
    in_parts, out_parts = list(pairs.in_rows.split(sizes)), list(pairs.out_rows.split(sizes))
    if pairs.centre >= 0:
        del sizes[pairs.centre], in_parts[pairs.centre], out_parts[pairs.centre]
    out_rows = torch.cat(out_parts)
    order = torch.argsort(out_rows, stable=True)
    counts = torch.bincount(out_rows, minlength=pairs.n_out)
    offsets = counts.cumsum(0) - counts
    return torch.cat(in_parts), sizes, order, offsets
