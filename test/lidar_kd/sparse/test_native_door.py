# SPDX-License-Identifier: Apache-2.0
"""Nothing that Python hands to the C library crashes it: what is wrong is refused in a sentence.

Every refusal here was once memory read or written where it must not be, or an assert that
`python -O` leaves out.
"""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

import pytest
import torch
from torch import nn, Tensor

from lidar_kd.sparse import (
    Engine,
    InverseConv,
    KernelMap,
    Level,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
)
from lidar_kd.sparse.engines.maps import KeyLayout
from lidar_kd.sparse.engines.native import library as native_library
from lidar_kd.sparse.engines.native import structs

CUBE, HALF = (3, 3, 3), (2, 2, 2)
ROOT = Path(__file__).resolve().parents[3]


def cells() -> Tensor:
    return torch.nonzero(torch.ones(1, 4, 4, 4)).int()


def layer_of(engine: Engine) -> tuple[Tensor, KernelMap]:
    """A packed weight 4 -> 8 and its map over 64 cells."""
    pairs = Level(cells(), engine).submanifold(CUBE)
    return engine.pack(torch.ones(8, 27, 4), torch.float32), pairs


# --- maps without pairs: their arrays have no address, which C would read as the identity ---


def test_a_map_without_pairs_gives_zeros_and_not_the_identity(native: Engine) -> None:
    none = torch.empty(0, dtype=torch.int32)
    pairs = KernelMap(none, none, (0, 0), 3, 3)
    weight, x = torch.ones(2, 1, 2), torch.ones(3, 2, requires_grad=True)
    assert native.forward(x.detach(), weight, pairs).tolist() == [[0, 0]] * 3
    dx, dw = native.backward(x.detach(), weight, torch.ones(3, 2), pairs, need_x=True)
    assert dx is not None
    assert dx.tolist() == [[0, 0]] * 3
    assert dw.tolist() == [[[0, 0]], [[0, 0]]]


def test_a_strided_layer_whose_kernel_reaches_no_cell_has_a_backward(native: Engine) -> None:
    level = Level(torch.tensor([[0, 1, 1, 1]]).int(), native)
    layer = StridedConv(4, 8, HALF, kernel=(1, 1, 3))
    x = torch.ones(1, 4, requires_grad=True)
    y = layer(SparseTensor(x, level))
    y.features.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0, 0, 0]]  # the cell's x is odd: it lies in no kernel


def test_the_way_back_from_no_coarse_cell_gives_zeros(native: Engine) -> None:
    level = Level(torch.tensor([[0, 1, 1, 1]]).int(), native)
    coarse = level.coarser(HALF, (1, 1, 3))[0]
    back = InverseConv(4, 8, HALF, kernel=(1, 1, 3))
    with torch.no_grad():
        y = back(SparseTensor(torch.ones(len(coarse), 4), coarse))
    assert y.features.tolist() == [[0] * 8]


# --- layers ---


def test_features_that_are_fewer_than_the_cells_are_refused(native: Engine) -> None:
    packed, pairs = layer_of(native)
    with pytest.raises(ValueError, match='7 rows of features for a map of 64 cells'):
        native.infer(torch.ones(7, 4), packed, pairs, 8)
    with pytest.raises(ValueError, match='7 rows of features for a map of 64 cells'):
        native.grad_weight(torch.ones(7, 4), torch.ones(64, 8), pairs)
    with pytest.raises(ValueError, match=r'gradient of a layer is \(7, 8\)'):
        native.grad_weight(torch.ones(64, 4), torch.ones(7, 8), pairs)


def test_what_does_not_fit_a_layer_is_refused(native: Engine) -> None:
    packed, pairs = layer_of(native)
    x = torch.ones(64, 4)
    with pytest.raises(ValueError, match=r'a shortcut is \(64, 7\)'):
        native.infer(x, packed, pairs, 8, residual=torch.ones(64, 7))
    with pytest.raises(ValueError, match=r'a bias is \(7,\)'):
        native.infer(x, packed, pairs, 8, bias=torch.ones(7))
    with pytest.raises(ValueError, match='give what pack'):
        native.infer(x, packed[:-1], pairs, 8)
    with pytest.raises(ValueError, match='give what pack'):
        native.infer(x, packed.double(), pairs, 8)
    with pytest.raises(ValueError, match='on meta: give .* on the CPU'):
        native.infer(x.to('meta'), packed, pairs, 8)


