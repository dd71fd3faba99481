# SPDX-License-Identifier: Apache-2.0
"""Augmented versions of every scan, kept in SemanticKITTI's layout for whole runs to learn from.

A teacher's answers can be cached only for points that do not come and go. Mixed, pasted and
dropped once, on disk, they are the same for the teacher, its student and a student alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed, ProcessPoolExecutor
from dataclasses import dataclass
import json
import multiprocessing
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError, DataError, prepare_folder, write_atomically, writing
from lidar_kd.labels import SEMANTICKITTI
from training.data.augment import augment, Augmentation
from training.data.fusion import build_bank, FusedScans, Moving
from training.data.instances import build_paste_bank, digest_files
from training.data.kept_past import PAST, write_past
from training.data.scan import Scan, ScanSet
from training.data.sensor_changes import SensorChanges
from training.live.tie import tie_worker

STAMP = 'augmented.json'  # what a folder was made from, and how
FUSION = 'fusion'  # its key for what lies in past/
FIRST = 10**6  # a version's files count from this times its number: no scan has the same
MOST_NUMBER = 0xFFFF  # a label file has 16 bits for the number of an object
_AUGMENT = 4  # a use of the seed; the loader has 1 and 2, the run 3


@dataclass(frozen=True, kw_only=True)
class AugmentedSettings:
    """How scans are augmented; `versions` of each, which may grow later.

    past_scans: so many are fused with each beforehand and kept apart, 0 none; `moving` as theirs.
    """

    augmentation: Augmentation
    versions: int
    seed: int = 0
    past_scans: int = 0
    moving: Moving = 'registered'

    @property
    def fusion(self) -> dict[str, object]:
        return {'past_scans': self.past_scans, 'moving': self.moving}


class Place(NamedTuple):
    """Where one version of one scan belongs."""

    version: int  # from 1 on
    row: int  # of the scan in its set
    points: Path
    labels: Path

    @property
    def past(self) -> Path:
        return self.points.parent.parent / PAST / f'{self.points.stem}.npz'

    def is_done(self, *, with_past: bool) -> bool:
        paths = [self.points, self.labels, *([self.past] if with_past else [])]
        return all(path.is_file() for path in paths)


def plan_places(scans: ScanSet, out: Path, versions: int) -> list[Place]:
    """One for each version of each scan, by version."""
    numbers = _number_in_sequence(scans)
    places = []
    for version in range(1, versions + 1):
        for index, frame in enumerate(scans.frames):
            folder = out / 'sequences' / frame.sequence
            stem = f'{version * FIRST + numbers[index]}'
            points, labels = folder / 'velodyne' / f'{stem}.bin', folder / 'labels' / stem
            places.append(Place(version, index, points, labels.with_suffix('.label')))
    return places


def write_augmented(
    scans: ScanSet,
    out: Path,
    settings: AugmentedSettings,
    *,
    workers: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> int:
    """Writes what is missing and tells how many scans that were; `advance` is called for each.

    The same seed gives the same bytes, whatever the workers and however often it was stopped.
    """
    if scans.table.name != SEMANTICKITTI.name:
        raise DataError(
            f"{scans.root}: labels of '{scans.table.name}' have no place in SemanticKITTI's "
            'layout; augment a data set of that kind.'
        )
    scans.require_labels()
    _check_past(settings)
    _claim(scans, out, settings)
    with_past = bool(settings.past_scans)
    places = plan_places(scans, out, settings.versions)
    missing = [place for place in places if not place.is_done(with_past=with_past)]
    for folder in {place.points.parent.parent for place in missing}:
        for name in ('velodyne', 'labels', *([PAST] if with_past else [])):
            prepare_folder(folder / name)
    bank = build_paste_bank(scans, seed=settings.seed) if settings.augmentation.paste else []
    if with_past and missing:
        known = build_bank(scans, past_scans=settings.past_scans, moving=settings.moving)
        scans = FusedScans(scans, known)
    for _ in _write_all(scans, settings, bank, missing, workers):
        advance()
    return len(missing)


def link_sequences(scans: ScanSet, out: Path) -> None:
    """Sequences as they are, to be scored, beside the augmented ones: links, not copies."""
    for sequence in sorted({frame.sequence for frame in scans.frames}):
        link = out / 'sequences' / sequence
        target = next(f.scan for f in scans.frames if f.sequence == sequence).parent.parent
        if link.is_symlink() and link.resolve() == target.resolve():
            continue
        if link.exists() or link.is_symlink():
            raise DataError(
                f'{link}: is there already and is not {target}; what is augmented cannot be '
                'scored too: name other sequences.'
            )
        with writing(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target.resolve())


def make_version(
    scans: ScanSet, place: Place, settings: AugmentedSettings, bank: Sequence[Scan]
) -> Scan:
    """One scan augmented; every number comes from the seed, the version and the scan's index."""
    rng = np.random.default_rng([settings.seed, _AUGMENT, place.version, place.row])
    return augment(
        scans[place.row],
        settings.augmentation,
        rng,
        table=scans.table,
        draw_scan=lambda: scans[int(rng.integers(len(scans)))],
        bank=bank,
    )


