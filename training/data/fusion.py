# SPDX-License-Identifier: Apache-2.0
"""Multi-scan fusion: a scan, and what earlier scans saw of its objects of the hard classes.

As M2SKD has it: what stands still lies in place once the ego poses are applied; what moves is
registered, or left out where the registration does not convince. All of it is decided once, when
the bank is built; fusing a scan afterwards is a gather and a small matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
import hashlib
import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from training.data.class_counts import CACHE
from training.data.instances import (
    Advance,
    Arrays,
    collect_sightings,
    digest_files,
    load_arrays,
    save_arrays,
    Sightings,
)
from training.data.registration import (
    apply,
    index_points,
    Matrix,
    Nearest,
    Points,
    register,
    translation,
    yaw_of,
)
from training.data.scan import require_poses, Scan, ScanSet

PAST_SCANS = 4
PASSES = 2  # over the scans when a bank is built
FEWEST = 20  # points of a view that can be registered
FASTEST_M_S = 30.0
MOST_YAW = math.radians(45)  # between two views; beyond it an object was flipped, not turned
SAME_M = 0.01  # two points closer than about this are one
STILL, REGISTERED, LEFT_OUT = range(3)
Moving = Literal['registered', 'centroid']  # how what moves is brought to its present place


class Landing(NamedTuple):
    """What becomes of a past view, which already lies in the present sensor's frame."""

    how: int  # STILL, REGISTERED or LEFT_OUT
    motion: Matrix  # what it takes beyond the ego motion
    distance_m: float  # afterwards, of its points to the nearest present ones, mean


@dataclass(frozen=True, kw_only=True, eq=False)
class Links:
    """L links from an object in a scan to an earlier view of it, by present sighting.

    present, past (L,): sightings; motion (L, 3, 4): from the past sensor's frame to the
    present one's; how, distance_m (L,): as of its Landing; steps (L,): scans in between, plus 1.
    """

    present: NDArray[np.int32]
    past: NDArray[np.int32]
    motion: NDArray[np.float32]
    how: NDArray[np.uint8]
    distance_m: NDArray[np.float32]
    steps: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.present)


@dataclass(frozen=True, kw_only=True, eq=False)
class InstanceBank:
    """The objects of one set of scans and their past; it serves the set it was built from."""

    sightings: Sightings
    links: Links
    digest: str  # of that set

    @property
    def moving_share_left_out(self) -> float:
        """Of the past views of objects that moved, those that nothing was fused of."""
        how = np.bincount(self.links.how, minlength=LEFT_OUT + 1)
        return float(how[LEFT_OUT] / max(1, how[REGISTERED] + how[LEFT_OUT]))

    def describe(self) -> str:
        """One line for people."""
        still, registered, left_out = np.bincount(self.links.how, minlength=LEFT_OUT + 1).tolist()
        return (
            f'{len(self.links):,} past views of hard objects: {still:,} stood still, '
            f'{registered + left_out:,} moved, of which {self.moving_share_left_out:.0%} were '
            'left out'
        )

    def recall(self, frame: int) -> Scan | None:
        """What earlier scans saw of the objects in a scan, in its frame; None if nothing."""
        views = [self.bring(link) for link in self.used_links(frame)]
        return _concatenate(views) if views else None

    def used_links(self, frame: int) -> list[int]:
        """The links of a scan's objects whose views were not left out."""
        seen = self.sightings.of_frame(frame)
        first, stop = np.searchsorted(self.links.present, [seen.start, seen.stop])
        return [row for row in range(first, stop) if self.links.how[row] != LEFT_OUT]

    def bring(self, link: int) -> Scan:
        """The past view of a link, in the present sensor's frame."""
        view = self.sightings.as_scan(int(self.links.past[link]))
        motion = self.links.motion[link]
        view.points[:, :3] = view.points[:, :3] @ motion[:, :3].T + motion[:, 3]
        return view


