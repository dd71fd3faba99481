# SPDX-License-Identifier: Apache-2.0
"""The label tables: class names, colours, groups, raw ids and Autoware ids.

Train ids are 0..C-1 in the order of `ClassTable.names`; 255 (IGNORE) means "no answer" or
"not labelled". Every translation is one index into a small array.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import difflib
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from lidar_kd.errors import ConfigError, DataError

IGNORE = 255
IGNORED_COLOUR = (110, 110, 110)
_UNKNOWN = 254  # marks raw ids a table does not know, inside its LUT only
_MAX_CLASSES = 250
_LONGEST_NAME = 100
_RAW_IDS = 1 << 16  # SemanticKITTI keeps the instance id in the upper 16 bits

# Autoware's class ids
CAR, TRUCK, BUS, MOTORCYCLE, BICYCLE, PEDESTRIAN, ANIMAL = range(7)
HAZARD, FLAT_SURFACE, STRUCTURE, VEGETATION, NOISE = range(7, 12)
INVALID = 255

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """The classes of one data set; every tuple is in train id order."""

    __pydantic_config__ = ConfigDict(extra='forbid')

    name: str
    names: tuple[str, ...]
    palette: tuple[Colour, ...]  # RGB, 0-255
    raw_ids: tuple[tuple[int, ...], ...]  # per class; the first one is written by to_raw
    ignored_raw_ids: tuple[int, ...]  # known ids without a class; the first one stands for 255
    autoware_ids: tuple[int, ...]
    # may overlap; `movable` (what both benchmarks call things) and `static` come by themselves
    groups: Mapping[str, tuple[str, ...]] = field(hash=False)
    hard: tuple[str, ...] = ()  # rare classes, reported apart: those of M2SKD
    has_instances: bool = False  # raw ids carry an instance id in their upper 16 bits

    def __post_init__(self) -> None:
        # Derived, so that the table of an older bundle has them too.
        movable = tuple(n for n, id_ in zip(self.names, self.autoware_ids) if id_ <= HAZARD)
        static = tuple(name for name in self.names if name not in movable)
        derived = {'movable': movable, 'static': static}
        object.__setattr__(self, 'groups', {**derived, **self.groups})
        if problem := self._find_problem():
            raise ConfigError(f"label table '{self.name[:_LONGEST_NAME]}' {problem}.")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @cached_property
    def colours(self) -> NDArray[np.uint8]:
        """(C, 3) RGB."""
        return _frozen(np.array(self.palette, np.uint8))

    @cached_property
    def lut(self) -> NDArray[np.uint8]:
        """(65536,) raw id -> train id; 254 where the table does not know the raw id."""
        lut = np.full(_RAW_IDS, _UNKNOWN, np.uint8)
        lut[list(self.ignored_raw_ids)] = IGNORE
        for train_id, raw in enumerate(self.raw_ids):
            lut[list(raw)] = train_id
        return _frozen(lut)

    def to_train(self, raw: ArrayLike, source: str = 'the labels') -> NDArray[np.uint8]:
        """Raw ids -> train ids; `source` names the file in the error about unknown ids."""
        ids = np.asarray(raw)
        if ids.dtype.kind not in 'ui':
            raise DataError(
                f'{source}: raw labels must be integers, not {ids.dtype}; convert them.'
            )
        ids = ids.astype(np.uint32, copy=False)
        ids = ids & (_RAW_IDS - 1) if self.has_instances else np.minimum(ids, _RAW_IDS - 1)
        train: NDArray[np.uint8] = self.lut[ids]
        unknown = train == _UNKNOWN
        if unknown.any():
            raise DataError(self._describe_unknown(ids[unknown], source))
        return train

    def to_raw(self, train: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """Train ids -> raw ids; 255 (and any id without a class) -> the ignored raw id."""
        return self._raw_by_train[train]

    def to_autoware(self, train: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Train ids -> Autoware class ids; 255 (and any id without a class) -> 255."""
        return self._autoware_by_train[train]

    def colour(self, train: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(...) train ids -> (..., 3) RGB; 255 (and any id without a class) is grey."""
        return self._colour_by_train[train]

    def group_ids(self, group: str) -> NDArray[np.uint8]:
        """Train ids of the classes of a group, ascending."""
        if group not in self.groups:
            hint = _suggest(group, self.groups)
            raise ConfigError(f"label table '{self.name}' has no group '{group}'{hint}.")
        return np.array(sorted(self.names.index(name) for name in self.groups[group]), np.uint8)

    @property
    def hard_ids(self) -> NDArray[np.uint8]:
        """Train ids of the hard classes, ascending."""
        return np.array(sorted(self.names.index(name) for name in self.hard), np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers: what a bundle stores."""
        plain: dict[str, Any] = _adapter().dump_python(self, mode='json')
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ClassTable:
        try:
            return _adapter().validate_python(dict(plain))
        except ValidationError as error:
            first = error.errors()[0]
            if isinstance(cause := first.get('ctx', {}).get('error'), ConfigError):
                raise cause from None
            key = '.'.join(map(str, first['loc']))
            raise ConfigError(f'label table: {key}: {first["msg"]}; correct that key.') from None

    @cached_property
    def _raw_by_train(self) -> NDArray[np.uint32]:
        lut = np.full(256, self.ignored_raw_ids[0], np.uint32)
        lut[: self.num_classes] = [raw[0] for raw in self.raw_ids]
        return _frozen(lut)

    @cached_property
    def _autoware_by_train(self) -> NDArray[np.uint8]:
        lut = np.full(256, INVALID, np.uint8)
        lut[: self.num_classes] = self.autoware_ids
        return _frozen(lut)

    @cached_property
    def _colour_by_train(self) -> NDArray[np.uint8]:
        lut = np.full((256, 3), IGNORED_COLOUR, np.uint8)
        lut[: self.num_classes] = self.colours
        return _frozen(lut)

    def _find_problem(self) -> str | None:
        raw = [*self.ignored_raw_ids, *(raw_id for ids in self.raw_ids for raw_id in ids)]
        bytes_ = [*self.autoware_ids, *(value for colour in self.palette for value in colour)]
        members = {name for names in self.groups.values() for name in names} | set(self.hard)
        sizes = {len(self.palette), len(self.raw_ids), len(self.autoware_ids), self.num_classes}
        if not 1 <= self.num_classes <= _MAX_CLASSES:
            return f'has {self.num_classes} classes; 1 to {_MAX_CLASSES} are possible'
        spoken = [self.name, *self.names, *self.groups]
        if not all(0 < len(name) <= _LONGEST_NAME and name.isprintable() for name in spoken):
            return f'needs names of 1 to {_LONGEST_NAME} letters that can be printed'
        if len(sizes) > 1:
            return f'needs one palette, raw_ids and autoware_ids entry per class, has {sizes}'
        if not self.ignored_raw_ids or not all(self.raw_ids):
            return 'needs at least one raw id for every class and for ignored_raw_ids'
        if len(set(self.names)) < self.num_classes:
            return 'names a class twice; rename one'
        if unknown := sorted(members - set(self.names)):
            return (
                f"has no class '{unknown[0]}'{_suggest(unknown[0], self.names)}; correct the group"
            )
        if len(set(raw)) < len(raw) or min(raw) < 0 or max(raw) >= _RAW_IDS - 1:
            return f'needs distinct raw ids within 0..{_RAW_IDS - 2}'
        if min(bytes_) < 0 or max(bytes_) > 255:
            return 'needs colours and Autoware ids within 0..255'
        return None

    def _describe_unknown(self, ids: NDArray[Any], source: str) -> str:
        values = np.unique(ids)
        shown = ', '.join(map(str, values[:5])) + ', ...' * (len(values) > 5)
        return (
            f'{source}: raw label ids {shown} ({len(ids)} points) are not in the label table '
            f"'{self.name}'; use the table of the data set the labels come from."
        )


def table(name: str) -> ClassTable:
    """A shipped table by name."""
    tables = {known.name: known for known in (SEMANTICKITTI, NUSCENES, NO_CLASSES)}
    if name not in tables:
        raise ConfigError(f"unknown label table '{name}'{_suggest(name, tables)}.")
    return tables[name]


_Row = tuple[str, Colour, int, tuple[int, ...]]


def _build(
    name: str, rows: tuple[_Row, ...], groups: dict[str, str], hard: str, **rest: Any
) -> ClassTable:
    names, palette, autoware_ids, raw_ids = zip(*rows, strict=True)
    members = {group: tuple(text.split()) for group, text in groups.items()}
    on_ground = set(members['ground'])
    # Whatever sticks out of the ground can be driven into: Nav2 marks all of it.
    members['obstacle'] = tuple(name for name in names if name not in on_ground)
    return ClassTable(
        name=name,
        names=names,
        palette=palette,
        autoware_ids=autoware_ids,
        raw_ids=raw_ids,
        groups=members,
        hard=tuple(hard.split()),
        **rest,
    )


def _adapter() -> TypeAdapter[ClassTable]:
    return TypeAdapter(ClassTable)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean '{close[0]}'" if close else f'; known are {", ".join(known)}'


# Colours follow the data sets' own, brightened where they would drown in a dark background.
# Riders count as the vehicle they ride for Autoware, and as vulnerable in our groups.
SEMANTICKITTI = _build(
    'semantickitti',
    (
        ('car', (100, 150, 245), CAR, (10, 252)),
        ('bicycle', (100, 230, 245), BICYCLE, (11,)),
        ('motorcycle', (40, 90, 200), MOTORCYCLE, (15,)),
        ('truck', (125, 60, 225), TRUCK, (18, 258)),
        # buses, trams and trailers: Autoware's nearest word for something long and heavy
        ('other-vehicle', (120, 110, 255), TRUCK, (20, 13, 16, 256, 257, 259)),
        ('person', (255, 40, 40), PEDESTRIAN, (30, 254)),
        ('bicyclist', (255, 40, 200), BICYCLE, (31, 253)),
        ('motorcyclist', (200, 40, 120), MOTORCYCLE, (32, 255)),
        ('road', (255, 0, 255), FLAT_SURFACE, (40, 60)),
        ('parking', (255, 150, 255), FLAT_SURFACE, (44,)),
        ('sidewalk', (135, 40, 135), FLAT_SURFACE, (48,)),
        ('other-ground', (175, 0, 75), FLAT_SURFACE, (49,)),
        ('building', (255, 200, 0), STRUCTURE, (50,)),
        ('fence', (255, 120, 50), STRUCTURE, (51,)),
        ('vegetation', (0, 175, 0), VEGETATION, (70,)),
        ('trunk', (165, 95, 35), VEGETATION, (71,)),
        ('terrain', (150, 240, 80), FLAT_SURFACE, (72,)),
        ('pole', (255, 240, 150), STRUCTURE, (80,)),
        ('traffic-sign', (255, 255, 255), STRUCTURE, (81,)),
    ),
    {
        'ground': 'road parking sidewalk other-ground terrain',
        'vehicle': 'car bicycle motorcycle truck other-vehicle',
        'vulnerable': 'person bicyclist motorcyclist',
        'vegetation': 'vegetation trunk',
        'structure': 'building fence pole traffic-sign',
    },
    ignored_raw_ids=(0, 1, 52, 99),
    hard='bicycle motorcycle truck other-vehicle person bicyclist motorcyclist',
    has_instances=True,
)

# nuScenes labels a rider as part of the bicycle or motorcycle, so these are vulnerable here.
NUSCENES = _build(
    'nuscenes',
    (
        ('barrier', (112, 140, 160), HAZARD, (9,)),
        ('bicycle', (220, 20, 60), BICYCLE, (14,)),
        ('bus', (255, 127, 80), BUS, (16, 15)),
        ('car', (255, 158, 0), CAR, (17,)),
        ('construction_vehicle', (200, 110, 60), TRUCK, (18,)),
        ('motorcycle', (255, 61, 130), MOTORCYCLE, (21,)),
        ('pedestrian', (70, 90, 255), PEDESTRIAN, (2, 3, 4, 6)),
        ('traffic_cone', (255, 255, 255), HAZARD, (12,)),
        ('trailer', (255, 200, 90), TRUCK, (22,)),
        ('truck', (255, 80, 50), TRUCK, (23,)),
        ('driveable_surface', (0, 207, 191), FLAT_SURFACE, (24,)),
        ('other_flat', (175, 0, 75), FLAT_SURFACE, (25,)),
        ('sidewalk', (135, 40, 135), FLAT_SURFACE, (26,)),
        ('terrain', (150, 220, 80), FLAT_SURFACE, (27,)),
        ('manmade', (222, 184, 135), STRUCTURE, (28,)),
        ('vegetation', (0, 175, 0), VEGETATION, (30,)),
    ),
    {
        'ground': 'driveable_surface other_flat sidewalk terrain',
        'vehicle': 'bicycle bus car construction_vehicle motorcycle trailer truck',
        'vulnerable': 'bicycle motorcycle pedestrian',
        'vegetation': 'vegetation',
        'structure': 'barrier traffic_cone manmade',
    },
    ignored_raw_ids=(0, 1, 5, 7, 8, 10, 11, 13, 19, 20, 29, 31),
    hard='bicycle bus construction_vehicle motorcycle pedestrian trailer truck',
)

# of a network without a head: a teacher by its features alone
NO_CLASSES = _build(
    'none', (('nothing', IGNORED_COLOUR, INVALID, (1,)),), {'ground': ''}, '', ignored_raw_ids=(0,)
)
