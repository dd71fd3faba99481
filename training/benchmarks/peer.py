# SPDX-License-Identifier: Apache-2.0
"""spconv on the CPU as a peer to measure against; never an engine of the package.

Its CPU build is right with one thread only, so every call must run under threads(1); its backward
needs a function that the CPU build lacks. It keeps its own maps, row order and kernels: our
networks run over it unchanged, because an engine decides what a map is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
import importlib.util
from typing import Any

from torch import Tensor

from lidar_kd.sparse import Engine, KernelMap
from lidar_kd.sparse.engines.maps import KeyLayout


def spconv_installed() -> bool:
    return importlib.util.find_spec('spconv') is not None


@dataclass(eq=False)
class PeerMap(KernelMap):
    """spconv's pairs (2, K, N) and their number per slot instead of ours."""

    pairs_of_slots: Any = None
    numbers: Any = None
    submanifold: bool = False
    inverse: bool = False

    @cached_property
    def transposed(self) -> PeerMap:
        return PeerMap(
            self.out_rows,
            self.in_rows,
            self.starts,
            self.n_out,
            self.n_in,
            pairs_of_slots=self.pairs_of_slots,
            numbers=self.numbers,
            inverse=not self.inverse,
        )


class SpconvPeer(Engine):
    name = 'spconv (1 thread)'
    sorts = False  # it hashes the cells, and its coarser ones come in any order

    def __init__(self) -> None:
        from spconv.core import ConvAlgo
        from spconv.pytorch import ops

        self._ops, self._algorithm = ops, ConvAlgo.Native
        ops.get_current_stream = lambda: 0

    def keys(self, coords: Tensor, layout: KeyLayout) -> Tensor:
        """The cells themselves: it makes no keys of them."""
        return coords

    def submanifold(self, keys: Tensor, kernel: Sequence[int], layout: KeyLayout) -> KernelMap:
        padding = [size // 2 for size in kernel]
        return self._pairs(keys, list(kernel), [1, 1, 1], padding, submanifold=True)[1]

    def strided(
        self, coords: Tensor, stride: Sequence[int], layout: KeyLayout
    ) -> tuple[Tensor, KernelMap]:
        return self._pairs(coords, list(stride), list(stride), [0, 0, 0], submanifold=False)

    def _pairs(
        self,
        coords: Tensor,
        kernel: list[int],
        stride: list[int],
        padding: list[int],
        *,
        submanifold: bool,
    ) -> tuple[Tensor, KernelMap]:
        scans, *shape = [int(top) + 1 for top in coords.amax(0)]
        shape = [size + size % 2 for size in shape]  # else the last odd cell has no coarse one
        ones, zeros = [1, 1, 1], [0, 0, 0]
        coarse, pairs, numbers = self._ops.get_indice_pairs(
            coords,
            scans,
            shape,
            self._algorithm,
            kernel,
            stride,
            padding,
            ones,
            zeros,
            subm=submanifold,
        )
        none = coords.new_empty(0)
        counts = (len(coords), len(coarse))
        found = PeerMap(
            none,
            none,
            (0,),
            *counts,
            pairs_of_slots=pairs,
            numbers=numbers,
            submanifold=submanifold,
        )
        return coarse, found

    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        assert isinstance(pairs, PeerMap)
        result: Tensor = self._ops.indice_conv(
            x,
            _shaped(weight),
            pairs.pairs_of_slots,
            pairs.numbers,
            pairs.n_out,
            pairs.inverse,
            pairs.submanifold,
            algo=self._algorithm,
        )
        return result

    def backward(
        self, x: Tensor, weight: Tensor, dy: Tensor, pairs: KernelMap, *, need_x: bool
    ) -> tuple[Tensor | None, Tensor]:
        assert isinstance(pairs, PeerMap)
        dx, dw = self._ops.indice_conv_backward(
            x,
            _shaped(weight),
            dy,
            pairs.pairs_of_slots,
            pairs.numbers,
            pairs.inverse,
            pairs.submanifold,
            algo=self._algorithm,
        )
        return dx, dw.reshape(weight.shape)

    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        raise NotImplementedError('spconv returns both gradients at once')

    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor:
        raise NotImplementedError('spconv returns both gradients at once')


def _shaped(weight: Tensor) -> Tensor:
    """(C_out, K, C_in) as spconv holds it."""
    size = {27: (3, 3, 3), 8: (2, 2, 2), 125: (5, 5, 5)}[weight.shape[1]]
    return weight.reshape(weight.shape[0], *size, weight.shape[2]).contiguous()
