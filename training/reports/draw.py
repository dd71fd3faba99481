# SPDX-License-Identifier: Apache-2.0
"""Plots of a result: the confusion matrix, and what a run's log tells over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
import numpy as np
from numpy.typing import NDArray

from lidar_kd.cli.picture import Picture
from lidar_kd.labels import ClassTable
from training.scores.metrics import Confusion

DPI = 100
INK, QUIET = '#22262e', '#8a919e'
# in a row's log but no term of the loss
NOT_TERMS = {'step', 'epoch', 'lr', 'gradient', 'steps_per_s', 'wait_share', 'peak_gb'}
Row = Mapping[str, Any]


def draw_confusion(confusion: Confusion, table: ClassTable) -> Picture:
    """Each row a true class and where its points went, in percent; the last column no answer."""
    counts = confusion.matrix
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    answers = [*table.names, 'no answer']
    side = 2.5 + 0.42 * len(table.names)
    figure, axes = _make_figure(side + 1.2, side)
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=100, aspect='auto')
    for row, column in np.argwhere(shares >= 0.5):
        share = shares[row, column]
        colour = 'white' if share > 55 else INK
        axes.text(column, row, f'{share:.0f}', ha='center', va='center', color=colour, size=8)
    axes.set_xticks(range(len(answers)), answers, rotation=45, ha='left', rotation_mode='anchor')
    named = [f'{name}  {_shorten(total)}' for name, total in zip(table.names, totals[:, 0])]
    axes.set_yticks(range(len(named)), named)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_ylabel('truth, points')
    axes.set_xlabel('answered, % of the row')
    for tick, count in zip(axes.get_yticklabels(), totals[:, 0]):
        tick.set_color(INK if count else QUIET)
    _rule(axes, len(table.names))
    return _render(figure)


def draw_curves(history: Sequence[Row]) -> Picture | None:
    """Loss terms and mIoU over the steps; None where the log has neither."""
    learning = [row for row in history if 'loss' in row]
    scored = [row for row in history if 'miou' in row]
    if not learning and not scored:
        return None
    figure = Figure(figsize=(13, 5), dpi=DPI, layout='constrained')
    left, right = figure.subplots(1, 2)
    _draw_terms(left, learning)
    _draw_scores(right, scored)
    for axes in (left, right):
        axes.set_xlabel('step')
        axes.grid(True, color='#e4e7ec')
        axes.spines[['top', 'right']].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                fontsize=9, framealpha=1, edgecolor='none'
            )  # on white: curves run behind it
    return _render(figure)


def _draw_terms(axes: Axes, rows: Sequence[Row]) -> None:
    """On a logarithmic axis: terms differ by orders of magnitude."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in NOT_TERMS))
    for name in names:
        found = [(row['step'], row[name]) for row in rows if _is_number(row.get(name))]
        width = 2.2 if name == 'loss' else 1.2
        axes.plot(*zip(*found), label=name, linewidth=width, color=INK if name == 'loss' else None)
    if any(_is_number(row.get(name)) and row[name] > 0 for row in rows for name in names):
        axes.set_yscale('log')
    axes.set_title('weighted loss terms', loc='left')


def _draw_scores(axes: Axes, rows: Sequence[Row]) -> None:
    curves = {'miou': 'classes that occur', 'hard_miou': 'hard classes'}
    for name, label in curves.items():
        found = [(row['step'], row[name]) for row in rows if _is_number(row.get(name))]
        if found:
            best = max(value for _, value in found)
            axes.plot(*zip(*found), marker='o', markersize=3, label=f'{label}, best {best:.1%}')
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title('mIoU on the validation scans', loc='left')


def _make_figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI, layout='constrained')
    return figure, figure.subplots()


def _rule(axes: Axes, size: int) -> None:
    """Fine white lines between the cells."""
    axes.set_xticks(np.arange(-0.5, size + 1), minor=True)
    axes.set_yticks(np.arange(-0.5, size), minor=True)
    axes.grid(which='minor', color='#eceff3', linewidth=0.8)
    axes.tick_params(which='minor', length=0)
    axes.spines[:].set_visible(False)


def _render(figure: Figure) -> Picture:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return pixels


def _shorten(count: int) -> str:
    """1234567 -> '1.2 M'"""
    for unit, size in (('M', 1_000_000), ('k', 1000)):
        if count >= size:
            return f'{count / size:.1f} {unit}'
    return str(count)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
