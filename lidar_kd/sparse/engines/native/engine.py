# SPDX-License-Identifier: Apache-2.0
"""The native CPU engine: the C kernels that were compiled with the package."""

from __future__ import annotations

from collections.abc import Sequence
import ctypes
import os
import threading
from typing import Any, NoReturn

import torch
from torch import Tensor

from lidar_kd.errors import ConfigError
from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap, KeyLayout
from lidar_kd.sparse.engines.native.checks import (
    check_channels,
    check_layer,
    check_layout,
    check_map,
    check_same_shape,
    check_sizes,
    check_tensor,
    refuse_map,
)
from lidar_kd.sparse.engines.native.grouping import NativeAnswers, NativeGrouping
from lidar_kd.sparse.engines.native.library import (
    address,
    int32s,
    library,
    NO_MEMORY,
    NOT_SORTED,
    readable,
    succeed,
)
from lidar_kd.sparse.engines.native.linear import linear_rows
from lidar_kd.sparse.engines.native.memory import NativeMemory
from lidar_kd.sparse.engines.native.norm import NativeNorms
from lidar_kd.sparse.engines.native.structs import (
    ConvJob,
    GradientJob,
    Int64,
    MapView,
    PackingJob,
    Pointer,
    StridingJob,
)
from lidar_kd.sparse.engines.native.transformer import NativeAttention

