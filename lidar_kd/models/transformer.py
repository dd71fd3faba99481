# SPDX-License-Identifier: Apache-2.0
"""A transformer block on cells: position by convolution, attention inside patches.

V cells, C channels, P patches of K cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from lidar_kd.models.blocks import CUBE
from lidar_kd.models.serialization import Patches
from lidar_kd.sparse import Engine, Level, select_engine, SparseTensor, SubmanifoldConv

WIDTH_OF_BLAS = 16  # results of so many columns, and of their multiples, are the same bits
AT_A_TIME = 1 << 18  # numbers of what goes in; between two layers there are four times as many


class Linear(nn.Linear):
    """In the number type of its input, whatever its own.

    BLAS adds up products of an odd width in an order that depends on the threads.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        odd = torch.is_grad_enabled() or self.out_features % WIDTH_OF_BLAS
        if odd and x.device.type == 'cpu':
            return select_engine('cpu').linear(x, weight, bias)
        return F.linear(x, weight, bias)  # packs no weights, which counts in a small scan


class LayerNorm(nn.LayerNorm):
    """In the number type of its input, whatever its own."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if torch.is_grad_enabled() and x.device.type == 'cpu' and x.ndim == 2:
            y: Tensor = _Normalise.apply(x, weight, bias, self.eps)  # type: ignore[no-untyped-call]
            return y
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class _Normalise(torch.autograd.Function):
    """Layer norm of rows; torch sums the gradients of weight and bias thread by thread."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, inverse = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, mean, inverse, weight, bias)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, weight, bias = ctx.saved_tensors
        dx, _, _ = torch.ops.aten.native_layer_norm_backward(
            dy, x, weight.shape, mean, inverse, weight, bias, [True, False, False]
        )
        norms = select_engine('cpu').norms
        unit = (x - mean).mul_(inverse).mul_(dy)
        return dx, norms.column_sums(unit), norms.column_sums(dy), None


class DropPath(nn.Module):
    """Leaves a branch out of a row with a probability, and makes up for it in the others."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        keep = 1 - self.probability
        return x * (x.new_empty(len(x), 1).bernoulli_(keep) / keep)

    def extra_repr(self) -> str:
        return f'{self.probability:.3f}'


class Attention(nn.Module):
    """softmax(q k^T / sqrt(C / heads)) v inside each patch."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)

    def forward(
        self, x: Tensor, patches: Patches, engine: Engine, turns: Tensor | None = None
    ) -> Tensor:
        """turns (V, 2, A, m): cosines and sines by which a cell's place turns queries and keys."""
        parts = [part for rows in patches.rows for part in in_parts(rows, x.shape[1])]
        results = [self._attend(x, rows, engine, turns) for rows in parts]
        z: Tensor = self.proj(take_rows(join_parts(results), patches.answers))
        return z

    def _attend(self, x: Tensor, rows: Tensor, engine: Engine, turns: Tensor | None) -> Tensor:
        """(P, K) rows -> (P * K, C)"""
        qkv = self.qkv(take_rows(x, rows)).unflatten(2, (3, self.heads, -1))
        if turns is not None:
            own = turns.index_select(0, rows.flatten()).view(*rows.shape, *turns.shape[1:])
            qkv = turn(qkv, own)
        return engine.attention.attend(qkv).reshape(rows.numel(), x.shape[1])


def turn(qkv: Tensor, turns: Tensor) -> Tensor:
    """(P, K, 3, H, 2 A m) with queries and keys turned; turns (P, K, 2, A, m).

    A head's channels are, for each of A axes, m numbers u and then m numbers v.
    """
    cos, sin = turns[:, :, :, None, None].to(qkv.dtype).unbind(2)
    u, v = qkv[:, :, :2].unflatten(4, (cos.shape[4], 2, -1)).unbind(5)
    if torch.is_grad_enabled():
        turned = u * cos - v * sin, v * cos + u * sin
        return torch.cat([torch.stack(turned, 5).flatten(4), qkv[:, :, 2:]], 2)
    # in place: an array as large as qkv costs more than to turn it
    turned_u = (u * cos).addcmul_(v, sin, value=-1)
    v.mul_(cos).addcmul_(u, sin)
    u.copy_(turned_u)
    return qkv


class AttentionBlock(nn.Module):
    """x += norm(linear(conv(x))); x += attention(norm(x)); x += mlp(norm(x))

    seen: what the convolution sees instead of x; returned is the same for the next block's.
    """

    def __init__(self, channels: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.conv = SubmanifoldConv(channels, channels, CUBE, bias=True)
        self.position = nn.Sequential(Linear(channels, channels), LayerNorm(channels))
        self.attention_norm = LayerNorm(channels)
        self.attention = Attention(channels, heads)
        self.mlp_norm = LayerNorm(channels)
        self.mlp = nn.Sequential(Linear(channels, hidden), nn.GELU(), Linear(hidden, channels))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, level: Level, patches: Patches, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        x = self._mix(x, level, patches, seen)
        return join_parts([part + self._added(part, level.engine) for part in in_parts(x)]), None

    def _mix(self, x: Tensor, level: Level, patches: Patches, seen: Tensor | None) -> Tensor:
        around = SparseTensor(x if seen is None else seen, level)
        x = x + self.position(self.conv(around).features)
        y = self.attention(self.attention_norm(x), patches, level.engine)
        z: Tensor = x + self.drop_path(y)
        return z

    def _added(self, x: Tensor, engine: Engine) -> Tensor:
        wide, _, narrow = self.mlp  # published checkpoints count the GELU between them
        y: Tensor = self.drop_path(narrow(engine.attention.gelu(wide(self.mlp_norm(x)))))
        return y


class MlpSeen(AttentionBlock):
    """The convolution of the next block sees only what this one's MLP adds."""

    def forward(
        self, x: Tensor, level: Level, patches: Patches, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        x = self._mix(x, level, patches, seen)
        added = join_parts([self._added(part, level.engine) for part in in_parts(x)])
        return x + added, added


def in_parts(x: Tensor, width: int = 1) -> Sequence[Tensor]:
    """For inference on a CPU a few rows at a time: what lies between two layers then stays in the
    cache, and no array is so large that its pages must be new ones. width: numbers per element.
    """
    if torch.is_grad_enabled() or x.is_cuda:
        return [x]
    parts: tuple[Tensor, ...] = x.split(max(1, AT_A_TIME // (x.shape[1] * width)))
    return parts


def join_parts(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows]; the gradient of index_select is a sum in a fixed order, that of an index is not."""
    return x.index_select(0, rows.flatten()).view(*rows.shape, x.shape[1])
