# SPDX-License-Identifier: Apache-2.0
"""A bundle and a device make labels of points. The node and every score use this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import copy
from dataclasses import dataclass, replace
import logging
import math
from pathlib import Path
import re
import time
from typing import cast, Literal

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from lidar_kd.bundle import Bundle, load_bundle
from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import IGNORE
from lidar_kd.models.fixed_sizes import FixedScans, make_fixed_scans
from lidar_kd.models.output import Output, SegmentationNetwork
from lidar_kd.sensor import SensorFit, SensorOptions
from lidar_kd.sensor.intensity import limit_intensity
from lidar_kd.sparse import Engine, fold_norms, select_engine
from lidar_kd.voxels import voxelize, Voxels

log = logging.getLogger(__name__)
Precision = Literal['auto', 'float32', 'bfloat16', 'float16']
TYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One answer per input point, in input order; 255, 0 and NaN where the model has none."""

    labels: NDArray[np.uint8]
    probability: NDArray[np.float32]
    entropy: NDArray[np.float32]  # -sum p ln p / ln C
    timing: dict[str, float]  # stage -> ms
    unseen: dict[str, int]  # why the model cannot see a point -> points


class Segmenter:
    """Not thread-safe: one Segmenter per thread."""

    choice = ''  # why it is this bundle, where one of several was to be chosen

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        device: str = 'auto',
        precision: Precision = 'auto',
        engine: str | None = None,
        sensor: SensorOptions | None = None,
        fixed_shapes: bool | None = None,
    ) -> None:
        """`sensor`: by default scans are brought to the pose and brightness of training, which
        the first ones tell; `sensor.begin()` where another sensor's follow.

        fixed_shapes: a scan is one graph; None: on CUDA, without spconv.
        """
        bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        bundle.require_columns()
        bundle.require_answers()
        self.spec = bundle.spec
        self.bundle = f'{bundle.name} ({bundle.sha256})'  # for diagnostics
        self.device = choose_device(device)
        self._no_gpu = told_of_no_gpu() if device == 'auto' else None
        self.engine = select_engine(self.device, engine)
        self.dtype = choose_dtype(precision, self.device, self.engine)
        model = copy.deepcopy(bundle.model)  # folding changes the weights
        self._model = cast(SegmentationNetwork, fold_norms(model).to(self.device).eval())
        self.meet(sensor or SensorOptions())
        self._timing: dict[str, float] = {}
        if fixed_shapes is None:
            fixed_shapes = self.device.type == 'cuda' and self.engine.name != 'spconv'
        self._fixed: FixedScans | None = None
        if fixed_shapes:
            own = self.engine if self.engine.name == 'triton' else None
            self._fixed = make_fixed_scans(self.spec.grid, self._model, self.dtype, own)
        self.engine.memory.tune(live=True)
        log.info('segmenter on %s, engine %s, %s', self.device, self.engine.name, self.dtype)

    @property
    def setbacks(self) -> list[str]:
        """What a GPU refused, and what was done about it; a sentence each, for diagnostics."""
        told = [] if self._no_gpu is None else [self._no_gpu]
        return told + ([] if self._fixed is None else self._fixed.setbacks)

    def warm_up(self, points: int = 120_000) -> None:
        """Runs once over made-up points of a typical number: the first real scan is then fast."""
        generator = np.random.default_rng(0)
        distance = 2 + 60 * generator.random(points) ** 2
        angle = generator.uniform(-math.pi, math.pi, points)
        height = generator.uniform(-2, 1, points)
        scan = [distance * np.cos(angle), distance * np.sin(angle), height, np.zeros(points)]
        self.segment(np.stack(scan, 1).astype(np.float32))
        self.sensor.begin()

    def meet(self, options: SensorOptions) -> None:
        """From now on scans come from a sensor of which nothing is known but `options`."""
        known = self.spec.trained_on()
        self.sensor = SensorFit(known.height_m, known.ground_intensity, options)

    @torch.inference_mode()
    def segment(self, points: NDArray[np.float32]) -> Segmentation:
        """points: (N, 4+) x, y, z in metres and the intensity as the sensor gives it."""
        scan = self._prepare(points)
        fixed = self._answer_fixed(scan)
        if fixed is not None:
            return fixed
        voxels, output = self._run_or_make_room(scan)
        if output is None:
            return self._unanswered(len(points), unseen(voxels))
        with self._stage('answer'):
            answers = per_point(output, voxels, len(points))
        labels, probability, entropy = (answer.cpu().numpy() for answer in answers)
        reasons = count_overflowed(labels, unseen(voxels))
        return Segmentation(labels, probability, entropy, self._timing, reasons)

    @torch.inference_mode()
    def probabilities(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C) of every class, NaN where the model has no answer; `segment` is faster."""
        voxels, output = self._run(self._prepare(points))
        answers = np.full((len(points), self.spec.labels.num_classes), np.nan, np.float32)
        if output is None:
            return answers
        logits = output.point_logits.float()
        lost = ~logits.sum(1, keepdim=True).isfinite()  # as drop_overflowed
        logits = logits.masked_fill(lost, math.nan)
        answers[voxels.rows.cpu().numpy()] = logits.softmax(1).cpu().numpy()
        return answers

    def _prepare(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 4): x, y, z, and the intensity as the network knows it."""
        if points.ndim != 2 or points.shape[1] < 4:
            raise DataError(f'points: shape {points.shape}: expected (N, 4) x, y, z, intensity')
        self._timing = {}
        with self._stage('voxelize'):
            scan = np.array(points[:, :4], dtype=np.float32, order='C')  # ours to scale
            scan[:, 3] *= self.spec.intensity.scale
            limit_intensity(scan[:, 3])
            self.sensor.correct(scan)
        return scan

    def _answer_fixed(self, scan: NDArray[np.float32]) -> Segmentation | None:
        if self._fixed is None:
            return None
        with self._stage('network'):
            found = self._fixed.answer(scan)
        if found is None:
            return None
        reasons = count_overflowed(found.labels, found.unseen)
        told = found.labels, found.probability, found.entropy
        return Segmentation(*told, self._timing, reasons)

    def _run_or_make_room(self, scan: NDArray[np.float32]) -> tuple[Voxels, Output | None]:
        """Where the GPU has no memory left, that of the graphs is given up for this scan."""
        try:
            return self._run(scan)
        except torch.OutOfMemoryError as error:
            if self._fixed is None or self._fixed.gave_up:
                raise
            self._fixed.step_down(error)
        return self._run(scan)

    def _run(self, scan: NDArray[np.float32]) -> tuple[Voxels, Output | None]:
        """The network over the points it can see; None where there are none."""
        with self._stage('voxelize'):
            voxels = self._voxelize(scan)
        if not len(voxels.level):
            return voxels, None
        with self._stage('maps'):
            self._model.build_maps(voxels.level)
        with self._stage('network'):
            return voxels, self._model(voxels)

    def _voxelize(self, scan: NDArray[np.float32]) -> Voxels:
        on_device = torch.from_numpy(scan).to(self.device)
        voxels = voxelize(on_device, self.spec.grid, engine=self.engine)
        return replace(voxels, features=voxels.features.to(self.dtype))

    def _unanswered(self, count: int, reasons: dict[str, int]) -> Segmentation:
        labels = np.full(count, IGNORE, np.uint8)
        nothing = np.zeros(count, np.float32)
        nan = np.full(count, np.nan, np.float32)
        return Segmentation(labels, nothing, nan, self._timing, reasons)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        elapsed_ms = 1e3 * (time.perf_counter() - start)
        self._timing[name] = self._timing.get(name, 0.0) + elapsed_ms


