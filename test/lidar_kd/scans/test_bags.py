# SPDX-License-Identifier: Apache-2.0
"""Bags of every storage, written here by rosbags, as data sets."""

from __future__ import annotations

from collections.abc import Callable
import multiprocessing
from pathlib import Path
import pickle
from typing import Any

from cloud_messages import FakeCloud, pack, POINTS
import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.errors import DataError
from lidar_kd.labels import IGNORE
from lidar_kd.scans.bags import Bag
from lidar_kd.scans.unpacking import import_zstd
from training.data.kinds import open_dataset

pytest.importorskip('rosbags.rosbag2', reason='needs rosbags')
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

STORE = get_typestore(Stores.ROS2_HUMBLE)
CLOUD = 'sensor_msgs/msg/PointCloud2'
STORAGES = [StoragePlugin.SQLITE3, StoragePlugin.MCAP]


def make_message(cloud: FakeCloud, frame_id: str = 'lidar') -> Any:
    types = STORE.types
    stamp = types['builtin_interfaces/msg/Time'](sec=7, nanosec=9)
    field = types['sensor_msgs/msg/PointField']
    return types[CLOUD](
        header=types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id),
        height=cloud.height,
        width=cloud.width,
        fields=[field(**vars(each)) for each in cloud.fields],
        is_bigendian=cloud.is_bigendian,
        point_step=cloud.point_step,
        row_step=cloud.row_step,
        data=np.frombuffer(cloud.data, np.uint8),
        is_dense=cloud.is_dense,
    )


