# SPDX-License-Identifier: Apache-2.0
"""Attention inside patches and GELU, forward and backward, in the native library."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lidar_kd.sparse.engines.native.checks import check_tensor
from lidar_kd.sparse.engines.native.library import address, succeed
from lidar_kd.sparse.engines.native.structs import AttentionJob, Int64, Pointer
from lidar_kd.sparse.engines.parts import PatchAttention


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
    job = AttentionJob(
        qkv=address(qkv),
        patches=patches,
        size=size,
        heads=heads,
        width=width,
        scale=max(1, width) ** -0.5,
        threads=torch.get_num_threads(),
        **{name: address(tensor) for name, tensor in tensors.items()},
    )
    if qkv.numel():  # C divides by the number of heads
        succeed(library.lk_attend(kernels, ctypes.byref(job)))


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


class NativeAttention(PatchAttention):
    """kernels: the float32 ones; other number types take the way of torch."""

    def __init__(self, library: ctypes.CDLL, kernels: Pointer) -> None:
        self._c, self._kernels = library, kernels

    def attend(self, qkv: Tensor) -> Tensor:
        if qkv.dtype != torch.float32:
            return super().attend(qkv)
        check_tensor('qkv', qkv, torch.float32, None, None, 3, None, None)
        y: Tensor = _Attend.apply(qkv.contiguous(), self._c, self._kernels)  # type: ignore[no-untyped-call]
        return y

    def gelu(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return super().gelu(x)
        check_tensor('x', x, torch.float32, *x.shape)
        y: Tensor = _Gelu.apply(x.contiguous(), self._c, self._kernels)  # type: ignore[no-untyped-call]
        return y
