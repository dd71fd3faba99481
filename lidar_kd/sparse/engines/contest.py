# SPDX-License-Identifier: Apache-2.0
"""Which of several engines is the fastest on this GPU: measured when one is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import logging
from statistics import median

import torch

from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap, key_layout, submanifold_pairs

log = logging.getLogger(__name__)
CELLS = 40_000  # about those of a scan
CHANNELS = (16, 64)  # of layers that are bound by memory, and by arithmetic
ROUNDS = 7


def fastest(engines: Sequence[Engine], measure: Callable[[Engine], float]) -> Engine:
    """The one with the smallest time in ms; who fails is left out, and the last is always able."""
    times: dict[Engine, float] = {}
    for engine in engines:
        try:
            times[engine] = measure(engine)
        except RuntimeError as error:  # of CUDA: no memory, no kernel for this GPU
            reason = str(error).partition('\n')[0]
            log.warning('engine %s is left out: %s', engine.name, reason)
    figures = ', '.join(f'{engine.name} {ms:.2f} ms' for engine, ms in times.items())
    log.info('engines measured: %s', figures)
    return min(times, key=lambda engine: times[engine], default=engines[-1])


@torch.inference_mode()
def time_layers(engine: Engine) -> float:
    """Two layers of 3^3 in float16 over a made-up surface: the median, in ms."""
    pairs = hilly_map('cuda')
    layers = [
        (
            torch.randn(pairs.n_in, width, device='cuda').half(),
            engine.pack(torch.randn(width, pairs.slots, width, device='cuda').half(), torch.half),
        )
        for width in CHANNELS
    ]

    def run() -> None:
        for x, packed in layers:
            engine.infer(x, packed, pairs, x.shape[1], relu=True)

    return median_ms(run)


def hilly_map(device: str) -> KernelMap:
    """Of 3^3, over a made-up surface of about as many cells as a scan has."""
    cells = torch.randint(0, 250, (CELLS, 2), generator=torch.manual_seed(0))
    height = (8 * (cells / 40).sin().sum(1)).long()
    coords = torch.cat([torch.zeros(CELLS, 1), cells, height[:, None]], 1).int().to(device)
    layout = key_layout(coords)
    return submanifold_pairs(torch.unique(layout.keys(coords)), (3, 3, 3), layout)


def median_ms(run: Callable[[], object]) -> float:
    """On the GPU, after a first time, which compiles and derives from maps what engines want."""

    def timed() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        ms: float = begin.elapsed_time(end)
        return ms

    timed()
    return median(timed() for _ in range(ROUNDS))
