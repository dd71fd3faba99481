# SPDX-License-Identifier: Apache-2.0
"""The node without ROS: organised clouds by rows or columns, and several returns of a beam."""

from __future__ import annotations

from collections.abc import Iterator

from cloud_messages import FakeCloud, pack
import numpy as np
from numpy.typing import NDArray
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from lidar_kd.cloud import decode
from lidar_kd.labels import IGNORE
from lidar_kd.ros.labelled import build_clouds
from lidar_kd.ros.pipeline import Pipeline
from lidar_kd.ros.settings import Filter, NodeSettings

BEAMS, TURNS = 6, 40  # a small organised scan
NAN = float('nan')
EVERYTHING = Filter(
    name='everything', classes=('static', 'movable', 'unlabelled'), min_probability=0.0
)


@pytest.fixture
def settings(small_bundle: str) -> NodeSettings:
    return NodeSettings(
        model=small_bundle, device='cpu', precision='float32', warm_up_points=0,
        mounting='off', intensity='off', intensity_scale=1.0, filters=(EVERYTHING,),
    )  # fmt: skip


@pytest.fixture
def pipeline(settings: NodeSettings) -> Iterator[Pipeline]:
    pipeline = Pipeline(settings)
    yield pipeline
    pipeline.release()


def make_turn() -> NDArray[np.float64]:
    """(BEAMS, TURNS, 4) one scan, a beam a row; every seventh beam has no echo."""
    rng = np.random.default_rng(1)
    bearing = np.linspace(-np.pi, np.pi, TURNS, endpoint=False)
    range_m = rng.uniform(4, 20, (BEAMS, TURNS))
    height = np.linspace(-1.5, 1, BEAMS)[:, None] + 0 * bearing
    bright = rng.uniform(0, 1, (BEAMS, TURNS))
    scan = np.stack([range_m * np.cos(bearing), range_m * np.sin(bearing), height, bright], -1)
    scan.reshape(-1, 4)[::7, :3] = NAN
    return scan


def pack_scan(
    scan: NDArray[np.float64], layout: str = 'ouster', *, height: int = 1, padding: int = 0
) -> FakeCloud:
    points = [tuple(point) for point in scan.reshape(-1, 4).tolist()]
    return pack(layout, points, height=height, padding=padding)


def labels_of(pipeline: Pipeline, cloud: FakeCloud, settings: NodeSettings) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = pipeline.label(cloud, settings).result.labels
    return found


@pytest.mark.parametrize('padding', [0, 12])
def test_an_organised_scan_keeps_its_shape_and_its_holes(
    pipeline: Pipeline, settings: NodeSettings, padding: int
) -> None:
    cloud = pack_scan(make_turn(), height=BEAMS, padding=padding)
    labelled = pipeline.label(cloud, settings)
    clouds = dict(build_clouds(labelled, ['labeled', 'segmented', 'everything'], settings))
    shown = clouds['labeled']
    assert (shown.height, shown.width) == (BEAMS, TURNS)
    assert not shown.is_dense
    holes = np.arange(BEAMS * TURNS) % 7 == 0
    np.testing.assert_array_equal(labelled.result.labels == IGNORE, holes)
    rows = np.frombuffer(shown.data, np.uint8).reshape(-1, shown.point_step)
    np.testing.assert_array_equal(rows[:, shown.fields[-2].offset], labelled.result.labels)
    assert (clouds['segmented'].height, clouds['segmented'].width) == (1, BEAMS * TURNS)
    kept = clouds['everything']
    assert (kept.height, kept.width) == (1, (~holes).sum())  # a filter leaves the holes out
    assert kept.is_dense


def test_columns_of_beams_get_the_labels_of_rows_of_beams(
    pipeline: Pipeline, settings: NodeSettings
) -> None:
    scan = make_turn()
    by_rows = labels_of(pipeline, pack_scan(scan, height=BEAMS), settings)
    by_columns = labels_of(pipeline, pack_scan(scan.swapaxes(0, 1), height=TURNS), settings)
    np.testing.assert_array_equal(
        by_columns.reshape(TURNS, BEAMS).T, by_rows.reshape(BEAMS, TURNS)
    )
    assert len(np.unique(by_rows)) > 2


def test_a_second_return_at_the_same_place_changes_no_label(
    pipeline: Pipeline, settings: NodeSettings
) -> None:
    """Where a beam had one echo, drivers in dual mode send it twice."""
    scan = make_turn().reshape(-1, 4)
    once = labels_of(pipeline, pack_scan(scan), settings)
    interleaved = labels_of(pipeline, pack_scan(scan.repeat(2, 0)), settings)
    np.testing.assert_array_equal(interleaved, once.repeat(2))
    in_two_rows = pack_scan(np.concatenate([scan, scan]), height=2)
    np.testing.assert_array_equal(
        labels_of(pipeline, in_two_rows, settings), np.concatenate([once, once])
    )


def test_both_returns_keep_their_mark_and_their_place(
    pipeline: Pipeline, settings: NodeSettings
) -> None:
    """Glass 5 m ahead and the wall 9 m behind it: two points of one beam, each with its label."""
    first, last = (5.0, 1.0, 0.5, 0.1), (14.0, 2.8, 1.4, 0.6)
    lost = (NAN, NAN, NAN, 0.0)  # the second return of a beam that had one echo
    beams = [first, last, (8.0, -1.0, 0.0, 0.3), lost]
    cloud = pack('autoware_xyziradrt', beams)
    labelled = pipeline.label(cloud, settings)
    ((_, shown),) = build_clouds(labelled, ['labeled'], settings)
    names = [field.name for field in shown.fields]
    assert {'ring', 'return_type', 'label'} <= set(names)
    rows = np.frombuffer(shown.data, np.uint8).reshape(4, shown.point_step)
    sent = decode(cloud).rows
    # the input's own 35 bytes, return_type among them, bit for bit
    assert rows[:, :35].tobytes() == sent.tobytes()
    assert sent['return_type'].tolist() == [0, 1, 2, 3]
    assert (labelled.result.labels == IGNORE).tolist() == [False, False, False, True]
