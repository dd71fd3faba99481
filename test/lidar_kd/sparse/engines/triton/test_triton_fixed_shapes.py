# SPDX-License-Identifier: Apache-2.0
"""The Triton engine over maps of fixed shape, whose numbers of rows nobody asks a device for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from seen_network import build_seen, GRID, scan
import torch
from torch import Tensor

pytest.importorskip('triton', reason='Triton is not installed (torch for CUDA brings it)')

from lidar_kd.models.fixed_scan import FixedAnswers, FixedNetwork, FixedScan  # noqa: E402
from lidar_kd.sparse import fold_norms, KernelMap  # noqa: E402
from lidar_kd.sparse.engines.triton.engine import TritonEngine  # noqa: E402
from lidar_kd.sparse.engines.triton.launch import recorded  # noqa: E402
from lidar_kd.sparse.engines.triton.tiles import DeviceTiles  # noqa: E402
from lidar_kd.sparse.fixed.engine import FixedShapeEngine  # noqa: E402
from lidar_kd.sparse.fixed.level import FixedLevel  # noqa: E402
from lidar_kd.sparse.fixed.maps import MapBuilder  # noqa: E402
from lidar_kd.sparse.fixed.morton import MortonKeys  # noqa: E402

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
TILES = DeviceTiles(80, 16, 32, 99, {'32': [[4096, 32, 32, 4, 2]]})
ROOMS = [40, 48]  # for fewer cells than there are rows


@pytest.fixture(scope='module')
def maps() -> dict[str, KernelMap]:
    cells = torch.randint(-3, 3, (40, 3), generator=torch.Generator().manual_seed(0))
    keys = MortonKeys(DEVICE).encode(cells.to(DEVICE))
    engine: Any = FixedShapeEngine()
    level = FixedLevel(MapBuilder(ROOMS, 3, DEVICE).build(keys), engine, (3, 3, 3))
    down = level.coarser((2, 2, 2))[1]
    return {'submanifold': level.submanifold((3, 3, 3)), 'down': down, 'up': down.transposed}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize('kind', ['submanifold', 'down', 'up'])
def test_rows_with_cells_have_the_results_of_plain_torch(
    kind: str, maps: dict[str, KernelMap]
) -> None:
    pairs, plain, engine = maps[kind], FixedShapeEngine(), TritonEngine(DEVICE.type, TILES)
    x, bias = random(pairs.n_in, 8, seed=1), random(16, seed=2)
    shortcut = random(pairs.n_out, 16, seed=3)
    packed = engine.pack(random(16, pairs.slots, 8, seed=4), torch.float32)
    garbage = x.clone()
    x[0] = 0
    garbage[0] = torch.nan  # of nobody's row: it is not read
    wanted = plain.infer(x, packed, pairs, 16, bias=bias, residual=shortcut, relu=True)
    y = engine.infer(garbage, packed, pairs, 16, bias=bias, residual=shortcut, relu=True)
    assert y.shape == wanted.shape
    torch.testing.assert_close(y[1:], wanted[1:], atol=1e-5, rtol=1e-5)
    assert y.isfinite().all()


def test_a_map_takes_two_kernels_at_most_and_a_layer_one(
    maps: dict[str, KernelMap],
) -> None:
    engine = TritonEngine(DEVICE.type, TILES)
    for kind, kernels in (('submanifold', 2), ('down', 1), ('up', 1)):
        pairs = maps[kind]
        fresh = KernelMap(
            pairs.in_rows, pairs.out_rows, pairs.starts, pairs.n_in, pairs.n_out,
            {key: pairs.derived[key] for key in ('table', 'nobody', 'up') if key in pairs.derived},
        )  # fmt: skip
        x = random(pairs.n_in, 8, seed=1)
        packed = engine.pack(random(16, pairs.slots, 8, seed=2), torch.float32)
        with recorded() as launches:
            engine.infer(x, packed, fresh, 16, bias=random(16, seed=3), relu=True)
            assert len(launches) == kernels + 1
            engine.infer(x, packed, fresh, 16, residual=random(pairs.n_out, 16, seed=4))
        assert len(launches) == kernels + 2


def test_a_network_answers_as_plain_torch_with_its_skips_in_one_place() -> None:
    model = fold_norms(build_seen('minkunet', width=0.25)).to(DEVICE)
    points, answers = scan(60).numpy(), []
    for engine in (TritonEngine(DEVICE.type, 87), None):
        fixed = FixedScan([60] * 5, GRID, model, torch.float32, FixedNetwork(5), engine=engine)
        answers.append(fixed.answer(points))
    mine, plain = answers
    assert isinstance(mine, FixedAnswers)
    assert isinstance(plain, FixedAnswers)
    np.testing.assert_array_equal(mine.labels, plain.labels)
    np.testing.assert_allclose(mine.probability, plain.probability, atol=1e-4)
    assert len(set(plain.labels.tolist())) > 1
