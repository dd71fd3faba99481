# SPDX-License-Identifier: Apache-2.0
"""Bird's-eye views of labelled points: x (forward) up, y (left) to the left, rings in metres.

points: (N, >= 3) in metres; labels: (N,) train ids, 255 where there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lidar_kd.cli.birdview import BACKGROUND, DIM_TEXT, draw_panel, Panel, RING, TEXT
from lidar_kd.errors import DataError, write_atomically
from lidar_kd.labels import ClassTable, IGNORE, IGNORED_COLOUR

Points = NDArray[np.float32]
Labels = NDArray[np.uint8]
Picture = NDArray[np.uint8]  # (height, width, 3) RGB
Colour = tuple[int, int, int]
LegendRow = tuple[Colour, str, float]  # colour, class, share of the points

_RIGHT = (78, 86, 100)  # quiet, so that the errors stand out
_WRONG = (255, 64, 64)
_RANGES_M = (10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1000)


def draw_scan(
    points: Points,
    labels: Labels,
    table: ClassTable,
    *,
    title: str = '',
    range_m: float | None = None,
    height_px: int = 1200,
) -> Picture:
    """The labelled scan beside a legend of its classes."""
    panels = [_colour_labels('', labels, table)]
    legend = _list_classes([labels], table)
    page = _Page(title=title, height_px=height_px, panels=panels, legend=legend)
    return page.draw(points, range_m or _choose_range_m(points))


def draw_truth_and_answer(
    points: Points,
    truth: Labels,
    prediction: Labels,
    table: ClassTable,
    *,
    title: str = '',
    range_m: float | None = None,
    height_px: int = 900,
) -> Picture:
    """truth | prediction | errors, with the truth's class shares; unlabelled truth is no error."""
    labelled = truth != IGNORE
    wrong = labelled & (prediction != truth)
    share = float(wrong.sum() / max(int(labelled.sum()), 1))
    layers = labelled.astype(np.uint8) + wrong
    panels = [
        _colour_labels('truth', truth, table),
        _colour_labels('prediction', prediction, table),
        Panel(
            title=f'errors: {share:.1%} of the labelled points',
            colours=colour_errors(truth, prediction),
            layers=layers,
        ),
    ]
    legend = _list_classes([truth, prediction], table)
    page = _Page(title=title, height_px=height_px, panels=panels, legend=legend)
    return page.draw(points, range_m or _choose_range_m(points))


def colour_errors(truth: Labels, prediction: Labels) -> NDArray[np.uint8]:
    """(N, 3): what is wrong stands out of what is right; unlabelled truth is neither."""
    colours = np.full((len(truth), 3), _RIGHT, np.uint8)
    colours[prediction != truth] = _WRONG
    colours[truth == IGNORE] = RING
    return colours


def save_picture(path: Path, picture: Picture) -> None:
    """Write a PNG, complete or not at all."""
    try:
        with write_atomically(path) as temporary:
            Image.fromarray(picture).save(temporary, format='PNG')
    except OSError as error:
        raise DataError(
            f'{path}: cannot be written ({error.strerror or error}); choose another output folder.'
        ) from None


def _colour_labels(title: str, labels: Labels, table: ClassTable) -> Panel:
    # points without a class must not hide the others
    layers = (labels != IGNORE).astype(np.uint8)
    return Panel(title=title, colours=table.colour(labels), layers=layers)


def _list_classes(labellings: Sequence[Labels], table: ClassTable) -> list[LegendRow]:
    """Colour, name and share of the classes that occur; shares of the first labelling."""
    shares = np.bincount(labellings[0], minlength=256) / max(len(labellings[0]), 1)
    present = np.unique(np.concatenate(labellings))
    ordered = sorted(present.tolist(), key=lambda label: -float(shares[label]))
    rows = [(table.palette[i], table.names[i], float(shares[i])) for i in ordered if i != IGNORE]
    if IGNORE in ordered:
        rows.append((IGNORED_COLOUR, 'no label', float(shares[IGNORE])))
    return rows


