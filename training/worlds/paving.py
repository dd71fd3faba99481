# SPDX-License-Identifier: Apache-2.0
"""Lays the ground of a scene: which band every cell belongs to, how high it is, how it is worn."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from training.streets.materials import MATERIAL
from training.streets.mesh import Array
from training.worlds.frontage import Frontage
from training.worlds.ground import Floats, refine, Relief, Surface
from training.worlds.layout import Layout, mouths, PROFILE_M
from training.worlds.network import (
    grid_places,
    MARKING,
    Network,
    OTHER_GROUND,
    PARKING,
    ROAD,
    SIDEWALK,
    TERRAIN,
)

_SHORT = 8  # bands of a frontage, at most
Rng = np.random.Generator
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """For every cell of the tile."""

    outside: Floats  # metres from the edge of the streets
    street: Ints
    s: Floats
    t: Floats
    block: Ints  # number of the block along the street: it changes where another street meets


def survey(network: Network) -> tuple[Survey, Array]:
    """Of the cells; and how far the nodes of the tile are from the streets, for the land."""
    places, n = grid_places()
    outside = network.outside(places).reshape(n, n)
    best: Floats | None = None
    for number, street in enumerate(network.streets):
        along, across = street.measure(places)
        fine = [refine(v.reshape(n, n)) for v in (street.outside(along, across), along, across)]
        if best is None:
            best, s, t = fine
            which = np.zeros(s.shape, np.int64)
            continue
        nearer = fine[0] < best
        best = np.where(nearer, fine[0], best)
        s, t = np.where(nearer, fine[1], s), np.where(nearer, fine[2], t)
        which[nearer] = number
    block = _blocks(network, which, s)
    return Survey(outside=refine(outside), street=which, s=s, t=t, block=block), outside


def _blocks(network: Network, which: Ints, s: Floats) -> Ints:
    block = np.zeros(s.shape, np.int64)
    for number in range(len(network.streets)):
        here = which == number
        block[here] = np.searchsorted(mouths(network, number), s[here])
    return block


def pave(layout: Layout, rng: Rng) -> Surface:
    """Land, bands, curbs and markings."""
    cells, coarse = survey(layout.network)
    numbers, names = _number_frontages(layout, cells, rng)
    bands, inner = _find_bands(layout, cells, numbers, names)
    raw, material, raised = _tables(names)
    raw, material, raised = raw[numbers, bands], material[numbers, bands], raised[numbers, bands]
    curb = _along_curbs(layout, cells)
    relief = raised * np.where(inner, curb.share, 1).astype(np.float32)
    on_street = cells.outside < curb.shift_m
    drive = curb.drive & ~on_street & (raw == TERRAIN) & (cells.outside < 14)
    raw[drive] = rng.choice([OTHER_GROUND, PARKING, SIDEWALK, ROAD], p=[0.25, 0.2, 0.35, 0.2])
    material[drive] = MATERIAL[str(rng.choice(['paving', 'asphalt', 'gravel']))]
    _lay_streets(layout, cells, on_street, raw, material)
    relief = np.where(on_street, _street_relief(cells), relief).astype(np.float32)
    _paint(layout, cells, on_street & (raw == ROAD), raw, material)
    relief += _roughen(raw, rng)
    tint = _tint(raw, cells.outside.shape, rng)
    ground = Relief(height=relief.clip(-0.2, 0.3), raw=raw, material=material, tint=tint)
    return Surface(_lay_land(layout, coarse, rng), ground)


def _number_frontages(
    layout: Layout, cells: Survey, rng: Rng
) -> tuple[Ints, list[Frontage]]:  # fmt: skip
    """Each cell's row in a list of frontages."""
    key = (cells.street * 2 + (cells.t < 0)) * 64 + cells.block
    present = np.flatnonzero(np.bincount(key.ravel()))
    rows = np.zeros(present[-1] + 1, np.int64)
    rows[present] = np.arange(len(present))
    found = []
    for each in present.tolist():
        street, side = each // 128, -1 if each // 64 % 2 else 1
        found.append(layout.frontage(street, side, each % 64, rng))
    return rows[key], found


def _find_bands(
    layout: Layout, cells: Survey, numbers: Ints, names: list[Frontage]
) -> tuple[Ints, NDArray[np.bool_]]:
    """Which band each cell is in, and whether the curb rules its height (all but the yard)."""
    ends = np.full((len(names), _SHORT), 1e6, np.float32)
    last = np.zeros(len(names), np.int64)
    for row, frontage in enumerate(names):
        ends[row, : len(frontage.bands) - 1] = frontage.ends()[:-1]
        last[row] = len(frontage.bands) - 1
    bands = np.zeros(numbers.shape, np.int64)
    for column in range(int(last.max())):
        bands += cells.outside > ends[numbers, column]
    return bands, cells.outside < ends[numbers, 0] + 6


def _tables(
    names: list[Frontage],
) -> tuple[NDArray[np.uint16], NDArray[np.uint8], Floats]:
    """raw, material, raised: (frontages, bands)."""
    raw = np.zeros((len(names), _SHORT), np.uint16)
    material, raised = raw.astype(np.uint8), raw.astype(np.float32)
    for row, frontage in enumerate(names):
        for column, band in enumerate(frontage.bands):
            raw[row, column], raised[row, column] = band.raw, band.raised_m
            material[row, column] = MATERIAL[band.material]
    return raw, material, raised


@dataclass(frozen=True, kw_only=True)
class _CurbCells:
    share: Floats
    shift_m: Floats
    drive: NDArray[np.bool_]