def test_forty_million_channels_are_refused(native: Engine) -> None:
    weight = torch.empty(40_000_000, 1, 1)
    with pytest.raises(ValueError, match='1 -> 40000000 channels|40000000 -> 1 channels'):
        native.pack(weight, torch.float32)
    with pytest.raises(ValueError, match='channels: at most 65536'):
        native.infer(torch.ones(1, 1), torch.ones(1), None, 40_000_000)


def test_two_thousand_channels_are_computed(native: Engine) -> None:
    x, weight = torch.ones(3, 1), torch.arange(2000.0).view(2000, 1, 1)
    y = native.infer(x, native.pack(weight, torch.float32), None, 2000)
    assert torch.equal(y, torch.arange(2000.0).expand(3, 2000))


# --- maps that someone made by hand ---


def map_of(rows: list[int], out: list[int], dtype: torch.dtype = torch.int32) -> KernelMap:
    """One slot, from four rows to four."""
    columns = torch.tensor(rows, dtype=dtype), torch.tensor(out, dtype=dtype)
    return KernelMap(*columns, (0, len(rows)), 4, 4)


@pytest.mark.parametrize(
    'pairs',
    [
        map_of([0, 1], [0, 1], torch.int64),
        map_of([0, 4], [0, 1]),
        map_of([-1, 0], [0, 1]),
        map_of([0, 1], [0, 4]),
        map_of([0, 1], [-1, 1]),
        map_of([0, 1], [2, 1]),
        KernelMap(torch.zeros(1).int(), torch.zeros(1).int(), (0, 9), 4, 4),
        KernelMap(torch.zeros(1).int(), torch.zeros(1).int(), (0, 2, 1), 4, 4),
        KernelMap(torch.zeros(1).int(), torch.zeros(1).int(), (0, 1), 4, 2**40),
    ],
)
def test_a_map_that_names_rows_which_are_not_there_is_refused(
    native: Engine, pairs: KernelMap
) -> None:
    with pytest.raises(ValueError, match='native engine: .*kernel map'):
        native.forward(torch.ones(4, 2), torch.ones(2, pairs.slots, 2), pairs)


def test_keys_that_do_not_increase_are_refused(native: Engine) -> None:
    layout = KeyLayout((0, 0, 0, 0), (1, 9, 9, 9))
    for keys in ([5, 5, 5], [7, 3], [-4, 2]):
        with pytest.raises(ValueError, match='cells are not sorted and distinct'):
            native.submanifold(torch.tensor(keys), CUBE, layout)
    with pytest.raises(ValueError, match='keys is .* torch.int32'):
        native.submanifold(torch.tensor([1, 2]).int(), CUBE, layout)
    with pytest.raises(ValueError, match='three sizes'):
        native.submanifold(torch.tensor([1, 2]), (3, 3, 1001), layout)
    wide = KeyLayout((0, 0, 0, 0), (2**30, 2**30, 2**30, 2**30))
    with pytest.raises(ValueError, match='at most 63'):
        native.submanifold(torch.tensor([1, 2]), CUBE, wide)


def test_cells_that_were_changed_after_their_keys_are_refused(native: Engine) -> None:
    level = Level(torch.nonzero(torch.ones(1, 8, 8, 8)), native)
    assert len(level.keys) == 512
    level.coords.copy_(level.coords[torch.randperm(512, generator=torch.Generator())])
    with pytest.raises(ValueError, match='the 512 cells are not sorted and distinct'):
        level.coarser(HALF)


def test_strides_and_cells_of_the_wrong_kind_are_refused(native: Engine) -> None:
    layout = KeyLayout((0, 0, 0, 0), (1, 9, 9, 9))
    with pytest.raises(ValueError, match='three sizes'):
        native.strided(cells(), (64, 64, 64), layout)
    with pytest.raises(ValueError, match='three sizes'):
        native.strided(cells(), (2, 2), layout)
    with pytest.raises(ValueError, match='cells is .* torch.int64'):
        native.strided(cells().long(), HALF, layout)
    with pytest.raises(ValueError, match='cells is'):
        native.keys(torch.zeros(5, 3), layout)


# --- the other parts ---


