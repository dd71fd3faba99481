# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: one table of names, defaults, ranges and when each may change.

Knows nothing of ROS; node.py declares what stands here, config/node/segment.yaml lists it for
people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
import re
from typing import Any, cast, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError
from lidar_kd.labels import ClassTable, IGNORE
from lidar_kd.sensor import SensorOptions

Value = bool | int | float | str | Sequence[str] | Sequence[float]
# start: with the node only; unconfigured, inactive: up to that state; always: also while it runs
Changes = Literal['start', 'unconfigured', 'inactive', 'always']
UNLABELLED = 'unlabelled'  # a filter's word for points without an answer
T = TypeVar('T')
NO_BOX = (-1e4, 1e4) * 3  # as wide as no sensor sees
_TAKEN = ('points', 'segmented', 'labeled', 'label_info', 'debug')
_FILTER_DEFAULTS = {'obstacles': ['obstacle'], 'ground': ['ground']}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    name: str
    default: Value
    description: str
    changes: Changes = 'always'
    lower: float = 0
    upper: float = 0  # no range where both are 0
    choices: tuple[str, ...] = ()

    def check(self, value: Value) -> None:
        if self.choices and value not in self.choices:
            raise ConfigError(
                f'parameter {self.name}: {value!r} is unknown; use one of '
                f'{", ".join(self.choices)}.'
            )
        if self.upper and not self.lower <= cast(float, value) <= self.upper:
            raise ConfigError(
                f'parameter {self.name}: {value} is outside {self.lower:g}..{self.upper:g}.'
            )

    def check_change(self, state: str) -> None:
        """`state` is the lifecycle's word for where the node is."""
        if self.changes == 'unconfigured' and state not in ('unconfigured', 'finalized'):
            raise ConfigError(
                f'parameter {self.name} needs the bundle loaded anew: deactivate and clean up the '
                'node (ros2 lifecycle set NODE deactivate, then cleanup), set it, then configure.'
            )
        if self.changes == 'inactive' and state == 'active':
            raise ConfigError(
                f'parameter {self.name} needs a new subscription: deactivate the node '
                '(ros2 lifecycle set NODE deactivate), set it, then activate.'
            )


def _parameter(default: T, description: str, **rest: Any) -> T:
    metadata = {'default': default, 'description': description, **rest}
    declared: T = field(default_factory=lambda: default, metadata=metadata)
    return declared


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A topic with the points of some classes."""

    name: str
    classes: tuple[str, ...]  # names, groups of the label table, or 'unlabelled'
    min_probability: float

    def keeps(self, table: ClassTable) -> NDArray[np.bool_]:
        """(256,) whether points with this train id belong to it."""
        keeps = np.zeros(256, bool)
        for word in self.classes:
            if word == UNLABELLED:
                keeps[IGNORE] = True
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
                f"'{table.name}'; use {', '.join([*table.groups, *table.names, UNLABELLED])}."
            ) from None


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """The values of all parameters at one moment."""

    model: str = _parameter(
        '',
        'Bundle (.safetensors) to run; empty: the one that ships with the package.',
        changes='unconfigured',
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
        choices=('auto', 'torch', 'native', 'spconv'),
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
    mounting: str = _parameter(
        'auto',
        'auto: the ground of the first scans tells how the sensor is mounted, and the network '
        'sees scans as from the mounting that it was trained for; off: as they come.',
        choices=('auto', 'off'),
    )
    sensor_height: float = _parameter(
        0.0, "Of the scan's frame above the ground in m; 0: found, or as in training.", upper=100.0
    )
    sensor_pose: Sequence[float] = _parameter(
        [0.0, 0.0],
        "Roll and pitch of the scan's frame in degrees, 180 roll: upside down; both 0: found.",
    )
    intensity: str = _parameter(
        'auto',
        'auto: a gain brings the ground nearby to the brightness that the bundle expects, where '
        'it does; off: intensities as they come.',
        choices=('auto', 'off'),
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
        return cls(**own, filters=tuple(_read_filter(name, values) for name in names))

    def sensor_options(self) -> SensorOptions:
        roll_deg, pitch_deg = self.sensor_pose
        return SensorOptions(
            mounting=self.mounting,
            intensity=self.intensity,
            height_m=self.sensor_height,
            roll_pitch_deg=(roll_deg, pitch_deg) if roll_deg or pitch_deg else None,
        )


def parameters() -> Iterator[Parameter]:
    """All but those of the filters."""
    for each in fields(NodeSettings):
        if each.metadata:
            yield Parameter(name=each.name.replace('crop_', 'crop.'), **each.metadata)


def filter_parameters(names: Sequence[str]) -> Iterator[Parameter]:
    for name in names:
        yield Parameter(
            name=f'filters.{name}.classes',
            default=_FILTER_DEFAULTS.get(name, ['']),
            description=f'Classes or groups of ~/{name}; {UNLABELLED}: points without an answer.',
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


def check_pose(angles: Sequence[float]) -> None:
    if len(angles) != 2 or not (abs(angles[0]) <= 180 and abs(angles[1]) <= 90):
        raise ConfigError(
            f'parameter sensor_pose: {list(angles)} is no pose; give roll (-180 to 180) and pitch '
            '(-90 to 90) in degrees.'
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
