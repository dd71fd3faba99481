# SPDX-License-Identifier: Apache-2.0
"""A labelled scan, and what the topics show of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
import math

import numpy as np

from lidar_kd.cloud import Cloud, encode_labeled, encode_segmented, Payload, select
from lidar_kd.labels import ClassTable, IGNORE
from lidar_kd.ros.scene import keep_points, SeenObjects
from lidar_kd.ros.settings import NodeSettings
from lidar_kd.segmenter import Segmentation

SEGMENTED, LABELED = 'segmented', 'labeled'


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """A scan where the listeners want it, with an answer for each of its points."""

    cloud: Cloud
    result: Segmentation
    table: ClassTable
    stages_ms: dict[str, float]  # preprocess, inference; objects once they are found
    description: str  # for the log

    @property
    def unlabelled(self) -> int:
        return int(np.count_nonzero(self.result.labels == IGNORE))

    @property
    def entropy(self) -> float:
        """The mean of the labelled points; NaN without any."""
        seen = self.result.labels != IGNORE
        return float(self.result.entropy[seen].mean()) if seen.any() else math.nan


def build_clouds(
    labelled: Labelled,
    wanted: Collection[str],
    settings: NodeSettings,
    scene: SeenObjects | None = None,
) -> Iterator[tuple[str, Payload]]:
    """Topic and cloud, each built when it is asked for: the one before is on its way by then."""
    cloud, result, table = labelled.cloud, labelled.result, labelled.table
    if LABELED in wanted:
        instances = scene.number_points() if scene and settings.labeled_instances else None
        yield LABELED, encode_labeled(cloud, result.labels, table, instances=instances)
    if SEGMENTED in wanted:
        autoware = settings.output_classes == 'autoware'
        ids = table.to_autoware(result.labels) if autoware else result.labels
        yield SEGMENTED, encode_segmented(cloud, ids, result.probability, result.entropy)
    for each in settings.filters:
        if each.name in wanted:
            yield each.name, select(cloud, keep_points(each, result, table, scene))
