# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 <-> numpy in any layout, without a copy where the layout allows.

Works on every object that has PointCloud2's attributes; knows nothing of ROS.
cloud = decode(message); payload = encode_labeled(cloud, labels, table); then a PointCloud2 with
payload's attributes and the header of the message.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cloud.layout import (
    choose_intensity,
    CloudLayout,
    Field,
    FLOAT32,
    read_layout,
    UINT8,
    UINT32,
)
from lidar_kd.labels import ClassTable
from lidar_kd.sensor.intensity import IntensityRange, scale_values

# Autoware's PointXYZCPE: consumers refuse every other layout.
SEGMENTED_FIELDS = (
    Field('x', 0, FLOAT32, 1),
    Field('y', 4, FLOAT32, 1),
    Field('z', 8, FLOAT32, 1),
    Field('class_id', 12, UINT8, 1),
    Field('probability', 16, FLOAT32, 1),
    Field('entropy', 20, FLOAT32, 1),
)
SEGMENTED_STEP = 24
ADDED = ('label', 'rgb')  # fields of the labelled cloud


@dataclass(frozen=True, eq=False)
class Cloud:
    """A decoded message of N points, in its order; read-only where it shares the message's memory.

    points (N, 4) float32 x, y, z, intensity; rows (N,) the message's own bytes, all fields by
    name (`rows['ring']`), without row padding.
    """

    points: NDArray[np.float32]
    rows: NDArray[np.void]
    layout: CloudLayout

    def __len__(self) -> int:
        return len(self.points)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """(N,) finite and not at the sensor itself, where drivers put what gave no echo."""
        with np.errstate(over='ignore'):
            size = np.abs(self.points[:, 0])  # by columns: the fastest by far
            size += np.abs(self.points[:, 1])
            size += np.abs(self.points[:, 2])
        return (size > 0) & (size < np.inf)

    @property
    def opaque(self) -> NDArray[np.void]:
        """The rows as plain bytes: numpy copies these whole, padding included."""
        return self.rows.view(f'V{self.layout.point_step}')


@dataclass(frozen=True, kw_only=True, eq=False)
class Payload:
    """All of a PointCloud2 but its header; `data` is what every distribution takes fast."""

    data: array[int]
    fields: tuple[Field, ...]
    height: int
    width: int
    point_step: int
    is_bigendian: bool
    is_dense: bool

    @property
    def row_step(self) -> int:
        return self.width * self.point_step


def decode(
    message: Any,
    *,
    intensity_field: str = 'auto',
    intensity_scale: float | None = None,
    scale_to: float = 1.0,
    intensity_range: IntensityRange | None = None,
) -> Cloud:
    """Raises MalformedCloud for what cannot be read.

    intensity_field: auto, none (zeros) or a field's name; intensity_scale multiplies it; None
    brings its full scale, by type and values, to `scale_to`. Pass the same `intensity_range` for
    all clouds of a sensor.
    """
    layout = read_layout(message)
    intensity = choose_intensity(layout, intensity_field)
    rows = layout.view(message.data)
    if not len(rows):
        return Cloud(np.empty((0, 4), np.float32), rows, layout)
    factor = intensity_scale or 0.0
    if intensity is not None and intensity_scale is None:
        factor = scale_to / (intensity_range or IntensityRange()).find(rows[intensity.name])
    if factor == 1 and layout.is_packed(intensity):
        points = rows.view('<f4').reshape(-1, 4)
        if np.isfinite(points[:, 3]).all():
            return Cloud(points, rows, layout)
    points = _copy_position(rows, layout)
    points[:, 3] = 0 if intensity is None else scale_values(rows[intensity.name], factor)
    return Cloud(points, rows, layout)


def move(cloud: Cloud, pose: NDArray[np.float64]) -> Cloud:
    """The cloud seen from another frame; pose (4, 4) brings its points there."""
    turn, shift = pose[:3, :3].astype(np.float32), pose[:3, 3].astype(np.float32)
    x, y, z = (cloud.points[:, column] for column in range(3))
    points, rows = cloud.points.copy(), cloud.opaque.copy().view(cloud.rows.dtype)
    lost = ~cloud.valid
    for column, name in enumerate('xyz'):  # by columns: a matrix product costs far more
        moved = turn[column, 0] * x + turn[column, 1] * y + turn[column, 2] * z + shift[column]
        moved[lost] = cloud.points[lost, column]  # no echo stays no echo
        points[:, column] = rows[name] = moved
    return Cloud(points, rows, cloud.layout)


