# SPDX-License-Identifier: Apache-2.0
"""The node without ROS: what the network sees of a sensor that is mounted in its own way."""

from __future__ import annotations

from collections.abc import Iterator
import json
import logging
from pathlib import Path

from cloud_messages import FakeCloud, pack
import numpy as np
from numpy.typing import NDArray
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from lidar_kd.ros.labelled import build_clouds
from lidar_kd.ros.pipeline import Pipeline
from lidar_kd.ros.settings import NodeSettings

TRAINED_AT_M = 1.5
BASE = np.array([[0, 1, 0, 3], [-1, 0, 0, 0], [0, 0, 1, TRAINED_AT_M], [0, 0, 0, 1.0]])


@pytest.fixture
def bundle(small_bundle: str, tmp_path: Path) -> str:
    """The small network, said to know one height and a road of intensity 0.3."""
    with safe_open(small_bundle, framework='pt') as file:
        spec = json.loads(file.metadata()['lidar_kd'])
    spec['sensor'] = {'height_m': TRAINED_AT_M, 'ground_intensity': 0.3}
    path = tmp_path / 'told.safetensors'
    save_file(load_file(small_bundle), path, {'lidar_kd': json.dumps(spec)})
    return str(path)


@pytest.fixture
def settings(bundle: str) -> NodeSettings:
    # 32 bits, so that what differs is the scan and not its rounding
    return NodeSettings(model=bundle, device='cpu', precision='float32', warm_up_points=0)


@pytest.fixture
def pipeline(settings: NodeSettings) -> Iterator[Pipeline]:
    pipeline = Pipeline(settings)
    yield pipeline
    pipeline.release()


def make_street() -> NDArray[np.float64]:
    """(N, 4) a level road beneath the sensor of training, and a wall."""
    rng = np.random.default_rng(0)
    road, wall = rng.uniform(-18, 18, (6000, 4)), rng.uniform(-18, 18, (2000, 4))
    road[:, 2:] = (-TRAINED_AT_M, 0.3)
    wall[:, 1], wall[:, 3] = 18, 0.4
    wall[:, 2] = rng.uniform(-1, 3, 2000)  # apart from the road, which is then found exactly
    return np.vstack([road, wall])


def message(points: NDArray[np.float64]) -> FakeCloud:
    return pack('ouster', [tuple(point) for point in points.tolist()])


def labels_of(
    pipeline: Pipeline,
    points: NDArray[np.float64],
    settings: NodeSettings,
    pose: NDArray[np.float64] | None = None,
) -> NDArray[np.uint8]:
    pipeline.begin()
    labels: NDArray[np.uint8] = pipeline.label(message(points), settings, pose).result.labels
    return labels


def test_the_target_frame_changes_no_label(pipeline: Pipeline, settings: NodeSettings) -> None:
    street = make_street()
    plain = labels_of(pipeline, street, settings)
    assert len(np.unique(plain)) > 1
    np.testing.assert_array_equal(labels_of(pipeline, street, settings, BASE), plain)


def test_the_outputs_are_in_the_target_frame(pipeline: Pipeline, settings: NodeSettings) -> None:
    labelled = pipeline.label(message(make_street()), settings, BASE)
    ((_, payload),) = build_clouds(labelled, ['segmented'], settings)
    seen = np.frombuffer(payload.data, '<f4').reshape(-1, 6)[:, :3]
    x, y, z = make_street()[:, :3].T  # turned by -90 degrees about z, then moved
    np.testing.assert_allclose(seen, np.column_stack([y + 3, -x, z + TRAINED_AT_M]), atol=1e-4)


def test_a_sensor_upside_down_gets_nearly_the_labels_of_an_upright_one(
    pipeline: Pipeline, settings: NodeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, 'lidar_kd')
    street = make_street()
    plain = labels_of(pipeline, street, settings)
    turned = street * [1, -1, -1, 1]
    same = labels_of(pipeline, turned, settings) == plain
    assert same.mean() > 0.95  # but for points on the border of two voxels
    assert 'mounting: upside down, 1.50 m above the ground' in caplog.text
    assert pipeline.intensity_facts()['mounting'].startswith('upside down')


def test_off_shows_the_network_the_scan_as_it_comes(
    pipeline: Pipeline, settings: NodeSettings, bundle: str
) -> None:
    off = NodeSettings(
        model=bundle, device='cpu', precision='float32', mounting='off', intensity='off'
    )
    turned = make_street() * [1, -1, -1, 1]
    found, as_it_comes = (labels_of(pipeline, turned, each) for each in (settings, off))
    assert (found != as_it_comes).any()
    assert pipeline.intensity_facts()['mounting'] == 'off: scans as they come'


def test_a_dim_sensor_gets_the_labels_of_a_bright_one(
    pipeline: Pipeline, settings: NodeSettings
) -> None:
    street = make_street()
    dim = street * [1, 1, 1, 0.125]  # a power of two: the gain gives the same bits back
    plain = labels_of(pipeline, street, settings)
    same = labels_of(pipeline, dim, settings) == plain
    assert same.mean() > 0.999
    assert 'times' in pipeline.intensity_facts()['intensity level']
