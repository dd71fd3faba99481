# SPDX-License-Identifier: Apache-2.0
"""Convolution layers. Weights are (C_out, k_x, k_y, k_z, C_in) under every engine.

The kernel's axes are the coordinates' axes, in the order in which a cell is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
import math
from typing import Any, NoReturn

import torch
from torch import nn, Tensor

from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.tensor import Level, SparseTensor, Triple


class _Convolve(torch.autograd.Function):
    """y[out] = sum over pairs of x[in] W[slot]^T; nothing gathered is kept for the backward."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, pairs: KernelMap, engine: Engine
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs, ctx.engine = pairs, engine
        y = engine.forward(x, weight, pairs)
        return y if bias is None else y.add_(bias.to(y.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (x, weight), dy = ctx.saved_tensors, dy.contiguous()
        needs_x, _, needs_bias, *_ = ctx.needs_input_grad
        dx, dw = ctx.engine.backward(x, weight, dy, ctx.pairs, need_x=needs_x)
        return dx, dw, ctx.engine.norms.column_sums(dy) if needs_bias else None, None, None


def convolve(
    x: Tensor, weight: Tensor, pairs: KernelMap, engine: Engine, bias: Tensor | None = None
) -> Tensor:
    """Differentiable convolution; weight (C_out, K, C_in). Under autocast on CUDA in its type."""
    x, weight = _as_autocast_says(x), _as_autocast_says(weight)
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _Convolve.apply(x, weight, bias, pairs, engine)  # type: ignore[no-untyped-call]
    return y


def _as_autocast_says(x: Tensor) -> Tensor:
    if not torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type) if x.is_cuda else torch.float32)


class Conv(nn.Module, ABC):
    """A weight, an optional bias, and the map they are applied over."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out_channels, *kernel, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._packed: tuple[Tensor, tuple[object, ...], Tensor] | None = None
        # He initialisation for the cells a kernel really meets: about a quarter on LiDAR scans
        fan_in = in_channels * max(1.0, math.prod(kernel) / 4)
        if not self.weight.is_meta:  # torch would load its compiler, for 3 s, to draw nothing
            nn.init.normal_(self.weight, std=math.sqrt(2 / fan_in))

    @property
    def in_channels(self) -> int:
        return self.weight.shape[-1]

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @abstractmethod
    def map_of(self, level: Level) -> tuple[KernelMap | None, Level]:
        """The pairs (None: every row to itself) and the level of the result."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        if not torch.is_grad_enabled():
            return self.infer(x)
        if x.features.shape[1] != self.in_channels:
            self._refuse(x.features)
        pairs, level = self.map_of(x.level)
        flat = self.weight.flatten(1, 3)
        if pairs is None:
            return SparseTensor(level.engine.linear(x.features, flat[:, 0], self.bias), level)
        return SparseTensor(convolve(x.features, flat, pairs, level.engine, self.bias), level)

    def infer(
        self,
        x: SparseTensor,
        *,
        residual: Tensor | None = None,
        relu: bool = False,
        out: Tensor | None = None,
    ) -> SparseTensor:
        """relu?(forward(x) + residual?) in one pass, without gradients; out: where it goes."""
        features, weight = x.features, self.weight
        device = features.device.type
        if torch.is_autocast_enabled(device):  # asked first: to leave it takes 13 us a layer
            x = x.with_features(_as_autocast_says(features))
            with torch.autocast(device, enabled=False):
                return self.infer(x, residual=residual, relu=relu, out=out)
        if features.shape[1] != weight.shape[4]:
            self._refuse(features)
        pairs, level = self.map_of(x.level)
        engine, bias = level.engine, self.bias
        packed = self._pack(weight, engine, features.dtype)
        if out is None:
            y = engine.infer(
                features, packed, pairs, weight.shape[0], bias=bias, residual=residual, relu=relu
            )
        else:
            y = engine.infer_into(
                out, features, packed, pairs, bias=bias, residual=residual, relu=relu
            )
        return SparseTensor(y, level)

    def _refuse(self, features: Tensor) -> NoReturn:
        raise ValueError(
            f'{type(self).__name__} {self.extra_repr()}: got features of '
            f'{features.shape[1]} channels: give it {self.in_channels}'
        )

    def _pack(self, weight: Tensor, engine: Engine, dtype: torch.dtype) -> Tensor:
        """Kept only where the weight is frozen: what is written through .data leaves no trace."""
        if weight.requires_grad:
            return engine.pack(weight.detach().flatten(1, 3), dtype)
        version = 0 if weight.is_inference() else weight._version
        key = engine, dtype, torch.get_float32_matmul_precision(), weight.data_ptr(), version
        # the weight itself, too: another one may lie at the address of one that is gone
        if not self._packed or self._packed[0] is not weight or self._packed[1] != key:
            self._packed = (weight, key, engine.pack(weight.detach().flatten(1, 3), dtype))
        return self._packed[2]

    def __getstate__(self) -> dict[str, Any]:
        """A copy packs for itself: what is packed belongs to an engine of this process."""
        return {**self.__dict__, '_packed': None}

    def extra_repr(self) -> str:
        return f'{self.in_channels} -> {self.out_channels}, kernel {self.kernel}'


