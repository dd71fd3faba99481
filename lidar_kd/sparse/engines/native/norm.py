# SPDX-License-Identifier: Apache-2.0
"""Batch norm in training, with the sum and the ReLU after it, in the native library."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import nn, Tensor

from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.maps import KernelMap

Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # weight, bias, mean, inverse deviation: (C,) each
Pointer, Int64, Int32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class _Norm(ctypes.Structure):
    _fields_ = [
        ('x', Pointer),
        ('residual', Pointer),
        ('y', Pointer),
        ('dy', Pointer),
        ('weight', Pointer),
        ('bias', Pointer),
        ('mean', Pointer),
        ('inverse', Pointer),
        ('out', Pointer),
        ('dx', Pointer),
        ('dresidual', Pointer),
        ('rows', Int64),
        ('channels', Int64),
        ('relu', Int32),
    ]


@dataclass(frozen=True)
class _Affine:
    """relu?(scale * (x - mean) * inverse + bias + residual?), and its gradients."""

    library: ctypes.CDLL
    relu: bool

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, channels = x.shape
        mean, variance = torch.empty(2, channels)
        results = Pointer(mean.data_ptr()), Pointer(variance.data_ptr())
        size = Int64(rows), Int64(channels), torch.get_num_threads()
        self.library.lk_norm_moments(Pointer(x.data_ptr()), *size, *results)
        return mean, variance

    def apply(self, x: Tensor, parts: Parts, residual: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x)
        job = self._job(x, parts, residual=residual, out=out)
        self.library.lk_norm_apply(ctypes.byref(job), torch.get_num_threads())
        return out

    def backward(
        self, x: Tensor, parts: Parts, dy: Tensor, y: Tensor | None, *, residual: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """dx, dweight, dbias, dresidual; without y what the ReLU let through is worked out."""
        dx = torch.empty_like(x)
        dweight, dbias = torch.empty_like(parts[0]), torch.empty_like(parts[1])
        dresidual = torch.empty_like(x) if residual else None
        job = self._job(x, parts, y=y, dy=dy, dx=dx, dresidual=dresidual)
        sums = Pointer(dweight.data_ptr()), Pointer(dbias.data_ptr())
        self.library.lk_norm_backward(ctypes.byref(job), torch.get_num_threads(), *sums)
        return dx, dweight, dbias, dresidual

    def _job(self, x: Tensor, parts: Parts, **tensors: Tensor | None) -> _Norm:
        named = {'x': x, **dict(zip(('weight', 'bias', 'mean', 'inverse'), parts)), **tensors}
        addresses = {name: t.data_ptr() for name, t in named.items() if t is not None}
        return _Norm(rows=x.shape[0], channels=x.shape[1], relu=self.relu, **addresses)


def _parts(affine: _Affine, x: Tensor, norm: nn.BatchNorm1d) -> Parts:
    """Weight, bias, mean and inverse deviation of this batch; the running ones follow."""
    mean, variance = affine.moments(x)
    _follow(norm, mean, variance, len(x))
    return norm.weight.detach(), norm.bias.detach(), mean, torch.rsqrt(variance + norm.eps)


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


def normalise(
    library: ctypes.CDLL, x: Tensor, norm: nn.BatchNorm1d, residual: Tensor | None, *, relu: bool
) -> Tensor:
    """For a norm in training mode with weights, and float32 rows."""
    if residual is not None:
        assert residual.shape == x.shape, (residual.shape, x.shape)
        residual = residual.to(x.dtype).contiguous()  # autocast makes bfloat16 of a shortcut
    affine = _Affine(library, relu)
    y: Tensor = _NormRelu.apply(x.contiguous(), norm.weight, norm.bias, residual, norm, affine)  # type: ignore[no-untyped-call]
    return y


def normalise_convolve(
    library: ctypes.CDLL,
    x: Tensor,
    norm: nn.BatchNorm1d,
    kernel: Tensor,
    pairs: KernelMap,
    engine: Engine,
    *,
    relu: bool,
) -> Tensor:
    """The convolution of normalise(x); kernel (C_out, K, C_in)."""
    y: Tensor = _NormReluConvolve.apply(  # type: ignore[no-untyped-call]
        x.contiguous(),
        norm.weight,
        norm.bias,
        kernel,
        norm,
        _Affine(library, relu),
        pairs,
        engine,
    )
    return y
