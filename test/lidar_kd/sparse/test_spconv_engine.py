# SPDX-License-Identifier: Apache-2.0
"""The spconv engine where there is no GPU: its tables under an imitation of spconv's kernels.

The imitation follows those kernels line by line: rows in the order of `argsort`, the masks of a
tile joined, slots skipped that no mask of the tile has.
"""

from __future__ import annotations

import inspect
from pathlib import Path
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lidar_kd.sparse import KernelMap, Level
from lidar_kd.sparse.engines import spconv as spconv_engine
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.sparse.engines.spconv import spconv_missing, SpconvEngine, tables_of
from lidar_kd.sparse.engines.trial import largest_error, maps_to_test

WIDTH = 64  # rows of a tile
CELLS = torch.nonzero(torch.rand(2, 9, 8, 7, generator=torch.Generator().manual_seed(0)) < 0.3)
MAPS = maps_to_test(CELLS.int())
each_map = pytest.mark.parametrize('pairs', MAPS.values(), ids=MAPS)


def masked_sum(
    x: Tensor, filters: Tensor, table: Tensor, masks: Tensor, order: Tensor, tiles: Tensor
) -> Tensor:
    """filters (C_out, K, C_in); tiles: where the joined mask of each tile is written."""
    y = torch.zeros(table.shape[1], filters.shape[0])
    for tile, first in enumerate(range(0, len(order), WIDTH)):
        rows = order[first : first + WIDTH].long()
        joined = 0
        for mask in masks[first : first + WIDTH, 0].tolist():
            joined |= mask
        tiles[0, tile, 0] = joined
        for k in range(filters.shape[1]):
            if joined >> k & 1:
                found = table[k, rows].long()
                y[rows[found >= 0]] += x[found[found >= 0]] @ filters[:, k].T
    return y


