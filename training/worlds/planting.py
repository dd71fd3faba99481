# SPDX-License-Identifier: Apache-2.0
"""What grows: trees in rows and gardens, bushes before walls, thickets, meadows' edges."""

from __future__ import annotations

import math

import numpy as np

from training.streets import plants
from training.streets.mesh import join, Mesh
from training.worlds.greenery import build_leafy_tree, build_shrub, build_thicket
from training.worlds.site import Edge, Rng, Site

_THICKET = {'wood': 1.0, 'garden': 0.35, 'open': 0.4, 'lot': 0.25, 'facade': 0.04}


def place_plants(site: Site) -> None:
    for edge in site.edges():
        _place_tree_row(edge)
        _place_garden(edge)
        _place_cover(edge)
        if site.rng.random() < _THICKET[edge.front.kind]:
            _place_thicket(edge)
    _place_background(site)


def _place_tree_row(edge: Edge) -> None:
    """Along the verge, or at the sidewalk's inner edge."""
    rng = edge.site.rng
    if edge.site.place.name == 'highway' or rng.random() < 0.75:
        return
    verge = edge.front.extent('verge')
    aside = sum(verge) / 2 if verge else edge.front.begin('front') + rng.uniform(-0.3, 1.5)
    size, step = rng.uniform(0.7, 1.8), rng.uniform(5, 16)
    for s in np.arange(edge.span[0], edge.span[1], step):
        if aside > 0.4 and edge.is_free(s, aside) and rng.random() < 0.85:
            tree = _draw_tree(rng, size * rng.uniform(0.85, 1.15), low=False)
            edge.site.put(tree, edge.at(s, aside), 0.0)


def _place_garden(edge: Edge) -> None:
    """Trees and bushes between the sidewalk and the houses."""
    rng, front = edge.site.rng, edge.front
    low, high = front.begin('front'), front.begin('yard')
    green = {'garden': 1.0, 'open': 0.6, 'wood': 1.4, 'lot': 0.4, 'facade': 0.25}[front.kind]
    for s in edge.draw_places(edge.site.place.trees * green):
        aside = rng.uniform(low + 0.8, max(high, low + 2) + 5)
        if edge.is_free(s, aside) and not edge.has_drive(s):
            edge.site.put(_draw_tree(rng, rng.uniform(0.6, 1.9), low=True), edge.at(s, aside), 0.0)
    for s in edge.draw_places(32 * green):
        aside = rng.uniform(low + 0.7, high + 2)
        if edge.is_free(s, aside) and not edge.has_drive(s):
            bush = _draw_bush(rng, rng.uniform(0.3, 1.5))
            edge.site.put(bush, edge.at(s, aside), rng.uniform(0, 6))


def _place_cover(edge: Edge) -> None:
    """Hedges and bushes that hide a wall or a fence, on either side of it."""
    rng, front = edge.site.rng, edge.front
    if front.barrier in ('', 'hedge', 'rail') or rng.random() > 0.35:
        return
    aside = front.begin('front') + rng.choice([-0.25, 0.7])
    height = front.barrier_m * rng.uniform(0.7, 1.5)
    for s in np.arange(edge.span[0], edge.span[1], 3.0):
        if rng.random() < 0.55 and edge.is_free(s, aside) and not edge.has_drive(s):
            wild = build_thicket((3.4, rng.uniform(0.4, 1.0), height), rng)
            edge.site.put(wild, edge.at(s, aside), edge.away(s) - math.pi / 2)


def _place_thicket(edge: Edge) -> None:
    """A wall of leaves: the edge of a wood, or weeds that nobody trims."""
    rng, front = edge.site.rng, edge.front
    aside = front.begin('front') + rng.uniform(0.5, 6.0)
    height = rng.uniform(3, 12) if front.kind == 'wood' else rng.uniform(0.6, 3.0)
    deep = rng.uniform(1.0, 5.0)
    for s in np.arange(edge.span[0], edge.span[1], 6.0):
        place = aside + rng.normal(0, 0.5) + deep / 2
        if rng.random() < 0.9 and edge.is_free(s, place) and not edge.has_drive(s):
            wood = _draw_wood(rng, 6.8, deep, height * rng.uniform(0.6, 1.2))
            edge.site.put(wood, edge.at(s, place), edge.away(s) - math.pi / 2)
        if front.kind == 'wood' and rng.random() < 0.5 and edge.is_free(s, place + 5):
            stand = [_draw_tree(rng, rng.uniform(1.2, 2.2), low=False) for _ in range(2)]
            edge.site.put(join([stand[0], stand[1].placed((3, 4, 0))]), edge.at(s, place + 5), 0.0)


def _draw_tree(rng: Rng, scale: float, *, low: bool) -> Mesh:
    """Dense or airy; in gardens the crown often hides the trunk."""
    if rng.random() < 0.35:
        return plants.build_tree(rng, scale)
    clear = rng.uniform(0.1, 1.8) if low else rng.uniform(1.5, 3.5)
    return build_leafy_tree(rng, scale, clear_m=clear)


def _draw_bush(rng: Rng, size_m: float) -> Mesh:
    return (plants.build_bush if rng.random() < 0.3 else build_shrub)(rng, size_m)


def _draw_wood(rng: Rng, length: float, depth: float, height: float) -> Mesh:
    if rng.random() < 0.3:
        return plants.build_wood(length, depth, height, rng)
    return build_thicket((length, depth, height), rng)


def _place_background(site: Site) -> None:
    """Tall trees and thickets far from all streets."""
    rng = site.rng
    places = rng.uniform(-80, 80, (90, 2))
    away = site.network.outside(places)
    for at in places[(away > 14) & (rng.random(90) < 0.6)]:
        if not site.take(at, 2.0):
            continue
        if rng.random() < 0.6:
            site.put(_draw_tree(rng, rng.uniform(1.3, 2.8), low=True), at, 0.0)
        else:
            wood = _draw_wood(rng, 9.0, 4.0, rng.uniform(1.5, 8))
            site.put(wood, at, rng.uniform(0, 6))