def _along_curbs(layout: Layout, cells: Survey) -> _CurbCells:
    """The profiles of the curbs at each cell."""
    key = cells.street * 2 + (cells.t < 0)
    order = [layout.curbs[k, side] for k in range(key.max() // 2 + 1) for side in (1, -1)]
    longest = max(len(curb.share) for curb in order)
    share, shift = np.ones((len(order), longest), np.float32), np.zeros((len(order), longest))
    drive = np.zeros((len(order), longest), bool)
    for row, curb in enumerate(order):
        share[row, : len(curb.share)], shift[row, : len(curb.share)] = curb.share, curb.shift_m
        drive[row, : len(curb.share)] = curb.drive
    at = (cells.s / PROFILE_M).astype(np.int64).clip(0, longest - 1)
    return _CurbCells(
        share=share[key, at], shift_m=shift[key, at].astype(np.float32), drive=drive[key, at]
    )


def _lay_streets(
    layout: Layout, cells: Survey, here: NDArray[np.bool_],
    raw: NDArray[np.uint16], material: NDArray[np.uint8],
) -> None:  # fmt: skip
    for number, street in enumerate(layout.network.streets):
        cell = here & (cells.street == number)
        raw[cell], material[cell] = street.raw, MATERIAL[street.material]
        if street.median_m:
            middle = cell & (np.abs(cells.t) < street.median_m)
            raw[middle], material[middle] = TERRAIN, MATERIAL['grass']


def _street_relief(cells: Survey) -> Floats:
    """Camber: streets are highest in their middle, the gutter is lowest."""
    return np.float32(0.012) * (-cells.outside).clip(0, 5) - np.float32(0.01)


def _paint(
    layout: Layout, cells: Survey, road: NDArray[np.bool_],
    raw: NDArray[np.uint16], material: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Dashes in the middle, lines at the edges, zebras before mouths."""
    kind, aside = layout.network.place.name, np.abs(cells.t)
    wide = np.array([street.half_m > 2.9 for street in layout.network.streets])[cells.street]
    painted = wide & (aside < 0.09) & (cells.s % 9.0 < 4.5)
    if kind in ('country', 'highway'):
        painted |= np.abs(cells.outside + 0.3) < 0.09
    if kind == 'highway':
        painted |= (np.abs(aside % 3.6 - 1.8) < 0.09) & (cells.s % 12 < 5)
    if kind == 'city':
        painted |= wide & (np.abs(cells.s % 47 - 4) < 1.6) & (aside % 1.0 < 0.5)
    painted &= road
    raw[painted], material[painted] = MARKING, MATERIAL['marking']


def _roughen(raw: NDArray[np.uint16], rng: Rng) -> Floats:
    """Meadows are lumpy, pavements are not quite flat."""
    size = raw.shape[0]
    lumps = rng.normal(0, 1, (size // 6 + 1, size // 6 + 1)).astype(np.float32)
    lumps = lumps.repeat(6, 0).repeat(6, 1)[:size, :size]
    height = np.full(256, 0.004, np.float32)
    height[TERRAIN] = rng.uniform(0.01, 0.045)
    height[OTHER_GROUND] = 0.01
    return lumps * height[raw.clip(0, 255)]


def _tint(raw: NDArray[np.uint16], shape: tuple[int, ...], rng: Rng) -> Floats:
    """Patches and slabs: surfaces of one kind do not all shine alike."""
    result = np.ones(shape, np.float32)
    for block, spread in ((40, 0.08), (9, 0.05)):
        size = shape[0] // block + 1
        patch = rng.normal(1, spread, (size, size)).astype(np.float32)
        result *= patch.repeat(block, 0).repeat(block, 1)[: shape[0], : shape[1]]
    kinds = np.ones(256, np.float32)
    for kind in (ROAD, SIDEWALK, PARKING, OTHER_GROUND, TERRAIN):
        kinds[kind] = rng.normal(1, 0.09)
    return result * kinds[raw.clip(0, 255)]


def _lay_land(layout: Layout, outside: Array, rng: Rng) -> Array:
    """A tilted plane with slow waves; banks rise or fall beside the streets."""
    places, n = grid_places()
    climb = layout.network.place.climb
    slope = rng.normal(0, climb / 2, 2).clip(-climb, climb)
    land = places @ slope
    for _ in range(3):
        number = math.tau / rng.uniform(60, 200)
        turn = rng.uniform(0, math.tau)
        phase = number * (places @ [math.cos(turn), math.sin(turn)]) + rng.uniform(0, math.tau)
        land += climb * rng.uniform(0, 0.6) / number * np.sin(phase) / 3
    grades = _grades(layout, places)
    begin = 7.0
    banks = grades * (outside.ravel() - begin).clip(0, 22)
    lumps = sum(
        rng.uniform(0.02, 0.12) * np.sin(places @ rng.normal(0, 0.45, 2) + rng.uniform(0, 6))
        for _ in range(4)
    ) * ((outside.ravel() - begin) / 6).clip(0, 1)
    return (land + banks + lumps).reshape(n, n)


def _grades(layout: Layout, places: Array) -> Array:
    """Of the land beside the first street, the same along all of it."""
    street = layout.network.streets[0]
    _, across = street.measure(places)
    sides = []
    for side in (1, -1):
        found = [f.grade for (k, at, _), f in layout.frontages.items() if k == 0 and at == side]
        sides.append(found[len(found) // 2] if found else 0.0)
    blend = (across / 8).clip(-1, 1)
    return np.where(blend > 0, sides[0], sides[1]) * np.abs(blend)