def implicit_gemm(
    features: Tensor,
    filters: Tensor,
    pair_fwd: Tensor,
    pair_mask_fwd_splits: list[Tensor],
    mask_argsort_fwd_splits: list[Tensor],
    num_activate_out: int,
    masks: list[object],
    is_train: bool,
    is_subm: bool,
) -> tuple[Tensor, Tensor | None, int]:
    [mask], [order] = pair_mask_fwd_splits, mask_argsort_fwd_splits
    for tensor in (features, filters, pair_fwd, mask, order):
        assert tensor.is_contiguous()
    assert {pair_fwd.dtype, mask.dtype, order.dtype} == {torch.int32}
    assert pair_fwd.shape == (filters.shape[1], num_activate_out)
    assert features.shape[1] % 8 == filters.shape[0] % 8 == 0
    assert not is_subm
    tiles = torch.zeros(1, -(-num_activate_out // WIDTH), 1, dtype=torch.int32)
    y = masked_sum(features, filters, pair_fwd, mask, order, tiles)
    return y, tiles if is_train else None, WIDTH


def implicit_gemm_backward(
    features: Tensor,
    filters: Tensor,
    out_bp: Tensor,
    pair_fwd: Tensor,
    pair_bwd: Tensor,
    pair_mask_fwd_splits: list[Tensor],
    pair_mask_bwd_splits: list[Tensor],
    mask_argsort_fwd_splits: list[Tensor],
    mask_argsort_bwd_splits: list[Tensor],
    mask_output_fwd: Tensor,
    masks: list[object],
    mask_width: int,
    is_subm: bool,
) -> tuple[Tensor, Tensor]:
    [mask], [order] = pair_mask_bwd_splits, mask_argsort_bwd_splits
    spare = torch.zeros(1, -(-len(features) // WIDTH), 1, dtype=torch.int32)
    dx = masked_sum(out_bp, filters.permute(2, 1, 0), pair_bwd, mask, order, spare)
    dw = torch.zeros_like(filters)
    for tile, rows in enumerate(mask_argsort_fwd_splits[0].long().split(mask_width)):
        for k in range(filters.shape[1]):
            if int(mask_output_fwd[0, tile, 0]) >> k & 1:
                found = pair_fwd[k, rows].long()
                dw[:, k] += out_bp[rows[found >= 0]].T @ features[found[found >= 0]]
    return dx, dw


@pytest.fixture
def imitation() -> SpconvEngine:
    engine = SpconvEngine.__new__(SpconvEngine)
    engine._ops = SimpleNamespace(
        implicit_gemm=implicit_gemm, implicit_gemm_backward=implicit_gemm_backward
    )
    return engine


@each_map
@pytest.mark.parametrize(('c_in', 'c_out'), [(4, 32), (32, 48), (5, 7)])
def test_results_and_gradients_over_the_tables_are_those_of_plain_torch(
    imitation: SpconvEngine, pairs: KernelMap, c_in: int, c_out: int
) -> None:
    assert largest_error(imitation, pairs, c_in, c_out, torch.float32) <= 1e-5


@each_map
def test_a_table_says_the_same_as_its_map(pairs: KernelMap) -> None:
    tables = tables_of(pairs)
    assert tables_of(pairs) is tables  # built once
    assert [table.last for table in tables][-1] == pairs.slots
    for table in tables:
        assert table.rows.shape[0] == table.last - table.first <= 31
        for k in range(table.first, table.last):
            wanted = torch.full((pairs.n_out,), -1, dtype=torch.int32)
            in_rows, out_rows = pairs.slot(k)
            wanted[out_rows] = in_rows
            assert torch.equal(table.rows[k - table.first], wanted)
            present = table.masks[:, 0] >> (k - table.first) & 1 == 1
            assert torch.equal(present, wanted[table.order] >= 0)


def test_maps_without_pairs_and_bfloat16_are_computed_by_plain_torch(
    imitation: SpconvEngine,
) -> None:
    imitation._ops = None
    empty = Level(torch.empty(0, 4), TorchEngine()).submanifold((3, 3, 3))
    assert imitation.forward(torch.ones(0, 4), torch.ones(8, 27, 4), empty).shape == (0, 8)
    pairs = MAPS['submanifold 3']
    x, weight = torch.ones(pairs.n_in, 4).bfloat16(), torch.ones(8, 27, 4).bfloat16()
    assert imitation.forward(x, weight, pairs).dtype == torch.bfloat16


# --- against the spconv that is installed, if any ---


@pytest.fixture
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # spconv is wrong with more
    yield
    torch.set_num_threads(before)


def test_the_functions_of_spconv_take_what_the_engine_gives() -> None:
    ops = pytest.importorskip('spconv.pytorch.ops')
    for ours in (implicit_gemm, implicit_gemm_backward):
        names = list(inspect.signature(ours).parameters)
        theirs = list(inspect.signature(getattr(ops, ours.__name__)).parameters)
        assert theirs[: len(names)] == names


@pytest.mark.usefixtures('one_thread')
@pytest.mark.filterwarnings('ignore')
def test_weights_mean_the_same_to_spconv() -> None:
    spconv = pytest.importorskip('spconv.pytorch')
    native = spconv.ConvAlgo.Native
    kwargs = {'bias': False, 'algo': native, 'indice_key': 'down'}
    layers = {
        'submanifold 3': spconv.SubMConv3d(4, 8, 3, bias=False, algo=native),
        'strided 2': spconv.SparseConv3d(4, 8, 2, 2, **kwargs),
    }
    back = spconv.SparseInverseConv3d(8, 4, 2, **kwargs)
    cells = CELLS.int().contiguous()
    x = spconv.SparseConvTensor(torch.randn(len(CELLS), 4), cells, [10, 8, 8], 2)
    with torch.no_grad():
        for name, layer in layers.items():
            pairs = MAPS[name]
            y = layer(x)
            mine = TorchEngine().forward(x.features, layer.weight.flatten(1, 3), pairs)
            order = by_cell(y.indices)
            assert torch.allclose(y.features[order], mine, atol=1e-5)
        z = back(y)  # y: of the strided layer, in spconv's order of rows
        pairs = MAPS['inverse 2']
        mine = TorchEngine().forward(y.features[order], back.weight.flatten(1, 3), pairs)
    assert torch.allclose(z.features[by_cell(z.indices)], mine, atol=1e-5)


def by_cell(coords: Tensor) -> Tensor:
    """The order that sorts cells as ours are sorted."""
    b, x, y, z = coords.long().T
    return (((b * 100 + x) * 100 + y) * 100 + z).argsort()


# --- the self-test ---


def test_without_spconv_the_reason_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spconv_engine, 'find_spec', lambda name: None)
    spconv_missing.cache_clear()
    line = 'pip install spconv-cu120 "numpy<2"'
    assert spconv_missing() == f'it is not installed (on x86: {line})'
    spconv_missing.cache_clear()


@pytest.mark.parametrize(
    ('program', 'reason'),
    [
        ('', ''),
        ('raise SystemExit("off by 3")', 'its self-test failed (off by 3)'),
        ('import sys; sys.exit(7)', 'its self-test failed (exit status 7)'),
        (
            f'import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})',
            'its self-test failed (signal 11)',
        ),
        ('import lidar_kd.nothing', 'its self-test failed (ModuleNotFoundError: No module named'),
    ],
)
def test_the_self_test_survives_every_end_of_its_process(
    monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    path = 'import sys; sys.path[:] = {path!r}; '
    monkeypatch.setattr(spconv_engine, 'SELF_TEST', path + program)
    got = spconv_engine._run_self_test(0)
    assert got == reason or (reason.endswith('named') and got.startswith(reason))


def test_a_self_test_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spconv_engine, 'SELF_TEST', 'import time; time.sleep(60)')
    monkeypatch.setattr(spconv_engine, 'TIMEOUT_S', 0.2)
    assert spconv_engine._run_self_test(0) == 'its self-test took longer than 0.2 s'


def test_a_passed_self_test_is_remembered_and_a_failed_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reasons = ['broken', '', 'never asked']
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(spconv_engine, 'find_spec', lambda name: SimpleNamespace(origin=__file__))
    monkeypatch.setattr(spconv_engine, '_run_self_test', lambda device: reasons.pop(0))
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'toy')
    answers = []
    for _ in range(3):
        spconv_missing.cache_clear()
        answers.append(spconv_missing())
    spconv_missing.cache_clear()
    assert answers == ['broken', '', '']
    assert reasons == ['never asked']


@pytest.mark.skipif(torch.cuda.is_available(), reason='this is about machines without CUDA')
def test_the_self_test_fails_without_cuda() -> None:
    pytest.importorskip('spconv.pytorch')
    assert spconv_engine._run_self_test(0).startswith('its self-test failed (')


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_the_self_test_passes_on_this_gpu() -> None:
    pytest.importorskip('spconv.pytorch')
    assert spconv_engine._run_self_test(0) == ''