def write_bag(
    path: Path,
    topics: dict[str, list[FakeCloud]],
    *,
    storage: StoragePlugin = StoragePlugin.SQLITE3,
    stamp: Callable[[int], int] = lambda number: 1000 + 100 * number,
) -> Path:
    """One cloud of each topic in turn, and a text beside them."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        word = writer.add_connection('/word', 'std_msgs/msg/String', typestore=STORE)
        text = STORE.types['std_msgs/msg/String'](data='hello')
        writer.write(word, 1, STORE.serialize_cdr(text, 'std_msgs/msg/String'))
        for topic, clouds in topics.items():
            connection = writer.add_connection(topic, CLOUD, typestore=STORE)
            for number, cloud in enumerate(clouds):
                content = STORE.serialize_cdr(make_message(cloud), CLOUD)
                writer.write(connection, stamp(number), content)
    return path


def cloud(number: int, layout: str = 'velodyne', intensity: float = 255) -> FakeCloud:
    """As many points as its number says, and one more without an echo."""
    points = [(i + 1, number, 0.5, intensity) for i in range(number)]
    return pack(layout, [(0, 0, 0, 0), *points])


def expected(number: int, intensity: float = 1) -> NDArray[np.float32]:
    points = [(i + 1, number, 0.5, intensity) for i in range(number)]
    return np.array(points, np.float32)


@pytest.mark.parametrize('storage', STORAGES)
def test_the_clouds_of_a_bag_are_scans_without_labels(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    bag = write_bag(
        tmp_path / 'drive', {'/points': [cloud(1), cloud(2), cloud(3)]}, storage=storage
    )
    scans = open_dataset('bags', bag)
    assert scans.describe() == 'bags: 3 scans of 1 sequence (drive), 0 with labels'
    assert len(scans.unlabelled()) == 3
    for index in (2, 0, 1, 2):  # in any order
        scan = scans[index]
        np.testing.assert_array_equal(scan.points, expected(index + 1))
        assert scan.name == f'drive/{index:06}'
        assert scan.labels.tolist() == [IGNORE] * (index + 1)


@pytest.mark.parametrize('layout', ['kitti', 'ouster', 'autoware_xyzirc', 'hesai'])
def test_every_layout_can_be_recorded(tmp_path: Path, layout: str) -> None:
    scans = open_dataset('bags', write_bag(tmp_path / 'bag', {'/points': [cloud(4, layout)]}))
    np.testing.assert_array_equal(scans[0].points, expected(4))


def test_all_bags_below_a_folder_are_found_and_some_can_be_named(tmp_path: Path) -> None:
    write_bag(tmp_path / 'b' / 'late', {'/points': [cloud(2)]}, storage=StoragePlugin.MCAP)
    write_bag(tmp_path / 'a', {'/points': [cloud(1), cloud(3)]})
    everything = open_dataset('bags', tmp_path)
    assert [frame.name for frame in everything.frames] == ['a/000000', 'a/000001', 'b/late/000000']
    assert [len(everything[index]) for index in range(3)] == [1, 3, 2]
    assert [frame.name for frame in open_dataset('bags', tmp_path, ['b/late']).frames] == [
        'b/late/000000'
    ]


def test_a_topic_is_chosen_where_there_are_several(tmp_path: Path) -> None:
    topics = {'/front': [cloud(1)], '/rear': [cloud(2), cloud(3)]}
    bag = write_bag(tmp_path / 'drive', topics)
    with pytest.raises(DataError, match='choose the topic among /front, /rear'):
        open_dataset('bags', bag)
    with pytest.raises(DataError, match="no clouds on '/side'; choose the topic among /front"):
        open_dataset('bags', bag, 'drive:/side')
    scans = open_dataset('bags', bag, ['drive:/rear', 'drive:/front'])
    assert [len(scans[index]) for index in range(3)] == [2, 3, 1]


def test_clouds_received_in_the_same_moment_are_told_apart(tmp_path: Path) -> None:
    clouds = [cloud(1), cloud(2), cloud(3)]
    bag = Bag(write_bag(tmp_path / 'bag', {'/points': clouds}, stamp=lambda number: 77))
    assert [bag.read(index).width for index in (2, 1, 0)] == [4, 3, 2]


def test_dark_and_bright_clouds_have_one_scale(tmp_path: Path) -> None:
    clouds = [cloud(1, intensity=1), cloud(1, intensity=255)]
    scans = open_dataset('bags', write_bag(tmp_path / 'bag', {'/points': clouds}))
    assert scans[0].points[0, 3] == np.float32(1 / 255)
    assert scans[1].points[0, 3] == 1


@pytest.mark.parametrize('storage', STORAGES)
def test_processes_read_a_bag_side_by_side(tmp_path: Path, storage: StoragePlugin) -> None:
    clouds = [pack('velodyne', POINTS[: 4 + n]) for n in range(8)]
    scans = open_dataset('bags', write_bag(tmp_path / 'bag', {'/points': clouds}, storage=storage))
    context = multiprocessing.get_context('fork')
    counts = context.Queue()

    def count() -> None:
        counts.put([len(scans[n]) for _ in range(20) for n in range(8)])

    children = [context.Process(target=count) for _ in range(2)]  # this process's reader is open
    for child in children:
        child.start()
    wanted = [4 + n for n in range(8)]
    assert [len(scans[n]) for _ in range(20) for n in range(8)] == 20 * wanted
    assert [counts.get(timeout=20) for _ in children] == [20 * wanted] * 2
    for child in children:
        child.join()
    again = pickle.loads(pickle.dumps(scans))  # what a spawned process gets
    assert [len(again[n]) for n in range(8)] == wanted


@pytest.mark.parametrize('name', ['metadata.yaml', 'bag.db3'])
def test_a_damaged_bag_is_told_in_one_sentence(tmp_path: Path, name: str) -> None:
    bag = write_bag(tmp_path / 'bag', {'/points': [cloud(3)]})
    content = (bag / name).read_bytes()
    (bag / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match='the bag is damaged'):
        open_dataset('bags', bag)[0]


def test_a_packed_bag_that_grows_a_thousandfold_is_not_unpacked(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', {'/points': [cloud(3)]})
    with import_zstd().open(bag / 'bag.db3.zstd', 'wb') as file:
        for _ in range(100):
            file.write(bytes(1 << 20))  # 100 MB of zeros become some 3 kB
    (bag / 'bag.db3').unlink()
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(DataError, match='unpacks to more than 100 times its size'):
        open_dataset('bags', bag)[0]
    assert sorted(tmp_path.rglob('*')) == before


def test_what_is_no_bag_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='no bags found'):
        open_dataset('bags', tmp_path)
    with pytest.raises(DataError, match='no such bag'):
        Bag(tmp_path / 'missing')
    with pytest.raises(DataError, match='ros2 bag reindex'):
        Bag(tmp_path)
    with pytest.raises(DataError, match='no topic with PointCloud2 .it has /word.'):
        open_dataset('bags', write_bag(tmp_path / 'words', {}))
