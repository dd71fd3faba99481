# SPDX-License-Identifier: Apache-2.0
"""The plot of a comparison: learning curves of every method, and the gains seed by seed."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
import numpy as np

from lidar_kd.cli.picture import save_picture
from training.comparing.figures import ALONE, Comparison
from training.comparing.tables import title_of

INK = '#22262e'
COLOURS = ('#8a919e', '#d0342c', '#1f4e9c', '#2f9e6b', '#b8860b', '#7b3fa0')

STYLES = (':', '--', '-.', (0, (1, 4)))


def draw_runs(path: Path, comparison: Comparison) -> None:
    figure = Figure(figsize=(13, 5), dpi=100, layout='constrained')
    curves, gains = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_curves(curves, comparison)
    _draw_gains(gains, comparison)
    for axes in (curves, gains):
        axes.grid(True, color='#e4e7ec')
        axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(comparison.title, x=0.01, ha='left', color=INK)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_picture(path, np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _draw_curves(axes: Axes, comparison: Comparison) -> None:
    """A thin line per seed, a thick one for their mean; a dot where a run was scored."""
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    for colour, (arm, runs) in zip(COLOURS, comparison.arms.items()):
        curves = [run.curve for run in runs if run.curve]
        for curve in curves:
            axes.plot(*zip(*curve), '.-', color=colour, linewidth=0.8, alpha=0.5)
        shortest = min((len(curve) for curve in curves), default=0)
        if shortest:
            steps = [step for step, _ in curves[0][:shortest]]
            means = np.mean([[v for _, v in curve[:shortest]] for curve in curves], axis=0)
            name = 'student alone' if arm == ALONE else arm
            axes.plot(steps, means, 'o-', color=colour, linewidth=2.4, label=name)
    for (name, teacher), style in zip(comparison.teachers.items(), STYLES):
        axes.axhline(teacher.outcome.miou, color=INK, linestyle=style, label=title_of(name))
    axes.set_xlabel('step')
    axes.set_title('mIoU over the classes that occur', loc='left')
    axes.legend(framealpha=1, edgecolor='none')  # on white: the teacher's line runs behind it


def _draw_gains(axes: Axes, comparison: Comparison) -> None:
    """Each seed a dot; the bar is the mean, with its standard error."""
    axes.axhline(0, color=INK, linewidth=0.8)
    for place, arm in enumerate(comparison.methods):
        pairs = zip(comparison.arms[arm], comparison.alone)
        each = [100 * (run.miou - alone.miou) for run, alone in pairs]
        gain = comparison.gain(arm)
        colour = COLOURS[(place + 1) % len(COLOURS)]
        axes.bar(place, 100 * gain.mean, 0.5, color=colour, alpha=0.35)
        if len(each) > 1:
            axes.errorbar(place, 100 * gain.mean, 100 * gain.error, color=INK, capsize=6)
        axes.plot(np.full(len(each), place), each, 'o', color=colour)
    axes.set_xticks(range(len(comparison.methods)), comparison.methods)
    axes.set_title('gain over the student alone, points of mIoU', loc='left')
