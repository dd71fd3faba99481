# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution in plain torch: any device, always there, and the oracle of the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_kd.sparse.engine import Engine
from lidar_kd.sparse.maps import KernelMap


class TorchEngine(Engine):
    name = 'torch'

    def computes(self, dtype: torch.dtype) -> bool:
        return dtype == torch.float32 or torch.cuda.is_available()

    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        return accumulate(x, weight.permute(1, 2, 0), pairs)

    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        return accumulate(dy, weight.permute(1, 0, 2), pairs.transposed)

    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor:
        grad = x.new_empty(dy.shape[1], pairs.slots, x.shape[1])
        for k in range(pairs.slots):
            if k == pairs.centre:
                grad[:, k] = dy.T @ x
                continue
            in_rows, out_rows = pairs.slot(k)
            grad[:, k] = dy[out_rows].T @ x[in_rows]
        return grad


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
