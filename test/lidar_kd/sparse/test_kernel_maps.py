# SPDX-License-Identifier: Apache-2.0
"""Every builder makes the kernel map that a loop over a dictionary makes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

from lidar_kd.errors import DataError
from lidar_kd.sparse import Engine, KernelMap, Level, sparse_tensor
from lidar_kd.sparse.engines.maps import key_layout, KeyLayout
from lidar_kd.sparse.engines.plain_torch import TorchEngine

Triple = tuple[int, int, int]
Pairs = list[list[tuple[int, int]]]  # per slot: (row of the input, row of the result)
KERNELS: list[Triple] = [
    (3, 3, 3),
    (5, 5, 5),
    (3, 1, 3),
    (1, 3, 3),
    (3, 1, 1),
    (1, 3, 1),
    (1, 1, 3),
    (1, 1, 1),
    (9, 1, 9),
]
STRIDES: list[Triple] = [(2, 2, 2), (2, 2, 1), (1, 2, 2), (1, 1, 1)]

pytestmark = pytest.mark.usefixtures('threads')


def random_cells(shape: tuple[int, int, int, int], fill: float, low: Triple) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    occupied = torch.rand(*shape, generator=generator) < fill
    return (torch.nonzero(occupied) + torch.tensor([0, *low])).int()


CLOUDS = {
    'three scans': random_cells((3, 7, 5, 9), 0.3, (0, 0, 0)),
    'negative': random_cells((2, 9, 8, 7), 0.2, (-5, -9, -3)),
    'full': random_cells((1, 5, 4, 6), 1.0, (-2, 1, -7)),
    'one voxel': torch.tensor([[0, 4, -1, 3]], dtype=torch.int32),
    'none': torch.empty(0, 4, dtype=torch.int32),
    # the last cell of one column and the first of the next must not become neighbours
    'corners': torch.tensor([[0, 0, 0, 9], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]).int(),
    'far apart': torch.tensor([[0, -(2**18), 5, 2**18], [0, 2**18, -5, -(2**18)]]).int(),
}


@pytest.fixture(params=CLOUDS)
def cells(request: pytest.FixtureRequest) -> Tensor:
    return CLOUDS[request.param]


def pairs_of(built: KernelMap) -> Pairs:
    slots = (built.slot(k) for k in range(built.slots))
    return [list(zip(inputs.tolist(), outputs.tolist())) for inputs, outputs in slots]


def submanifold_by_loop(coords: Tensor, kernel: Triple) -> Pairs:
    cells = [tuple(cell) for cell in coords.tolist()]
    row_of = {cell: row for row, cell in enumerate(cells)}
    pairs: Pairs = []
    for slot in product(*(range(-(size // 2), size // 2 + 1) for size in kernel)):
        neighbours = [(b, x + slot[0], y + slot[1], z + slot[2]) for b, x, y, z in cells]
        pairs.append(
            [(row_of[cell], row) for row, cell in enumerate(neighbours) if cell in row_of]
        )
    return pairs


def strided_by_loop(coords: Tensor, stride: Triple) -> tuple[list[list[int]], Pairs]:
    coarse = [
        [b, *(c // s for c, s in zip(xyz, stride))] for b, *xyz in coords.tolist()
    ]  # // rounds down, below zero too
    order = sorted(map(list, {tuple(cell) for cell in coarse}))
    pairs: Pairs = [[] for _ in product(*map(range, stride))]
    for row, (_, *xyz) in enumerate(coords.tolist()):
        x, y, z = (c % s for c, s in zip(xyz, stride))
        slot = (x * stride[1] + y) * stride[2] + z
        pairs[slot].append((row, order.index(coarse[row])))
    return order, pairs


def identical(a: KernelMap, b: KernelMap) -> bool:
    same_rows = torch.equal(a.in_rows, b.in_rows) and torch.equal(a.out_rows, b.out_rows)
    types = {t.dtype for t in (a.in_rows, a.out_rows, b.in_rows, b.out_rows)}
    sizes = (a.starts, a.n_in, a.n_out) == (b.starts, b.n_in, b.n_out)
    return same_rows and sizes and types == {torch.int32}


@pytest.mark.parametrize('kernel', KERNELS, ids=str)
def test_submanifold_pairs_are_those_of_a_loop(
    engine: Engine, kernel: Triple, cells: Tensor
) -> None:
    built = Level(cells, engine).submanifold(kernel)
    assert pairs_of(built) == submanifold_by_loop(cells, kernel)
    assert (built.n_in, built.n_out) == (len(cells), len(cells))
    assert built.centre == len(pairs_of(built)) // 2


@pytest.mark.parametrize('stride', STRIDES, ids=str)
def test_strided_pairs_are_those_of_a_loop(engine: Engine, stride: Triple, cells: Tensor) -> None:
    coarse, built = Level(cells, engine).coarser(stride)
    wanted_cells, wanted_pairs = strided_by_loop(cells, stride)
    assert coarse.coords.tolist() == wanted_cells
    assert pairs_of(built) == wanted_pairs
    assert (built.n_in, built.n_out) == (len(cells), len(coarse))


@pytest.mark.parametrize('threads', [1, 2, 3, 4], indirect=True)
@pytest.mark.parametrize('stride', STRIDES, ids=str)
def test_the_key_layout_of_a_coarser_level_is_the_narrowest_of_its_cells(
    stride: Triple, cells: Tensor
) -> None:
    level = Level(cells, TorchEngine())
    for _ in range(3):
        level, _map = level.coarser(stride)
        assert level.layout == key_layout(level.coords)


def test_builders_make_identical_maps_down_to_the_coarsest_level(native: Engine) -> None:
    cells = random_cells((2, 21, 34, 27), 0.2, (-11, -20, 3))
    level, other = Level(cells, native), Level(cells, TorchEngine())
    for stride in ((2, 2, 2), (2, 2, 1), (2, 2, 2), (2, 2, 2)):
        for kernel in KERNELS:
            assert identical(level.submanifold(kernel), other.submanifold(kernel))
        (level, down), (other, other_down) = level.coarser(stride), other.coarser(stride)
        assert identical(down, other_down)
        assert torch.equal(level.coords, other.coords)


@pytest.mark.parametrize('strided', [False, True], ids=['submanifold', 'strided'])
def test_the_map_of_a_batch_is_the_maps_of_its_scans_one_after_the_other(
    engine: Engine, strided: bool
) -> None:
    def build(coords: Tensor) -> KernelMap:
        level = Level(coords, engine)
        return level.coarser((2, 2, 2))[1] if strided else level.submanifold((3, 3, 3))

    cells = CLOUDS['three scans']
    whole = build(cells)
    wanted: Pairs = [[] for _ in range(whole.slots)]
    n_in = n_out = 0
    for scan in range(3):
        alone = build(cells[cells[:, 0] == scan])
        for slot, pairs in zip(wanted, pairs_of(alone)):
            slot += [(i + n_in, o + n_out) for i, o in pairs]
        n_in, n_out = n_in + alone.n_in, n_out + alone.n_out
    assert pairs_of(whole) == wanted


def test_every_map_is_built_once_and_shared(engine: Engine) -> None:
    level = Level(CLOUDS['negative'], engine)
    assert level.submanifold((3, 3, 3)) is level.submanifold((3, 3, 3))
    coarse, down = level.coarser((2, 2, 2))
    assert level.coarser((2, 2, 2)) == (coarse, down)
    assert down.transposed is down.transposed
    assert coarse.finer((2, 2, 2)) is level


def test_the_transposed_map_swaps_the_rows(engine: Engine) -> None:
    _, down = Level(CLOUDS['negative'], engine).coarser((2, 2, 2))
    up = down.transposed
    assert pairs_of(up) == [[(o, i) for i, o in slot] for slot in pairs_of(down)]
    assert (up.n_in, up.n_out) == (down.n_out, down.n_in)


def test_cells_in_any_order_and_memory_layout_are_sorted(engine: Engine) -> None:
    cells = CLOUDS['three scans']
    shuffled = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(1))]
    column_major = shuffled.long().T.contiguous().T
    x, order = sparse_tensor(column_major, shuffled[:, 1:].float(), engine)
    assert torch.equal(x.level.coords, cells)
    assert torch.equal(shuffled[order], cells)
    assert torch.equal(x.features, cells[:, 1:].float())
    built = x.level.submanifold((3, 3, 3))
    assert pairs_of(built) == submanifold_by_loop(cells, (3, 3, 3))


def test_column_major_int64_cells_give_the_same_map(engine: Engine) -> None:
    cells = CLOUDS['negative']
    level = Level(cells.long().T.contiguous().T, engine)
    assert identical(level.submanifold((3, 3, 3)), Level(cells).submanifold((3, 3, 3)))


def test_a_cell_that_occurs_twice_is_refused() -> None:
    cells = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 2, 3]])
    with pytest.raises(DataError, match='1 cells occur twice: voxelise'):
        sparse_tensor(cells, torch.zeros(3, 4))


@pytest.mark.parametrize('step', ['submanifold', 'coarser'])
@pytest.mark.parametrize(
    'cells',
    [
        [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]],
        [[0, 0, 0, 1], [0, 0, 0, 0]],
        [[1, 0, 0, 0], [0, 5, 5, 5]],
    ],
)
def test_a_level_of_cells_that_repeat_or_do_not_increase_is_refused(
    engine: Engine, cells: list[list[int]], step: str
) -> None:
    level = Level(torch.tensor(cells), engine)
    sentence = f'its {len(cells)} cells are not sorted and distinct: make it of points'
    with pytest.raises(ValueError, match=sentence):
        level.submanifold((3, 3, 3)) if step == 'submanifold' else level.coarser((2, 2, 2))


@pytest.mark.parametrize('dtype', [torch.int32, torch.int64])
def test_cells_of_either_type_and_memory_layout_are_found(
    engine: Engine, dtype: torch.dtype
) -> None:
    level = Level(torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3], [0, 4, 5, 6]]), engine)
    wanted = torch.tensor([[0, 4, 5, 6], [0, 1, 2, 3]], dtype=dtype)
    assert level.find(wanted).tolist() == [2, 1]
    assert level.find(wanted.T.contiguous().T).tolist() == [2, 1]


def test_cells_too_far_apart_for_the_keys_are_refused(engine: Engine) -> None:
    far = 2**22  # each axis spans 2^23 and the margin: 24 bits; the scan takes one
    cells = torch.tensor([[0, -far, -far, -far], [0, far, far, far]], dtype=torch.int32)
    with pytest.raises(DataError, match='need 73 key bits of 63: drop far outliers'):
        Level(cells, engine).submanifold((3, 3, 3))


@pytest.mark.parametrize('kernel', [(2, 3, 3), (3, 3, 11)])
def test_even_and_very_large_kernels_are_refused(kernel: Triple) -> None:
    with pytest.raises(ValueError, match='sizes must be odd and at most 9'):
        Level(CLOUDS['one voxel']).submanifold(kernel)


def test_strides_above_two_are_refused() -> None:
    with pytest.raises(ValueError, match='steps must be 1 or 2'):
        Level(CLOUDS['one voxel']).coarser((3, 2, 2))


def test_there_is_no_way_back_from_a_level_that_was_not_made_from_a_finer_one() -> None:
    with pytest.raises(ValueError, match='no finer level'):
        Level(CLOUDS['one voxel']).finer((2, 2, 2))


def test_rows_are_grouped_by_key_and_negative_keys_by_none(engine: Engine) -> None:
    keys = torch.tensor([7, -1, 3, 7, 3, 2**62, -5, 7])
    group, order, starts = engine.grouping.group(keys)
    # keys in order: 3 (rows 2, 4), 7 (rows 0, 3, 7), 2^62 (row 5)
    assert group.tolist() == [1, -1, 0, 1, 0, 2, -1, 1]
    assert order.tolist() == [2, 4, 0, 3, 7, 5]
    assert starts.tolist() == [0, 2, 5, 6]


class HashingPeer(TorchEngine):
    """Like spconv's CPU build in the benchmarks: it makes no keys, and its maps are its own."""

    sorts = False

    def keys(self, coords: Tensor, layout: KeyLayout) -> Tensor:
        return coords

    def submanifold(self, keys: Tensor, kernel: Sequence[int], layout: KeyLayout) -> KernelMap:
        return super().submanifold(layout.keys(keys), kernel, layout)


def test_a_peer_that_hashes_cells_is_not_asked_for_their_order() -> None:
    # each row of cells is compared with the next one; as keys they would not all increase
    level = Level(torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0]]), HashingPeer())
    wanted = Level(level.coords, 'torch').submanifold((3, 3, 3))
    found = level.submanifold((3, 3, 3))
    assert found.starts == wanted.starts
    assert torch.equal(found.in_rows, wanted.in_rows)
    assert len(level.coarser((2, 2, 2))[0]) == 1
