# SPDX-License-Identifier: Apache-2.0
"""What an engine may do beside convolution, each part in plain torch; an engine brings its own
where a kernel is worth it.
"""

from __future__ import annotations

import math

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from lidar_kd.errors import DataError
from lidar_kd.sparse.engines.maps import KernelMap

MOST_CLASSES = 256  # of a label in one byte


class Grouping:
    """Points to cells: which rows share a key, and the mean of each group."""

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


class TrainingNorms:
    """Batch norm with what follows it: the sum with a shortcut, and the ReLU."""

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

    def column_sums(self, x: Tensor) -> Tensor:
        """(N, C) -> (C,), as the gradient of a bias needs them."""
        return x.sum(0)


class PatchAttention:
    """Attention inside patches, and the GELU of a transformer's MLP; both differentiable."""

    def attend(self, qkv: Tensor) -> Tensor:
        """(P, K, 3, H, D): queries, keys and values of H heads, in P patches of K rows, to
        (P, K, H, D): softmax(q k^T / sqrt(D)) v inside each patch.
        """
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class ProcessMemory:
    """How the process keeps memory that was freed; most engines leave it to torch."""

    def tune(self, *, live: bool) -> None:
        """For speed, scan after scan (live), or for a low peak."""

    def release(self) -> None:
        """To call between training steps: a tenth of a large network's peak for 2 % of a step; a
        small network pays 15 %, hence not after every one.
        """


class RowAnswers:
    """From logits to what a robot asks for."""

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C) -> the best class (uint8), its probability, and -sum p ln p / ln C (C > 1)."""
        check_classes(logits)
        logits = logits.float()
        best, labels = logits.max(1)
        above = logits.sub(best[:, None])
        weight = above.exp()
        total = weight.sum(1)
        # -sum p ln p = ln(total) - sum(weight * above) / total
        entropy = total.log() - weight.mul_(above).sum(1) / total
        return labels.to(torch.uint8), 1 / total, entropy / math.log(max(2, logits.shape[1]))


def check_classes(logits: Tensor) -> None:
    if logits.ndim != 2 or not 0 < logits.shape[1] <= MOST_CLASSES:
        raise ValueError(
            f'answers: logits of shape {tuple(logits.shape)}: give (points, classes) with 1 to '
            f'{MOST_CLASSES} classes'
        )