def _choose_range_m(points: Points) -> float:
    """The smallest round range that shows 97 % of the points."""
    xy = points[np.isfinite(points[:, :2]).all(1), :2]
    if not len(xy):
        return float(_RANGES_M[0])
    reach = float(np.quantile(np.abs(xy).max(1), 0.97))
    return float(next((m for m in _RANGES_M if m >= reach), _RANGES_M[-1]))


@dataclass(frozen=True, kw_only=True)
class _Page:
    """Panels from left to right, then the legend; every size follows from the height."""

    title: str
    height_px: int
    panels: Sequence[Panel]
    legend: Sequence[LegendRow]

    @property
    def unit(self) -> float:
        return self.height_px / 40

    def draw(self, points: Points, range_m: float) -> Picture:
        unit = round(self.unit)
        top = unit * (1 + 2 * bool(self.title) + 2 * any(panel.title for panel in self.panels))
        side_px = self.height_px - top - unit
        # a single panel and its legend make a 4:3 picture
        legend_px = round(self.height_px / 3) + top - unit
        width = unit + len(self.panels) * (side_px + unit) + legend_px
        canvas = Image.new('RGB', (width, self.height_px), BACKGROUND)
        draw = ImageDraw.Draw(canvas)
        for index, panel in enumerate(self.panels):
            left = unit + index * (side_px + unit)
            view = draw_panel(points, panel, range_m, side_px)
            canvas.paste(Image.fromarray(view), (left, top))
            draw.rectangle((left, top, left + side_px, top + side_px), outline=RING)
            _write(draw, (left, top - 1.8 * unit), panel.title, (1.1 * unit, side_px, DIM_TEXT))
        _write(draw, (unit, 0.9 * unit), self.title, (1.4 * unit, width - 2 * unit, TEXT))
        self._draw_legend(draw, (width - legend_px, top), legend_px - unit)
        self._write_notes(draw, width - legend_px, points, range_m)
        return np.asarray(canvas)

    def _draw_legend(self, draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int) -> None:
        (left, top), unit = corner, self.unit
        for index, (colour, name, share) in enumerate(self.legend):
            middle = top + (index + 0.5) * 1.5 * unit
            box = (left, middle - 0.45 * unit, left + 0.9 * unit, middle + 0.45 * unit)
            draw.rounded_rectangle(box, radius=0.15 * unit, fill=colour)
            style = (0.9 * unit, width - 5 * unit, TEXT)
            _write(draw, (left + 1.5 * unit, middle), name, style, 'lm')
            percent = '< 0.1 %' if 0 < share < 0.001 else f'{share * 100:.1f} %'
            style = (0.9 * unit, 4 * unit, DIM_TEXT)
            _write(draw, (left + width, middle), percent, style, 'rm')

    def _write_notes(
        self, draw: ImageDraw.ImageDraw, left: int, points: Points, range_m: float
    ) -> None:
        """The size of the scan and what the picture leaves out, in the lower right corner."""
        finite = np.isfinite(points[:, :3]).all(1)
        beyond = int((np.abs(points[finite, :2]).max(1, initial=0) >= range_m).sum())
        notes = [f'{len(points):,} points']
        if beyond:
            notes.append(f'{beyond:,} beyond {range_m:g} m')
        if not finite.all():
            notes.append(f'{np.count_nonzero(~finite):,} not finite')
        for index, note in enumerate(reversed(notes)):
            place = (left, self.height_px - self.unit * (1.2 + 1.3 * index))
            _write(draw, place, note, (0.85 * self.unit, 13 * self.unit, DIM_TEXT), 'ls')


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    style: tuple[float, float, Colour],
    anchor: str = 'la',
) -> None:
    """One line of text in a style of (size, width, colour), shortened to fit the width."""
    size, width, colour = style
    font = ImageFont.load_default(max(8, size))
    shown = text
    while len(text) > 1 and font.getlength(shown) > width:
        text = text[:-1]
        shown = f'{text}...'
    draw.text(place, shown, font=font, fill=colour, anchor=anchor)
