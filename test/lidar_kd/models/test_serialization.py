# SPDX-License-Identifier: Apache-2.0
"""Curves through cells, and the patches that are cut from them."""

import pytest
import torch
from torch import Tensor

from lidar_kd.errors import DataError
from lidar_kd.models import serialization
from lidar_kd.models.serialization import cut, encode, ORDERS, serialize, Serialized
from lidar_kd.sparse import Level, sparse_tensor
from lidar_kd.sparse.tensor import sort_cells

HALF = (2, 2, 2)


def cube(side: int) -> Tensor:
    """Every cell of a cube."""
    return torch.cartesian_prod(*[torch.arange(side)] * 3)


def at(depth: int, cells: Tensor) -> Tensor:
    return torch.full((len(cells),), depth)


def level_of(cells: Tensor, scan: Tensor | None = None) -> Level:
    batch = cells.new_zeros(len(cells)) if scan is None else scan
    return Level(sort_cells(torch.cat([batch[:, None], cells], 1))[0], 'torch')


def test_z_order_takes_the_bits_of_x_y_and_z_in_turn() -> None:
    # x = 01, y = 10, z = 11: the upper bits are 0 1 1 = 3, the lower ones 1 0 1 = 5, 3 * 8 + 5
    assert encode(torch.tensor([[1, 2, 3]]), torch.tensor([2]), 'z').tolist() == [29]
    # x and y change places: upper 1 0 1 = 5, lower 0 1 1 = 3
    assert encode(torch.tensor([[1, 2, 3]]), torch.tensor([2]), 'z-trans').tolist() == [43]


def test_the_hilbert_curve_through_eight_cells() -> None:
    # a Gray code: 000 001 011 010 110 111 101 100
    path = torch.tensor(
        [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 0, 0]]
    )
    assert encode(path, at(1, path), 'hilbert').tolist() == list(range(8))
    assert encode(path[:, [1, 0, 2]], at(1, path), 'hilbert-trans').tolist() == list(range(8))


@pytest.mark.parametrize('depth', [2, 3, 4])
@pytest.mark.parametrize('order', ['hilbert', 'hilbert-trans'])
def test_the_hilbert_curve_visits_every_cell_in_steps_of_one(depth: int, order: str) -> None:
    cells = cube(2**depth)
    codes = encode(cells, at(depth, cells), order)
    assert torch.equal(codes.sort().values, torch.arange(8**depth))
    steps = cells[codes.argsort()].diff(dim=0).abs().sum(1)
    assert (steps == 1).all()


def published_curve(cells: Tensor, depth: int) -> list[int]:
    """Skilling (2004), one cell and one bit at a time."""
    codes = []
    for cell in cells.tolist():
        for bit in reversed(range(depth)):
            below = (1 << bit) - 1
            for axis in range(3):
                if cell[axis] >> bit & 1:
                    cell[0] ^= below
                else:
                    swap = (cell[0] ^ cell[axis]) & below
                    cell[0] ^= swap
                    cell[axis] ^= swap
        code, odd = 0, 0
        for bit in reversed(range(depth)):
            for value in cell:
                odd ^= value >> bit & 1
                code = code << 1 | odd
        codes.append(code)
    return codes


@pytest.mark.parametrize('depth', [1, 2, 5, 16, 20])
def test_the_hilbert_curve_is_the_published_one(depth: int) -> None:
    cells = torch.randint(0, 2**depth, (200, 3))
    assert encode(cells, at(depth, cells), 'hilbert').tolist() == published_curve(cells, depth)


@pytest.mark.parametrize('order', ORDERS)
def test_a_coarser_cell_has_the_code_without_its_last_three_bits(order: str) -> None:
    cells = torch.randint(0, 2**19, (500, 3))
    for depth in (19, 20):
        codes = encode(cells, at(depth, cells), order)
        assert torch.equal(encode(cells >> 1, at(depth - 1, cells), order), codes >> 3)


