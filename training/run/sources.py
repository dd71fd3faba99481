# SPDX-License-Identifier: Apache-2.0
"""From the `data` section of a configuration to sets of scans; streets are made when missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from lidar_kd.bundle import SensorSpec
from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, DataError
from lidar_kd.sensor import EACH_ALONE, SensorFit, SensorOptions
from training.data.augmented import kept_fusion
from training.data.fusion import build_bank, FusedScans, PASSES
from training.data.kept_past import has_kept_past, KeptPast
from training.data.kinds import open_dataset
from training.data.merged import merge_labels
from training.data.scan import Frame, Points, Scan, ScanSet
from training.data.settings import Data, DataSource, LabelledSource, Streets
from training.run.simulated import simulate

STREETS = Path('runs') / 'streets'
STREETS_KIND = 'semantickitti'  # the layout they are written in


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a run learns from and what it is scored on; never the same scans.

    scored: what `validation` was chosen from: the past of a scan is there, scored or not.
    labelled: more to learn from; merged: the classes of what its labels do not tell apart.
    unlabelled: what only a teacher labels; labels that are there are left unread.
    """

    train: ScanSet
    validation: ScanSet
    scored: ScanSet
    labelled: tuple[ScanSet, ...] = ()
    merged: tuple[tuple[int, ...], ...] = ()
    unlabelled: tuple[ScanSet, ...] = ()


def open_sources(data: Data, console: Console) -> Sources:
    if data.kind == 'streets':
        root = simulate(data.streets, data.root or STREETS, console)
        train, validation, more = _sequences(data.streets)
        others = [open_dataset(STREETS_KIND, root, more)] if more else []
        learnt = open_dataset(STREETS_KIND, root, train)
        scored = open_dataset(STREETS_KIND, root, validation)
    else:
        assert data.root is not None, 'the configuration checks it'
        learnt = open_dataset(data.kind, data.root, data.train)
        scored = open_dataset(data.kind, data.root, data.validation)
        others = []
    merging = merge_labels(learnt.table, [source.merged for source in data.labelled])
    labelled = [
        replace(_open_more(source, data, learnt), told=told).require_labels()
        for source, told in zip(data.labelled, merging.lookups)
    ]
    others += [_open_more(source, data, learnt) for source in data.unlabelled]
    for each in (learnt, *labelled, *others):
        _check_disjoint(each, scored)
    _check_intensity(learnt, data.intensity_scale, console)
    return Sources(
        train=_fit(spread_scans(learnt.require_labels(), data.train_scans), data, data),
        validation=spread_scans(scored.require_labels(), data.validation_scans),
        scored=scored,
        labelled=tuple(labelled),
        merged=merging.classes,
        unlabelled=tuple(_without_labels(other) for other in others),
    )


def _sequences(streets: Streets) -> tuple[list[str], list[str], list[str]]:
    """Names of those to learn from, to score, and of those without labels."""
    scored = streets.train + streets.validation
    names = [f'{number:02}' for number in range(scored + streets.unlabelled)]
    return (
        names[: streets.labelled or streets.train],
        names[streets.train : scored],
        names[scored:],
    )


def _open_more(source: DataSource, data: Data, learnt: ScanSet) -> ScanSet:
    """Its intensity in the range of `learnt`, by whose scale all are multiplied later."""
    root = source.root or data.root
    assert root is not None, 'the configuration checks it'
    scans = open_dataset(source.kind, root, source.sequences)
    if isinstance(source, LabelledSource) and scans.table != learnt.table:
        raise DataError(
            f'{root}: its classes are those of {scans.table.name}, and {learnt.root} has those of '
            f'{learnt.table.name}; leave it out, or give it as data.unlabelled.'
        )
    factor = source.intensity_scale
    if factor is None and (scans.kind, _resolve(root)) != (learnt.kind, _resolve(learnt.root)):
        factor = learnt.find_full_scale() / scans.find_full_scale()
    if factor not in (None, 1):
        scans = replace(scans, read_points=_Rescaled(scans.read_points, factor))
    return replace(_fit(scans, source, data), frames=scans.frames * source.repeat)


def _fit(scans: ScanSet, source: Data | DataSource, data: Data) -> ScanSet:
    """As the node shows them to a network, as far as `source` asks for it."""
    if source.mounting == source.intensity == 'off':
        return scans
    if data.sensor is None:
        raise ConfigError(
            'data.sensor: missing, so there is no mounting and no brightness to bring scans to; '
            'set it, or mounting and intensity to off.'
        )
    options = replace(EACH_ALONE, mounting=source.mounting, intensity=source.intensity)
    fitted = _Fitted(scans.read_points, data.sensor, options, data.intensity_scale)
    return replace(scans, read_points=fitted)


