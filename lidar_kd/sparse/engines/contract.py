# SPDX-License-Identifier: Apache-2.0
"""What an engine does: sparse convolution, and parts that have a default (parts.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lidar_kd.sparse.engines.maps import KernelMap, KeyLayout, strided_pairs, submanifold_pairs
from lidar_kd.sparse.engines.parts import (
    Grouping,
    PatchAttention,
    ProcessMemory,
    RowAnswers,
    TrainingNorms,
)


class Engine(ABC):
    """Sparse convolution on one kind of device: keys, maps, products, gradients.

    Shapes: x (N_in, C_in), weight (C_out, K, C_in), y (N_out, C_out); K slots as in maps.py.
    """

    name: str
    joins = False  # infer_into() takes no copy, so that no two tensors need be concatenated
    sorts = True  # its maps need cells sorted and distinct; a peer that hashes them does not
    # what is worth a kernel beside convolution; an engine that has one puts its own here
    grouping: Grouping = Grouping()
    norms: TrainingNorms = TrainingNorms()
    attention: PatchAttention = PatchAttention()
    memory: ProcessMemory = ProcessMemory()
    answers: RowAnswers = RowAnswers()

    def keys(self, coords: Tensor, layout: KeyLayout) -> Tensor:
        return layout.keys(coords)

    def submanifold(self, keys: Tensor, kernel: Sequence[int], layout: KeyLayout) -> KernelMap:
        return submanifold_pairs(keys, kernel, layout)

    def strided(
        self, coords: Tensor, stride: Sequence[int], layout: KeyLayout
    ) -> tuple[Tensor, KernelMap]:
        return strided_pairs(coords, stride, layout)

    def computes(self, dtype: torch.dtype) -> bool:
        """Whether inference in this type is worth asking for on this engine."""
        return dtype == torch.float32

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x (..., C_in), weight (C_out, C_in); differentiable."""
        return functional.linear(x, weight, bias)

    @abstractmethod
    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor: ...

    @abstractmethod
    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor: ...

    @abstractmethod
    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor: ...

    def backward(
        self, x: Tensor, weight: Tensor, dy: Tensor, pairs: KernelMap, *, need_x: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Gradients of the input (where needed) and of the weight."""
        dx = self.grad_input(dy, weight, pairs) if need_x else None
        return dx, self.grad_weight(x, dy, pairs)

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight as `infer` wants it; done once per layer."""
        return weight.to(dtype)

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
        """relu?(convolution + bias? + residual?) without gradients; no pairs: a linear layer."""
        y = x @ packed[:, 0].T if pairs is None else self.forward(x, packed, pairs)
        y = y if bias is None else y.add_(bias.to(y.dtype))
        y = y if residual is None else y.add_(residual)
        return y.relu_() if relu else y

    def infer_into(
        self,
        out: Tensor,
        x: Tensor,
        packed: Tensor,
        pairs: KernelMap | None,
        *,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """infer(), written to `out` (N_out, C_out), whose rows may lie any distance apart."""
        y = self.infer(x, packed, pairs, out.shape[1], bias=bias, residual=residual, relu=relu)
        return out.copy_(y)