@pytest.mark.parametrize('order', ORDERS)
def test_each_row_has_a_curve_of_its_own_depth_in_any_block(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, depth = torch.randint(0, 16, (50, 3)), torch.randint(4, 9, (50,))
    one_by_one = [encode(cells[k : k + 1], depth[k : k + 1], order) for k in range(50)]
    monkeypatch.setattr(serialization, 'ROWS_PER_THREAD', 7)
    assert torch.equal(encode(cells, depth, order), torch.cat(one_by_one))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('order', ORDERS)
def test_a_card_finds_the_same_codes(order: str) -> None:
    cells = torch.randint(0, 2**12, (1000, 3))
    codes = encode(cells.cuda(), at(12, cells).cuda(), order)
    assert torch.equal(codes.cpu(), encode(cells, at(12, cells), order))


def test_the_last_patch_borrows_the_rows_before_it() -> None:
    patches = cut([torch.tensor([4, 2, 0, 1, 3])], 2)
    (rows,) = patches.rows
    assert rows.tolist() == [[4, 2], [0, 1], [1, 3]]
    # of the 6 results, row 1 takes its own patch's (4th), not the borrowed one (5th)
    assert patches.answers.tolist() == [2, 3, 1, 5, 0]


def test_a_scan_smaller_than_a_patch_is_one_patch() -> None:
    scans = [torch.tensor([1, 0]), torch.tensor([], dtype=torch.long), torch.tensor([3, 4, 2, 5])]
    patches = cut(scans, 3)
    assert [rows.tolist() for rows in patches.rows] == [[[3, 4, 2], [4, 2, 5]], [[1, 0]]]
    assert patches.answers.tolist() == [7, 6, 2, 0, 1, 5]


@pytest.mark.parametrize('size', [1, 3, 8, 64])
def test_every_row_is_answered_in_a_patch_that_holds_it(size: int) -> None:
    order = torch.randperm(40)
    patches = cut([order[:17], order[17:25], order[25:]], size)
    flat = torch.cat([rows.flatten() for rows in patches.rows])
    assert torch.equal(flat[patches.answers], torch.arange(40))


def codes_of(cells: Tensor, strides: int = 2) -> dict[str, Tensor]:
    cells_in_order = serialize(level_of(cells), ORDERS, strides)
    return {order: cells_in_order.code(order) for order in ORDERS}


def test_cells_from_0_on_stay_where_they_are() -> None:
    # as the published code takes them: the largest is 12, and 13 has 4 bits
    cells = torch.tensor([[5, 8, 12], [6, 9, 4]])
    for order, codes in codes_of(cells).items():
        assert torch.equal(codes, encode(cells, at(4, cells), order)), order


def test_negative_cells_move_by_whole_coarsest_cells() -> None:
    # the lowest are -5, 3, 8; rounded down to multiples of 4: -8, 0, 8; the largest left is 11
    cells = torch.tensor([[-5, 3, 9], [3, 8, 8]])
    moved = torch.tensor([[3, 3, 1], [11, 8, 0]])
    for order, codes in codes_of(cells).items():
        assert torch.equal(codes, encode(moved, at(4, moved), order)), order


def test_pooled_cells_have_the_codes_of_their_own_level() -> None:
    cells = torch.unique(torch.randint(-40, 40, (300, 3)), dim=0)
    fine: Serialized = serialize(level_of(cells), ORDERS, 3)
    for _ in range(3):
        coarse, parent = fine.pooled()
        assert torch.equal(coarse.level.coords[parent, 1:], fine.level.coords[:, 1:] >> 1)
        for order in ORDERS:
            assert torch.equal(coarse.code(order)[parent], fine.code(order) >> 3)
        fine = coarse


def test_a_scan_has_the_same_codes_in_every_batch() -> None:
    cells = torch.unique(torch.randint(-40, 40, (100, 3)), dim=0)
    far = torch.tensor([[-5000, 3, 0], [7000, 1, 1]])
    scan = torch.tensor([0] * 2 + [1] * len(cells))
    together = serialize(level_of(torch.cat([far, cells]), scan), ORDERS, 2)
    for order, codes in codes_of(cells).items():
        assert torch.equal(together.code(order)[2:], codes)


def test_a_range_too_large_for_the_codes_is_refused() -> None:
    # 2**21 cells along x: 3 * 22 + 1 bits
    level = Level(torch.tensor([[0, 0, 0, 0], [0, 2**21, 0, 0]]), 'torch')
    with pytest.raises(DataError, match='67 code bits of 63: drop far outliers or choose'):
        serialize(level, ORDERS, 4)


def test_no_cells_and_cells_that_occur_twice_are_refused() -> None:
    with pytest.raises(DataError, match='there are no voxels'):
        serialize(Level(torch.zeros(0, 4), 'torch'), ORDERS, 4)
    with pytest.raises(DataError, match='1 cells occur twice'):
        sparse_tensor(torch.zeros(2, 4, dtype=torch.int32), torch.zeros(2, 1))
