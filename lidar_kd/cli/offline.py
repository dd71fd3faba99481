# SPDX-License-Identifier: Apache-2.0
"""The clouds of a recording labelled one by one, in shares, without hurry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
import torch

from lidar_kd.cli.console import Console
from lidar_kd.cli.jobs import Rank
from lidar_kd.cloud import Cloud, decode, MalformedCloud
from lidar_kd.errors import DataError, write_atomically, writing
from lidar_kd.labels import ClassTable
from lidar_kd.scans.recording import CloudKey, Recorded, Recording
from lidar_kd.segmenter import Segmenter
from lidar_kd.sensor.intensity import IntensityRange

_LOOKED_AT = 5  # clouds of a topic, to find the range of its intensity


@dataclass(frozen=True, kw_only=True, eq=False)
class CloudAnswer:
    """What the network says about the N points of a cloud, in their order."""

    labels: NDArray[np.uint8]
    probability: NDArray[np.float32]
    entropy: NDArray[np.float32]


class CloudLabeller:
    """One scale of intensity for all clouds of a topic: an answer does not depend on its turn."""

    def __init__(
        self, segmenter: Segmenter, recording: Recording, intensity_scale: float | None = None
    ) -> None:
        """intensity_scale: to 0..1; None: found."""
        self._segmenter, self._recording = segmenter, recording
        self.full_scale = {
            topic: 1 / intensity_scale if intensity_scale else find_scale_of(recording, topic)
            for topic in recording.topics
        }

    @property
    def table(self) -> ClassTable:
        return self._segmenter.spec.labels

    def decode(self, recorded: Recorded) -> tuple[Any, Cloud]:
        """The message and its points, intensity 0..1; MalformedCloud says what is wrong."""
        message = self._recording.decode(recorded)
        scale = 1 / self.full_scale[recorded.connection.topic]
        return message, decode(message, intensity_scale=scale)

    def label(self, cloud: Cloud, key: CloudKey) -> CloudAnswer:
        points = cloud.points.copy()
        points[:, 3] /= np.float32(self._segmenter.spec.intensity.scale)
        try:
            seen = self._segmenter.segment(points)
        except torch.cuda.OutOfMemoryError:
            raise DataError(
                f'{key.topic}: {len(points):,} points of cloud {key.number} are too many for the '
                'GPU memory; use --device cpu or --precision float16.'
            ) from None
        return CloudAnswer(labels=seen.labels, probability=seen.probability, entropy=seen.entropy)


def find_scale_of(recording: Recording, topic: str) -> float:
    """Full scale of the intensity, by some of the clouds."""
    seen = IntensityRange()
    for message in recording.spread(topic, _LOOKED_AT):
        try:
            decode(message, intensity_range=seen)
        except MalformedCloud:
            continue  # labelling it tells what is wrong
    return seen.full_scale


class UnreadableClouds:
    """What was wrong with single clouds: one small file each, seen by all processes."""

    def __init__(self, folder: Path, fate: str) -> None:
        """fate: what becomes of them."""
        self._folder, self._fate = folder, fate

    def has(self, key: CloudKey) -> bool:
        return self._place(key).is_file()

    def note(self, key: CloudKey, reason: str) -> None:
        place = self._place(key)
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(place) as temporary:
                temporary.write_text(f'cloud {key.number} on {key.topic} {self._fate}: {reason}')

    def sentences(self) -> list[str]:
        return [path.read_text() for path in sorted(self._folder.rglob('*.txt'))]

    def _place(self, key: CloudKey) -> Path:
        return self._folder / name_folder(key.topic) / f'{key.number:06}.txt'


def name_folder(topic: str) -> str:
    return topic.strip('/').replace('/', '.')  # no topic has a dot in its name


class Destination(Protocol):
    """Where labelled clouds go."""

    unreadable: UnreadableClouds

    def has(self, key: CloudKey) -> bool:
        """Whether this cloud is done, by this process or another one, now or before."""

    def keep(self, recorded: Recorded, labeller: CloudLabeller) -> None:
        """Labels one cloud; MalformedCloud where it cannot be read."""

    def finish(self, labeller: CloudLabeller, console: Console) -> None:
        """Called when all clouds are done, by all processes that see it."""


def label_share(
    recording: Recording,
    labeller: CloudLabeller,
    destination: Destination,
    rank: Rank,
    console: Console,
) -> None:
    """What is not done of this process's share."""
    share = recording.list_clouds()[rank.index :: rank.world]
    todo = {key for key in share if not is_settled(destination, key)}
    console.line(f'{len(share) - len(todo)} of {len(share)} clouds were labelled before')
    with console.progress(len(todo), 'label', unit='clouds') as step:
        for recorded in recording.clouds() if todo else ():
            if recorded.key not in todo:
                continue
            try:
                destination.keep(recorded, labeller)
            except MalformedCloud as error:
                destination.unreadable.note(recorded.key, str(error))
            step()
            todo.remove(recorded.key)
            if not todo:
                break
    _refuse_missing(recording, sorted(todo))


def is_settled(destination: Destination, key: CloudKey) -> bool:
    return destination.has(key) or destination.unreadable.has(key)


def all_done(recording: Recording, destination: Destination) -> bool:
    return all(is_settled(destination, key) for key in recording.list_clouds())


def _refuse_missing(recording: Recording, missing: Sequence[CloudKey]) -> None:
    if missing:
        raise DataError(
            f'{recording.path}: {len(missing)} clouds that its metadata.yaml counts are not '
            f'there, first number {missing[0].number} on {missing[0].topic}; run ros2 bag '
            f'reindex {recording.path}.'
        )
