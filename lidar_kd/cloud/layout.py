# SPDX-License-Identifier: Apache-2.0
"""How the bytes of a PointCloud2 are laid out; refuses what cannot be read safely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError

# PointField's datatypes
INT8, UINT8, INT16, UINT16, INT32, UINT32, FLOAT32, FLOAT64 = range(1, 9)
FORMATS = {
    INT8: 'i1',
    UINT8: 'u1',
    INT16: 'i2',
    UINT16: 'u2',
    INT32: 'i4',
    UINT32: 'u4',
    FLOAT32: 'f4',
    FLOAT64: 'f8',
}
_SHOWN = 12  # fields named in an error
_MOST_BYTES = 1 << 16  # of a point; numpy could not hold much larger ones
# of a point's intensity; 'auto' takes the first one there is
INTENSITY_FIELDS = ('intensity', 'reflectivity', 'signal')


class MalformedCloud(DataError):
    """A PointCloud2 whose description and bytes contradict each other."""


class Field(NamedTuple):
    name: str
    offset: int
    datatype: int
    count: int  # type: ignore[assignment]  # PointField's word; nobody counts in a field

    @property
    def end(self) -> int:
        return self.offset + self.count * int(FORMATS[self.datatype][1])


@dataclass(frozen=True, kw_only=True)
class CloudLayout:
    """What a message says about its bytes, found to be possible."""

    fields: tuple[Field, ...]
    height: int
    width: int
    point_step: int
    row_step: int  # bytes from one row to the next, its padding included
    is_bigendian: bool

    @property
    def points(self) -> int:
        return self.height * self.width

    @property
    def dtype(self) -> np.dtype[np.void]:
        """One point with all its fields."""
        return make_dtype(self.fields, self.point_step, self.is_bigendian)

    @property
    def packed_position(self) -> int | None:
        """Where x, y, z lie, if as three FLOAT32 side by side in numpy's own byte order."""
        by_name = {field.name: field for field in self.fields}
        x, y, z = (by_name.get(name) for name in 'xyz')
        if x is None or y is None or z is None or self.is_bigendian:
            return None
        ends = (x.offset + 4, y.offset + 4)
        types = {x.datatype, y.datatype, z.datatype}
        return x.offset if types == {FLOAT32} and ends == (y.offset, z.offset) else None

    def is_packed(self, intensity: Field | None) -> bool:
        """Whether a point is x, y, z, intensity as FLOAT32 and nothing else."""
        return (
            intensity is not None
            and (self.packed_position, self.point_step) == (0, 16)
            and (intensity.offset, intensity.datatype) == (12, FLOAT32)
        )

    def view(self, data: Any) -> NDArray[np.void]:
        """(N,) points that share the message's memory, unless its rows are padded."""
        content = np.frombuffer(data, np.uint8)
        if not self.points:
            return np.empty(0, self.dtype)
        shape, strides = (self.height, self.width), (self.row_step, self.point_step)
        rows = np.ndarray(shape, f'V{self.point_step}', content, strides=strides)
        points = np.ascontiguousarray(rows.reshape(-1)).view(self.dtype)
        points.flags.writeable = False  # they are the message's
        return points


def read_layout(message: Any) -> CloudLayout:
    """What a PointCloud2 (or any object with its attributes) promises; raises MalformedCloud."""
    fields = tuple(
        Field(field.name, field.offset, field.datatype, field.count or 1)  # PCL, too, takes 0 as 1
        for field in message.fields
    )
    _check_fields(fields, message.point_step)
    if message.height * message.width:
        _check_position(fields)
    return CloudLayout(
        fields=fields,
        height=message.height,
        width=message.width,
        point_step=message.point_step,
        row_step=_find_row_step(message),
        is_bigendian=bool(message.is_bigendian),
    )


def list_names(names: Iterable[str]) -> str:
    """For a sentence, however many there are."""
    first = [*islice(names, _SHOWN + 1)]
    return ', '.join(first[:_SHOWN]) + ', ...' * (len(first) > _SHOWN) or 'none'


