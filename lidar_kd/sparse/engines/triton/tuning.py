# SPDX-License-Identifier: Apache-2.0
"""Looks for faster tiles on this GPU, when a command asks for it; never on the way.

From the sizes that ship it goes on one number at a time, and takes what is clearly faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
import logging
import math

import torch
from torch import Tensor

from lidar_kd.sparse.engines.contest import hilly_map, median_ms
from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.sparse.engines.triton.tiles import DeviceTiles, LEAST, tile_key, TileSizes
from lidar_kd.sparse.engines.triton.tuned import MOST

log = logging.getLogger(__name__)
GAIN = 0.03  # of the time, below which it may be chance
TOLERANCE = 2e-2  # of a result, relative to its largest: three times what bfloat16 is off by
NUMBERS = ('columns', 'depth', 'warps', 'stages')  # rows are those that maps are arranged by
KINDS = ('convolution', 'gradient')


@dataclass(frozen=True)
class TunedLayer:
    kind: str  # of KINDS
    dtype: torch.dtype
    c_in: int
    c_out: int

    @property
    def key(self) -> str:
        return tile_key(self.kind, self.dtype, self.c_in, self.c_out)

    def sizes(self, tiles: DeviceTiles) -> TileSizes:
        find = tiles.convolution if self.kind == 'convolution' else tiles.gradient
        return find(self.dtype, self.c_in, self.c_out)


LayerTimer = Callable[[DeviceTiles, TunedLayer], float]  # ms


def tune_layer(tiles: DeviceTiles, layer: TunedLayer, time_ms: LayerTimer) -> TileSizes:
    """The fastest sizes found; those that ship where nothing is clearly faster."""

    def tried(sizes: TileSizes) -> float:
        try:
            return time_ms(replace(tiles, tuned={layer.key: sizes}), layer)
        except RuntimeError as error:  # Triton's: too little shared memory for these
            log.debug('%s %s: %s', layer.key, sizes, error)
            return math.inf

    best = layer.sizes(tiles)
    least = tried(best)
    for name in NUMBERS:
        for sizes in list(_beside(best, name)):
            ms = tried(sizes)
            if ms < (1 - GAIN) * least:
                best, least = sizes, ms
    return best


def _beside(sizes: TileSizes, name: str) -> Iterator[TileSizes]:
    """One number halved, and doubled; stages one fewer, and one more."""
    value = getattr(sizes, name)
    least = LEAST if name in ('columns', 'depth') else 1
    others = (value - 1, value + 1) if name == 'stages' else (value // 2, value * 2)
    for other in others:
        if least <= other <= getattr(MOST, name):
            yield replace(sizes, **{name: other})


class GpuLayerTimer:
    """Times layers over a made-up surface on the current GPU; sizes whose result is off fail."""

    def __init__(self) -> None:
        self._pairs = hilly_map('cuda')
        self._wanted: tuple[str, Tensor] | None = None  # of one layer, in float32

    @torch.no_grad()
    def __call__(self, tiles: DeviceTiles, layer: TunedLayer) -> float:
        from lidar_kd.sparse.engines.triton.engine import TritonEngine

        if self._wanted is None or self._wanted[0] != layer.key:
            exact = replace(layer, dtype=torch.float32)
            self._wanted = layer.key, layer_run(TorchEngine('cuda'), exact, self._pairs)()
        run, wanted = layer_run(TritonEngine('cuda', tiles), layer, self._pairs), self._wanted[1]
        off = float((run().float() - wanted).abs().max() / wanted.abs().max())
        if not off <= TOLERANCE:  # NaN too
            raise RuntimeError(f'off by {off:.1e}')
        return median_ms(run)


def layer_run(engine: Engine, layer: TunedLayer, pairs: KernelMap) -> Callable[[], Tensor]:
    """What the layer asks of an engine, over the same random numbers for every number type."""
    device = pairs.in_rows.device
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).half().to(layer.dtype)

    x = random(pairs.n_in, layer.c_in)
    if layer.kind == 'gradient':
        dy = random(pairs.n_out, layer.c_out)
        return lambda: engine.grad_weight(x, dy, pairs)
    packed = engine.pack(random(layer.c_out, pairs.slots, layer.c_in), layer.dtype)
    return lambda: engine.infer(x, packed, pairs, layer.c_out)
