# SPDX-License-Identifier: Apache-2.0
"""A scene while it is being filled: where along the streets something may stand, and what does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.streets.mesh import Array, Mesh
from training.worlds.frontage import Frontage
from training.worlds.ground import Surface
from training.worlds.kinds import Locale
from training.worlds.layout import Curb, Layout, mouths
from training.worlds.network import Network, StreetLine, TILE_M

Rng = np.random.Generator
Mask = NDArray[np.bool_]
_REACH_M = TILE_M - 12
_THINGS_FROM = 1
MOVING_FROM = 60_000


@dataclass(kw_only=True)
class Site:
    """Everything that stands in a scene, and the ground it stands on."""

    layout: Layout
    ground: Surface
    rng: Rng
    enrich: float
    meshes: list[Mesh] = field(default_factory=list)
    things: int = 0
    taken: list[tuple[float, float, float]] = field(default_factory=list)  # x, y, radius

    @property
    def network(self) -> Network:
        return self.layout.network

    @property
    def place(self) -> Locale:
        return self.layout.network.place

    def edges(self) -> Iterator[Edge]:
        """Both sides of all streets, block by block."""
        for number, street in enumerate(self.network.streets):
            ends = [0.0, *mouths(self.network, number), street.length_m]
            for side in (1, -1):
                for block, span in enumerate(zip(ends, ends[1:])):
                    front = self.layout.frontages.get((number, side, block))
                    if front and (clipped := _within_tile(street, span)):
                        yield Edge(
                            site=self, street=street, side=side, span=clipped, front=front,
                            curb=self.layout.curbs[number, side],
                        )  # fmt: skip

    def put(self, mesh: Mesh, at: ArrayLike, yaw: float) -> None:
        place = np.asarray(at, float)
        self.meshes.append(mesh.placed((*place, float(self.ground.height(place))), yaw))

    def put_thing(self, mesh: Mesh, at: ArrayLike, yaw: float) -> None:
        """A countable one: it has a number of its own."""
        self.put(mesh, at, yaw)
        number = _THINGS_FROM + self.things % (MOVING_FROM - 1)
        self.things += 1
        self.meshes[-1] = self.meshes[-1].placed((0, 0, 0), 0.0, number)

    def take(self, at: ArrayLike, radius: float) -> bool:
        """Whether nothing large stands here; if so, now something does."""
        x, y = np.asarray(at, float)
        if any((x - u) ** 2 + (y - v) ** 2 < (radius + r) ** 2 for u, v, r in self.taken):
            return False
        self.taken.append((float(x), float(y), radius))
        return True

    def count(self, per_100m: float, length_m: float, *, rare: bool = False) -> int:
        more = self.enrich if rare else 1.0
        return int(self.rng.poisson(per_100m * length_m / 100 * more))


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One side of a street between two mouths: `aside` is the distance from its edge."""

    site: Site
    street: StreetLine
    side: int  # 1: left, -1: right
    span: tuple[float, float]
    front: Frontage
    curb: Curb

    @property
    def length_m(self) -> float:
        return self.span[1] - self.span[0]

    def at(self, s: ArrayLike, aside: ArrayLike) -> Array:
        aside = np.asarray(aside, float)
        return self.street.locate(s, self.side * (self.street.half_m + aside))

    def along(self, s: float) -> float:
        """Yaw of who looks the way the traffic of this side goes (on the right)."""
        return float(self.street.yaw(s)) + (0.0 if self.side < 0 else np.pi)

    def away(self, s: float) -> float:
        """Yaw of who looks away from the street."""
        return float(self.street.yaw(s)) + self.side * np.pi / 2

    def is_free(self, s: ArrayLike, aside: ArrayLike, margin_m: float = 0.4) -> Mask:
        """Whether no other street comes as near to these places."""
        places = self.at(s, aside)
        flat = places.reshape(-1, 2)
        nearest = self.site.network.outside(flat).reshape(places.shape[:-1])
        free: Mask = np.asarray(nearest > np.asarray(aside, float) - margin_m)
        return free

    def draw_places(self, per_100m: float, *, rare: bool = False) -> list[float]:
        count = self.site.count(per_100m, self.length_m, rare=rare)
        return self.site.rng.uniform(*self.span, count).tolist()

    def has_drive(self, s: float) -> bool:
        return any(abs(s - at) < 3.5 for at in self.curb.drives_m)


def _within_tile(street: StreetLine, span: tuple[float, float]) -> tuple[float, float] | None:
    s = np.arange(span[0] + 1, span[1] - 1, 2.0)
    if not len(s):
        return None
    inside = s[(np.abs(street.locate(s, 0.0)) < _REACH_M).all(1)]
    return (float(inside[0]), float(inside[-1])) if len(inside) > 2 else None
