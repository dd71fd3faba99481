# SPDX-License-Identifier: Apache-2.0
"""A road with its blocks between crossings, and the ground they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.streets.course import Array, Course
from training.streets.materials import MATERIAL
from training.streets.mesh import Mesh, sheet
from training.streets.quarters import draw_side, MARKING, Quarter, ROAD, Side

MARGIN_M = 260.0  # of road before the first and behind the last pose
_REACH_M = 115.0  # how far the ground extends to both sides
_RAMP_M = 1.2  # curbs sink to the road's level before a crossing
_LEVEL_M = 6.0  # beside the road; the slope of the land begins there


@dataclass(frozen=True, kw_only=True)
class Block:
    """From one crossing to the next; the crossing itself comes first."""

    index: int
    start_m: float
    end_m: float
    crossing_m: float  # width of the side street, 0: none
    left: Side
    right: Side

    def side(self, sign: int) -> Side:
        return self.left if sign > 0 else self.right

    @property
    def span(self) -> tuple[float, float]:
        """Where things may stand beside the road."""
        return self.start_m + self.crossing_m + 1.5, self.end_m - 1.5


@dataclass(frozen=True, kw_only=True)
class Road:
    """Everything that is known before anything is placed."""

    quarter: Quarter
    lane_m: float
    course: Course
    blocks: tuple[Block, ...]
    grades: tuple[float, float]  # slope of the land: left, right
    waves: Array  # (K, 4): height, wave numbers along s and t, phase of the rough ground

    @classmethod
    def draw(cls, quarter: Quarter, length_m: float, rng: np.random.Generator) -> Road:
        span = (-MARGIN_M, length_m + MARGIN_M)
        course = Course.draw(rng, (span[0] - 200, span[1] + 200), quarter.bend, quarter.climb)
        lane = float(rng.uniform(*quarter.lane_m))
        grades = rng.normal(0, 0.1, 2).clip(-0.25, 0.3)
        numbers = 2 * np.pi / rng.uniform(2.5, 25.0, (6, 2))
        heights = rng.uniform(0.02, 0.06) / np.hypot(*numbers.T) ** 0.5
        waves = np.column_stack([heights, numbers, rng.uniform(0, 6.28, 6)])
        return cls(
            quarter=quarter,
            lane_m=lane,
            course=course,
            blocks=tuple(_draw_blocks(quarter, lane, span, rng)),
            grades=(float(grades[0]), float(grades[1])),
            waves=waves,
        )

    @property
    def half_m(self) -> float:
        return self.blocks[0].left.road_m

    def block_at(self, s: float) -> Block:
        starts = [block.start_m for block in self.blocks]
        return self.blocks[max(0, int(np.searchsorted(starts, s, 'right')) - 1)]

    def height(self, s: ArrayLike, t: ArrayLike, block: Block | None = None) -> Array:
        """Of the ground above the course, for places within one block."""
        s, t = np.broadcast_arrays(np.asarray(s, float), np.asarray(t, float))
        block = block or self.block_at(float(s.flat[0]))
        result = np.empty(s.shape)
        for sign, side in ((1, block.left), (-1, block.right)):
            here = (t >= 0) == (sign > 0)
            result[here] = self._height_beside(block, side, s[here], np.abs(t[here]))
            paved = (side.find('opposite') or (0, side.road_m))[1]
            result[here] += self._slope(np.abs(t[here]) - paved, sign)
            result[here] += self._rough(s[here], t[here], paved) * _openness(block, s[here])
        return result

    def _height_beside(self, block: Block, side: Side, s: Array, aside: Array) -> Array:
        raised = np.array([0.0, *(strip.raised_m for strip in side.strips)])
        strip = np.searchsorted(side.edges(), aside, 'right').clip(0, len(side.strips))
        camber = 0.012 * (side.road_m - aside**2 / side.road_m).clip(0)  # highest in the middle
        return raised[strip] * _openness(block, s) + camber

    def _slope(self, aside: Array, sign: int) -> Array:
        return self.grades[0 if sign > 0 else 1] * (aside - _LEVEL_M).clip(0, 60)

    def _rough(self, s: Array, t: Array, paved_m: float) -> Array:
        height, along, across, phase = self.waves.T
        waves = np.sin(s[:, None] * along + t[:, None] * across + phase) @ height
        return waves * ((np.abs(t) - paved_m - 4) / 6).clip(0, 1)


def _openness(block: Block, s: Array) -> Array:
    """0 at and in crossings, 1 along the block."""
    start, end = block.start_m + block.crossing_m, block.end_m
    return ((s - start) / _RAMP_M).clip(0, 1) * ((end - s) / _RAMP_M).clip(0, 1)


def _draw_blocks(
    quarter: Quarter, lane_m: float, span: tuple[float, float], rng: np.random.Generator
) -> list[Block]:
    """Neighbouring blocks often share a side's cross-section, as real streets do."""
    blocks: list[Block] = []
    start, half = span[0], lane_m * quarter.lanes
    while start < span[1]:
        crossing = 0.0 if quarter.name == 'highway' else rng.uniform(4.5, 12.0)
        end = start + crossing + rng.uniform(*quarter.block_m)
        sides = [draw_side(quarter, half, left, rng) for left in (True, False)]
        for index, name in enumerate(('left', 'right')):
            keep = quarter.name == 'highway' or rng.random() < 0.4
            if blocks and keep:
                sides[index] = getattr(blocks[-1], name)
        blocks.append(
            Block(
                index=len(blocks),
                start_m=start,
                end_m=end,
                crossing_m=crossing,
                left=sides[0],
                right=sides[1],
            )
        )
        start = end
    return blocks