@lru_cache(maxsize=64)  # a sensor's layout never changes
def choose_intensity(layout: CloudLayout, wanted: str) -> Field | None:
    """`wanted`: auto, none, or the name of a field."""
    by_name = {field.name: field for field in layout.fields}
    if wanted == 'auto':
        present = [by_name[name] for name in INTENSITY_FIELDS if name in by_name]
        return next((field for field in present if field.count == 1), None)
    if wanted == 'none':
        return None
    if wanted not in by_name or by_name[wanted].count != 1:
        raise MalformedCloud(
            f"no intensity field '{wanted}' with one value per point among "
            f'{list_names(by_name)}; set intensity_field to auto, none or one of these.'
        )
    return by_name[wanted]


def make_dtype(
    fields: tuple[Field, ...], point_step: int, is_bigendian: bool
) -> np.dtype[np.void]:
    order = '>' if is_bigendian else '<'
    formats: list[Any] = [
        (order + FORMATS[field.datatype], (field.count,))
        if field.count > 1
        else order + FORMATS[field.datatype]
        for field in fields
    ]
    return np.dtype(
        {
            'names': [field.name for field in fields],
            'formats': formats,
            'offsets': [field.offset for field in fields],
            'itemsize': point_step,
        }
    )


@lru_cache(maxsize=64)
def _check_fields(fields: tuple[Field, ...], point_step: int) -> None:
    for field in fields:
        if field.datatype not in FORMATS:
            raise MalformedCloud(
                f"field '{field.name}' has the unknown datatype {field.datatype}; PointField "
                'knows 1 (INT8) to 8 (FLOAT64).'
            )
        if field.offset < 0 or field.count < 0 or field.end > point_step:
            raise MalformedCloud(
                f"field '{field.name}' ends at byte {field.end} of a point of {point_step} bytes; "
                'correct its offset, its count or point_step.'
            )
    names = Counter(field.name for field in fields)
    if any(not name or count > 1 for name, count in names.items()):
        raise MalformedCloud(
            f'the fields are named {list_names(names)}; '
            'each needs a name, and one that no other has.'
        )
    if not 0 <= point_step <= _MOST_BYTES:
        raise MalformedCloud(
            f'point_step is {point_step}; points have at most {_MOST_BYTES} bytes.'
        )


@lru_cache(maxsize=64)
def _check_position(fields: tuple[Field, ...]) -> None:
    by_name = {field.name: field for field in fields}
    for name in 'xyz':
        if name not in by_name:
            raise MalformedCloud(
                f"no field '{name}' among {list_names(by_name)}; a cloud needs x, y, z."
            )
        if by_name[name].datatype not in (FLOAT32, FLOAT64) or by_name[name].count != 1:
            raise MalformedCloud(
                f"field '{name}' is no single FLOAT32 or FLOAT64; positions must be in metres."
            )


def _find_row_step(message: Any) -> int:
    """The message's own where rows are padded; drivers without padding often leave it wrong."""
    height, width, row_step = message.height, message.width, message.row_step
    if height < 0 or width < 0:
        raise MalformedCloud(f'a cloud of {height} x {width} points; neither may be negative.')
    size, packed = _count_bytes(message.data), width * message.point_step
    if size == height * packed and (packed or not height * width):
        return int(packed)
    if row_step >= packed > 0 and size == height * row_step:
        return int(row_step)
    raise MalformedCloud(
        f'{size} bytes of data are no {height} x {width} points of {message.point_step} bytes '
        f'(row_step {row_step}); the message is cut off or its sizes are wrong.'
    )


def _count_bytes(data: Any) -> int:
    try:
        return np.frombuffer(data, np.uint8).size
    except (TypeError, ValueError, BufferError):
        raise MalformedCloud('data are no bytes; hand over bytes or an array of uint8.') from None
