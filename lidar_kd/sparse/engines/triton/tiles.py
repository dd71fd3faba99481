# SPDX-License-Identifier: Apache-2.0
"""Sizes of tiles for each kind of GPU: tiles.json, which ships; what tuning.py found on this GPU
comes before it; nothing is tuned on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
import json
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).with_name('tiles.json')
MOST_TOGETHER = 8  # slots, of a layer that halves: never split, nor sorted at fixed shapes
LEAST = 16  # rows, columns and depth that a tensor core multiplies at once


@dataclass(frozen=True)
class TileSizes:
    """rows x columns of a result, summed over `depth` at a time, by `warps` of 32 threads that
    fetch `stages` steps ahead.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class DeviceTiles:
    """What suits one kind of GPU."""

    capability: int  # 87: compute capability 8.7
    rows: int  # of every tile of a convolution: maps are arranged by it
    share: int  # pairs that one part of a weight's gradient is summed over
    split_from: int  # channels, from which slots are visited in two groups
    limits: dict[str, list[list[int]]]  # bits of a number -> lines, see _most
    tuned: dict[str, TileSizes] = field(default_factory=dict)  # tile_key -> instead of those

    def groups(self, slots: int, c_in: int, c_out: int) -> int:
        """Of slots, each visited in an order of its own (plan.py)."""
        return 2 if slots > MOST_TOGETHER and min(c_in, c_out) >= self.split_from else 1

    def convolution(self, dtype: torch.dtype, c_in: int, c_out: int) -> TileSizes:
        tuned = self.tuned.get(tile_key('convolution', dtype, c_in, c_out))
        if tuned:
            return tuned
        columns, depth, warps, stages = self._most(dtype, c_out)
        return TileSizes(
            self.rows, least_padding(c_out, columns, 1), least_padding(c_in, depth, 2),
            warps, stages,
        )  # fmt: skip

    def linear(self, dtype: torch.dtype, c_in: int, c_out: int) -> TileSizes:
        """Of a layer without a map. Its loop over channels is unrolled: three steps of it and more
        spill on compute capability 9.0 and 11.0 when they are fetched ahead.
        """
        tile = self.convolution(dtype, c_in, c_out)
        return replace(tile, stages=1) if c_in > 2 * tile.depth else tile

    def gradient(self, dtype: torch.dtype, c_in: int, c_out: int) -> TileSizes:
        """Of a weight (c_out, c_in); `depth` pairs at a time."""
        tuned = self.tuned.get(tile_key('gradient', dtype, c_in, c_out))
        if tuned:
            return tuned
        columns, depth, warps, stages = self._most(dtype, max(c_in, c_out))
        rows = min(columns, self.rows)
        return TileSizes(
            least_padding(c_out, rows, 1), least_padding(c_in, rows, 1), max(depth, 32),
            warps, stages,
        )  # fmt: skip

    def _most(self, dtype: torch.dtype, channels: int) -> list[int]:
        """(columns, depth, warps, stages) of the first line that reaches so many channels."""
        lines = self.limits[str(8 * dtype.itemsize)]
        most = next((line for line in lines if channels <= line[0]), lines[-1])
        return most[1:]


def tile_key(kind: str, dtype: torch.dtype, c_in: int, c_out: int) -> str:
    """kind: convolution or gradient."""
    return f'{kind} {str(dtype).removeprefix("torch.")} {c_in} -> {c_out}'


def least_padding(size: int, most: int, waste: int) -> int:
    """The largest power of two up to `most` whose tiles cover `size` with the least padding, or
    with up to 1/waste of it more than that.
    """
    powers = [LEAST << power for power in range((most // LEAST).bit_length())]
    covered = {power: -(-size // power) * power for power in powers}
    least = min(covered.values())
    return max(power for power, total in covered.items() if (total - least) * waste * 2 <= least)


@cache
def _file() -> dict[str, dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding='utf-8'))
    return kinds


def tiles_of(capability: int) -> DeviceTiles:
    """Those of the newest kind that is not newer; of the oldest where all are newer."""
    kinds = {int(kind): settings for kind, settings in _file().items()}
    kind = max((known for known in kinds if known <= capability), default=min(kinds))
    return DeviceTiles(kind, **kinds[kind])


def capability_of(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
