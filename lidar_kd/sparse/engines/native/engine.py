# SPDX-License-Identifier: Apache-2.0
"""The native CPU engine: the C kernels that were compiled with the package."""

from __future__ import annotations

from collections.abc import Sequence
import ctypes
import os
import threading
from typing import Any, TypeGuard

import torch
from torch import nn, Tensor

from lidar_kd.errors import ConfigError
from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.native.library import (
    address,
    ConvJob,
    int32s,
    Int64,
    library,
    MapView,
    Pointer,
    readable,
)
from lidar_kd.sparse.engines.native.norm import normalise, normalise_convolve
from lidar_kd.sparse.engines.native.transformer import attend, gelu
from lidar_kd.sparse.maps import KernelMap, KeyLayout

ISA_VARIABLE = 'LIDAR_KD_ISA'  # for tests: avx512, avx2, portable
BFLOAT16 = ('amx', 'avx512bf16')  # the faster first
WORKSPACE = 64 << 20  # bytes reserved for packed weights in training
BLOCK = 128  # LK_BLOCK of kernels.h
MOST_CLASSES = 256  # of answers.c, and of a label in one byte
SPLIT = torch.int16  # marks packed weights whose float32 values are in two bfloat16 parts


def _normalisable(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm1d]:
    # by type: a norm that looks beyond this process does its own work
    plain = type(norm) is nn.BatchNorm1d and norm.affine and norm.training
    return plain and len(x) > 1 and x.dtype == norm.weight.dtype == torch.float32


