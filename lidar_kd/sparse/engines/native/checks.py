# SPDX-License-Identifier: Apache-2.0
"""The door of the native library: C reads memory as it is told to, so nothing wrong may get in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lidar_kd.sparse.engines.maps import KernelMap, KeyLayout

MOST_CHANNELS = 1 << 16  # of a layer; what one thread works with stays below a gigabyte
MOST_ROWS = 2**31 - 1  # rows are int32
KEY_BITS = 63


def check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, *shape: int | None) -> None:
    """Refuses what C would misread; a size of None may be any."""
    fits = tensor.ndim == len(shape) and all(
        wanted is None or size == wanted for size, wanted in zip(tensor.shape, shape)
    )
    if not (fits and tensor.dtype == dtype and tensor.is_cpu and tensor.numel() <= MOST_ROWS * 64):
        wanted_shape = ', '.join('any' if size is None else str(size) for size in shape)
        raise ValueError(
            f'native engine: {name} is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}: '
            f'give ({wanted_shape}) {dtype} on the CPU'
        )


def check_channels(*channels: int) -> None:
    if not 0 <= min(channels) <= max(channels) <= MOST_CHANNELS:
        raise ValueError(
            f'native engine: a layer of {" -> ".join(map(str, channels))} channels: '
            f'at most {MOST_CHANNELS}'
        )


def check_layer(x: Tensor, pairs: KernelMap | None, out_channels: int) -> None:
    """Features (N, C) and a channel count that fit a map; asked once a layer, hence terse."""
    if x.ndim != 2 or not x.is_cpu:
        raise ValueError(
            f'native engine: features of shape {tuple(x.shape)} on {x.device}: '
            'give (cells, channels) on the CPU'
        )
    if pairs is not None and len(x) != pairs.n_in:
        raise ValueError(
            f'native engine: {len(x)} rows of features for a map of {pairs.n_in} cells: '
            'give one row per cell'
        )
    if max(x.shape[1], out_channels) > MOST_CHANNELS or out_channels < 0:
        check_channels(x.shape[1], out_channels)


def check_same_shape(name: str, tensor: Tensor, wanted: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(wanted) or not tensor.is_cpu:
        raise ValueError(
            f'native engine: {name} is {tuple(tensor.shape)} on {tensor.device}: '
            f'give {tuple(wanted)} on the CPU'
        )


def check_map(pairs: KernelMap) -> None:
    """That arrays and counts agree; what they hold is for lk_check."""
    count = pairs.pairs
    for name, rows in (('in_rows', pairs.in_rows), ('out_rows', pairs.out_rows)):
        check_tensor(f'{name} of a kernel map', rows, torch.int32, count)
    rises = all(a <= b for a, b in zip(pairs.starts, pairs.starts[1:]))
    sizes = 0 <= pairs.n_in <= MOST_ROWS and 0 <= pairs.n_out <= MOST_ROWS
    if not (rises and sizes and pairs.starts[0] == 0):
        refuse_map(pairs)


def refuse_map(pairs: KernelMap) -> None:
    raise ValueError(
        f'native engine: a kernel map from {pairs.n_in} to {pairs.n_out} rows names others, or '
        'its rows do not increase inside a slot: make it with Level'
    )


def check_layout(layout: KeyLayout) -> None:
    if sum(layout.bits) > KEY_BITS or min(layout.bits) < 0 or len(layout.bits) != 4:
        raise ValueError(
            f'native engine: keys of {sum(layout.bits)} bits: at most {KEY_BITS}; '
            'make the layout with key_layout()'
        )


def check_sizes(name: str, sizes: Sequence[int], allowed: Sequence[int]) -> None:
    """Of a kernel or a stride: three, each one that C has room for."""
    if len(sizes) != 3 or any(size not in allowed for size in sizes):
        raise ValueError(
            f'native engine: {name} {tuple(sizes)}: give three sizes of {tuple(allowed)}'
        )