class FusedScans(ScanSet):
    """Some scans of a set, each fused with the past that the set knows of its hard objects."""

    bank: InstanceBank
    rows: tuple[int, ...]  # of these scans in the bank's set

    def __init__(
        self, scans: ScanSet, bank: InstanceBank, *, among: ScanSet | None = None
    ) -> None:
        """among: the set that the bank was built from, where that has more than these scans."""
        super().__init__(**{field.name: getattr(scans, field.name) for field in fields(ScanSet)})
        among = among or scans
        if bank.digest != digest_files(among):
            raise DataError(
                f'{scans.root}: the instance bank was built from other scans than these '
                f'{len(among)}, and what it holds must not mix with them; build one from these.'
            )
        row_of = {frame.name: row for row, frame in enumerate(among.frames)}
        rows = tuple(row_of[frame.name] for frame in scans.frames)
        for name, value in (('bank', bank), ('rows', rows)):
            object.__setattr__(self, name, value)  # frozen, as every set

    def __getitem__(self, index: int) -> Scan:
        return fuse(super().__getitem__(index), self.bank.recall(self.rows[index]))

    def describe(self) -> str:
        return f'{super().describe()}, objects of the hard classes fused with their past'


def fuse(scan: Scan, past: Scan | None) -> Scan:
    """The scan's own points in their order, then those of the past that are nowhere yet."""
    if past is None:
        return scan
    # only an object's own points can be met again
    objects = np.flatnonzero(np.isin(scan.labels, np.unique(past.labels)))
    objects = objects[np.isfinite(scan.points[objects, :3]).all(axis=1)]
    cells = pack_cells(np.concatenate([scan.points[objects, :3], past.points[:, :3]]))
    first = np.unique(cells, return_index=True)[1]
    new = np.sort(first[first >= len(objects)]) - len(objects)
    fused = _concatenate([scan, past.take(new)])
    return replace(fused, name=scan.name, pose=scan.pose, past=np.arange(len(fused)) >= len(scan))


def pack_cells(points: Points) -> NDArray[np.int64]:
    """One number per point, the same for points in the same small cube."""
    cells = np.rint(points.astype(np.float64) / SAME_M).astype(np.int64) & 0x1FFFFF
    packed: NDArray[np.int64] = cells[:, 0] << 42 | cells[:, 1] << 21 | cells[:, 2]
    return packed


def build_bank(
    scans: ScanSet,
    *,
    past_scans: int = PAST_SCANS,
    moving: Moving = 'registered',
    cache: Path = CACHE,
    advance: Advance = lambda: None,
) -> InstanceBank:
    """The bank of these scans and no others, so nothing of a validation split can enter it.

    Read from the cache when no file has changed. `advance` is called PASSES times per scan.
    """
    require_poses(scans)
    sightings = collect_sightings(scans, cache=cache, advance=advance)
    digest = digest_files(scans)
    path = cache / f'fusion_{digest}_{_digest_poses(scans, past_scans, moving)}.npz'
    found = load_arrays(path, Links)
    if found is None:
        found = _pack(list(_link_all(scans, sightings, past_scans, moving, advance)))
        save_arrays(path, found)
    return InstanceBank(sightings=sightings, links=Links(**found), digest=digest)


def place_views(
    views: list[Points], present: Points, ago_s: list[float], moving: Moving = 'registered'
) -> list[Landing]:
    """Where the past views of one object belong; `ago_s` tells how long ago each was.

    It stands still if every view lands on it: one that creeps is still near after one scan, but
    not after four. `centroid`: what moves is shifted onto its present centroid, as M2SKD's
    authors do, and none is left out: people and what turns are smeared.
    """
    nearest = index_points(present)
    near = tolerance_m(present)
    in_place = [float(nearest(view)[1].mean()) for view in views]
    if max(in_place) <= near:
        return [Landing(STILL, np.eye(4), distance) for distance in in_place]
    if moving == 'centroid':
        return [_shift_onto(view, present, nearest) for view in views]
    landings = []
    for view, before, ago in zip(views, in_place, ago_s):
        landing = Landing(LEFT_OUT, np.eye(4), before)
        if min(len(view), len(present)) >= FEWEST:
            motion = register(view, present, nearest)
            after = float(nearest(apply(motion, view))[1].mean())
            if after < before and after <= near and is_plausible(motion, view, ago):
                landing = Landing(REGISTERED, motion, after)
        landings.append(landing)
    return landings