def encode_segmented(
    cloud: Cloud,
    class_ids: NDArray[np.uint8],
    probability: NDArray[np.float32],
    entropy: NDArray[np.float32],
    *,
    out: array[int] | None = None,
) -> Payload:
    """Autoware's layout, one dense row of points; `out`: the data of an earlier one to reuse."""
    data = _allocate(len(cloud) * SEGMENTED_STEP, out)
    words = np.frombuffer(data, '<f4').reshape(-1, 6)
    if len(cloud):
        # Points in one piece of 16 bytes: much faster than columns; the id replaces the intensity.
        words.view('V24')[:, 0].getfield('V16')[:] = cloud.points.view('V16')[:, 0]
        words.view('<u4')[:, 3] = class_ids  # and zeros in the padding behind them
        words[:, 4] = probability
        words[:, 5] = entropy
    return Payload(
        data=data,
        fields=SEGMENTED_FIELDS,
        height=1,
        width=len(cloud),
        point_step=SEGMENTED_STEP,
        is_bigendian=False,
        is_dense=bool(cloud.valid.all()),
    )


def encode_labeled(
    cloud: Cloud,
    labels: NDArray[np.uint8],
    table: ClassTable,
    *,
    instances: NDArray[np.uint32] | None = None,
    out: array[int] | None = None,
) -> Payload:
    """The input's own layout and order, and `label` (train id) and `rgb` behind each point.

    With `instances` (N,) also `instance`. Fields of these names that the input has already
    become input_label and so on.
    """
    layout = cloud.layout
    fields, step = _append_fields(layout, ADDED if instances is None else (*ADDED, 'instance'))
    data = _allocate(len(cloud) * step, out)
    if len(cloud):
        points = np.frombuffer(data, f'V{step}')
        label, rgb, *instance = fields[len(layout.fields) :]
        points.getfield(cloud.opaque.dtype)[:] = cloud.opaque
        points.getfield('u1', label.offset)[:] = labels
        order = '>' if layout.is_bigendian else '<'
        points.getfield(f'{order}u4', rgb.offset)[:] = _pack_colours(table)[labels]
        if instances is not None:
            points.getfield(f'{order}u4', instance[0].offset)[:] = instances
    return Payload(
        data=data,
        fields=fields,
        height=layout.height,
        width=layout.width,
        point_step=step,
        is_bigendian=layout.is_bigendian,
        is_dense=bool(cloud.valid.all()),
    )


def select(cloud: Cloud, keep: NDArray[np.bool_], *, out: array[int] | None = None) -> Payload:
    """The valid points that `keep` (N,) marks, one row in the input's own layout."""
    layout = cloud.layout
    chosen = np.flatnonzero(keep & cloud.valid)
    data = _allocate(len(chosen) * layout.point_step, out)
    if len(chosen):
        chosen_rows = np.frombuffer(data, cloud.opaque.dtype)
        cloud.opaque.take(chosen, out=chosen_rows, mode='clip')  # clip: straight into `out`
    return Payload(
        data=data,
        fields=layout.fields,
        height=1,
        width=len(chosen),
        point_step=layout.point_step,
        is_bigendian=layout.is_bigendian,
        is_dense=True,
    )


def _copy_position(rows: NDArray[np.void], layout: CloudLayout) -> NDArray[np.float32]:
    """(N, 4) with x, y, z in place and anything in the last column."""
    points = np.empty((len(rows), 4), np.float32)
    start = layout.packed_position
    if start is not None and start + 16 <= layout.point_step:
        pieces = rows.view(f'V{layout.point_step}').getfield('V16', start)
        points.view('V16')[:, 0] = pieces  # much faster than columns
        return points
    with np.errstate(over='ignore'):  # beyond float32 is infinite, and so not valid
        for column, name in enumerate('xyz'):
            points[:, column] = rows[name]
    return points


def _append_fields(layout: CloudLayout, added: tuple[str, ...]) -> tuple[tuple[Field, ...], int]:
    """The input's fields and those added (aligned, as viewers like it), and the new point_step."""
    names = {field.name for field in layout.fields}
    kept = []
    for field in layout.fields:
        name = field.name
        if name in added:
            name = f'input_{name}'
            while name in names:
                name += '_'
        kept.append(field._replace(name=name))
    label = Field('label', layout.point_step, UINT8, 1)
    rgb = Field('rgb', -(-label.end // 4) * 4, FLOAT32, 1)
    instance = Field('instance', rgb.end, UINT32, 1)
    new = (label, rgb, instance)[: len(added)]
    return (*kept, *new), new[-1].end


def _pack_colours(table: ClassTable) -> NDArray[np.uint32]:
    """(256,) 0x00RRGGBB by train id: what PCL and RViz read out of a float's bits."""
    red, green, blue = table.colour(np.arange(256, dtype=np.uint8)).astype(np.uint32).T
    packed: NDArray[np.uint32] = red << 16 | green << 8 | blue
    return packed


def _allocate(size: int, out: array[int] | None) -> array[int]:
    return out if out is not None and len(out) == size else array('B', b'\0') * size
