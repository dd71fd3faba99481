# SPDX-License-Identifier: Apache-2.0
"""What an engine does: sparse convolution, and what else is worth a kernel of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
import math

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from lidar_kd.errors import DataError
from lidar_kd.sparse.maps import KernelMap, KeyLayout, strided_pairs, submanifold_pairs


class Engine(ABC):
    """Sparse convolution, and what else is worth a kernel of its own, on one kind of device.

    Shapes: x (N_in, C_in), weight (C_out, K, C_in), y (N_out, C_out); K slots as in maps.py.
    """

    name: str
    sorts = True  # its maps need cells sorted and distinct; a peer that hashes them does not

    def keys(self, coords: Tensor, layout: KeyLayout) -> Tensor:
        return layout.keys(coords)

    def submanifold(self, keys: Tensor, kernel: Sequence[int], layout: KeyLayout) -> KernelMap:
        return submanifold_pairs(keys, kernel, layout)

    def strided(
        self, coords: Tensor, stride: Sequence[int], layout: KeyLayout
    ) -> tuple[Tensor, KernelMap]:
        return strided_pairs(coords, stride, layout)

    def group(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows with equal keys: (group of each row or -1, rows in group order, group starts).

        Groups are numbered in key order and rows keep their order inside a group; a negative
        key belongs to no group. starts has one entry more than there are groups.
        """
        kept = torch.nonzero(keys >= 0).squeeze(1)
        _, group, counts = torch.unique(keys[kept], return_inverse=True, return_counts=True)
        whole = torch.full(keys.shape, -1, dtype=torch.int32, device=keys.device)
        whole[kept] = group.int()
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        return whole, kept[torch.argsort(group, stable=True)].int(), starts

    def means(self, rows: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        """The mean of each group's rows (N, C), the groups as `group` gives them."""
        return F.embedding_bag(order, rows, starts[:-1], mode='mean')

    def computes(self, dtype: torch.dtype) -> bool:
        """Whether inference in this type is worth asking for on this engine."""
        return dtype == torch.float32

    def tune_memory(self, *, live: bool) -> None:  # noqa: B027 - most have nothing to do
        """How the process keeps freed memory: for speed, scan after scan, or for a low peak."""

    def release_memory(self) -> None:  # noqa: B027 - as above
        """To call between training steps: a tenth of a large network's peak for 2 % of a step; a
        small network pays 15 %, hence not after every one.
        """

    def normalise(
        self, x: Tensor, norm: nn.Module, residual: Tensor | None, *, relu: bool
    ) -> Tensor:
        """relu?(norm(x) + residual?)"""
        if len(x) == 1 and type(norm) is nn.BatchNorm1d and norm.training:
            raise DataError(
                'the batch is a single cell at some level, where batch norm needs two: train '
                'on larger scans or on several at once'
            )
        y: Tensor = norm(x)
        y = y if residual is None else y.add_(residual)
        return y.relu_() if relu else y

    def normalise_convolve(
        self, x: Tensor, norm: nn.Module, kernel: Tensor, pairs: KernelMap, *, relu: bool
    ) -> Tensor | None:
        """The convolution of normalise(x) without keeping what lies between, or None if it cannot.

        kernel: (C_out, K, C_in); differentiable.
        """
        return None

    def attend(self, qkv: Tensor) -> Tensor:
        """(P, K, 3, H, D): queries, keys and values of H heads, in P patches of K rows, to
        (P, K, H, D): softmax(q k^T / sqrt(D)) v inside each patch; differentiable.
        """
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def answers(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C) -> the best class (uint8), its probability, and -sum p ln p / ln C (C > 1)."""
        logits = logits.float()
        best, labels = logits.max(1)
        above = logits.sub(best[:, None])
        weight = above.exp()
        total = weight.sum(1)
        # -sum p ln p = ln(total) - sum(weight * above) / total
        entropy = total.log() - weight.mul_(above).sum(1) / total
        return labels.to(torch.uint8), 1 / total, entropy / math.log(max(2, logits.shape[1]))

    @abstractmethod
    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor: ...

    @abstractmethod
    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor: ...

    @abstractmethod
    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor: ...

    def backward(
        self, x: Tensor, weight: Tensor, dy: Tensor, pairs: KernelMap, *, need_x: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Gradients of the input (where needed) and of the weight."""
        dx = self.grad_input(dy, weight, pairs) if need_x else None
        return dx, self.grad_weight(x, dy, pairs)

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight as `infer` wants it; done once per layer."""
        return weight.to(dtype)

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
        """relu?(convolution + bias? + residual?) without gradients; no pairs: a linear layer."""
        y = x @ packed[:, 0].T if pairs is None else self.forward(x, packed, pairs)
        y = y if bias is None else y.add_(bias.to(y.dtype))
        y = y if residual is None else y.add_(residual)
        return y.relu_() if relu else y