def write_scan_files(scan: Scan, points: Path, labels: Path) -> None:
    """The labels last: a scan is there once both are."""
    scan = scan.take(scan.is_own)
    raw = SEMANTICKITTI.to_raw(scan.labels)
    if scan.instances is not None:
        raw = raw | _fit_numbers(scan) << np.uint32(16)
    for path, values in ((points, scan.points.astype('<f4')), (labels, raw.astype('<u4'))):
        with writing(path), write_atomically(path) as temporary:
            temporary.write_bytes(values.tobytes())


def _fit_numbers(scan: Scan) -> NDArray[np.uint32]:
    """Numbers of objects in 16 bits: counted anew where joining scans has made them larger."""
    assert scan.instances is not None
    if scan.instances.max(initial=0) <= MOST_NUMBER:
        return scan.instances
    key = scan.labels.astype(np.int64) << 32 | scan.instances
    known = scan.instances > 0
    numbers = np.zeros(len(scan), np.uint32)
    numbers[known] = np.unique(key[known], return_inverse=True)[1] + 1
    return numbers


def _number_in_sequence(scans: ScanSet) -> list[int]:
    seen: dict[str, int] = {}
    numbers = []
    for frame in scans.frames:
        place = seen[frame.sequence] = seen.get(frame.sequence, -1) + 1
        stem = frame.scan.stem
        numbers.append(int(stem) if stem.isdecimal() and int(stem) < FIRST else place)
    return numbers


def _claim(scans: ScanSet, out: Path, settings: AugmentedSettings) -> None:
    """Refuses a folder that holds something else; versions, and the past, may be added to ours."""
    path, there = out / STAMP, dict[str, object]()
    stamp: dict[str, object] = {
        'scans': digest_files(scans),
        'seed': settings.seed,
        'augmentation': settings.augmentation.model_dump(mode='json'),
    }
    if settings.past_scans:
        stamp[FUSION] = settings.fusion
    if path.is_file():
        there = json.loads(path.read_text(encoding='utf-8'))
        _refuse_others(out, there, stamp)
    elif out.is_dir() and any(out.iterdir()):
        raise DataError(f'{out}: is not empty and was not made by augment.py; choose another.')
    if stamp.keys() <= there.keys():
        return
    prepare_folder(out)
    with writing(path), write_atomically(path) as temporary:
        temporary.write_text(json.dumps(stamp | there, indent=1) + '\n', encoding='utf-8')


def _refuse_others(out: Path, there: Mapping[str, object], stamp: Mapping[str, object]) -> None:
    # what a folder's augmentation does not name was not there yet, or off
    known = Augmentation.model_validate(there.get('augmentation', {})).model_dump(mode='json')
    now = {FUSION: stamp.get(FUSION), **there, 'augmentation': known}
    other = [key for key, value in stamp.items() if now.get(key) != value]
    if other:
        raise DataError(
            f'{out}: was made with another {" and another ".join(other)}; '
            'choose another folder, or remove this one.'
        )


def kept_fusion(root: Path) -> object:
    """How what lies in the past/ folders of a data set was fused: AugmentedSettings.fusion."""
    path = root / STAMP
    return json.loads(path.read_text(encoding='utf-8')).get(FUSION) if path.is_file() else None


def _write_all(
    scans: ScanSet,
    settings: AugmentedSettings,
    bank: Sequence[Scan],
    places: Sequence[Place],
    workers: int,
) -> Iterator[None]:
    if workers < 2 or len(places) < 2:
        for place in places:
            _write(scans, settings, bank, place)
            yield
        return
    # fork: the bank is not sent; nothing here has threads yet
    context = multiprocessing.get_context('fork')
    with ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_begin,
        initargs=(os.getpid(), scans, settings, bank),
    ) as pool:
        for done in as_completed([pool.submit(_write_here, place) for place in places]):
            done.result()
            yield


_here: list[tuple[ScanSet, AugmentedSettings, Sequence[Scan]]] = []  # of a worker


def _begin(parent: int, scans: ScanSet, settings: AugmentedSettings, bank: Sequence[Scan]) -> None:
    tie_worker(parent)
    _here[:] = [(scans, settings, bank)]


def _write_here(place: Place) -> None:
    _write(*_here[0], place)


def _write(
    scans: ScanSet, settings: AugmentedSettings, bank: Sequence[Scan], place: Place
) -> None:
    scan = make_version(scans, place, settings, bank)
    if place.is_done(with_past=False):
        _check_same(scan, place.points)
    else:
        write_scan_files(scan, place.points, place.labels)
    if settings.past_scans:
        write_past(scan, place.past)


def _check_same(scan: Scan, points: Path) -> None:
    """The past belongs to the points that are there already, which answers may be kept for."""
    if scan.points[scan.is_own].astype('<f4').tobytes() != points.read_bytes():
        raise DataError(
            f'{points}: was augmented by another version of the program, so its past would lie '
            'elsewhere; choose another folder.'
        )


def _check_past(settings: AugmentedSettings) -> None:
    if settings.past_scans and settings.augmentation.sensor != SensorChanges():
        raise ConfigError(
            'augmentation: sensor: what another sensor would see of the past is not known; leave '
            'it out, or the past.'
        )