class NativeEngine(Engine):
    """float32 everywhere; bfloat16 for inference where the CPU multiplies it (AMX, AVX512-BF16);
    with AMX, under torch.set_float32_matmul_precision('high'), float32 as sums of two bfloat16
    (error 4e-6).
    """

    name = 'native'

    def __init__(self, isa: str | None = None, bfloat16: Sequence[str] = BFLOAT16) -> None:
        self._c = library()
        self._local = threading.local()
        wanted = isa or os.environ.get(ISA_VARIABLE)
        self._float32 = Pointer(self._c.lk_find(wanted.encode() if wanted else None))
        kernels = (Pointer(self._c.lk_find(name.encode())) for name in bfloat16)
        by_type = {
            torch.float32: self._float32,
            torch.bfloat16: next(filter(None, kernels), Pointer()),
            SPLIT: Pointer(self._c.lk_find(b'split')),
        }
        self._by_type = {dtype: found for dtype, found in by_type.items() if found}
        if not self._float32 or wanted in (*BFLOAT16, 'split'):
            raise ConfigError(
                f'{ISA_VARIABLE}: no float32 kernels for {wanted!r} on this machine: '
                'unset it, or set it to avx512, avx2 or portable'
            )
        self.isa = self._c.lk_name(self._float32).decode()

    def computes(self, dtype: torch.dtype) -> bool:
        return dtype != SPLIT and dtype in self._by_type

    def tune_memory(self, *, live: bool) -> None:
        self._c.lk_memory(int(live))

    def release_memory(self) -> None:
        self._c.lk_release()

    def keys(self, coords: Tensor, layout: KeyLayout) -> Tensor:
        assert coords.shape[1:] == (4,), coords.shape
        coords = coords.int().contiguous()
        keys = torch.empty(len(coords), dtype=torch.int64)
        low, bits = int32s(layout.low), int32s(layout.bits)
        self._c.lk_keys(
            address(coords), Int64(len(coords)), low, bits, torch.get_num_threads(), address(keys)
        )
        return keys

    def group(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        group, order = torch.empty(2, len(keys), dtype=torch.int32)
        first = torch.empty(len(keys) + 1, dtype=torch.int32)
        count = self._c.lk_group(
            address(keys), Int64(len(keys)), address(group), address(order), address(first)
        )
        first = first[: count + 1]
        return group, order[: int(first[-1])], first

    def means(self, rows: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        if rows.dtype != torch.float32:
            return super().means(rows, order, starts)
        rows, groups, columns = rows.contiguous(), len(starts) - 1, rows.shape[1]
        means = torch.empty(groups, columns)
        self._c.lk_means(
            address(rows),
            Int64(columns),
            address(order),
            address(starts),
            Int64(groups),
            torch.get_num_threads(),
            address(means),
        )
        return means

    def submanifold(self, keys: Tensor, kernel: Sequence[int], layout: KeyLayout) -> KernelMap:
        n, slots, threads = len(keys), kernel[0] * kernel[1] * kernel[2], torch.get_num_threads()
        starts, sizes, bits = (Int64 * (slots + 1))(), int32s(kernel), int32s(layout.bits)
        search = Pointer(
            self._c.lk_search_new(address(keys), Int64(n), bits, sizes, threads, starts)
        )
        in_rows, out_rows = torch.empty(2, starts[slots], dtype=torch.int32)
        self._c.lk_search_take(search, sizes, starts, threads, address(in_rows), address(out_rows))
        return KernelMap(in_rows, out_rows, tuple(starts), n, n)

    def strided(
        self, coords: Tensor, stride: Sequence[int], layout: KeyLayout
    ) -> tuple[Tensor, KernelMap]:
        n, slots = len(coords), stride[0] * stride[1] * stride[2]
        coarse = torch.empty(n, 4, dtype=torch.int32)
        in_rows, out_rows = torch.empty(2, n, dtype=torch.int32)
        starts = (Int64 * (slots + 1))()
        count = self._c.lk_stride(
            address(coords),
            Int64(n),
            int32s(stride),
            address(coarse),
            address(in_rows),
            address(out_rows),
            starts,
        )
        return coarse[:count], KernelMap(in_rows, out_rows, tuple(starts), n, count)

    def normalise(
        self, x: Tensor, norm: nn.Module, residual: Tensor | None, *, relu: bool
    ) -> Tensor:
        if _normalisable(norm, x):
            return normalise(self._c, x, norm, residual, relu=relu)
        return super().normalise(x, norm, residual, relu=relu)

    def normalise_convolve(
        self, x: Tensor, norm: nn.Module, kernel: Tensor, pairs: KernelMap, *, relu: bool
    ) -> Tensor | None:
        if not _normalisable(norm, x):
            return None
        return normalise_convolve(self._c, x, norm, kernel, pairs, self, relu=relu)

    def attend(self, qkv: Tensor) -> Tensor:
        if qkv.dtype == torch.float32:
            return attend(self._c, self._float32, qkv)
        return super().attend(qkv)

    def gelu(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return gelu(self._c, self._float32, x)
        return super().gelu(x)

    def answers(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = logits.float().contiguous()
        rows, classes = logits.shape
        assert 0 < classes <= MOST_CLASSES, f'{classes} classes'
        labels = torch.empty(rows, dtype=torch.uint8)
        probability, entropy = torch.empty(2, rows)
        results = address(labels), address(probability), address(entropy)
        self._c.lk_answers(
            address(logits), Int64(rows), Int64(classes), torch.get_num_threads(), *results
        )
        return labels, probability, entropy

    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        return self.infer(x, self._pack(weight, transpose=False), pairs, weight.shape[0])

    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        packed = self._pack(weight, transpose=True)
        return self.infer(dy, packed, pairs.transposed, weight.shape[2])

    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor:
        grad = torch.empty(dy.shape[1], pairs.slots, x.shape[1])
        assert (len(x), len(dy)) == (pairs.n_in, pairs.n_out), (x.shape, dy.shape)
        x, dy = x.float().contiguous(), dy.float().contiguous()
        self._c.lk_grad_weight(
            self._float32,
            ctypes.byref(self._map(pairs)),
            address(x),
            Int64(x.shape[1]),
            address(dy),
            Int64(dy.shape[1]),
            Int64(x.shape[1]),
            Int64(dy.shape[1]),
            torch.get_num_threads(),
            address(grad),
        )
        return grad

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return self._pack(weight, transpose=False, dtype=dtype, reuse=False)

    def _pack(
        self,
        weight: Tensor,
        *,
        transpose: bool,
        dtype: torch.dtype = torch.float32,
        reuse: bool = True,
    ) -> Tensor:
        """`reuse`: only valid until the next call on this thread; training packs every step."""
        dtype = SPLIT if dtype == torch.float32 and self.splits() else dtype
        if dtype not in self._by_type:
            raise TypeError(f'the native engine does not compute in {dtype} on this CPU')
        kernels = self._by_type[dtype]
        weight = weight.detach().float().contiguous()
        c_out, slots, c_in = weight.shape
        rows, columns = (c_out, c_in) if transpose else (c_in, c_out)
        size = self._c.lk_packed(kernels, slots, rows, columns)
        packed = self._workspace(size, dtype) if reuse else torch.empty(size, dtype=dtype)
        shape = Int64(slots), Int64(c_in), Int64(c_out)
        self._c.lk_pack(
            kernels,
            address(weight),
            *shape,
            int(transpose),
            torch.get_num_threads(),
            address(packed),
        )
        return packed

    def _workspace(self, size: int, dtype: torch.dtype) -> Tensor:
        """One buffer a thread: a new one per layer would cut up the memory between activations.

        Large from the start, so that it lies outside the heap; untouched pages take no memory.
        """
        bytes_needed = size * dtype.itemsize
        held: Tensor | None = getattr(self._local, 'workspace', None)
        if held is None or len(held) < bytes_needed:
            held = torch.empty(max(bytes_needed, WORKSPACE), dtype=torch.uint8)
            self._local.workspace = held
        return held[:bytes_needed].view(dtype)

    def splits(self) -> bool:
        """Whether float32 is now computed in two parts."""
        return SPLIT in self._by_type and torch.get_float32_matmul_precision() != 'highest'

    def _map(self, pairs: KernelMap) -> MapView:
        """The C view of a map, with the cuts by block of result rows; made once."""
        view, *_ = pairs.derived.get('native') or self._view(pairs)
        return view

    def _view(self, pairs: KernelMap) -> tuple[MapView, Any, Tensor]:
        blocks = -(-pairs.n_out // BLOCK)
        starts = (Int64 * (pairs.slots + 1))(*pairs.starts)
        cuts = torch.empty(pairs.slots, blocks + 1, dtype=torch.int32)
        size = Int64(pairs.slots), Int64(pairs.n_out)
        self._c.lk_cuts(
            address(pairs.out_rows), starts, *size, torch.get_num_threads(), address(cuts)
        )
        view = MapView(
            pairs.in_rows.data_ptr(),
            pairs.out_rows.data_ptr(),
            ctypes.addressof(starts),
            cuts.data_ptr(),
            pairs.slots,
            pairs.n_out,
        )
        pairs.derived['native'] = view, starts, cuts  # the view does not own the others
        return view, starts, cuts

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
        dtype = torch.float32 if packed.dtype == SPLIT else packed.dtype
        n_in, channels = x.shape
        view = MapView(slots=1, rows=n_in) if pairs is None else self._map(pairs)
        kernels, size = self._by_type[packed.dtype], (view.slots, channels, out_channels)
        assert packed.numel() == self._c.lk_packed(kernels, *size), size
        assert pairs is None or n_in == pairs.n_in, (n_in, pairs.n_in)
        y = torch.empty(view.rows, out_channels, dtype=dtype)
        assert residual is None or residual.shape == y.shape, residual.shape
        x = readable(x, dtype)
        residual = None if residual is None else readable(residual, dtype)
        bias = None if bias is None else readable(bias, torch.float32)
        job = ConvJob(
            x.data_ptr(),
            y.data_ptr(),
            packed.data_ptr(),
            None if bias is None else bias.data_ptr(),
            None if residual is None else residual.data_ptr(),
            x.stride(0),
            out_channels,
            0 if residual is None else residual.stride(0),
            channels,
            out_channels,
            relu,
            torch.get_num_threads(),
        )
        self._c.lk_run(kernels, view, job)
        return y
