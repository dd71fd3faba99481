# SPDX-License-Identifier: Apache-2.0
"""A recording as sequences in SemanticKITTI's layout, to correct the labels and to train on them.

sequences/XX/ with velodyne/, labels/, poses.txt, calib.txt and times.txt, one for each topic.
There is no camera: calib.txt says that poses.txt is about the sensor itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cli.console import Console
from lidar_kd.cli.labelled_bag import claim_folder
from lidar_kd.cli.offline import CloudLabeller, UnreadableClouds
from lidar_kd.errors import DataError, prepare_folder, write_atomically, writing
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.scans.recording import CloudKey, Recorded, Recording
from lidar_kd.scans.trajectory import find_poses, FoundPoses, stamp_ns

_CAMERAS = ''.join(f'P{camera}: 1 0 0 0 0 1 0 0 0 0 1 0\n' for camera in range(4))
CALIBRATION = _CAMERAS + 'Tr: 1 0 0 0 0 1 0 0 0 0 1 0\n'
_FAR_S = 0.2  # a scan so far from the nearest pose is told
NO_POSES = 'none'


class SequenceFolder:
    """The destination of clouds that become scans; points without an echo are left out."""

    def __init__(
        self, recording: Recording, root: Path, first: int, source: str, origin: str
    ) -> None:
        """first: the number of the first topic's sequence; source: of the poses."""
        self._recording, self._source = recording, source
        numbered = enumerate(recording.topics, first)
        self._folders = {topic: root / 'sequences' / f'{n:02}' for n, topic in numbered}
        for topic, folder in self._folders.items():
            for name in ('velodyne', 'labels'):
                prepare_folder(folder / name)
            claim_folder(folder, f'{topic} of {origin}')
        self.unreadable = UnreadableClouds(root / 'unreadable', 'is left out')

    def has(self, key: CloudKey) -> bool:
        """Corrected labels are as many as before: they stay."""
        scan, labels = self._paths(key)
        if not scan.is_file() or not labels.is_file():
            return False
        return scan.stat().st_size == 4 * labels.stat().st_size

    def keep(self, recorded: Recorded, labeller: CloudLabeller) -> None:
        """The labels first: where there are points, there are labels."""
        assert recorded.key is not None
        _, cloud = labeller.decode(recorded)
        answer = labeller.label(cloud, recorded.key)
        scan, labels = self._paths(recorded.key)
        raw = SEMANTICKITTI.to_raw(answer.labels[cloud.valid])
        _write(labels, raw.astype('<u4').tobytes())
        _write(scan, cloud.points[cloud.valid].astype('<f4').tobytes())

    def finish(self, labeller: CloudLabeller, console: Console) -> None:
        stamps: dict[str, list[int]] = {topic: [] for topic in self._folders}
        frames: dict[str, str] = {}
        with console.progress(len(self._recording.list_clouds()), 'place', unit='clouds') as step:
            for recorded in self._recording.clouds():
                header = self._recording.decode(recorded).header
                topic = recorded.connection.topic
                stamps[topic].append(stamp_ns(header))
                frames.setdefault(topic, header.frame_id)
                step()
        for topic, frame in frames.items():
            for stray in self._folders[topic].rglob('.*.tmp'):  # of killed processes
                stray.unlink(missing_ok=True)
            self._place(topic, frame, np.array(stamps[topic], np.int64), console)

    def _place(
        self, topic: str, frame: str, stamps_ns: NDArray[np.int64], console: Console
    ) -> None:
        """Writes when and where the scans of a topic were taken."""
        folder = self._folders[topic]
        seconds = 1e-9 * (stamps_ns - stamps_ns[0])
        _write(folder / 'times.txt', ''.join(f'{time:.6e}\n' for time in seconds).encode())
        _write(folder / 'calib.txt', CALIBRATION.encode())
        if self._source == NO_POSES:
            return
        found = find_poses(self._recording, frame, self._source)
        if found is None:
            console.warn(f'{topic}: no poses: neither TF nor odometry tells where {frame} was')
            return
        _tell(found, stamps_ns, topic, console)
        poses = found.at(stamps_ns)
        rows = (np.linalg.inv(poses[0]) @ poses)[:, :3].reshape(-1, 12)
        text = ''.join(' '.join(f'{value:.9g}' for value in row) + '\n' for row in rows)
        _write(folder / 'poses.txt', text.encode())

    def _paths(self, key: CloudKey) -> tuple[Path, Path]:
        """Points and labels."""
        folder = self._folders[key.topic]
        name = f'{key.number:06}'
        return folder / 'velodyne' / f'{name}.bin', folder / 'labels' / f'{name}.label'


def require_semantickitti(names: tuple[str, ...], path: Path | None) -> None:
    """The layout has ids for these classes only."""
    if names != SEMANTICKITTI.names:
        raise DataError(
            f"{path}: answers in other classes than SemanticKITTI's, whose ids the folder holds; "
            'take a bundle trained on those.'
        )


def _tell(found: FoundPoses, stamps_ns: NDArray[np.int64], topic: str, console: Console) -> None:
    console.line(f'poses of {topic}: {found.source}')
    if found.warning:
        console.warn(found.warning)
    late_s = found.outside_s(stamps_ns)
    if (late_s > _FAR_S).any():
        console.warn(
            f'{topic}: {int((late_s > _FAR_S).sum())} scans lie up to {late_s.max():.1f} s before '
            'the first pose or after the last one, and got that one'
        )


def _write(path: Path, content: bytes) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            temporary.write_bytes(content)
