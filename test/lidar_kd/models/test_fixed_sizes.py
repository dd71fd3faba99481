# SPDX-License-Identifier: Apache-2.0
"""What does not fit is made to fit, a bounded number of times; what a GPU refuses is told once."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest
import torch

from lidar_kd.bundle import Bundle, find_shipped_bundle, load_bundle
from lidar_kd.errors import ConfigError
from lidar_kd.models import fixed_sizes
from lidar_kd.models.fixed_scan import FixedAnswers, FixedScan, Misfit
from lidar_kd.models.fixed_sizes import FixedScans, grown
from lidar_kd.segmenter import choose_device, Segmenter

Said = pytest.LogCaptureFixture
SMALL = 1 << 10  # points of the only size


@pytest.fixture(scope='module')
def bundle() -> Bundle:
    return load_bundle(find_shipped_bundle())


@pytest.fixture
def segmenter(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    monkeypatch.setattr(fixed_sizes, 'SIZES', (SMALL,))
    return Segmenter(bundle, device='cpu', engine='torch', precision='float32', fixed_shapes=True)


def scans_of(segmenter: Segmenter) -> FixedScans:
    assert segmenter._fixed is not None
    return segmenter._fixed


def make_scan(points: int = 500) -> NDArray[np.float32]:
    """Hardly two points in one cell, of the coarsest level either."""
    generator = np.random.default_rng(points)
    scan = generator.uniform(-200, 200, (points, 4)).astype(np.float32)
    scan[:, 3] = 0
    return scan


def said(caplog: Said) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == 'WARNING']


def test_a_size_grows_once_for_what_did_not_fit(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: Said
) -> None:
    scans, scan = scans_of(segmenter), make_scan()
    scans._rooms[SMALL] = [SMALL, 8, 8, 8, 8]
    monkeypatch.setattr(fixed_sizes, 'STEP', 8)
    answers = [scans.answer(scan) for _ in range(3)]
    assert answers[0] is None
    assert all(isinstance(found, FixedAnswers) for found in answers[1:])
    (told,) = said(caplog)
    assert 'made anew for scans of up to 1024 points' in told
    rooms = scans._rooms[SMALL]
    assert rooms[0] == SMALL
    assert all(500 < room <= 640 for room in rooms[1:])  # 500 points, a quarter more, in eights


def test_rooms_grow_by_what_a_level_needs_and_never_beyond_the_points() -> None:
    # 1.25 * 900 = 1125 -> 2048 in steps of 1024; 1.25 * 3900 = 4875 is more than there are points
    assert grown([4096, 1024, 2048], [3900, 900, 3900]) == [4096, 2048, 4096]
    assert grown([4096, 4096, 2048], [10, 10, 10]) == [4096, 4096, 2048]


class Full(FixedScan):
    """Nothing ever fits."""

    def answer(self, scan: NDArray[np.float32]) -> FixedAnswers | Misfit:
        MADE.append(len(scan))
        return Misfit((1,) * 5, unfit=False)


MADE: list[int] = []


def test_a_size_that_never_fits_is_left_and_costs_nothing_more(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: Said
) -> None:
    monkeypatch.setattr(fixed_sizes, 'FixedScan', Full)
    MADE.clear()
    scans = scans_of(segmenter)
    assert [scans.answer(make_scan()) for _ in range(6)] == [None] * 6
    assert len(MADE) == 3  # as it was, and grown twice
    assert len(said(caplog)) == 3
    assert 'one call at a time' in said(caplog)[-1]


def test_scans_that_are_unfit_three_times_are_not_tried_again(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: Said
) -> None:
    tried: list[int] = []

    def answer(self: FixedScan, scan: NDArray[np.float32]) -> Misfit:
        tried.append(1)
        return Misfit((1,) * 5, unfit=True)

    monkeypatch.setattr(FixedScan, 'answer', answer)
    for _ in range(5):
        assert scans_of(segmenter).answer(make_scan()) is None
    assert len(tried) == 3
    (told,) = said(caplog)
    assert 'fewer cells than a patch' in told


def test_without_a_graph_fixed_shapes_go_on_and_no_scan_is_lost(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: Said
) -> None:
    def refuse(self: FixedScan) -> None:
        raise RuntimeError('operation not permitted when stream is capturing\nmore')

    monkeypatch.setattr(FixedScan, '_capture', refuse)
    monkeypatch.setattr(torch.cuda, 'device', lambda _: nullcontext())
    scans, scan = scans_of(segmenter), make_scan()
    expected = segmenter.segment(scan).labels
    scans._scans.clear()
    scans._graphs = True  # as on a GPU
    answers = [segmenter.segment(scan).labels for _ in range(2)]
    for labels in answers:
        np.testing.assert_array_equal(labels, expected)
    assert list(scans._scans) == [SMALL]  # the second one was answered there
    assert not scans.gave_up
    (told,) = said(caplog)
    assert 'no CUDA graph can be captured' in told
    assert 'stream is capturing)' in told
    assert segmenter.setbacks == [told]


def test_memory_that_layers_lack_is_taken_from_the_graphs(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: Said
) -> None:
    large, run, asked = make_scan(SMALL + 1), segmenter._run, []

    def run_or_refuse(scan: NDArray[np.float32]) -> Any:
        asked.append(len(scan))
        if len(asked) == 1:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')
        return run(scan)

    segmenter.segment(make_scan())
    assert scans_of(segmenter)._scans
    monkeypatch.setattr(segmenter, '_run', run_or_refuse)
    assert len(segmenter.segment(large).labels) == SMALL + 1
    assert scans_of(segmenter)._scans == {}
    assert ['given up (CUDA out of memory' in told for told in said(caplog)] == [True]
    asked.clear()
    with pytest.raises(torch.OutOfMemoryError):  # the node drops this scan alone
        segmenter.segment(large)
    assert len(segmenter.segment(large).labels) == SMALL + 1


def test_a_gpu_that_torch_cannot_compute_on_is_left_aside_with_a_sentence(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: Said
) -> None:
    """As a card too old: it is there, and refuses the first kernel."""
    plain = torch.Tensor.to

    def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and str(args[0]).startswith('cuda'):
            raise RuntimeError('CUDA error: no kernel image is available for execution\nmore')
        return plain(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.Tensor, 'to', to)
    segmenter = Segmenter(bundle, device='auto')
    assert segmenter.device.type == 'cpu'
    assert segmenter.engine.name in {'native', 'torch'}
    sentence = (
        'device auto: the GPU is left aside (CUDA error: no kernel image is available for '
        'execution); computing on the CPU'
    )
    assert segmenter.setbacks == [sentence]
    assert sentence in said(caplog)
    with pytest.raises(ConfigError, match='device cuda: torch cannot compute there .CUDA error'):
        choose_device('cuda')
