# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: one table of names, defaults, ranges and when each may change.

Knows nothing of ROS; node.py declares what stands here, config/node/segment.yaml lists it for
people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
import re
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError
from lidar_kd.labels import ClassTable, IGNORE
from lidar_kd.ros.one_parameter import Parameter, Value
from lidar_kd.ros.one_parameter import parameter_field as _parameter
from lidar_kd.ros.output_settings import OutputSettings, read_costs
from lidar_kd.ros.sensor_settings import check_pose, SensorSettings

AUTO_MODEL = 'auto'
UNLABELLED = 'unlabelled'  # a filter's word for points without an answer
MOTIONS = ('resting', 'moving')  # and for those of objects, by what the tracker has seen
NO_BOX = (-1e4, 1e4) * 3  # as wide as no sensor sees
_SECTIONS = ('crop', 'objects', 'costmap')  # of the parameters' names
_TAKEN = (
    *('points', 'segmented', 'labeled', 'label_info', 'debug', 'objects', 'markers', 'costmap'),
    *('detected_objects', 'tracked_objects'),
)
_FILTER_DEFAULTS = {'obstacles': ['obstacle'], 'ground': ['ground'], 'static': ['static']}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A topic with the points of some classes."""

    name: str
    classes: tuple[str, ...]  # names, groups of the label table, 'unlabelled', or of MOTIONS
    min_probability: float

    @property
    def motions(self) -> frozenset[str]:
        return frozenset(self.classes) & frozenset(MOTIONS)

    def keeps(self, table: ClassTable) -> NDArray[np.bool_]:
        """(256,) whether points with this train id belong to it."""
        keeps = np.zeros(256, bool)
        for word in self.classes:
            if word == UNLABELLED:
                keeps[IGNORE] = True
            elif word in MOTIONS:
                continue
            elif word in table.names:
                keeps[table.names.index(word)] = True
            else:
                keeps[self._group(word, table)] = True
        return keeps

    def _group(self, word: str, table: ClassTable) -> NDArray[np.uint8]:
        try:
            return table.group_ids(word)
        except ConfigError:
            raise ConfigError(
                f"parameter filters.{self.name}.classes: '{word}' is no class and no group of "
                f"'{table.name}'; use "
                f'{", ".join([*table.groups, *table.names, UNLABELLED, *MOTIONS])}.'
            ) from None


@dataclass(frozen=True, kw_only=True)
class NodeSettings(SensorSettings, OutputSettings):
    """The values of all parameters at one moment."""

    model: str = _parameter(
        AUTO_MODEL,
        'Bundle (.safetensors) to run; auto or empty: the largest of those that ship with the '
        'package that keeps up with sensor_rate_hz on this machine, measured while configuring.',
        changes='unconfigured',
    )
    sensor_rate_hz: float = _parameter(
        10.0,
        'Scans per second that model: auto has to keep up with.',
        changes='unconfigured',
        lower=0.1,
        upper=1000.0,
    )
    device: str = _parameter(
        'auto',
        'auto, cpu, cuda or cuda:N; auto takes CUDA if there is one.',
        changes='unconfigured',
    )
    precision: str = _parameter(
        'auto',
        'Of the network; auto: float16 on CUDA, bfloat16 on a CPU with matrix units or '
        'AVX512-BF16, else float32.',
        changes='unconfigured',
        choices=('auto', 'float32', 'bfloat16', 'float16'),
    )
    engine: str = _parameter(
        'auto',
        'Of the sparse convolutions; auto: the fastest that this machine has.',
        changes='unconfigured',
        choices=('auto', 'torch', 'native', 'triton', 'spconv'),
    )
    threads: int = _parameter(
        0,
        'CPU threads of the network; 0: as many as torch takes, one per core.',
        changes='unconfigured',
        upper=256,
    )
    warm_up_points: int = _parameter(
        120_000,
        'Points of the made-up scan that configuring runs, so that the first real one is fast.',
        changes='unconfigured',
        upper=2_000_000,
    )
    autostart: bool = _parameter(
        True,
        'Configure and activate at the start; false leaves that to a lifecycle manager.',
        changes='start',
    )
    reliability: str = _parameter(
        'auto',
        'Of the input; auto: reliable if every publisher found is, else best effort.',
        changes='inactive',
        choices=('auto', 'reliable', 'best_effort'),
    )
    target_frame: str = _parameter(
        '',
        'Frame to bring the outputs into, by TF at their stamp; the network sees scans as the '
        'sensor does; empty: the frame of the scan.',
        changes='unconfigured',
    )
    intensity_field: str = _parameter(
        'auto',
        'Field with the intensity; auto: intensity, reflectivity or signal; none: zeros.',
    )
    intensity_scale: float = _parameter(
        0.0,
        'What to multiply the intensity by; 0: by its type and range to what the bundle expects.',
        upper=1e6,
    )
    crop_min_range_m: float = _parameter(
        0.0, 'Points nearer than this, seen from above, get no answer.', upper=1e4
    )
    crop_max_range_m: float = _parameter(
        0.0, 'Points farther than this, seen from above, get no answer; 0: no limit.', upper=1e4
    )
    crop_box: Sequence[float] = _parameter(
        list(NO_BOX),
        'Points outside of x_min, x_max, y_min, y_max, z_min, z_max (m) get no answer.',
    )
    max_points: int = _parameter(
        0,
        'Of more points than this only so many, evenly spread over their order, are labelled and '
        'the others get no answer; 0: all.',
        upper=10_000_000,
    )
    max_age_s: float = _parameter(
        0.0,
        'Scans older than this, by their stamp, are dropped; 0: none. Needs synchronised clocks.',
        upper=3600.0,
    )
    max_processing_time_ms: float = _parameter(
        100.0, 'Diagnostics warn when scans take longer (95th percentile).', lower=1.0, upper=1e5
    )
    max_silence_ms: float = _parameter(
        1000.0, 'Diagnostics report an error after this long without a scan.', lower=1.0, upper=1e6
    )
    output_classes: str = _parameter(
        'autoware',
        "Ids in ~/segmented: Autoware's (CAR 0 ... NOISE 11) or the bundle's own train ids.",
        choices=('autoware', 'train'),
    )
    filter_names: Sequence[str] = _parameter(
        list(_FILTER_DEFAULTS),
        'Topics with the points of some classes; each has filters.NAME.classes and '
        'filters.NAME.min_probability.',
        changes='start',
    )
    filters: tuple[Filter, ...] = ()

    @classmethod
    def from_values(cls, values: Mapping[str, Value]) -> NodeSettings:
        """Values of all parameters by name; raises ConfigError where one cannot be used."""
        names = check_filter_names(cast(Sequence[str], values['filter_names']))
        for parameter in [*parameters(), *filter_parameters(names)]:
            parameter.check(values[parameter.name])
        own: dict[str, Any] = {
            parameter.name.replace('.', '_'): values[parameter.name] for parameter in parameters()
        }
        check_box(own['crop_box'])
        check_pose(own['sensor_pose'])
        read_costs(own['costmap_costs'])
        return cls(**own, filters=tuple(_read_filter(name, values) for name in names))


def parameters() -> Iterator[Parameter]:
    """All but those of the filters."""
    for each in fields(NodeSettings):
        if each.metadata:
            yield Parameter(name=_name_parameter(each.name), **each.metadata)


def _name_parameter(field_name: str) -> str:
    section, _, rest = field_name.partition('_')
    return f'{section}.{rest}' if section in _SECTIONS else field_name


def filter_parameters(names: Sequence[str]) -> Iterator[Parameter]:
    for name in names:
        yield Parameter(
            name=f'filters.{name}.classes',
            default=_FILTER_DEFAULTS.get(name, ['']),
            description=f'Classes or groups of ~/{name}; {UNLABELLED}: points without an answer; '
            'resting, moving: those of objects that the tracker has seen do so.',
        )
        yield Parameter(
            name=f'filters.{name}.min_probability',
            default=0.0,
            description=f'Less certain points are left out of ~/{name}.',
            upper=1.0,
        )


def check_box(box: Sequence[float]) -> None:
    if len(box) != 6 or not all(low < high for low, high in zip(box[::2], box[1::2])):
        raise ConfigError(
            f'parameter crop.box: {list(box)} is no box; give x_min, x_max, y_min, y_max, z_min, '
            'z_max with every minimum below its maximum.'
        )


def check_filter_names(given: Sequence[str]) -> list[str]:
    names = [name for name in given if name]  # an empty list is written [''] in a YAML file
    for name in names:
        if not re.fullmatch(r'[a-z][a-z0-9_]*', name) or name in _TAKEN or names.count(name) > 1:
            raise ConfigError(
                f"parameter filter_names: '{name}' cannot name a topic; use distinct words of "
                f'a-z, 0-9 and _, none of {", ".join(_TAKEN)}.'
            )
    return names


def _read_filter(name: str, values: Mapping[str, Value]) -> Filter:
    words = cast(Sequence[str], values[f'filters.{name}.classes'])
    classes = tuple(word for word in words if word)
    if not classes:
        raise ConfigError(f'parameter filters.{name}.classes: is empty; name classes or groups.')
    least = cast(float, values[f'filters.{name}.min_probability'])
    return Filter(name=name, classes=classes, min_probability=least)
