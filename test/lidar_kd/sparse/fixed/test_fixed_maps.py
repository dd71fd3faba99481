# SPDX-License-Identifier: Apache-2.0
"""Maps of fixed shape are the other engines' maps, cell by cell."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from lidar_kd.sparse import Level, select_engine, sparse_tensor
from lidar_kd.sparse.engines.plain_torch import neighbour_table
from lidar_kd.sparse.fixed.maps import FixedMaps, MapBuilder
from lidar_kd.sparse.fixed.morton import cell_of_key, MIDDLE, MortonKeys, Neighbours, PAD
from training.data.synthetic import make_street, scan_street

CPU = torch.device('cpu')
Cell = tuple[int, ...]


def test_bits_of_x_y_and_z_take_turns() -> None:
    keys = MortonKeys(CPU).encode(torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]))
    start = int(keys[0])
    assert (keys - start).tolist() == [0, 1, 2, 4]
    assert start == 7 << 3 * 19  # the middle's highest bit, of each axis


def test_a_key_is_decoded_to_its_cell() -> None:
    cells = torch.randint(-MIDDLE + 16, MIDDLE - 16, (200, 3), generator=torch.manual_seed(0))
    keys = MortonKeys(CPU).encode(cells)
    assert [cell_of_key(key) for key in keys.tolist()] == [tuple(cell) for cell in cells.tolist()]


@pytest.mark.parametrize('size', [1, 3, 5])
def test_neighbours_are_the_cells_around_with_z_fastest(size: int) -> None:
    cells = torch.tensor([[0, 0, 0], [-1, 5, 1023], [1024, -1024, 7]])
    found = Neighbours(size, CPU).keys(MortonKeys(CPU).encode(cells)[None])[0]
    steps = range(-(size // 2), size // 2 + 1)
    for column, (x, y, z) in enumerate(cells.tolist()):
        expected = [(x + i, y + j, z + k) for i, j, k in product(steps, repeat=3)]
        assert [cell_of_key(key) for key in found[:, column].tolist()] == expected


def build(cells: Tensor, rooms: list[int], size: int = 3) -> FixedMaps:
    return MapBuilder(rooms, size, CPU).build(MortonKeys(CPU).encode(cells))


def cells_of(maps: FixedMaps, number: int) -> list[Cell]:
    """By row, from row 1 on; a coarser cell's number has lost as many bits."""
    keys = [key for key in maps.keys[number].tolist() if 0 <= key < PAD >> 3 * number]
    found = [cell_of_key(key << 3 * number) for key in keys]
    return [tuple(value >> number for value in cell) for cell in found]


def table_by_cells(table: Tensor, rows: list[Cell], columns: list[Cell], none: int) -> set[object]:
    """(cell of the result, slot, cell of the input) of every pair."""
    first = 1 if none == 0 else 0
    return {
        (rows[row], slot, columns[found - first])
        for row, line in enumerate(table.tolist())
        for slot, found in enumerate(line)
        if found != none
    }


def check_against_the_torch_engine(cells: Tensor, levels: int = 3) -> None:
    points = len(cells)
    maps = build(cells, [points, *(max(8, points) for _ in range(1, levels))])
    assert not maps.overflowed
    distinct = torch.unique(cells, dim=0).int()
    coords = torch.cat([torch.zeros(len(distinct), 1, dtype=torch.int32), distinct], 1)
    tensor, _ = sparse_tensor(coords, coords.float(), select_engine('cpu', 'torch'))
    level: Level = tensor.level
    for number in range(levels):
        mine, theirs = cells_of(maps, number), [tuple(c) for c in level.coords[:, 1:].tolist()]
        assert sorted(mine) == theirs
        pairs = level.submanifold((3, 3, 3))
        table = maps.tables[number][1 : len(mine) + 1]
        assert table_by_cells(table, mine, mine, 0) == table_by_cells(
            neighbour_table(pairs), theirs, theirs, pairs.n_in
        )
        if number + 1 == levels:
            return
        coarse, down = level.coarser((2, 2, 2))
        below = cells_of(maps, number + 1)
        table = maps.down[number][1 : len(below) + 1]
        coarse_cells = [tuple(c) for c in coarse.coords[:, 1:].tolist()]
        assert table_by_cells(table, below, mine, 0) == table_by_cells(
            neighbour_table(down), coarse_cells, theirs, down.n_in
        )
        rows = len(maps.keys[number + 1])
        slot, parent = maps.up[number].div(rows, rounding_mode='floor'), maps.up[number] % rows
        for row, cell in enumerate(mine, 1):
            assert below[int(parent[row]) - 1] == tuple(value >> 1 for value in cell)
            assert int(slot[row]) == sum((v & 1) << 2 - axis for axis, v in enumerate(cell))
        level = coarse


@pytest.mark.parametrize('seed', range(100))
def test_maps_of_random_clouds_are_the_torch_engines(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for spread in (2, 4, 6, 40, 500_000):
        cells = generator.integers(-spread, spread, (int(generator.integers(1, 60)), 3))
        check_against_the_torch_engine(torch.from_numpy(cells))


def test_maps_of_a_scan_are_the_torch_engines() -> None:
    scan, _ = scan_street(make_street(0), 0)
    check_against_the_torch_engine(torch.from_numpy(scan[::20, :3] / 0.4).floor().long(), levels=5)


def test_points_are_grouped_and_those_without_a_cell_belong_to_nobody() -> None:
    keys = MortonKeys(CPU).encode(torch.tensor([[5, 0, 0], [0, 0, 0], [5, 0, 0], [0, 0, 1]]))
    keys = torch.cat([keys, torch.tensor([PAD])])
    maps = MapBuilder([5, 8], 3, CPU).build(keys)
    assert maps.point_row.tolist() == [3, 1, 3, 2, 0]
    assert maps.order.tolist() == [1, 3, 0, 2, 4]
    assert maps.starts[:5].tolist() == [0, 0, 1, 2, 4]


def test_a_level_with_more_cells_than_room_says_so() -> None:
    apart = torch.arange(20)[:, None].expand(-1, 3) * 100
    assert build(apart, [20, 19]).overflowed
    assert not build(apart, [20, 20]).overflowed
