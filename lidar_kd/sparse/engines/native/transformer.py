# SPDX-License-Identifier: Apache-2.0
"""Attention inside patches and GELU, forward and backward, in the native library."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lidar_kd.sparse.engines.native.library import address, Int32, Int64, Pointer


class _Attention(ctypes.Structure):
    _fields_ = [
        ('qkv', Pointer),
        ('dy', Pointer),
        ('y', Pointer),
        ('dqkv', Pointer),
        ('patches', Int64),
        ('size', Int64),
        ('heads', Int64),
        ('width', Int64),
        ('scale', ctypes.c_float),
        ('threads', Int32),
    ]


class _Attend(torch.autograd.Function):
    """Of what lies between, nothing is kept: the backward pass works the softmax out again."""

    @staticmethod
    def forward(ctx, qkv: Tensor, library: ctypes.CDLL, kernels: Pointer) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(qkv)
        ctx.library, ctx.kernels = library, kernels
        patches, size, _, heads, width = qkv.shape
        y = torch.empty(patches, size, heads, width)
        _run(library, kernels, qkv, y=y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (qkv,) = ctx.saved_tensors
        dqkv = torch.empty_like(qkv)
        _run(ctx.library, ctx.kernels, qkv, dy=dy.contiguous(), dqkv=dqkv)
        return dqkv, None, None


def _run(library: ctypes.CDLL, kernels: Pointer, qkv: Tensor, **tensors: Tensor) -> None:
    patches, size, _, heads, width = qkv.shape
    job = _Attention(
        qkv=address(qkv),
        patches=patches,
        size=size,
        heads=heads,
        width=width,
        scale=width**-0.5,
        threads=torch.get_num_threads(),
        **{name: address(tensor) for name, tensor in tensors.items()},
    )
    library.lk_attend(kernels, ctypes.byref(job))


def attend(library: ctypes.CDLL, kernels: Pointer, qkv: Tensor) -> Tensor:
    """For float32 on the CPU; kernels: the float32 ones."""
    y: Tensor = _Attend.apply(qkv.contiguous(), library, kernels)  # type: ignore[no-untyped-call]
    return y


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, library: ctypes.CDLL, kernels: Pointer) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.library, ctx.kernels = library, kernels
        return _run_gelu(library, kernels, x, None)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return _run_gelu(ctx.library, ctx.kernels, x, dy.contiguous()), None, None


def _run_gelu(library: ctypes.CDLL, kernels: Pointer, x: Tensor, dy: Tensor | None) -> Tensor:
    to = torch.empty_like(x)
    size = Int64(x.numel()), torch.get_num_threads()
    library.lk_gelu(kernels, address(x), address(dy), *size, address(to))
    return to


def gelu(library: ctypes.CDLL, kernels: Pointer, x: Tensor) -> Tensor:
    """As `attend`."""
    y: Tensor = _Gelu.apply(x.contiguous(), library, kernels)  # type: ignore[no-untyped-call]
    return y
