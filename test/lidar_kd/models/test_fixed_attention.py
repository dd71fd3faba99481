# SPDX-License-Identifier: Apache-2.0
"""PTv3 and LitePT at fixed shapes answer as otherwise, and wait for nothing; nor does MinkUNet."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pretend_device import DEVICE, pretend_device
import pytest
import torch
from torch import nn

from lidar_kd.models import build_model
from lidar_kd.models.fixed_scan import FixedAnswers, FixedNetwork, FixedScan, Misfit
from lidar_kd.models.fixed_sizes import make_fixed_scans
from lidar_kd.sparse import fold_norms, select_engine
from lidar_kd.sparse.fixed.level import rooms_for
from lidar_kd.voxels import CartesianGrid, voxelize

GRID = CartesianGrid(voxel_m=0.4)
LEVELS, PATCH, CLASSES, ROOM = 3, 32, 7, 4096
SETTINGS: dict[str, Any] = {
    'encoder_depths': (1, 1, 4),  # as many blocks on a level as there are orders
    'decoder_depths': (1, 1),
    'patch': PATCH,
}
WIDTHS: dict[str, dict[str, Any]] = {
    'ptv3': {'encoder_channels': (16, 16, 32), 'encoder_heads': (2, 2, 2),
             'decoder_channels': (16, 16), 'decoder_heads': (2, 2)},
    'litept': {'encoder_channels': (12, 24, 24), 'encoder_heads': (2, 2, 2),
               'decoder_channels': (12, 24), 'decoder_heads': (2, 2), 'attention_from': 1},
}  # fmt: skip


def make_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == 'minkunet':
        return fold_norms(build_model(name, classes=CLASSES, width=0.125)).eval()
    return fold_norms(build_model(name, classes=CLASSES, **SETTINGS, **WIDTHS[name])).eval()


def wants(name: str) -> FixedNetwork:
    return FixedNetwork(5) if name == 'minkunet' else FixedNetwork(LEVELS, stem=5, mixes=True)


def make_scan(points: int = 3000, *, aside_m: float = 0.0) -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    scan = generator.uniform((-15, -15, -2, 0), (15, 15, 2, 1), (points, 4)).astype(np.float32)
    scan[:, :3] += aside_m
    return scan


def make_fixed(name: str, network: nn.Module) -> FixedScan:
    asked = wants(name)
    rooms = rooms_for(ROOM, asked.levels)
    return FixedScan([ROOM, *(ROOM for _ in rooms[1:])], GRID, network, torch.float32, asked)


def answer_eagerly(network: Any, scan: NDArray[np.float32]) -> tuple[Any, Any]:
    """Label and probability of each point."""
    engine = select_engine('cpu', 'torch')
    voxels = voxelize(torch.from_numpy(scan), GRID, engine=engine)
    with torch.inference_mode():
        labels, probability, _ = engine.answers(network(voxels).point_logits)
    return labels.numpy(), probability.numpy()


@pytest.mark.parametrize('name', ['ptv3', 'litept'])
@pytest.mark.parametrize('aside_m', [0.0, 40.0])  # 40: no cell is negative, so none is moved
def test_the_answers_are_those_of_layers_one_by_one(name: str, aside_m: float) -> None:
    network, scan = make_network(name), make_scan(aside_m=aside_m)
    found = make_fixed(name, network).answer(scan)
    labels, probability = answer_eagerly(network, scan)
    assert isinstance(found, FixedAnswers)
    assert len(np.unique(labels)) > 2
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.probability, probability, atol=2e-5)


@pytest.mark.parametrize('name', ['ptv3', 'litept', 'minkunet'])
def test_on_a_device_it_waits_for_nothing_but_the_answers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, scan = make_network(name), make_scan()
    expected, _ = answer_eagerly(network, scan)
    run: Any = FixedScan.run  # without inference mode, in which calls are counted as a whole
    with pretend_device(monkeypatch) as device, torch.no_grad():
        fixed = make_fixed(name, network.to(DEVICE))
        fixed._points[: len(scan)].copy_(torch.from_numpy(scan))
        run.__wrapped__(fixed, fixed._points)  # packs the weights, makes the curves' tables
        device.waits.clear()
        result = run.__wrapped__(fixed, fixed._points)
        assert device.waits == {}
        found = fixed.read(result.cpu(), len(scan))
    assert isinstance(found, FixedAnswers)
    np.testing.assert_array_equal(found.labels, expected)


def test_a_scan_of_fewer_cells_than_a_patch_is_told() -> None:
    found = make_fixed('ptv3', make_network('ptv3')).answer(make_scan(PATCH - 1))
    assert isinstance(found, Misfit)
    assert found.unfit


def test_a_network_of_more_levels_than_keys_have_margins_for_does_without() -> None:
    deep = build_model(
        'ptv3', classes=CLASSES, encoder_depths=(1,) * 6, decoder_depths=(1,) * 5,
        encoder_channels=(16,) * 6, encoder_heads=(2,) * 6, decoder_channels=(16,) * 5,
        decoder_heads=(2,) * 5,
    )  # fmt: skip
    assert make_fixed_scans(GRID, deep, torch.float32) is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('name', ['ptv3', 'litept'])
def test_a_graph_on_a_gpu_answers_as_the_cpu(name: str) -> None:
    network, scan = make_network(name), make_scan()
    labels, _ = answer_eagerly(network, scan)
    scans = make_fixed_scans(GRID, network.to('cuda'), torch.float32)
    assert scans is not None
    with torch.inference_mode():
        first, again = scans.answer(scan), scans.answer(scan)
    assert scans.setbacks == []
    assert first is not None
    assert again is not None
    assert np.mean(first.labels == labels) > 0.999
    assert first.probability.tobytes() == again.probability.tobytes()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_attention_in_half_precision_is_flash_attention() -> None:
    from torch.backends.cuda import can_use_flash_attention, SDPAParams

    qkv = torch.zeros(4, 1024, 3, 4, 16, dtype=torch.float16, device='cuda')
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    assert can_use_flash_attention(SDPAParams(q, k, v, None, 0.0, False, False), debug=True)
