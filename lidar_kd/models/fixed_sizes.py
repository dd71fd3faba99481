# SPDX-License-Identifier: Apache-2.0
"""Scans of any number of points at fixed shapes: by the smallest size that holds them, with more
room where a scan did not fit, and given up step by step where a GPU refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import logging

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn

from lidar_kd.models.fixed_scan import FixedAnswers, FixedNetwork, FixedScan, Misfit
from lidar_kd.models.litept import LitePT
from lidar_kd.models.minkunet import MinkUNet
from lidar_kd.models.ptv3 import PTv3, STEM
from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.fixed.level import rooms_for
from lidar_kd.voxels import CartesianGrid, Grid

log = logging.getLogger(__name__)

SIZES = (1 << 15, 1 << 16, 1 << 17, 1 << 18)  # points; a scan takes the next larger one
MOST_LEVELS = 5  # keys keep a margin of 16 cells, one of the fifth level
MOST_GROWTHS = 2  # of a size; a scan that does not fit then has its layers one by one
MOST_UNFIT = 3  # scans of a size in a row
SPARE, STEP = 1.25, 1024  # room for a quarter more cells than the scan had, in steps


class FixedScans:
    """One FixedScan per size, made when first needed.

    setbacks: what a GPU refused and what was done about it, a sentence each; for diagnostics.
    """

    def __init__(
        self,
        grid: CartesianGrid,
        model: nn.Module,
        dtype: torch.dtype,
        wants: FixedNetwork,
        engine: Engine | None,
    ) -> None:
        self._made_of, self._engine = (grid, model, dtype, wants), engine
        self._graphs = next(model.parameters()).is_cuda
        self._scans: dict[int, FixedScan] = {}
        self._rooms = {size: rooms_for(size, wants.levels) for size in SIZES}
        self._growths: Counter[int] = Counter()
        self._unfit: Counter[int] = Counter()
        self._left: set[int] = set()  # sizes that are answered otherwise
        self.gave_up = False
        self.setbacks: list[str] = []

    def answer(self, scan: NDArray[np.float32]) -> FixedAnswers | None:
        """None where it has to be answered otherwise."""
        size = next((size for size in SIZES if size >= len(scan)), None)
        if size is None or self.gave_up or size in self._left:
            return None
        try:
            if size not in self._scans:
                self._scans[size] = FixedScan(
                    self._rooms[size], *self._made_of, engine=self._engine, graph=self._graphs
                )
            found = self._scans[size].answer(scan)
        except RuntimeError as error:  # of CUDA: no memory, or a call that no graph can hold
            self.step_down(error)
            return None
        if isinstance(found, Misfit):
            self._make_fit(size, found)
            return None
        self._unfit[size] = 0
        return found

    def _make_fit(self, size: int, misfit: Misfit) -> None:
        """So that no scan after this one is computed twice for the same reason."""
        if misfit.unfit:
            self._unfit[size] += 1
            if self._unfit[size] == MOST_UNFIT:
                self._leave(size, 'have fewer cells than a patch of the network, or lie too far '
                                  'apart')  # fmt: skip
        elif self._growths[size] == MOST_GROWTHS:
            self._leave(size, f'have more cells than were made room for {MOST_GROWTHS} times')
        else:
            self._growths[size] += 1
            self._rooms[size] = grown(self._rooms[size], misfit.cells)
            del self._scans[size]
            log.warning(
                'fixed shapes: a scan has more cells (%s) than there was room for; made anew for '
                'scans of up to %d points with room for %s',
                *(_joined(misfit.cells), size, _joined(self._rooms[size])),
            )

    def _leave(self, size: int, why: str) -> None:
        self._left.add(size)
        self._scans.pop(size, None)
        log.warning(
            'fixed shapes: scans of up to %d points %s; they are answered one call at a time '
            'from now on',
            *(size, why),
        )

    def step_down(self, error: RuntimeError) -> None:
        """Without a graph, then without fixed shapes; the memory is free for what follows."""
        reason = str(error).partition('\n')[0]
        self._scans.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._graphs and not isinstance(error, torch.OutOfMemoryError):
            self._graphs = False
            sentence = (
                f'fixed shapes: no CUDA graph can be captured or replayed ({reason}); scans are '
                'answered without one'
            )
        else:
            self.gave_up = True
            sentence = f'fixed shapes: given up ({reason}); scans are answered one call at a time'
        self.setbacks.append(sentence)
        log.warning('%s', sentence)


def grown(rooms: Sequence[int], cells: Sequence[int]) -> list[int]:
    """Rooms for these cells and some more; no level has more cells than there are points."""
    wanted = (STEP * -(-int(SPARE * number) // STEP) for number in cells)
    return [min(rooms[0], max(room, number)) for room, number in zip(rooms, wanted)]


def _joined(numbers: Sequence[int]) -> str:
    return ', '.join(f'{number:,}' for number in numbers)


def make_fixed_scans(
    grid: Grid, model: object, dtype: torch.dtype, engine: Engine | None = None
) -> FixedScans | None:
    """None for a network that asks for other maps than those that are built here. engine: one
    that reads them; None: plain torch.
    """
    if not isinstance(grid, CartesianGrid):
        return None
    if isinstance(model, MinkUNet):
        return FixedScans(grid, model, dtype, FixedNetwork(MOST_LEVELS), engine)
    if isinstance(model, (PTv3, LitePT)) and len(model.pools) < MOST_LEVELS:
        wants = FixedNetwork(len(model.pools) + 1, stem=STEM[0], mixes=True)
        return FixedScans(grid, model, dtype, wants, engine)
    return None
