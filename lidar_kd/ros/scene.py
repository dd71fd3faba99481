# SPDX-License-Identifier: Apache-2.0
"""The objects of a scan and their tracks, for those topics that want them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cloud import Cloud
from lidar_kd.labels import ClassTable
from lidar_kd.objects import find_objects, Objects, ObjectSettings, Tracker, Tracks
from lidar_kd.ros.settings import Filter, NodeSettings
from lidar_kd.segmenter import Segmentation

SCENE_TOPICS = frozenset({'objects', 'markers', 'detected_objects', 'tracked_objects'})
_SETTLED = 3  # scans after which a track knows whether its object moves


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenObjects:
    """K objects of a scan."""

    objects: Objects
    tracks: Tracks | None  # None: TF could not say where the scan was taken
    moving_mps: float

    @property
    def moving(self) -> NDArray[np.bool_]:
        """(K,) for certain."""
        if self.tracks is None:
            return np.zeros(len(self.objects), np.bool_)
        return self._settled & (self.tracks.speed >= self.moving_mps)

    @property
    def resting(self) -> NDArray[np.bool_]:
        """(K,) for certain."""
        if self.tracks is None:
            return np.zeros(len(self.objects), np.bool_)
        return self._settled & (self.tracks.speed < self.moving_mps)

    @property
    def numbers(self) -> NDArray[np.uint32]:
        """(K,) those of the tracks; without tracks 1, 2, ..."""
        if self.tracks is None:
            return np.arange(1, len(self.objects) + 1, dtype=np.uint32)
        return self.tracks.numbers.astype(np.uint32)

    def number_points(self) -> NDArray[np.uint32]:
        """(N,) the number of each point's object, 0 for none."""
        return np.append(np.uint32(0), self.numbers)[self.objects.instances]

    def find_points(self, motions: Collection[str]) -> NDArray[np.bool_]:
        """(N,) those of objects that do one of these, `resting` or `moving`."""
        chosen = np.zeros(1 + len(self.objects), np.bool_)
        for motion in motions:
            chosen[1:] |= getattr(self, motion)
        return chosen[self.objects.instances]

    @property
    def _settled(self) -> NDArray[np.bool_]:
        assert self.tracks is not None
        settled: NDArray[np.bool_] = self.tracks.ages >= _SETTLED
        return settled


def choose_late_topics(wanted: Collection[str], settings: NodeSettings) -> frozenset[str]:
    """Of the wanted topics those that wait until objects are found; the others need labels."""
    late = SCENE_TOPICS | {each.name for each in settings.filters if each.motions}
    if settings.labeled_instances:
        late |= {'labeled'}
    return late.intersection(wanted)


class SceneFinder:
    """Keeps the tracks from scan to scan."""

    def __init__(self) -> None:
        self._tracker = Tracker()

    def find(
        self, cloud: Cloud, result: Segmentation, table: ClassTable, settings: NodeSettings,
        moment: tuple[float, NDArray[np.float64] | None],
    ) -> SeenObjects:  # fmt: skip
        """`moment`: the scan's stamp in seconds, and (4, 4) where it was taken, if known."""
        limits = ObjectSettings(
            range_m=settings.objects_range_m,
            min_probability=settings.objects_min_probability,
            min_points=settings.objects_min_points,
            fewest_points=min(settings.objects_min_points, ObjectSettings.fewest_points),
        )
        objects = find_objects(cloud.points, result.labels, result.probability, table, limits)
        time_s, pose = moment
        tracks = None if pose is None else self._tracker.update(objects, time_s, pose)
        return SeenObjects(objects=objects, tracks=tracks, moving_mps=settings.objects_moving_mps)


def keep_points(
    each: Filter, result: Segmentation, table: ClassTable, scene: SeenObjects | None
) -> NDArray[np.bool_]:
    """(N,) what belongs to the filter's topic."""
    keep = each.keeps(table)[result.labels]
    if scene is not None and each.motions:
        keep |= scene.find_points(each.motions)
    if each.min_probability:
        keep &= result.probability >= each.min_probability
    return keep