def _check_intensity(scans: ScanSet, scale: float, console: Console) -> None:
    """0 to 1 is what the node gives to a network, whatever the sensor says."""
    full = scans.find_full_scale()
    if not 0.5 <= full * scale <= 2:
        console.warn(
            f'{scans.root}: the intensity of its scans goes up to {full:g}, and '
            f'data.intensity_scale is {scale:g}; a robot would show the network 0 to 1: set '
            f'data.intensity_scale to {1 / full:.6g}'
        )


@dataclass(frozen=True)
class _Rescaled:
    """Reads scans whose intensity has another range; goes to the workers."""

    read: Callable[[Path], Points]
    factor: float

    def __call__(self, path: Path) -> Points:
        points = self.read(path).copy()
        points[:, 3] *= np.float32(self.factor)
        return points


@dataclass(frozen=True)
class _Fitted:
    """Reads scans as the node shows them to a network; goes to the workers."""

    read: Callable[[Path], Points]
    sensor: SensorSpec
    options: SensorOptions
    scale: float  # of the stored intensity, applied later

    def __call__(self, path: Path) -> Points:
        points = self.read(path).copy()
        points[:, 3] *= np.float32(self.scale)
        fit = SensorFit(self.sensor.height_m, self.sensor.ground_intensity, self.options)
        fit.correct(points)
        points[:, 3] /= np.float32(self.scale)
        return points


def _without_labels(scans: ScanSet) -> ScanSet:
    return replace(scans, frames=tuple(replace(frame, labels=None) for frame in scans.frames))


def fuse_scans(
    scans: ScanSet, among: ScanSet, data: Data, console: Console
) -> FusedScans | KeptPast:
    """Scans with what those before them, of all those `among`, know of their hard objects' past;
    it is looked up once and cached, or was kept when they were augmented.
    """
    if has_kept_past(scans.frames):
        _check_kept(scans.root, data)
        return KeptPast(scans)
    chosen = {frame.name for frame in scans.frames}
    rows = [row for row, frame in enumerate(among.frames) if frame.name in chosen]
    near = {past for row in rows for past in range(max(0, row - data.past_scans), row + 1)}
    among = replace(among, frames=tuple(among.frames[row] for row in sorted(near)))
    with console.progress(PASSES * len(among), 'looking for hard objects') as advance:
        bank = build_bank(among, past_scans=data.past_scans, moving=data.moving, advance=advance)
    console.line(f'fusion: {bank.describe()}')
    return FusedScans(scans, bank, among=among)


def _check_kept(root: Path, data: Data) -> None:
    kept = kept_fusion(root)
    wanted = {'past_scans': data.past_scans, 'moving': data.moving}
    if kept not in (None, wanted):
        raise DataError(
            f'{root}: its scans were fused with {kept}, and the configuration says {wanted}; set '
            'data.past_scans and data.moving to what is there.'
        )


def spread_scans(scans: ScanSet, most: int | None) -> ScanSet:
    """At most so many scans, evenly spread over the set."""
    if most is None or most >= len(scans):
        return scans
    chosen = np.linspace(0, len(scans) - 1, most).round().astype(int)
    return replace(scans, frames=tuple(scans.frames[index] for index in chosen))


def _check_disjoint(train: ScanSet, validation: ScanSet) -> None:
    shared = {_place(frame) for frame in train.frames} & {_place(f) for f in validation.frames}
    if shared:
        raise DataError(
            f'{train.root}: {len(shared)} scans are in both splits, first {min(shared)}; '
            'a score on scans that were trained on says nothing: change data.validation.'
        )


def _place(frame: Frame) -> str:
    return str(_resolve(frame.scan.parent) / frame.scan.name)


@lru_cache(maxsize=4096)
def _resolve(folder: Path) -> Path:
    """The same for a folder that two sources name in two ways."""
    return folder.resolve()


class Several:
    """Sets of scans one after the other; the first one's table, labels only where it has them."""

    def __init__(self, sets: Sequence[ScanSet]) -> None:
        self._sets = sets
        self._ends = np.cumsum([len(each) for each in sets])
        self.table = sets[0].table

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Scan:
        which = int(np.searchsorted(self._ends, index, side='right'))
        before = int(self._ends[which - 1]) if which else 0
        return self._sets[which][index - before]
