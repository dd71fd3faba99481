# SPDX-License-Identifier: Apache-2.0
"""A single scan beside the fused one: from above, and an object that stands and one that moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import write_atomically
from training.data.fusion import FusedScans, InstanceBank, REGISTERED, STILL
from training.data.scan import Points

TITLES = {STILL: 'stands still, lies in place', REGISTERED: 'moves, registered'}
PRESENT = '#d0342c'
AGES = ('#1f4e9c', '#2f86c8', '#46b3a5', '#9bc53d')  # one scan ago, two, three, four
MARGIN_M = 0.4  # around an object
REACH_M = 9.0  # from its middle, seen from above


def draw_fusion(path: Path, scans: FusedScans) -> str:
    """Draws the scan with the most to show; returns its name."""
    frame = choose_frame(scans.bank)
    name = scans.frames[frame].name
    figure = plt.figure(figsize=(16, 12), layout='constrained')
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.5, 1])
    _draw_from_above(top.subplots(1, 2), scans, frame)
    _draw_objects(bottom, scans, frame)
    figure.suptitle(f'{name}: red as the scan sees it, blue to green one to four scans earlier')
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format='png', dpi=100)
    plt.close(figure)
    return name


def choose_frame(bank: InstanceBank) -> int:
    """A scan with both what stands and what moves if there is one, and many of them."""

    def richness(frame: int) -> tuple[int, int]:
        used = bank.used_links(frame)
        return len(np.unique(bank.links.how[used])), len(used)

    return max(np.unique(bank.sightings.frame).tolist(), key=richness, default=0)


def choose_objects(bank: InstanceBank, frame: int) -> dict[int, int]:
    """STILL, REGISTERED -> the sighting whose past has the most points, where there is one."""
    most: dict[int, tuple[int, int]] = {}
    for sighting in bank.sightings.of_frame(frame):
        links = [link for link in bank.used_links(frame) if _belongs(bank, link, sighting)]
        if links:
            how = int(bank.links.how[links[0]])
            points = int(bank.sightings.sizes[bank.links.past[links]].sum())
            most[how] = max(most.get(how, (0, 0)), (points, sighting))
    return {how: sighting for how, (_, sighting) in sorted(most.items())}


def _belongs(bank: InstanceBank, link: int, sighting: int) -> bool:
    return int(bank.links.present[link]) == sighting


def _draw_from_above(axes: NDArray[Any], scans: FusedScans, frame: int) -> None:
    scan, bank = scans[frame], scans.bank
    own = scan.points if scan.past is None else scan.points[~scan.past]
    seen = [bank.sightings.points_of(each) for each in bank.sightings.of_frame(frame)]
    objects = choose_objects(bank, frame)
    middle = bank.sightings.points_of(objects[max(objects)]) if objects else own
    x, y = np.median(middle[:, :2], 0)
    for axis, title, fused in zip(axes, ('single scan', 'fused'), (False, True)):
        _scatter(axis, own, '0.75', size=1)
        for points in seen:
            _scatter(axis, points, PRESENT)
        for link in bank.used_links(frame) if fused else ():
            _scatter(axis, bank.bring(link).points, _age_colour(bank, link))
        axis.set(title=title, xlabel='x, m', ylabel='y, m', aspect='equal')
        axis.set(xlim=(x - REACH_M, x + REACH_M), ylim=(y - REACH_M, y + REACH_M))


def _draw_objects(figure: Any, scans: FusedScans, frame: int) -> None:
    """Each object by itself, seen from the side that faces the sensor."""
    bank = scans.bank
    objects = choose_objects(bank, frame)
    if not objects:
        return
    axes = figure.subplots(1, 2 * len(objects), squeeze=False)[0]
    for place, (how, sighting) in enumerate(objects.items()):
        present = bank.sightings.points_of(sighting)
        links = [link for link in bank.used_links(frame) if _belongs(bank, link, sighting)]
        views = [bank.bring(link).points for link in links]
        colours = [_age_colour(bank, link) for link in links]
        name = scans.table.names[bank.sightings.label[sighting]]
        alone, fused = axes[2 * place : 2 * place + 2]
        _draw_close_up(alone, present, [], [])
        _draw_close_up(fused, present, views, colours)
        alone.set_title(f'{name}: {len(present)} points\nsingle scan')
        past = sum(map(len, views))
        fused.set_title(f'{name}: {len(present)} + {past} points\n{TITLES[how]}')


def _draw_close_up(axis: Any, present: Points, past: list[Points], colours: list[str]) -> None:
    along = _sideways(present)
    side = _see_from_side(present, along)
    _scatter(axis, side, PRESENT, size=9)
    for view, colour in zip(past, colours):
        _scatter(axis, _see_from_side(view, along), colour, size=9)
    low, high = np.percentile(side, [3, 97], axis=0)  # a few labels are always astray
    low, high = low - MARGIN_M, high + MARGIN_M
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect='equal')
    axis.set(xlabel='sideways, m', ylabel='z, m')


def _sideways(points: Points) -> NDArray[np.float32]:
    """The horizontal direction across the line of sight to an object, to the right."""
    x, y = points[:, :2].mean(0)
    return np.array([y, -x], np.float32) / np.float32(max(np.hypot(x, y), 1e-6))


def _see_from_side(points: Points, along: NDArray[np.float32]) -> Points:
    return np.stack([points[:, :2] @ along, points[:, 2]], 1)


def _age_colour(bank: InstanceBank, link: int) -> str:
    return AGES[min(int(bank.links.steps[link]), len(AGES)) - 1]


def _scatter(axis: Any, points: Points, colour: str, size: float = 4) -> None:
    axis.scatter(points[:, 0], points[:, 1], s=size, c=colour, linewidths=0)
