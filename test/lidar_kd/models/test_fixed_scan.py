# SPDX-License-Identifier: Apache-2.0
"""A scan answered at fixed shapes is the scan answered otherwise, and waits for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lidar_kd import find_shipped_bundle, load_bundle
from lidar_kd.models import fixed_sizes
from lidar_kd.models.fixed_scan import FixedNetwork, FixedScan, Misfit
from lidar_kd.segmenter import Precision, Segmenter
from lidar_kd.sparse.engines.triton.missing import triton_missing
from lidar_kd.sparse.fixed.level import rooms_for
from training.data.synthetic import make_street, scan_street

# calls that launch nothing on a GPU
VIEWS = {
    *('view', 'slice', 'select', 'unsqueeze', 'squeeze', 'expand', 'permute', 't', 'transpose'),
    *('alias', 'detach', 'as_strided', '_unsafe_view', 'unbind', 'split', 'numpy_T', 'empty'),
    *('empty_like', 'new_empty', 'scalar_tensor', 'split_with_sizes', 'lift_fresh'),
}
# calls after which the host has to wait for the device
WAITS = {
    *('_local_scalar_dense', 'item', 'nonzero', '_unique2', 'unique_consecutive', 'unique_dim'),
    *('masked_select', 'bincount', 'is_nonzero', 'equal', 'repeat_interleave', 'index'),
}


class Calls(TorchDispatchMode):
    """Counts what is asked of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.__name__.split('.')[0]] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope='module')
def scan() -> NDArray[np.float32]:
    points = scan_street(make_street(0), 0)[0][::16].copy()
    points[3], points[4, :3], points[5, 0] = np.nan, 0, 1e9
    return points


