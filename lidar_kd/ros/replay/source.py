# SPDX-License-Identifier: Apache-2.0
"""Where replayed clouds come from: a sequence, scans in files, a bag; knows nothing of ROS."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cloud import decode, Payload
from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.ros.replay.layouts import DriverLayout, encode_scan, find_layout
from lidar_kd.scans import find_scans, read_scan
from lidar_kd.scans.bags import Bag, is_bag
from lidar_kd.sensor.intensity import IntensityRange

AUTO = 'auto'  # layout: of files xyzi, of bags as recorded
USUAL_HZ = 10.0


class Replayed(NamedTuple):
    payload: Payload
    frame_id: str  # '' where the source knows none


class Source(Protocol):
    """Clouds by number."""

    rate_hz: float  # of the sensor

    def __len__(self) -> int: ...

    def read(self, index: int) -> Replayed: ...


def open_source(path: str, *, layout: str = AUTO, topic: str = '', truth: bool = False) -> Source:
    """path: a sequence in SemanticKITTI's layout, a scan, a folder of scans, or a bag."""
    if not path:
        raise ConfigError('path is empty; name a sequence, a scan, a folder of scans or a bag.')
    place = Path(path).expanduser()
    chosen = None if layout == AUTO else find_layout(layout)
    if is_bag(place):
        if truth:
            raise ConfigError(f'{place}: a bag has no ground truth; set truth to false.')
        return RecordedClouds(Bag(place, topic), chosen)
    scans = _find_files(place)
    labels = _find_labels(scans) if truth else None
    return ScanFiles(scans, labels, chosen or find_layout('xyzi'))


class ScanFiles:
    def __init__(self, scans: list[Path], labels: list[Path] | None, layout: DriverLayout) -> None:
        self._scans = scans
        self._labels = labels
        self._layout = layout
        self._seen = IntensityRange()
        self.rate_hz = USUAL_HZ
        self.read(0)  # what cannot be read is told before anything is published

    def __len__(self) -> int:
        return len(self._scans)

    def read(self, index: int) -> Replayed:
        points = read_scan(self._scans[index])
        truth = None if self._labels is None else _read_labels(self._labels[index], len(points))
        points[:, 3] /= np.float32(self._seen.find(points[:, 3]))
        return Replayed(encode_scan(points, self._layout, truth), '')


class RecordedClouds:
    def __init__(self, bag: Bag, layout: DriverLayout | None) -> None:
        """layout: what to change the clouds to; None: as recorded, byte by byte."""
        self._bag = bag
        self._layout = layout
        self._seen = IntensityRange()
        self.rate_hz = _mean_rate(bag.stamps_ns)
        self.read(0)

    def __len__(self) -> int:
        return len(self._bag)

    def read(self, index: int) -> Replayed:
        message = self._bag.read(index)
        if self._layout is None:
            return Replayed(_copy_payload(message), message.header.frame_id)
        points = decode(message, intensity_range=self._seen).points
        return Replayed(encode_scan(points, self._layout), message.header.frame_id)


def _find_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if (place / 'sequences').is_dir():
        inside = sorted(path.parent.name for path in place.glob('sequences/*/velodyne'))
        one = place / 'sequences' / (inside or ['00'])[0]
        raise DataError(f'{place}: holds sequences {", ".join(inside)}; name one, as {one}.')
    return find_scans(place / 'velodyne' if (place / 'velodyne').is_dir() else place)


def _find_labels(scans: list[Path]) -> list[Path]:
    labels = [scan.parent.parent / 'labels' / f'{scan.stem}.label' for scan in scans]
    missing = next((path for path in labels if not path.is_file()), None)
    if missing:
        raise DataError(f'{missing}: no such file; unpack the labels or set truth to false.')
    return labels


def _read_labels(path: Path, count: int) -> NDArray[np.uint8]:
    if path.stat().st_size != 4 * count:
        raise DataError(
            f'{path}: {path.stat().st_size} bytes are no uint32 labels for {count} points; '
            'copy scan and labels again.'
        )
    return SEMANTICKITTI.to_train(np.fromfile(path, '<u4'), str(path))


def _mean_rate(stamps_ns: list[int]) -> float:
    span_s = 1e-9 * (stamps_ns[-1] - stamps_ns[0])
    return (len(stamps_ns) - 1) / span_s if span_s > 0 else USUAL_HZ


def _copy_payload(message: Any) -> Payload:
    """Rows lose their padding."""
    cloud = decode(message, intensity_field='none')
    layout = cloud.layout
    data = array('B', b'')
    data.frombytes(cloud.rows.tobytes())
    return Payload(
        data=data,
        fields=layout.fields,
        height=layout.height,
        width=layout.width,
        point_step=layout.point_step,
        is_bigendian=layout.is_bigendian,
        is_dense=bool(message.is_dense),
    )