def build_ground(road: Road, block: Block) -> Mesh:
    """Road, markings, curbs, strips and land of one block as one sheet."""
    s, t = _lines_along(block), _lines_across(block)
    grid_s, grid_t = np.meshgrid(s, t, indexing='ij')
    points = road.course.locate(grid_s, grid_t, road.height(grid_s, grid_t, block))
    middle_s, middle_t = np.meshgrid((s[1:] + s[:-1]) / 2, (t[1:] + t[:-1]) / 2, indexing='ij')
    raw, material = _surfaces(road, block, middle_s, middle_t)
    return sheet(points, raw, material)


def _lines_along(block: Block) -> Array:
    start = block.start_m + block.crossing_m
    lines = np.arange(block.start_m, block.end_m, 1.5)
    special = [start, start + _RAMP_M, block.end_m - _RAMP_M, block.end_m]
    return np.unique(np.concatenate([lines, special]))


def _lines_across(block: Block) -> Array:
    """Closely over the road (markings), at every edge (curbs), ever wider over the land."""
    lines = []
    for sign in (1, -1):
        side = block.side(sign)
        edges = np.array(side.edges()[:-1])
        painted = [0.07, side.road_m - 0.3, side.road_m - 0.18, *np.arange(0.5, side.road_m, 0.5)]
        near = np.arange(side.road_m, 30, 1.1)
        far = np.arange(30, _REACH_M + 1, 4.0)
        lines.append(sign * np.concatenate([edges - 0.02, edges + 0.02, painted, near, far]))
    return np.unique(np.concatenate(lines).round(4))


def _surfaces(
    road: Road, block: Block, s: Array, t: Array
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    raw = np.full(s.shape, ROAD, np.uint16)
    material = np.full(s.shape, MATERIAL['asphalt'], np.uint8)
    crossing = s < block.start_m + block.crossing_m
    for sign, side in ((1, block.left), (-1, block.right)):
        inner = side.edges()
        for strip, low in zip(side.strips, inner):
            here = (t * sign > low) & ~crossing
            raw[here], material[here] = strip.raw, MATERIAL[strip.material]
    painted = _paint(road, block, s, t) & (raw == ROAD)
    raw[painted], material[painted] = MARKING, MATERIAL['marking']
    return raw, material


def _paint(road: Road, block: Block, s: Array, t: Array) -> NDArray[np.bool_]:
    """Dashes in the middle, lines at the edges of fast roads, zebras in the city."""
    aside, half = np.abs(t), road.half_m
    dashes = (aside < 0.07) & (s % 9.0 < 4.5)
    if road.quarter.name == 'suburb':
        dashes &= block.index % 3 == 0
    fast = road.quarter.name in ('country', 'highway')
    edges = (aside > half - 0.3) & (aside < half - 0.18) & fast
    zebra = (block.end_m - s < 5.0) & (block.end_m - s > 1.5) & (aside % 1.0 < 0.5)
    zebra &= (aside < half) & (road.quarter.name == 'city') & (block.index % 2 == 0)
    return (dashes | edges | zebra) & (s > block.start_m + block.crossing_m)