def test_means_of_groups_that_name_no_rows_are_refused(native: Engine) -> None:
    rows, order = torch.ones(3, 2), torch.tensor([0, 1, 2]).int()
    mean = native.grouping.means(rows, order, torch.tensor([0, 2, 3]).int())
    assert mean.tolist() == [[1, 1], [1, 1]]
    for wrong, starts in (([0, 1, 3], [0, 3]), ([0, -1, 2], [0, 3]), ([0, 1, 2], [0, 4])):
        with pytest.raises(ValueError, match='groups that name others than 3 rows'):
            native.grouping.means(rows, torch.tensor(wrong).int(), torch.tensor(starts).int())
    with pytest.raises(ValueError, match='order is .* torch.int64'):
        native.grouping.means(rows, order.long(), torch.tensor([0, 3]).int())
    with pytest.raises(ValueError, match='keys is .* torch.int32'):
        native.grouping.group(order)


@pytest.mark.parametrize('classes', [0, 257, 5000])
def test_classes_that_no_label_can_name_are_refused(engine: Engine, classes: int) -> None:
    with pytest.raises(ValueError, match='with 1 to 256 classes'):
        engine.answers(torch.ones(3, classes))


def test_attention_takes_its_own_shape_and_no_other(native: Engine) -> None:
    with pytest.raises(ValueError, match='qkv is'):
        native.attention.attend(torch.ones(2, 16, 2, 2, 8))
    with pytest.raises(ValueError, match='qkv is'):
        native.attention.attend(torch.ones(2, 16, 48))
    for shape in ((2, 16, 3, 0, 8), (2, 0, 3, 2, 8), (2, 16, 3, 2, 0)):
        assert native.attention.attend(torch.ones(shape)).numel() == 0


def test_a_norm_of_fewer_channels_is_refused(native: Engine) -> None:
    norm, x = nn.BatchNorm1d(4), torch.ones(16, 8)
    with pytest.raises(ValueError, match=r'weight of a norm is \(4,\) on cpu: give \(8,\)'):
        native.norms.normalise(x, norm, None, relu=True)
    with pytest.raises(ValueError, match=r'shortcut of a norm is \(3, 8\)'):
        native.norms.normalise(x, nn.BatchNorm1d(8), torch.ones(3, 8), relu=True)


def test_a_norm_whose_weights_lie_apart_in_memory_is_read_right(native: Engine) -> None:
    norm, plain, x = nn.BatchNorm1d(4), nn.BatchNorm1d(4), torch.randn(16, 4)
    norm.weight = nn.Parameter(torch.arange(8.0)[::2])
    plain.weight = nn.Parameter(torch.arange(8.0)[::2].contiguous())
    y, truth = (native.norms.normalise(x, n, None, relu=False) for n in (norm, plain))
    assert torch.equal(y, truth)


def test_the_guards_hold_under_python_without_asserts() -> None:
    program = (
        'import torch; from lidar_kd.sparse import Level, select_engine\n'
        'engine = select_engine("cpu")\n'
        'pairs = Level(torch.nonzero(torch.ones(1, 4, 4, 4)), engine).submanifold((3, 3, 3))\n'
        'packed = engine.pack(torch.ones(8, 27, 4), torch.float32)\n'
        'for call in (lambda: engine.infer(torch.ones(7, 4), packed, pairs, 8),\n'
        '             lambda: engine.answers(torch.ones(3, 5000))):\n'
        '    try:\n        call()\n'
        '    except (ValueError, RuntimeError):\n        print("refused")\n'
    )
    done = subprocess.run(
        [sys.executable, '-O', '-c', program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['refused', 'refused']


# --- what Python and C must agree on ---


def test_structures_that_c_lays_out_otherwise_are_a_reason_for_plain_torch(
    monkeypatch: pytest.MonkeyPatch, native: Engine
) -> None:
    assert not structs.layouts_differ(native_library.library())
    wanted = structs.expected_layouts()
    monkeypatch.setattr(structs, 'expected_layouts', lambda: [*wanted[:-1], wanted[-1] + 8])
    native_library._load.cache_clear()
    try:
        assert 'lays out its structures otherwise' in native_library.native_missing()
    finally:
        monkeypatch.undo()
        native_library._load.cache_clear()


def test_a_layer_of_the_door_still_computes(native: Engine) -> None:
    # 64 cells of ones, weights of ones: a corner cell has 8 neighbours of 4 channels
    packed, pairs = layer_of(native)
    y = native.infer(torch.ones(64, 4), packed, pairs, 8)
    assert y[0].tolist() == [32] * 8
    layer = SubmanifoldConv(4, 8, CUBE)
    assert layer(SparseTensor(torch.ones(64, 4), Level(cells(), native))).features.shape == (64, 8)
