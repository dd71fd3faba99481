# SPDX-License-Identifier: Apache-2.0
"""`model: auto`: which of the installed bundles a machine gets, and what is said about it."""

from __future__ import annotations

from pathlib import Path
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lidar_kd.errors import BundleError
from lidar_kd.ros import model_choice
from lidar_kd.ros.model_choice import imitate_scan, make_segmenter
from lidar_kd.ros.pipeline import Pipeline
from lidar_kd.ros.settings import NodeSettings
from lidar_kd.ros.sharing import Networks
from lidar_kd.voxels import CartesianGrid, voxelize


@pytest.fixture
def installed(tmp_path: Path, small_bundle: str, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A large and a small one; 'auto' looks at these."""
    paths = [tmp_path / 'large.safetensors', tmp_path / 'small.safetensors']
    for path in paths:
        shutil.copy(small_bundle, path)
    monkeypatch.setattr(model_choice, 'list_shipped_bundles', lambda: paths)
    return paths


def settings_of(**changes: Any) -> NodeSettings:
    return NodeSettings(device='cpu', warm_up_points=640, **changes)


def take_ms(monkeypatch: pytest.MonkeyPatch, **by_name: float) -> None:
    def measure(segmenter: Any, points: int) -> float:
        return by_name[segmenter.bundle.split()[0]]

    monkeypatch.setattr(model_choice, '_measure_ms', measure)


@pytest.mark.parametrize(
    ('large_ms', 'rate_hz', 'expected'),
    [
        # 0.7 of a period is for the network: 70 ms at 10 Hz, 35 ms at 20 Hz
        (69, 10, 'large: large 69 ms for a scan of 640 points, 70 allowed at 10 Hz'),
        (71, 10, 'small: large 71 ms, small 25 ms for a scan of 640 points, 70 allowed at 10 Hz'),
        (69, 20, 'small: large 69 ms, small 25 ms for a scan of 640 points, 35 allowed at 20 Hz'),
    ],
)
def test_the_larger_one_is_taken_where_it_keeps_up(
    installed: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    large_ms: float,
    rate_hz: float,
    expected: str,
) -> None:
    take_ms(monkeypatch, large=large_ms, small=25)
    pipeline = Pipeline(settings_of(sensor_rate_hz=rate_hz))
    assert pipeline.facts()['chosen'] == expected
    assert pipeline.facts()['bundle'].split()[0] == expected.partition(':')[0]


def test_the_network_of_two_sensors_keeps_up_with_both(
    installed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_ms(monkeypatch, large=69, small=25)  # each at 10 Hz: 35 ms for a scan of any
    pipeline = Pipeline(settings_of(), Networks(sensors=2))
    assert pipeline.facts()['chosen'].startswith('small: large 69 ms, small 25 ms')
    assert pipeline.facts()['chosen'].endswith('35 allowed at 20 Hz')


def test_where_none_keeps_up_it_is_the_smallest(
    installed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_ms(monkeypatch, large=900, small=300)
    assert make_segmenter(settings_of()).bundle.startswith('small')


def test_without_a_choice_nothing_is_measured(
    installed: list[Path], small_bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_ms(monkeypatch)  # a KeyError for whoever is measured
    assert make_segmenter(settings_of(model=small_bundle)).choice == ''
    cold = NodeSettings(device='cpu', warm_up_points=0, model='')
    assert make_segmenter(cold).choice == 'large: not measured: warm_up_points is 0'
    del installed[1]
    assert make_segmenter(settings_of()).choice == 'large: none else is installed'


def test_an_installation_without_bundles_names_the_parameter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_none() -> list[Path]:
        raise BundleError('weights: no bundle came with this installation; pass one: --bundle.')

    monkeypatch.setattr(model_choice, 'list_shipped_bundles', find_none)
    with pytest.raises(BundleError, match='installation; set the parameter model to a'):
        make_segmenter(settings_of())


def test_one_slow_scan_among_those_measured_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock_s, taken_s = [0.0], [0.04, 0.9, 0.05, 0.03, 0.06]

    def segment(scan: Any) -> None:
        clock_s[0] += taken_s.pop()

    monkeypatch.setattr('lidar_kd.ros.model_choice.time.perf_counter', lambda: clock_s[0])
    segmenter: Any = SimpleNamespace(segment=segment, meet=lambda options: None)
    assert model_choice._measure_ms(segmenter, 640) == pytest.approx(50)


def test_the_scan_that_is_measured_is_as_dense_as_a_street() -> None:
    scan = imitate_scan(120_000)
    assert scan.shape == (120_000, 4)
    assert np.isfinite(scan).all()
    voxels = voxelize(torch.from_numpy(scan), CartesianGrid(voxel_m=0.1))
    assert 50_000 < len(voxels.level) < 66_000  # KITTI's scans at hand: 50,904 to 65,518