class SubmanifoldConv(Conv):
    """Odd kernel; the result lives on the same cells."""

    def map_of(self, level: Level) -> tuple[KernelMap | None, Level]:
        return level.submanifold(self.kernel), level


class PointwiseConv(Conv):
    """A linear layer on every row: kernel 1 x 1 x 1."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, (1, 1, 1), bias=bias)

    def map_of(self, level: Level) -> tuple[KernelMap | None, Level]:
        return None, level


class StridedConv(Conv):
    """Steps of 1 or 2. A kernel equal to the stride gives one result row per occupied coarse cell;
    another, of odd sizes, one per coarse cell that it reaches.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: Triple,
        *,
        kernel: Triple | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel or stride, bias=bias)
        self.step = stride, None if kernel == stride else kernel

    def map_of(self, level: Level) -> tuple[KernelMap | None, Level]:
        coarse, pairs = level.coarser(*self.step)
        return pairs, coarse


class InverseConv(StridedConv):
    """The way back: from coarse cells to the finer level they were made from."""

    def map_of(self, level: Level) -> tuple[KernelMap | None, Level]:
        finer = level.finer(*self.step)
        return finer.coarser(*self.step)[1].transposed, finer


@dataclass(frozen=True)
class Norm:
    """Settings of a batch norm."""

    eps: float = 1e-5
    momentum: float = 0.1


class ConvNorm(nn.Module):
    """relu?(norm(conv(x)) + residual?): the unit of which every U-Net here is made.

    room: channels to leave free before the result for what is to be joined with it, where the
    engine can; of a layer whose result has the rows of x.
    """

    room = 0

    def __init__(self, conv: Conv, *, relu: bool = True, norm: Norm | None = None) -> None:
        super().__init__()
        norm = norm or Norm()
        self.conv = conv
        self.norm: nn.Module = nn.BatchNorm1d(
            conv.out_channels, eps=norm.eps, momentum=norm.momentum
        )
        self.relu = relu
        self.folded = False

    def forward(self, x: SparseTensor, residual: Tensor | None = None) -> SparseTensor:
        if self.folded and not torch.is_grad_enabled():
            if self.room and x.level.engine.joins:
                return self._beside_room(x, residual)
            return self.conv.infer(x, residual=residual, relu=self.relu)
        y: SparseTensor = self.conv(x)
        return y.with_features(
            y.level.engine.norms.normalise(y.features, self.norm, residual, relu=self.relu)
        )

    def infer_into(
        self, out: Tensor, x: SparseTensor, residual: Tensor | None = None
    ) -> SparseTensor:
        """forward() of a folded layer, written to `out`."""
        return self.conv.infer(x, residual=residual, relu=self.relu, out=out)

    def _beside_room(self, x: SparseTensor, residual: Tensor | None) -> SparseTensor:
        width = self.room + self.conv.out_channels
        joint = x.features.new_empty(len(x.features), width)
        y = self.infer_into(joint[:, self.room :], x, residual)
        return SparseTensor(y.features, y.level, joint)


def chain(
    first: ConvNorm, second: ConvNorm, x: SparseTensor, residual: Tensor | None = None
) -> SparseTensor:
    """second(first(x), residual); in training, where the engine can, the activation between the
    two is worked out again in the backward pass instead of kept.
    """
    if not torch.is_grad_enabled() or second.conv.bias is not None:
        y: SparseTensor = second(first(x), residual)
        return y
    inner: SparseTensor = first.conv(x)
    pairs, level = second.conv.map_of(inner.level)
    assert pairs is not None, 'the second layer of a chain is no linear one'
    kernel, engine = second.conv.weight.flatten(1, 3), level.engine
    z = engine.norms.normalise_convolve(inner.features, first.norm, kernel, pairs, relu=first.relu)
    if z is None:
        between = engine.norms.normalise(inner.features, first.norm, None, relu=first.relu)
        z = convolve(between, kernel, pairs, engine)
    return SparseTensor(engine.norms.normalise(z, second.norm, residual, relu=second.relu), level)


@torch.no_grad()
def fold_norms(model: nn.Module) -> nn.Module:
    """Moves every batch norm into the weight and bias of its convolution; for inference only, and
    frozen, so that weights are packed once.
    """
    for module in model.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm1d):
            norm, conv = module.norm, module.conv
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            bias = norm.bias - norm.running_mean * scale
            conv.weight.mul_(scale[:, None, None, None, None])
            conv.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias * scale)
            module.norm, module.folded = nn.Identity(), True
    return model.requires_grad_(False)
