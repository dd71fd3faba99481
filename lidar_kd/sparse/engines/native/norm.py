# SPDX-License-Identifier: Apache-2.0
"""Batch norm in training, with the sum and the ReLU after it, in the native library."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import nn, Tensor

from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.engines.native.checks import check_same_shape
from lidar_kd.sparse.engines.native.library import address, succeed
from lidar_kd.sparse.engines.native.structs import NormJob
from lidar_kd.sparse.engines.parts import TrainingNorms

Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # weight, bias, mean, inverse deviation: (C,) each


@dataclass(frozen=True)
class _Affine:
    """relu?(scale * (x - mean) * inverse + bias + residual?), and its gradients."""

    library: ctypes.CDLL
    relu: bool

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = torch.empty(2, x.shape[1])
        job = self._job(x, ())
        succeed(self.library.lk_norm_moments(ctypes.byref(job), address(mean), address(variance)))
        return mean, variance

    def apply(self, x: Tensor, parts: Parts, residual: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x)
        job = self._job(x, parts, residual=residual, out=out)
        succeed(self.library.lk_norm_apply(ctypes.byref(job)))
        return out

    def backward(
        self, x: Tensor, parts: Parts, dy: Tensor, y: Tensor | None, *, residual: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """dx, dweight, dbias, dresidual; without y what the ReLU let through is worked out."""
        check_same_shape('the gradient of a norm', dy, x.shape)
        dx = torch.empty_like(x)
        dresidual = torch.empty_like(x) if residual else None
        grads = {'dweight': torch.empty_like(parts[0]), 'dbias': torch.empty_like(parts[1])}
        job = self._job(x, parts, y=y, dy=dy, dx=dx, dresidual=dresidual, **grads)
        succeed(self.library.lk_norm_backward(ctypes.byref(job)))
        return dx, grads['dweight'], grads['dbias'], dresidual

    def _job(self, x: Tensor, parts: Parts | tuple[()], **tensors: Tensor | None) -> NormJob:
        named = {'x': x, **dict(zip(('weight', 'bias', 'mean', 'inverse'), parts)), **tensors}
        addresses = {name: t.data_ptr() for name, t in named.items() if t is not None}
        size = {'rows': x.shape[0], 'channels': x.shape[1]}
        return NormJob(**size, relu=self.relu, threads=torch.get_num_threads(), **addresses)


def _parts(affine: _Affine, x: Tensor, norm: nn.BatchNorm1d) -> Parts:
    """Weight, bias, mean and inverse deviation of this batch; the running ones follow."""
    mean, variance = affine.moments(x)
    _follow(norm, mean, variance, len(x))
    weight, bias = norm.weight.detach().contiguous(), norm.bias.detach().contiguous()
    return weight, bias, mean, torch.rsqrt(variance + norm.eps)


def _follow(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, rows: int) -> None:
    """The running statistics, as nn.BatchNorm1d keeps them."""
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1 / int(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (rows / (rows - 1)), share)


class _NormRelu(torch.autograd.Function):
    """relu?(norm(x) + residual?); weight and bias are the norm's, passed for their gradients.

    After a residual the result is kept to tell what the ReLU let through: the next block keeps it
    anyway. Without one that is worked out again from x.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        norm: nn.BatchNorm1d,
        affine: _Affine,
    ) -> Tensor:
        parts = _parts(affine, x, norm)
        out = affine.apply(x, parts, residual)
        ctx.save_for_backward(x, *parts, None if residual is None else out)
        ctx.affine = affine
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, *parts, y = ctx.saved_tensors
        needed = ctx.needs_input_grad[3]
        grads = ctx.affine.backward(x, tuple(parts), dy.contiguous(), y, residual=needed)
        return *grads, None, None


class _NormReluConvolve(torch.autograd.Function):
    """convolution(relu?(norm(x))): what lies between is worked out again, not kept."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        kernel: Tensor,
        norm: nn.BatchNorm1d,
        affine: _Affine,
        pairs: KernelMap,
        engine: Engine,
    ) -> Tensor:
        parts = _parts(affine, x, norm)
        ctx.save_for_backward(x, *parts, kernel)
        ctx.affine, ctx.pairs, ctx.engine = affine, pairs, engine
        return engine.forward(affine.apply(x, parts), kernel, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, *saved, kernel = ctx.saved_tensors
        affine, parts = ctx.affine, tuple(saved)
        between = affine.apply(x, parts)
        dbetween, dkernel = ctx.engine.backward(
            between, kernel, dy.contiguous(), ctx.pairs, need_x=True
        )
        del between
        dx, dweight, dbias, _ = affine.backward(x, parts, dbetween, None, residual=False)
        return dx, dweight, dbias, dkernel, None, None, None, None


class NativeNorms(TrainingNorms):
    """Of a norm in training mode with weights, over float32 rows; others are left to torch."""

    def __init__(self, library: ctypes.CDLL, engine: Engine) -> None:
        self._engine = engine
        self._affine = {relu: _Affine(library, relu) for relu in (False, True)}

    def normalise(
        self, x: Tensor, norm: nn.Module, residual: Tensor | None, *, relu: bool
    ) -> Tensor:
        if not _takes(norm, x):
            return super().normalise(x, norm, residual, relu=relu)
        if residual is not None:
            check_same_shape('the shortcut of a norm', residual, x.shape)
            residual = residual.to(x.dtype).contiguous()  # autocast makes bfloat16 of a shortcut
        y: Tensor = _NormRelu.apply(  # type: ignore[no-untyped-call]
            x.contiguous(), norm.weight, norm.bias, residual, norm, self._affine[relu]
        )
        return y

    def normalise_convolve(
        self, x: Tensor, norm: nn.Module, kernel: Tensor, pairs: KernelMap, *, relu: bool
    ) -> Tensor | None:
        if not _takes(norm, x):
            return None
        more = kernel, norm, self._affine[relu], pairs, self._engine
        y: Tensor = _NormReluConvolve.apply(x.contiguous(), norm.weight, norm.bias, *more)  # type: ignore[no-untyped-call]
        return y

    def column_sums(self, x: Tensor) -> Tensor:
        """As means of blocks of rows: torch's order of summation follows its threads."""
        if x.dtype != torch.float32 or not x.is_cpu or x.ndim != 2 or not len(x):
            return super().column_sums(x)
        mean, _ = self._affine[False].moments(x.contiguous())
        return mean.mul_(len(x))


def _takes(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm1d]:
    """By type: a norm that looks beyond this process does its own work."""
    if type(norm) is not nn.BatchNorm1d or not (norm.affine and norm.training):
        return False
    if not (len(x) > 1 and x.is_cpu and x.ndim == 2):
        return False
    if not x.dtype == norm.weight.dtype == norm.bias.dtype == torch.float32:
        return False
    check_same_shape('the weight of a norm', norm.weight, x.shape[1:])
    check_same_shape('the bias of a norm', norm.bias, x.shape[1:])
    return True
