# SPDX-License-Identifier: Apache-2.0
"""The bird's-eye view itself: points as squares over range rings; x is up, y to the left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (17, 19, 24)
RING = (58, 64, 76)
TEXT = (228, 231, 237)
DIM_TEXT = (150, 156, 168)
_MARGIN = 1.03  # shows a little more than the last ring


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One view of the scan: a colour per point, points of a higher layer on top."""

    title: str
    colours: NDArray[np.uint8]  # (N, 3)
    layers: NDArray[np.uint8]  # (N,)


def draw_panel(
    points: NDArray[np.float32], panel: Panel, range_m: float, side_px: int
) -> NDArray[np.uint8]:
    """A square view of `range_m` to each side of the sensor."""
    canvas = Image.new('RGB', (side_px, side_px), BACKGROUND)
    rings_m = _draw_rings(ImageDraw.Draw(canvas), range_m, side_px)
    picture = np.array(canvas)
    _splat(picture, points, panel, range_m)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    _draw_ring_labels(draw, rings_m, range_m, side_px)
    _draw_sensor(draw, side_px)
    return np.asarray(canvas)


def _splat(
    picture: NDArray[np.uint8], points: NDArray[np.float32], panel: Panel, range_m: float
) -> None:
    """Draw every point as a square: 1 px close by, up to 4 px where neighbours are far apart."""
    side_px = len(picture)
    view_m = range_m * _MARGIN
    scale = side_px / (2 * view_m)
    xy, z = points[:, :2], points[:, 2]
    visible = np.isfinite(points[:, :3]).all(1) & (np.abs(xy) < view_m).all(1)
    order = np.flatnonzero(visible)
    order = order[np.lexsort((z[order], panel.layers[order]))]  # the highest is drawn last
    rows_columns = side_px / 2 - xy[order] * scale
    distance = np.linalg.norm(xy[order], axis=1) / range_m
    sizes = np.clip(np.round(side_px / 400 * (0.4 + distance)), 1, 4).astype(int)
    point, offset = list_pixels(sizes)
    pixels = np.floor(rows_columns[point] + offset).astype(int)
    inside = ((pixels >= 0) & (pixels < side_px)).all(1)
    # where an index occurs twice numpy keeps the last value: the painter's order
    picture[tuple(pixels[inside].T)] = panel.colours[order][point[inside]]


def place_pixels(xy: NDArray[np.floating], range_m: float, side_px: int) -> NDArray[np.float64]:
    """(N, 2) column and row in a panel of `range_m` to each side."""
    scale = side_px / (2 * range_m * _MARGIN)
    return side_px / 2 - xy[:, ::-1].astype(np.float64) * scale


def list_pixels(sizes: NDArray[np.int_]) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Per pixel of all squares: which point, and its offset from the point's position."""
    areas = sizes**2
    point = np.repeat(np.arange(len(sizes)), areas)
    within = np.arange(len(point)) - np.repeat(np.cumsum(areas) - areas, areas)
    row, column = np.divmod(within, sizes[point])
    return point, np.stack([row, column], 1) - (sizes[point][:, None] - 1) / 2


def _draw_rings(draw: ImageDraw.ImageDraw, range_m: float, side_px: int) -> list[float]:
    """Four or five circles; returns their radii."""
    step_m = range_m / (5 if range_m % 25 == 0 else 4)
    rings_m = [step_m * i for i in range(1, round(range_m / step_m) + 1)]
    centre = side_px / 2
    for radius_m in rings_m:
        radius = radius_m / (range_m * _MARGIN) * centre
        box = (centre - radius, centre - radius, centre + radius, centre + radius)
        draw.ellipse(box, outline=RING, width=max(1, side_px // 900))
    draw.line((0, centre, side_px, centre), fill=RING)
    draw.line((centre, 0, centre, side_px), fill=RING)
    return rings_m


def _draw_ring_labels(
    draw: ImageDraw.ImageDraw, rings_m: Sequence[float], range_m: float, side_px: int
) -> None:
    font = ImageFont.load_default(max(10, side_px / 48))
    for radius_m in rings_m:
        reach = (
            radius_m / (range_m * _MARGIN) * side_px / 2 * 0.7071
        )  # on the diagonal, clear of the axes
        place = (side_px / 2 + reach, side_px / 2 - reach)
        text = f'{radius_m:g} m'
        draw.text(
            place,
            text,
            font=font,
            fill=DIM_TEXT,
            anchor='mm',
            stroke_width=3,
            stroke_fill=BACKGROUND,
        )


def _draw_sensor(draw: ImageDraw.ImageDraw, side_px: int) -> None:
    """A small arrow that points forward."""
    centre, size = side_px / 2, max(5, side_px / 110)
    tip, left = (centre, centre - 1.4 * size), (centre - size, centre + size)
    right = (centre + size, centre + size)
    draw.polygon([tip, left, right], fill=TEXT, outline=BACKGROUND)
