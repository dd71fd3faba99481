# SPDX-License-Identifier: Apache-2.0
"""Starts kernels, and says whether they run on a GPU or under Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import os
from typing import Any

import torch
from torch import Tensor

INTERPRETER = 'TRITON_INTERPRET'  # Triton's own variable, read when kernels are defined


def interpreted() -> bool:
    """Whether kernels run on a CPU, step by step: for tests."""
    return os.environ.get(INTERPRETER) == '1'


@dataclass(frozen=True)
class KernelLaunch:
    """A kernel as it would have been started."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    warps: int
    fixed: dict[str, Any]  # what it is compiled for


_recorded: list[list[KernelLaunch]] = []


@contextmanager
def recorded() -> Iterator[list[KernelLaunch]]:
    """Inside, kernels are noted and not started: to compile them elsewhere, or to count them."""
    noted: list[KernelLaunch] = []
    _recorded.append(noted)
    try:
        yield noted
    finally:
        _recorded.remove(noted)


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, **fixed: Any
) -> None:
    """On the device of the first argument; fixed: what a kernel is compiled for."""
    if 0 in grid:
        return
    if _recorded:
        _recorded[-1].append(KernelLaunch(kernel, grid, arguments, warps, fixed))
        return
    first: Tensor = arguments[0]
    with torch.cuda.device_of(first):
        kernel[grid](*arguments, num_warps=warps, **fixed)