def _shift_onto(view: Points, present: Points, nearest: Nearest) -> Landing:
    motion = translation(present.mean(0) - view.mean(0))
    return Landing(REGISTERED, motion, float(nearest(apply(motion, view))[1].mean()))


def tolerance_m(present: Points) -> float:
    """How near is near: range noise and poses, and half the beams' spacing, which grows with
    the range. Measured on real sequences: 19 of 20 views of what stands are nearer.
    """
    return 0.08 + 0.004 * float(np.hypot(*present[:, :2].mean(0)))


def is_plausible(motion: Matrix, view: Points, ago_s: float) -> bool:
    """Whether an object can have moved so in that time."""
    centre = view.mean(0, keepdims=True)
    moved_m = float(np.linalg.norm(apply(motion, centre) - centre))
    return moved_m < FASTEST_M_S * ago_s and abs(yaw_of(motion)) < MOST_YAW


Link = tuple[int, int, Matrix, int, float, int]  # in the order of Links


def _link_all(
    scans: ScanSet, sightings: Sightings, past_scans: int, moving: Moving, advance: Advance
) -> Iterator[Link]:
    rows = [_rows_by_object(sightings, frame) for frame in range(len(scans))]
    for frame in range(len(scans)):
        earlier = _earlier_frames(scans, frame, past_scans)
        to_here = [_ego_motion(scans, past, frame) for past in earlier]
        for key, present in rows[frame].items():
            seen = [step for step, past in enumerate(earlier) if key in rows[past]]
            past_rows = [rows[earlier[step]][key] for step in seen]
            views = [
                apply(to_here[step], sightings.points_of(row)[:, :3])
                for step, row in zip(seen, past_rows)
            ]
            ago_s = [(step + 1) * scans.period_s for step in seen]
            here = sightings.points_of(present)[:, :3]
            landings = place_views(views, here, ago_s, moving) if views else []
            for row, step, landing in zip(past_rows, seen, landings):
                motion = landing.motion @ to_here[step]
                yield present, row, motion, landing.how, landing.distance_m, step + 1
        advance()


def _rows_by_object(sightings: Sightings, frame: int) -> dict[tuple[int, int], int]:
    return {
        (int(sightings.label[row]), int(sightings.number[row])): row
        for row in sightings.of_frame(frame)
    }


def _earlier_frames(scans: ScanSet, frame: int, past_scans: int) -> list[int]:
    """The scans before one in its sequence, the latest first."""
    sequence = scans.frames[frame].sequence
    candidates = range(frame - 1, max(frame - past_scans, 0) - 1, -1)
    return [past for past in candidates if scans.frames[past].sequence == sequence]


def _ego_motion(scans: ScanSet, past: int, present: int) -> Matrix:
    """From the past sensor's frame to the present one's."""
    from_past, from_present = scans.frames[past].pose, scans.frames[present].pose
    assert from_past is not None, past
    assert from_present is not None, present
    motion: Matrix = np.linalg.inv(from_present) @ from_past
    return motion


def _pack(links: list[Link]) -> Arrays:
    present, past, motion, how, distance, steps = zip(*links) if links else ((),) * 6
    return {
        'present': np.array(present, np.int32),
        'past': np.array(past, np.int32),
        'motion': np.array(motion, np.float32).reshape(-1, 4, 4)[:, :3],
        'how': np.array(how, np.uint8),
        'distance_m': np.array(distance, np.float32),
        'steps': np.array(steps, np.int32),
    }


def _concatenate(parts: list[Scan]) -> Scan:
    """One after the other; an object keeps its number in all of them."""
    numbers = [part.instances for part in parts if part.instances is not None]
    return Scan(
        points=np.concatenate([part.points for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        instances=np.concatenate(numbers) if len(numbers) == len(parts) else None,
    )


def _digest_poses(scans: ScanSet, past_scans: int, moving: Moving) -> str:
    how = '' if moving == 'registered' else f' {moving}'  # banks from before the choice serve on
    digest = hashlib.sha256(f'{past_scans} {scans.period_s}{how}'.encode())
    for frame in scans.frames:
        digest.update(b'' if frame.pose is None else np.ascontiguousarray(frame.pose).tobytes())
    return digest.hexdigest()[:8]
