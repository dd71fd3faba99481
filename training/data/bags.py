# SPDX-License-Identifier: Apache-2.0
"""A robot's own recordings, without labels: one rosbag, or every one below a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cloud import decode, MalformedCloud
from lidar_kd.errors import DataError
from lidar_kd.labels import ClassTable, SEMANTICKITTI
from lidar_kd.scans.bags import Bag, is_bag
from lidar_kd.sensor.intensity import IntensityRange
from training.data.scan import Frame, Raw, ScanSet

_LOOKED_AT = 5  # clouds of a bag, to find the range of its intensity


def open_bags(
    root: str | Path,
    sequences: str | Sequence[str | int] | None = None,
    *,
    table: ClassTable = SEMANTICKITTI,
) -> ScanSet:
    """A sequence is a bag or, written BAG:TOPIC, one of its topics; all bags by default."""
    root = Path(root)
    recordings = {
        name: _Recording(Bag(path, topic)) for name, path, topic in _choose(root, sequences)
    }
    frames = [
        Frame(name=f'{name}/{number:06}', scan=root / name / f'{number:06}')
        for name, recording in recordings.items()
        for number in range(len(recording.bag))
    ]
    by_place = {root / name: recording for name, recording in recordings.items()}
    return ScanSet(
        kind='bags',
        root=root,
        table=table,
        frames=tuple(frames),
        read_raw=_refuse_labels,
        read_points=_Reader(by_place),
    )


class _Recording:
    """One scale of intensity for the whole bag, whichever cloud is read first."""

    def __init__(self, bag: Bag) -> None:
        self.bag = bag
        seen = IntensityRange()
        for number in np.unique(np.linspace(0, len(bag) - 1, _LOOKED_AT).astype(int)):
            decode(bag.read(number), intensity_range=seen)
        self._scale = 1 / seen.full_scale

    def read(self, number: int) -> NDArray[np.float32]:
        """Points without those that gave no echo: augmentation would move them into the scene."""
        cloud = decode(self.bag.read(number), intensity_scale=self._scale)
        return cloud.points[cloud.valid]


@dataclass(frozen=True)
class _Reader:
    by_place: dict[Path, _Recording]

    def __call__(self, place: Path) -> NDArray[np.float32]:
        """place: ROOT/NAME/NUMBER; the clouds of a bag have no files of their own."""
        try:
            return self.by_place[place.parent].read(int(place.name))
        except MalformedCloud as error:
            raise DataError(f'{place}: {error}') from None


def _choose(root: Path, wanted: str | Sequence[str | int] | None) -> list[tuple[str, Path, str]]:
    """Name, path and topic ('': the only one) of every recording."""
    present = _find_bags(root)
    names = [*present] if wanted is None else [wanted] if isinstance(wanted, str) else wanted
    chosen = []
    for name in map(str, names):
        bag, _, topic = name.partition(':')
        if bag not in present:
            raise DataError(
                f"{root}: no bag '{bag}'; here are {', '.join(present)}: name some of these."
            )
        chosen.append((name, present[bag], topic))
    return chosen


def _find_bags(root: Path) -> dict[str, Path]:
    if is_bag(root):
        return {root.stem: root}
    found = {path.parent for path in root.rglob('metadata.yaml')} | {*root.rglob('*.bag')}
    if not found:
        raise DataError(
            f'{root}: no bags found; expected folders with metadata.yaml, or .bag files.'
        )
    return {path.relative_to(root).as_posix(): path for path in sorted(found)}


def _refuse_labels(path: Path) -> Raw:
    raise AssertionError(f'a bag has no labels, yet {path} was asked for')