def unseen(voxels: Voxels) -> dict[str, int]:
    """Points without an answer, by reason; a clamped point has one."""
    return {reason: n for reason, n in voxels.left_out.items() if reason != 'clamped'}


def count_overflowed(labels: NDArray[np.uint8], reasons: dict[str, int]) -> dict[str, int]:
    """The reasons, and the points that have no label though the network saw them."""
    lost = int(np.count_nonzero(labels == IGNORE)) - sum(reasons.values())
    return {**reasons, 'overflowed': lost} if lost else reasons


def per_point(output: Output, voxels: Voxels, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Label, probability and normalised entropy of `count` input points.

    Where points take their voxel's answer, it is worked out once per voxel.
    """
    own = output.own_point_logits
    answers = drop_overflowed(
        *voxels.level.engine.answers(output.voxel_logits if own is None else own)
    )
    labels, probability, entropy = (
        to_points(values, output.point_voxel if own is None else None, voxels.rows, count, missing)
        for values, missing in zip(answers, (IGNORE, 0.0, math.nan))
    )
    return labels, probability, entropy


def drop_overflowed(
    labels: Tensor, probability: Tensor, entropy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """No answer where a row's logits were not finite: the label of a NaN is any class."""
    told = probability + entropy  # a class at minus infinity leaves the probability as it is
    if told.sum().isfinite():  # a tenth of the time of asking each
        return labels, probability, entropy
    lost = ~told.isfinite()
    return (
        labels.masked_fill(lost, IGNORE),
        probability.masked_fill(lost, 0.0),
        entropy.masked_fill(lost, math.nan),
    )


def to_points(
    values: Tensor, owner: Tensor | None, rows: Tensor, count: int, missing: float
) -> Tensor:
    """One value per input point; `owner`: the row of `values` each seen point takes."""
    seen = values if owner is None else values.index_select(0, owner)
    if len(rows) == count:
        return seen
    return seen.new_full((count,), missing).index_copy_(0, rows, seen)


def explain_useless_gpu(device: str = 'cuda') -> str:
    """Why the GPU that torch finds cannot be computed on; empty: it can, or there is none."""
    if not torch.cuda.is_available():
        return ''
    try:
        torch.ones(8).to(device).mul(2).sum().item()
    except (RuntimeError, AssertionError) as error:  # not built for this GPU, or for none
        return str(error).partition('\n')[0]
    return ''


def told_of_no_gpu() -> str | None:
    reason = explain_useless_gpu()
    if not reason:
        return None
    return f'device auto: the GPU is left aside ({reason}); computing on the CPU'


def choose_device(name: str) -> torch.device:
    if name == 'auto':
        sentence = told_of_no_gpu()
        if sentence:
            log.warning('%s', sentence)
        works = torch.cuda.is_available() and not sentence
        return torch.device('cuda' if works else 'cpu')
    found = re.fullmatch('cpu|cuda(?::(0|[1-9][0-9]*))?', name)
    if not found:
        raise ConfigError(f'device {name!r} is unknown: use auto, cpu, cuda or cuda:N, as cuda:1')
    if name == 'cpu':
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ConfigError(
            f'device {name}: this torch finds no CUDA device; set device to cpu, or install a '
            'CUDA build of torch and check nvidia-smi'
        )
    if int(found[1] or 0) >= torch.cuda.device_count():
        raise ConfigError(f'device {name}: this machine has {torch.cuda.device_count()}')
    if reason := explain_useless_gpu(name):
        raise ConfigError(
            f'device {name}: torch cannot compute there ({reason}); install a torch built for '
            'this GPU, or set device to cpu'
        )
    return torch.device(name)


def choose_dtype(precision: str, device: torch.device, engine: Engine) -> torch.dtype:
    """auto: float16 on CUDA, bfloat16 on a CPU with AMX or AVX512-BF16, else float32."""
    if precision not in ('auto', *TYPES):
        raise ConfigError(f'precision {precision!r} is unknown: use auto, {", ".join(TYPES)}')
    if precision == 'auto':
        fast = torch.float16 if device.type == 'cuda' else torch.bfloat16
        return fast if engine.computes(fast) else torch.float32
    if not engine.computes(TYPES[precision]):
        log.warning(
            'precision %s is no faster with engine %s on this %s: computing in float32',
            precision,
            engine.name,
            device.type,
        )
        return torch.float32
    return TYPES[precision]
