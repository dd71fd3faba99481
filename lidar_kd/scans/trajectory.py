# SPDX-License-Identifier: Apache-2.0
"""Where the sensor was when it scanned: from the transforms or the odometry of a recording.

A pose (4, 4) brings points from a frame to the frame it is given in. n samples, m scans.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.scans.recording import Recording

Poses = NDArray[np.float64]
Stamps = NDArray[np.int64]
TRANSFORMS = ('tf2_msgs/msg/TFMessage', 'tf/msg/tfMessage')
ODOMETRY = ('nav_msgs/msg/Odometry',)
_FEWEST = 2  # samples that tell of a motion


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """Of one frame within another."""

    stamps_ns: Stamps  # (n,) ascending; a single sample is valid for ever
    shifts: NDArray[np.float64]  # (n, 3) metres
    turns: NDArray[np.float64]  # (n, 4) unit quaternions x y z w

    @classmethod
    def of(cls, samples: Mapping[int, Sequence[float]], what: str) -> Motion:
        """samples: stamp -> x y z and the quaternion x y z w."""
        stamps = np.array(sorted(samples), np.int64)
        values = np.array([samples[stamp] for stamp in sorted(samples)], np.float64)
        length = np.linalg.norm(values[:, 3:], axis=1, keepdims=True)
        if not np.isfinite(values).all() or not (length > 1e-6).all():
            raise DataError(f'{what}: holds poses that are no numbers or no rotations.')
        return cls(stamps_ns=stamps, shifts=values[:, :3], turns=values[:, 3:] / length)

    def at(self, stamps_ns: Stamps) -> Poses:
        """(m, 4, 4), between two samples along the straight line and the shortest turn.

        Before the first sample and after the last one nothing moves.
        """
        last = len(self.stamps_ns) - 1
        after = np.clip(np.searchsorted(self.stamps_ns, stamps_ns), min(1, last), last)
        before = np.maximum(after - 1, 0)
        step = np.maximum(self.stamps_ns[after] - self.stamps_ns[before], 1)
        share = np.clip((stamps_ns - self.stamps_ns[before]) / step, 0, 1)[:, None]
        poses = np.tile(np.eye(4), (len(stamps_ns), 1, 1))
        poses[:, :3, :3] = rotate(slerp(self.turns[before], self.turns[after], share))
        poses[:, :3, 3] = (1 - share) * self.shifts[before] + share * self.shifts[after]
        return poses

    def outside_s(self, stamps_ns: Stamps) -> NDArray[np.float64]:
        """(m,) how long before the first or after the last sample; 0 between them."""
        if len(self.stamps_ns) < _FEWEST:
            return np.zeros(len(stamps_ns))
        early, late = self.stamps_ns[0] - stamps_ns, stamps_ns - self.stamps_ns[-1]
        outside: NDArray[np.float64] = 1e-9 * np.maximum(np.maximum(early, late), 0)
        return outside


def slerp(first: Poses, second: Poses, share: Poses) -> Poses:
    """(m, 4) unit quaternions between two; share (m, 1) from 0 to 1."""
    cosine = (first * second).sum(1, keepdims=True)
    second = np.where(cosine < 0, -second, second)  # the shorter way round
    angle = np.arccos(np.clip(np.abs(cosine), 0, 1))
    small = angle < 1e-6
    sine = np.where(small, 1, np.sin(angle))
    start = np.where(small, 1 - share, np.sin((1 - share) * angle) / sine)
    end = np.where(small, share, np.sin(share * angle) / sine)
    mixed = start * first + end * second
    turned: Poses = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return turned


def rotate(turns: Poses) -> Poses:
    """(m, 3, 3) of quaternions (m, 4) x y z w."""
    x, y, z, w = turns.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Transforms:
    """The tree of frames: the motion of every frame in its parent."""

    parents: dict[str, str]
    motions: dict[str, Motion]

    def find_root(self, frame: str) -> str:
        return [frame, *self.climb(frame)][-1]

    def climb(self, frame: str) -> list[str]:
        """The frames above, in order."""
        above: list[str] = []
        while frame in self.parents and self.parents[frame] not in above:
            frame = self.parents[frame]
            above.append(frame)
        return above

    def chain(self, frame: str, fixed: str) -> list[Motion] | None:
        """Motions from `frame` up to `fixed`; None where that is not above."""
        path = [frame, *self.climb(frame)]
        if fixed not in path:
            return None
        return [self.motions[each] for each in path[: path.index(fixed)]]


def read_transforms(recording: Recording) -> Transforms:
    parents: dict[str, str] = {}
    samples: dict[str, dict[int, Sequence[float]]] = defaultdict(dict)
    for topic, message in recording.messages_of(TRANSFORMS):
        for each in message.transforms:
            child, parent = _clean(each.child_frame_id), _clean(each.header.frame_id)
            if parents.setdefault(child, parent) == parent:
                stamp = 0 if topic.endswith('tf_static') else stamp_ns(each.header)
                place, turn = each.transform.translation, each.transform.rotation
                samples[child][stamp] = _pack(place, turn)
    motions = {child: Motion.of(found, f'TF of {child}') for child, found in samples.items()}
    return Transforms(parents=parents, motions=motions)


def read_odometry(recording: Recording) -> dict[str, tuple[str, Motion]]:
    """By topic: the frame that moves, and its motion."""
    samples: dict[str, dict[int, Sequence[float]]] = defaultdict(dict)
    frames: dict[str, str] = {}
    for topic, message in recording.messages_of(ODOMETRY):
        pose = message.pose.pose
        samples[topic][stamp_ns(message.header)] = _pack(pose.position, pose.orientation)
        frames[topic] = _clean(message.child_frame_id)
    return {topic: (frames[topic], Motion.of(s, topic)) for topic, s in samples.items()}


def stamp_ns(header: Any) -> int:
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def _clean(frame: str) -> str:
    return frame.lstrip('/')  # ROS 1 wrote it with a slash


def _pack(place: Any, turn: Any) -> tuple[float, ...]:
    return (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundPoses:
    """Of a sensor in a fixed frame, and what a person should know about them."""

    motions: list[Motion]  # from the sensor up
    source: str
    warning: str = ''

    def at(self, stamps_ns: Stamps) -> Poses:
        poses: Poses = np.tile(np.eye(4), (len(stamps_ns), 1, 1))
        for motion in self.motions:
            poses = motion.at(stamps_ns) @ poses
        return poses

    def outside_s(self, stamps_ns: Stamps) -> NDArray[np.float64]:
        late = [motion.outside_s(stamps_ns) for motion in self.motions]
        return np.max(late, axis=0) if late else np.zeros(len(stamps_ns))


def find_poses(recording: Recording, frame: str, source: str = '') -> FoundPoses | None:
    """`source`: a fixed frame or a topic with odometry; '': TF's root, else the only odometry."""
    frame = _clean(frame)
    tree, odometry = read_transforms(recording), read_odometry(recording)
    if source in odometry:
        return _follow(source, odometry[source], tree, frame)
    fixed = _clean(source) or tree.find_root(frame)
    chain = tree.chain(frame, fixed)
    if chain is not None and any(len(motion.stamps_ns) >= _FEWEST for motion in chain):
        return FoundPoses(motions=chain, source=f'TF, {frame} in {fixed}')
    if source or len(odometry) > 1:
        known = ', '.join([*odometry, *tree.climb(frame)]) or 'none'
        problem = f"no poses of {frame} from '{source}'" if source else 'several odometries'
        raise DataError(f'{recording.path}: {problem}; choose among {known} with --poses.')
    for topic, motion in odometry.items():
        return _follow(topic, motion, tree, frame)
    return None


def _follow(topic: str, moved: tuple[str, Motion], tree: Transforms, frame: str) -> FoundPoses:
    """The sensor's mount from TF, where it is there."""
    carrier, motion = moved
    chain = tree.chain(frame, carrier)
    if chain is not None:
        return FoundPoses(motions=[*chain, motion], source=f'{topic}, and {frame} in {carrier}')
    warning = (
        f'{topic} moves {carrier}, and TF does not say where {frame} sits on it: taken as one'
    )
    return FoundPoses(motions=[motion], source=topic, warning=warning)
