# SPDX-License-Identifier: Apache-2.0
"""A scan in perspective, drawn without a display: what the viewer's window shows at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lidar_kd.cli.birdview import BACKGROUND, list_pixels, TEXT
from lidar_kd.cli.picture import Picture
from training.data.scan import Points

Colours = NDArray[np.uint8]  # (N, 3)
Legend = Sequence[tuple[tuple[int, int, int], str]]
SMOOTH = 2  # pictures are drawn so many times as large
POINT_M = 0.05  # how large a point looks
_NEAR_M = 0.5
_RELIEF = 12.0  # strength of the shade at edges in depth


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Behind and above the sensor, looking ahead; the sensor's axes, metres."""

    eye: tuple[float, float, float] = (-17.0, 0.0, 11.0)
    target: tuple[float, float, float] = (10.0, 0.0, -1.0)
    view_deg: float = 60.0  # from left to right
    width: int = 1600
    height: int = 1000

    @property
    def focal_px(self) -> float:
        return self.width / 2 / math.tan(math.radians(self.view_deg) / 2)

    @property
    def extrinsic(self) -> NDArray[np.float64]:
        """(4, 4) from the sensor's axes to the camera's: x right, y down, z ahead."""
        eye = np.array(self.eye, np.float64)
        ahead = np.array(self.target, np.float64) - eye
        ahead /= np.linalg.norm(ahead)
        right = np.cross(ahead, [0, 0, 1])
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3, :3] = right, np.cross(ahead, right), ahead
        matrix[:3, 3] = -matrix[:3, :3] @ eye
        return matrix


def draw_perspective(points: Points, colours: Colours, camera: Camera) -> Picture:
    """Near points over far ones, edges in depth shaded so that shapes can be told apart."""
    size = (camera.height * SMOOTH, camera.width * SMOOTH)
    picture = np.full((*size, 3), BACKGROUND, np.uint8)
    depth_m = np.full(size, np.inf, np.float32)
    place, depth, shown = _project(points, camera)
    order = np.argsort(-depth)  # the nearest is drawn last
    place, depth, shown = place[order], depth[order], shown[order]
    sizes = np.clip(np.round(POINT_M * camera.focal_px * SMOOTH / depth), 3, 12).astype(int)
    point, offset = list_pixels(sizes)
    pixels = np.floor(place[point] * SMOOTH + offset).astype(int)
    inside = ((pixels >= 0) & (pixels < size)).all(1)
    where = tuple(pixels[inside].T)
    picture[where] = colours[shown[point[inside]]]
    depth_m[where] = depth[point[inside]]
    shaded = (picture * _relief(depth_m)[..., None]).astype(np.uint8)
    small = Image.fromarray(shaded).resize((camera.width, camera.height), Image.Resampling.BOX)
    return np.asarray(small)


def _project(
    points: Points, camera: Camera
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.intp]]:
    """(row, column), depth in metres, and which points are in front of the camera."""
    finite = np.flatnonzero(np.isfinite(points[:, :3]).all(1))
    seen = points[finite, :3] @ camera.extrinsic[:3, :3].T + camera.extrinsic[:3, 3]
    front = seen[:, 2] > _NEAR_M
    x, y, depth = seen[front].T
    column = camera.width / 2 + camera.focal_px * x / depth
    row = camera.height / 2 + camera.focal_px * y / depth
    return np.stack([row, column], 1), depth.astype(np.float32), finite[front]


def _relief(depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 where nothing near is closer to the eye, darker behind edges (eye-dome lighting)."""
    empty = ~np.isfinite(depth_m)
    near = np.log(np.where(empty, 1e4, depth_m))
    step = SMOOTH
    behind = np.zeros_like(near)
    for shift in ((step, 0), (-step, 0), (0, step), (0, -step)):
        behind += np.clip(near - np.roll(near, shift, (0, 1)), 0, 0.5)
    shade: NDArray[np.float32] = np.exp(-_RELIEF / 4 * behind).astype(np.float32)
    shade[empty] = 1
    return np.maximum(shade, 0.35)


def annotate(picture: Picture, title: str, legend: Legend) -> Picture:
    """The title and the colours of what is shown, in the upper left corner."""
    unit = len(picture) / 45
    heading, font = ImageFont.load_default(1.2 * unit), ImageFont.load_default(0.85 * unit)
    wide = max([heading.getlength(title), *(font.getlength(f'{name}xx') for _, name in legend)])
    canvas = _dim(picture, round(wide + 2 * unit), round(unit * (3 + 1.35 * len(legend))))
    draw = ImageDraw.Draw(canvas)
    draw.text((unit, unit), title, font=heading, fill=TEXT)
    for index, (colour, name) in enumerate(legend):
        middle = unit * (4 + 1.35 * index)
        box = (unit, middle - 0.4 * unit, 1.8 * unit, middle + 0.4 * unit)
        draw.rounded_rectangle(box, radius=0.15 * unit, fill=colour)
        draw.text((2.4 * unit, middle), name, font=font, fill=TEXT, anchor='lm')
    return np.asarray(canvas)


def _dim(picture: Picture, width: int, height: int) -> Image.Image:
    """The corner that is written on, so that points do not read as letters."""
    dimmed = picture.copy()
    corner = dimmed[: height + 8, :width]
    corner[:] = (0.25 * corner + 0.75 * np.array(BACKGROUND)).astype(np.uint8)
    return Image.fromarray(dimmed)