@pytest.fixture(scope='module', autouse=True)
def _small_sizes() -> Iterator[None]:
    """As the scan is; nothing here depends on how large they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_sizes, 'SIZES', (1 << 13, 1 << 15))
        yield


@pytest.fixture(scope='module')
def segmenters() -> tuple[Segmenter, Segmenter]:
    def make(*, fixed: bool) -> Segmenter:
        return Segmenter(
            find_shipped_bundle(), device='cpu', engine='torch', precision='float32',
            fixed_shapes=fixed,
        )  # fmt: skip

    return make(fixed=True), make(fixed=False)


def test_the_answers_are_the_same(
    scan: NDArray[np.float32], segmenters: tuple[Segmenter, Segmenter]
) -> None:
    for points in (scan, scan[:1000], scan[3:6], scan[:1], scan[:0]):
        fixed, eager = (segmenter.segment(points) for segmenter in segmenters)
        np.testing.assert_array_equal(fixed.labels, eager.labels)
        np.testing.assert_allclose(fixed.probability, eager.probability, atol=2e-5)
        np.testing.assert_allclose(fixed.entropy, eager.entropy, atol=2e-5)
        assert fixed.unseen == eager.unseen


def make_fixed(segmenter: Segmenter, size: int, dtype: torch.dtype) -> FixedScan:
    model: Any = segmenter._model
    grid: Any = segmenter.spec.grid
    return FixedScan(rooms_for(size, 5), grid, model, dtype, FixedNetwork(5))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_it_asks_for_few_things_and_waits_for_none(
    dtype: torch.dtype, scan: NDArray[np.float32], segmenters: tuple[Segmenter, Segmenter]
) -> None:
    fixed = make_fixed(segmenters[0], 1 << 11, dtype)
    fixed._points[:1000] = torch.from_numpy(scan[:1000])
    run: Any = FixedScan.run  # without inference mode, in which calls are counted as a whole
    with torch.no_grad():
        run.__wrapped__(fixed, fixed._points)  # packs the weights
        with Calls() as calls:
            run.__wrapped__(fixed, fixed._points)
    assert {name: n for name, n in calls.names.items() if name in WAITS} == {}
    assert sum(n for name, n in calls.names.items() if name not in VIEWS) <= 300


def test_with_the_triton_engine_it_asks_for_fewer(
    scan: NDArray[np.float32], segmenters: tuple[Segmenter, Segmenter]
) -> None:
    pytest.importorskip('triton', reason='Triton is not installed (torch for CUDA brings it)')
    from lidar_kd.sparse.engines.triton.engine import TritonEngine
    from lidar_kd.sparse.engines.triton.launch import recorded

    model: Any = segmenters[0]._model
    grid: Any = segmenters[0].spec.grid
    rooms = rooms_for(1 << 11, 5)
    engine = TritonEngine('cpu', 87)
    fixed = FixedScan(rooms, grid, model, torch.float16, FixedNetwork(5), engine=engine)
    fixed._points[:1000] = torch.from_numpy(scan[:1000])
    run: Any = FixedScan.run
    with torch.no_grad(), recorded() as launches:
        run.__wrapped__(fixed, fixed._points)  # packs the weights
        launches.clear()
        with Calls() as calls:
            run.__wrapped__(fixed, fixed._points)
    assert {name: n for name, n in calls.names.items() if name in WAITS} == {}
    asked = sum(n for name, n in calls.names.items() if name not in VIEWS)
    assert asked + len(launches) <= 172


def test_the_same_scan_has_the_same_bits_again(
    scan: NDArray[np.float32], segmenters: tuple[Segmenter, Segmenter]
) -> None:
    segmenters[0].segment(scan)  # room is made for it, where no test has done so
    first = segmenters[0].segment(scan)
    segmenters[0].segment(scan[::-1].copy())  # what it left behind must not be seen
    again = segmenters[0].segment(scan)
    assert first.probability.tobytes() == again.probability.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()


def test_a_scan_with_too_many_cells_is_answered_otherwise(
    segmenters: tuple[Segmenter, Segmenter],
) -> None:
    generator = np.random.default_rng(0)
    apart = generator.uniform(-4000, 4000, (6_000, 4)).astype(np.float32)  # no two in one cell
    apart[:, 3] = 0
    assert isinstance(make_fixed(segmenters[0], 1 << 13, torch.float32).answer(apart), Misfit)
    fixed, eager = (segmenter.segment(apart) for segmenter in segmenters)
    np.testing.assert_array_equal(fixed.labels, eager.labels)


def test_what_a_gpu_refuses_is_told_once_and_answered_otherwise(
    scan: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate\nmore')

    monkeypatch.setattr(fixed_sizes, 'FixedScan', refuse)
    segmenter = Segmenter(find_shipped_bundle(), device='cpu', engine='torch', fixed_shapes=True)
    with caplog.at_level(logging.WARNING):
        answers = [segmenter.segment(scan[:1000]) for _ in range(2)]
    assert len(answers[1].labels) == 1000
    said = [record.message for record in caplog.records if 'fixed shapes' in record.message]
    assert len(said) == 1
    assert 'CUDA out of memory' in said[0]
    assert segmenter.setbacks == said


def test_a_network_that_asks_for_other_maps_does_without() -> None:
    grid = Segmenter(find_shipped_bundle(), device='cpu').spec.grid
    assert fixed_sizes.make_fixed_scans(grid, torch.nn.Identity(), torch.float32) is None


def test_points_whose_logits_overflow_are_counted(scan: NDArray[np.float32]) -> None:
    bundle = load_bundle(find_shipped_bundle())
    head: Any = bundle.model.head
    head.weight.data[0].fill_(torch.inf)
    counts = [
        Segmenter(bundle, device='cpu', engine='torch', fixed_shapes=fixed).segment(scan).unseen
        for fixed in (True, False)
    ]
    assert counts[0]['overflowed'] > 300
    assert counts[0] == counts[1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('engine', ['torch', 'triton'])
@pytest.mark.parametrize('precision', ['float32', 'float16'])
def test_a_graph_on_a_gpu_answers_as_the_layers_one_by_one(
    precision: Precision, engine: str, scan: NDArray[np.float32]
) -> None:
    if engine == 'triton' and triton_missing():
        pytest.skip(triton_missing())

    def make(*, fixed: bool) -> Segmenter:
        return Segmenter(
            find_shipped_bundle(), device='cuda', engine=engine, precision=precision,
            fixed_shapes=fixed,
        )  # fmt: skip

    graph, layers = make(fixed=True), make(fixed=False)
    for points in (scan, scan[:1000], scan[::-1].copy(), scan[:0]):
        first, other, again = (s.segment(points) for s in (graph, layers, graph))
        same = np.mean(first.labels == other.labels) if len(points) else 1
        assert same > (0.9999 if precision == 'float32' else 0.99)
        assert first.probability.tobytes() == again.probability.tobytes()
    assert graph._fixed is not None
    assert not graph._fixed.gave_up
