# SPDX-License-Identifier: Apache-2.0
"""A scan from points to labels at fixed shapes: one upload, no wait, one download.

On CUDA the whole of it is captured as a graph, once for every size of scan, and replayed; the same
code runs on a CPU, eagerly, where the tests look at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
from torch.nn import functional as F

from lidar_kd.labels import IGNORE
from lidar_kd.models.output import SegmentationNetwork
from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.fixed.engine import FixedShapeEngine
from lidar_kd.sparse.fixed.level import FixedLevel
from lidar_kd.sparse.fixed.maps import MapBuilder
from lidar_kd.sparse.fixed.morton import MortonKeys, PAD
from lidar_kd.voxels import CartesianGrid, REACH, Voxels

CUBE = 3
WARM_UPS = 3  # eager runs before a capture: libraries choose and load their kernels
_COUNTS = 4  # numbers before those of cells: finite, returned, held, unfit


@dataclass(frozen=True, eq=False)
class FixedAnswers:
    """labels, probability, entropy: one per input point; unseen: reason -> points."""

    labels: NDArray[np.uint8]
    probability: NDArray[np.float32]
    entropy: NDArray[np.float32]
    unseen: dict[str, int]


@dataclass(frozen=True)
class Misfit:
    """A scan that has to be answered otherwise. cells: of each level; unfit: it has fewer cells
    than the network's patches have rows, or lies too far apart.
    """

    cells: tuple[int, ...]
    unfit: bool


@dataclass(frozen=True)
class FixedNetwork:
    """What a network asks of maps. stem: size of a kernel of the first level beside the cube of
    3, 0: none; mixes: layers that know of no missing neighbours lie between its convolutions.
    """

    levels: int
    stem: int = 0
    mixes: bool = False


class FixedGrid:
    """Points (P, 4) to keys; NaN stands where a scan has fewer points. Its numbers lie on the
    device beforehand: to bring one there is a wait.
    """

    def __init__(self, grid: CartesianGrid, device: torch.device) -> None:
        def on_device(values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.float32).to(device)

        self._keys = MortonKeys(device)
        self._size = on_device(grid.voxel_m)
        self._origin = None if grid.origin_m is None else on_device(grid.origin_m)
        self._lower = None if grid.lower_m is None else on_device(grid.lower_m)
        self._upper = None if grid.upper_m is None else on_device(grid.upper_m)

    def encode(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) keys, PAD where the grid holds no point; (3,) how many points are finite, of these
        have returned, and of these are held.
        """
        xyz = points[:, :3]
        positions = (xyz if self._origin is None else xyz - self._origin) / self._size
        total = points.sum(1)
        finite = total - total == 0  # one call less than isfinite
        returned = finite & (xyz != 0).any(1)
        held = returned & self._holds(xyz, positions)
        cells = torch.where(held[:, None], positions, 0).floor()
        keys = torch.where(held, self._keys.encode(cells), PAD)
        return keys, torch.stack([finite, returned, held]).sum(1)

    def _holds(self, xyz: Tensor, positions: Tensor) -> Tensor:
        held = positions.abs() < REACH
        if self._lower is not None:
            held &= xyz >= self._lower
        if self._upper is not None:
            held &= xyz < self._upper
        return held.all(1)