ISA_VARIABLE = 'LIDAR_KD_ISA'  # the most to use: avx512, avx2, portable; as a lesser machine
BFLOAT16 = ('amx', 'avx512bf16')  # the faster first
WORKSPACE = 64 << 20  # bytes reserved for packed weights in training
BLOCK = 128  # LK_BLOCK of kernels.h
SPLIT = torch.int16  # marks packed weights whose float32 values are in two bfloat16 parts


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
        by_type = {torch.float32: self._float32}
        if not os.environ.get(ISA_VARIABLE):  # all that knows bfloat16 is above avx512
            kernels = (Pointer(self._c.lk_find(name.encode())) for name in bfloat16)
            by_type[torch.bfloat16] = next(filter(None, kernels), Pointer())
            by_type[SPLIT] = Pointer(self._c.lk_find(b'split'))
        self._by_type = {dtype: found for dtype, found in by_type.items() if found}
        if not self._float32 or wanted in (*BFLOAT16, 'split'):
            raise ConfigError(
                f'{ISA_VARIABLE}: no float32 kernels for {wanted!r} on this machine: '
                'unset it, or set it to avx512, avx2 or portable'
            )
        self.isa = self._c.lk_name(self._float32).decode()
        self.grouping, self.answers = NativeGrouping(self._c), NativeAnswers(self._c)
        self.attention = NativeAttention(self._c, self._float32)
        self.norms, self.memory = NativeNorms(self._c, self), NativeMemory(self._c)

    def computes(self, dtype: torch.dtype) -> bool:
        return dtype != SPLIT and dtype in self._by_type

    def keys(self, coords: Tensor, layout: KeyLayout) -> Tensor:
        coords = coords.int().contiguous()
        check_tensor('cells', coords, torch.int32, None, 4)
        check_layout(layout)
        keys = torch.empty(len(coords), dtype=torch.int64)
        low, bits = int32s(layout.low), int32s(layout.bits)
        self._c.lk_keys(
            address(coords), Int64(len(coords)), low, bits, torch.get_num_threads(), address(keys)
        )
        return keys

    def submanifold(self, keys: Tensor, kernel: Sequence[int], layout: KeyLayout) -> KernelMap:
        check_tensor('keys', keys, torch.int64, None)
        check_sizes('kernel', kernel, (1, 3, 5, 7, 9))
        check_layout(layout)
        keys = keys.contiguous()
        n, slots, threads = len(keys), kernel[0] * kernel[1] * kernel[2], torch.get_num_threads()
        starts, sizes, bits = (Int64 * (slots + 1))(), int32s(kernel), int32s(layout.bits)
        found = self._c.lk_search_new(address(keys), Int64(n), bits, sizes, threads, starts)
        if not found:
            _refuse_cells(starts[0], n)
        search = Pointer(found)
        in_rows, out_rows = torch.empty(2, starts[slots], dtype=torch.int32)
        self._c.lk_search_take(search, sizes, starts, threads, address(in_rows), address(out_rows))
        return KernelMap(in_rows, out_rows, tuple(starts), n, n, trusted=True)

    def strided(
        self, coords: Tensor, stride: Sequence[int], layout: KeyLayout
    ) -> tuple[Tensor, KernelMap]:
        check_tensor('cells', coords, torch.int32, None, 4)
        check_sizes('stride', stride, (1, 2))
        coords, n, sizes = coords.contiguous(), len(coords), int32s(stride)
        coarse = torch.empty(n, 4, dtype=torch.int32)
        in_rows, out_rows = torch.empty(2, n, dtype=torch.int32)
        starts = (Int64 * (stride[0] * stride[1] * stride[2] + 1))()
        job = StridingJob(
            coords=coords.data_ptr(),
            stride=ctypes.addressof(sizes),
            coarse=coarse.data_ptr(),
            in_rows=in_rows.data_ptr(),
            out_rows=out_rows.data_ptr(),
            starts=ctypes.addressof(starts),
            rows=n,
        )
        count = self._c.lk_stride(ctypes.byref(job))
        if count < 0:
            _refuse_cells(count, n)
        pairs = KernelMap(in_rows, out_rows, tuple(starts), n, count, trusted=True)
        return coarse[:count], pairs

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Sums have one order, whatever the threads; BLAS has another for each number of them."""
        if torch.is_autocast_enabled('cpu') or not x.dtype == weight.dtype == torch.float32:
            return super().linear(x, weight, bias)
        return linear_rows(x, weight, bias, self)

    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap | None) -> Tensor:
        return self.infer(x, self._pack(weight, transpose=False), pairs, weight.shape[0])

    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap | None) -> Tensor:
        packed, back = self._pack(weight, transpose=True), pairs and pairs.transposed
        return self.infer(dy, packed, back, weight.shape[2])

    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap | None) -> Tensor:
        check_layer(x, pairs, dy.shape[-1])
        rows = len(x) if pairs is None else pairs.n_out
        check_same_shape('the gradient of a layer', dy, (rows, dy.shape[-1]))
        view = MapView(slots=1, rows=rows) if pairs is None else self._map(pairs)
        grad = torch.empty(dy.shape[1], view.slots, x.shape[1])
        x, dy = x.float().contiguous(), dy.float().contiguous()
        job = GradientJob(
            x=x.data_ptr(),
            dy=dy.data_ptr(),
            dw=grad.data_ptr(),
            ldx=x.shape[1],
            ldy=dy.shape[1],
            cin=x.shape[1],
            cout=dy.shape[1],
            threads=torch.get_num_threads(),
        )
        succeed(self._c.lk_grad_weight(self._float32, ctypes.byref(view), ctypes.byref(job)))
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
        if weight.ndim != 3 or not weight.is_cpu:
            check_tensor('a weight', weight, weight.dtype, None, None, None)
        check_channels(weight.shape[0], weight.shape[2])
        weight = weight.detach().float().contiguous()
        c_out, slots, c_in = weight.shape
        rows, columns = (c_out, c_in) if transpose else (c_in, c_out)
        size = self._c.lk_packed(kernels, slots, rows, columns)
        packed = self._workspace(size, dtype) if reuse else torch.empty(size, dtype=dtype)
        job = PackingJob(
            weight=weight.data_ptr(),
            packed=packed.data_ptr(),
            slots=slots,
            cin=c_in,
            cout=c_out,
            transpose=transpose,
            threads=torch.get_num_threads(),
        )
        self._c.lk_pack(kernels, ctypes.byref(job))
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
        check_map(pairs)
        threads, slots = torch.get_num_threads(), pairs.slots
        # kept, for the view does not own them; a map without pairs may have no address
        in_rows, out_rows = pairs.in_rows.contiguous(), pairs.out_rows.contiguous()
        starts = (Int64 * (slots + 1))(*pairs.starts)
        cuts = torch.empty(slots, -(-pairs.n_out // BLOCK) + 1, dtype=torch.int32)
        view = MapView(
            in_rows.data_ptr() or ctypes.addressof(starts),  # C reads NULL as the identity
            out_rows.data_ptr() or ctypes.addressof(starts),
            ctypes.addressof(starts),
            cuts.data_ptr(),
            slots,
            pairs.n_out,
        )
        inputs = Int64(pairs.n_in)
        if not pairs.trusted and self._c.lk_check(ctypes.byref(view), inputs, threads) < 0:
            refuse_map(pairs)
        size = Int64(slots), Int64(pairs.n_out)
        self._c.lk_cuts(Pointer(view.out_rows), starts, *size, threads, address(cuts))
        pairs.derived['native'] = view, (starts, in_rows, out_rows), cuts
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
        check_layer(x, pairs, out_channels)
        n_in, channels = x.shape
        view = MapView(slots=1, rows=n_in) if pairs is None else self._map(pairs)
        if packed.dtype not in self._by_type:
            raise ValueError(f'native engine: no {packed.dtype} here: give what pack() returned')
        kernels, size = self._by_type[packed.dtype], (view.slots, channels, out_channels)
        if packed.numel() != self._c.lk_packed(kernels, *size) or not packed.is_contiguous():
            raise ValueError(
                f'native engine: {packed.numel()} packed values for {size[0]} slots of '
                f'{channels} -> {out_channels} channels: give what pack() returned for this layer'
            )
        y = torch.empty(view.rows, out_channels, dtype=dtype)
        if residual is not None and residual.shape != y.shape:
            check_same_shape('a shortcut', residual, y.shape)
        if bias is not None and bias.shape != y.shape[1:]:
            check_same_shape('a bias', bias, y.shape[1:])
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
        if self._c.lk_run(kernels, view, job):
            succeed(NO_MEMORY)
        return y


def _refuse_cells(status: int, cells: int) -> NoReturn:
    if status == NOT_SORTED:
        raise ValueError(
            f'native engine: the {cells} cells are not sorted and distinct: make them with '
            'voxelize() or sparse_tensor(), and change none of them afterwards'
        )
    succeed(status)
    raise AssertionError(status)
