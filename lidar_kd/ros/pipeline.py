# SPDX-License-Identifier: Apache-2.0
"""A PointCloud2 in, the payloads of the wanted topics out: the node without ROS."""

from __future__ import annotations

from functools import cache
import gc
import json
import logging
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch

from lidar_kd.cloud import Cloud, decode, move, read_layout
from lidar_kd.cloud.layout import choose_intensity
from lidar_kd.errors import ConfigError
from lidar_kd.labels import ClassTable, IGNORE
from lidar_kd.ros.costmap import list_costs
from lidar_kd.ros.crop import choose_points, spread_answers
from lidar_kd.ros.labelled import LABELED, Labelled, SEGMENTED
from lidar_kd.ros.model_choice import make_segmenter
from lidar_kd.ros.scene import SceneFinder, SeenObjects
from lidar_kd.ros.settings import NodeSettings
from lidar_kd.ros.sharing import Networks
from lidar_kd.segmenter import Segmentation
from lidar_kd.sensor import MountingHints, NO_HINTS, SensorOptions
from lidar_kd.sensor.intensity import IntensityRange

log = logging.getLogger(__name__)
_PATIENCE = 5  # scans: a sign that shines at the sensor for a moment is no new full scale
Pose = NDArray[np.float64]


class Pipeline:
    """One bundle on one device. Made by configure; afterwards one thread labels with it."""

    def __init__(self, settings: NodeSettings, networks: Networks | None = None) -> None:
        """`networks`: those of the process, where several sensors share one."""
        set_threads(settings.threads)
        self._networks = networks or Networks()
        chosen_by = settings.model, settings.sensor_rate_hz
        self._key = *chosen_by, settings.device, settings.precision, settings.engine
        sensors = self._networks.sensors
        self._segmenter = self._networks.take(self._key, lambda: make_segmenter(settings, sensors))
        try:
            self.check_classes(settings)
        except ConfigError:
            self.release()
            raise
        self._sensor = settings.sensor_options()
        self.clouds = [SEGMENTED, LABELED, *(each.name for each in settings.filters)]
        self.begin()

    def begin(self) -> None:
        """Forgets the sensor: the next scan may be another one's."""
        self._segmenter.meet(self._sensor)
        self._intensity = IntensityRange(_PATIENCE)
        self._intensity_source: tuple[str, float] = '-', 0.0  # field, intensity_scale
        self._finder = SceneFinder()

    @property
    def table(self) -> ClassTable:
        return self._segmenter.spec.labels

    def check_classes(self, settings: NodeSettings) -> None:
        """Raises ConfigError where a parameter names what the bundle does not know."""
        for each in settings.filters:
            each.keeps(self.table)
        list_costs(self.table, settings)

    def check(self, message: Any) -> None:
        """Raises MalformedCloud; takes microseconds."""
        read_layout(message)

    def label(
        self,
        message: Any,
        settings: NodeSettings,
        pose: Pose | None = None,
        hints: MountingHints = NO_HINTS,
    ) -> Labelled:
        """`pose` (4, 4) brings the outputs to where the listeners want them."""
        start_s = time.perf_counter()
        self._meet(settings.sensor_options())
        self._segmenter.sensor.hear(hints)
        seen_by_sensor = self._decode(message, settings)
        cloud = seen_by_sensor if pose is None else move(seen_by_sensor, pose)
        decoded_ms = 1e3 * (time.perf_counter() - start_s)
        result = self._segment(seen_by_sensor, choose_points(cloud.points, settings))
        stages_ms = {
            'preprocess': decoded_ms + result.timing.get('voxelize', 0.0),
            'inference': sum(result.timing.get(stage, 0.0) for stage in ('maps', 'network')),
        }
        return Labelled(
            cloud=cloud,
            result=result,
            table=self.table,
            stages_ms=stages_ms,
            description=self._describe_scan(cloud),
        )

    def find_scene(
        self, labelled: Labelled, settings: NodeSettings, where: tuple[float, Pose | None]
    ) -> SeenObjects:
        """`where`: the stamp in seconds, and what (4, 4) brings the points to where what rests
        stands still; None: nobody knows.
        """
        start_s = time.perf_counter()
        scene = self._finder.find(labelled.cloud, labelled.result, self.table, settings, where)
        labelled.stages_ms['objects'] = 1e3 * (time.perf_counter() - start_s)
        return scene

    def _meet(self, options: SensorOptions) -> None:
        if options != self._sensor:
            self._sensor = options
            self._segmenter.meet(options)

    def _segment(self, cloud: Cloud, rows: NDArray[np.intp] | None) -> Segmentation:
        if rows is None:
            return self._segmenter.segment(cloud.points)
        seen = self._segmenter.segment(cloud.points[rows])
        return spread_answers(seen, rows, len(cloud))

    def _decode(self, message: Any, settings: NodeSettings) -> Cloud:
        field = choose_intensity(read_layout(message), settings.intensity_field)
        source = (field.name if field else 'none', settings.intensity_scale)
        if source != self._intensity_source:  # another field has a scale of its own
            self.begin()
            self._intensity_source = source
        seen = self._intensity
        before = seen.full_scale if seen.settled else math.inf
        cloud = decode(
            message,
            intensity_field=settings.intensity_field,
            intensity_scale=settings.intensity_scale or None,
            scale_to=1 / self._segmenter.spec.intensity.scale,
            intensity_range=seen,
        )
        if seen.full_scale > before:
            log.warning(
                'the full scale of %s is %g from now on, after %g; set intensity_scale if that '
                'is wrong',
                source[0],
                seen.full_scale,
                before,
            )
        return cloud

    def _describe_scan(self, cloud: Cloud) -> str:
        layout, intensity = cloud.layout, self.intensity_facts()
        names = ' '.join(field.name for field in layout.fields)
        return (
            f'{layout.height} x {layout.width} points of {layout.point_step} bytes ({names}), '
            f'intensity from {intensity["intensity field"]}, full scale '
            f'{intensity["intensity full scale"]}'
        )

    def label_info(self) -> str:
        """JSON: what the ids in ~/labeled and ~/segmented mean."""
        table = self.table
        classes = [
            {'id': i, 'name': name, 'colour': list(table.palette[i]), 'autoware_id': autoware_id}
            for i, (name, autoware_id) in enumerate(zip(table.names, table.autoware_ids))
        ]
        groups = {name: list(members) for name, members in table.groups.items()}
        info = {'table': table.name, 'classes': classes, 'groups': groups, 'no_answer': IGNORE}
        return json.dumps(info)

    def facts(self) -> dict[str, str]:
        """For diagnostics."""
        device = self._segmenter.device
        facts = {
            'bundle': self._segmenter.bundle,
            **({'chosen': self._segmenter.choice} if self._segmenter.choice else {}),
            'device': str(device),
            'engine': self._segmenter.engine.name,
            'precision': str(self._segmenter.dtype).removeprefix('torch.'),
        }
        if device.type == 'cuda':
            facts['device'] += f' ({torch.cuda.get_device_name(device)})'
            facts['GPU memory (MB)'] = f'{torch.cuda.memory_reserved(device) / 1e6:.0f}'
        if self._segmenter.setbacks:
            facts['setbacks'] = ' '.join(f'{told}.' for told in self._segmenter.setbacks)
        return facts

    def intensity_facts(self) -> dict[str, str]:
        """For diagnostics: '-' before the first scan, and where intensity_scale is given."""
        seen = self._intensity
        return {
            'intensity field': self._intensity_source[0],
            'intensity full scale': f'{seen.full_scale:g}' if seen.settled else '-',
            **self._segmenter.sensor.facts(),
        }

    def release(self) -> None:
        """Gives the memory back; the pipeline is of no use afterwards."""
        device = self._segmenter.device
        del self._segmenter
        self._networks.give_back(self._key)
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()


@cache
def default_threads() -> int:
    """What torch had before the first change: asked once, then."""
    return torch.get_num_threads()


def set_threads(wanted: int) -> None:
    """0: as many as before any change."""
    default = default_threads()  # asked also where it is not wanted: later it could not be
    count = wanted or default
    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def read_stamp(message: Any) -> float:
    """Seconds."""
    stamp = message.header.stamp
    return float(stamp.sec + 1e-9 * stamp.nanosec)