class FixedScan:
    """One size of scan: what is fixed is made here, once.

    rooms: cells that each level has room for, the first as many as there are points.
    """

    def __init__(
        self,
        rooms: Sequence[int],
        grid: CartesianGrid,
        model: nn.Module,
        dtype: torch.dtype,
        wants: FixedNetwork,
        *,
        engine: Engine | None = None,
        graph: bool = False,
    ) -> None:
        """engine: one that reads maps of fixed shape; None: plain torch."""
        device = next(model.parameters()).device
        self.size, self.rooms = rooms[0], tuple(rooms)
        self._model, self._dtype = cast(SegmentationNetwork, model), dtype
        self._grid = FixedGrid(grid, device)
        self._builder = MapBuilder(rooms, CUBE, device, stem=wants.stem)
        self._engine = engine or FixedShapeEngine(clears=wants.mixes)
        self._answers = self._engine.answers
        self._ends = 4 * (_COUNTS + len(rooms))  # bytes
        self._make_room(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        if graph:
            with torch.cuda.device(device):  # streams are of the current one
                self._graph = self._capture()

    def _make_room(self, device: torch.device) -> None:
        """For points and answers, on both sides."""
        on_gpu, size = device.type == 'cuda', self.size
        self._host = torch.full((size, 4), math.nan, pin_memory=on_gpu)
        self._points = self._host.to(device)
        self._bytes = torch.empty(self._ends + 9 * size, dtype=torch.uint8, pin_memory=on_gpu)
        self._fits = torch.zeros((), dtype=torch.bool, device=device)
        self._nobody = torch.zeros(size, dtype=torch.int32, device=device)

    def answer(self, scan: NDArray[np.float32]) -> FixedAnswers | Misfit:
        self._host[: len(scan)] = torch.from_numpy(scan)
        self._host[len(scan) :] = math.nan
        self._points.copy_(self._host, non_blocking=True)
        if self._graph is None:
            result = self.run(self._points)
        else:
            self._graph.replay()
            result = self._result
        self._bytes.copy_(result)  # the one wait
        return self.read(self._bytes, len(scan))

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Everything from the points on the device to the bytes there."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self.run(self._points)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # the node's other threads go on
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            self._result = self.run(self._points)
        return graph

    @torch.inference_mode()
    def run(self, points: Tensor) -> Tensor:
        """(P, 4) -> one run of bytes, as `read` takes it apart; nothing here waits."""
        keys, counts = self._grid.encode(points)
        maps = self._builder.build(keys)
        level = FixedLevel(maps, self._engine, (CUBE,) * 3)
        features = F.embedding_bag(maps.order, points, maps.starts, mode='mean')
        voxels = Voxels(
            points, self._nobody, self._nobody, points[:, :3], maps.point_row,
            features.to(self._dtype), level,
        )  # fmt: skip
        logits = self._model(voxels).voxel_logits
        unfit = torch.stack(level.unfit).any() if level.unfit else self._fits
        ends = torch.cat([counts, unfit[None], maps.cells]).int()
        return self._pack(logits, maps.point_row, ends)

    def _pack(self, logits: Tensor, row: Tensor, ends: Tensor) -> Tensor:
        labels, probability, entropy = self._answers(logits)
        told = probability + entropy
        lost = told - told != 0  # not finite: an overflow of the number type
        lost[0].fill_(True)  # nobody's answer
        answers = (
            labels.masked_fill_(lost, IGNORE),
            probability.masked_fill_(lost, 0.0),
            entropy.masked_fill_(lost, math.nan),
        )
        parts = [answer.index_select(0, row) for answer in answers]
        return torch.cat([part.view(torch.uint8) for part in (ends, *parts[1:], parts[0])])

    def read(self, run: Tensor, count: int) -> FixedAnswers | Misfit:
        raw = run.numpy()
        finite, returned, held, unfit, *cells = raw[: self._ends].view(np.int32).tolist()
        if unfit or any(number > room for number, room in zip(cells, self.rooms)):
            return Misfit(tuple(cells), bool(unfit))
        rest = raw[self._ends :]
        probability, entropy = rest[: 8 * self.size].view(np.float32).reshape(2, -1)
        labels = rest[8 * self.size :]
        unseen = {
            'not_finite': count - finite,
            'no_return': finite - returned,
            'out_of_range': returned - held,
        }
        return FixedAnswers(
            labels[:count].copy(), probability[:count].copy(), entropy[:count].copy(),
            {reason: n for reason, n in unseen.items() if n},
        )  # fmt: skip
