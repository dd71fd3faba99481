# SPDX-License-Identifier: Apache-2.0
"""Hostile PointCloud2 messages, and recordings of them."""

from __future__ import annotations

from array import array
from functools import cache
from pathlib import Path
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np

from lidar_kd.cloud import decode, encode_labeled, encode_segmented
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.scans.bags import Bag
from training.hostile.damage import damage_bytes, ODD_INTEGERS, odd_value, pick, Rng

FIELDS = (('x', 0, 7), ('y', 4, 7), ('z', 8, 7), ('intensity', 12, 7), ('ring', 16, 4))
STEP = 18
CLOUD = 'sensor_msgs/msg/PointCloud2'
PACKED_MB = 3000


def make_message(folder: Path, rng: Rng) -> Path:
    path = folder / 'cloud.pickle'
    path.write_bytes(pickle.dumps(_message(rng)))
    return path


def _message(rng: Rng) -> SimpleNamespace:
    width, height = int(rng.integers(0, 9)), int(rng.integers(0, 4))
    fields = [SimpleNamespace(name=n, offset=o, datatype=t, count=1) for n, o, t in FIELDS]
    message = SimpleNamespace(
        width=width,
        height=height,
        fields=fields,
        is_bigendian=bool(rng.random() < 0.2),
        point_step=STEP,
        row_step=STEP * width,
        data=array('B', rng.bytes(STEP * width * height)),
        is_dense=True,
    )
    for _ in range(int(rng.integers(0, 4))):
        target: Any = pick((message, message, *fields), rng)
        name = str(pick(sorted(vars(target)), rng))
        setattr(target, name, _odd(getattr(target, name), rng))
    return message


def _odd(value: Any, rng: Rng) -> Any:
    """What the type of the field in the message can hold, however odd."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(pick(ODD_INTEGERS, rng)) % 2**32
    if isinstance(value, array):
        return array('B', damage_bytes(value.tobytes(), rng))
    if isinstance(value, list):
        return value * int(pick((0, 2, 2000), rng))
    return str(odd_value(rng))[:200]


def use_cloud(path: Path) -> None:
    cloud = decode(pickle.loads(path.read_bytes()))  # noqa: S301 (written a moment ago)
    labels = np.zeros(len(cloud), np.uint8)
    encode_labeled(cloud, labels, SEMANTICKITTI)
    certainty = np.ones(len(cloud), np.float32)
    encode_segmented(cloud, SEMANTICKITTI.to_autoware(labels), certainty, certainty)


def make_bag(folder: Path, rng: Rng) -> Path:
    """A bag of one cloud or two, in one of three storages, packed or not; then damaged."""
    chance = rng.random()
    bag = _write_bag1(folder) if chance < 0.2 else _write_bag2(folder / 'bag', rng)
    if chance > 0.97:
        return _pack_zeros(bag)
    files = sorted(path for path in bag.rglob('*') if path.is_file()) if bag.is_dir() else [bag]
    for _ in range(int(rng.integers(1, 3))):
        path = Path(pick(files, rng))
        path.write_bytes(damage_bytes(path.read_bytes(), rng))
    return bag


def _write_bag1(folder: Path) -> Path:
    from rosbags.rosbag1 import Writer

    store = _typestore('ROS1_NOETIC')
    path = folder / 'bag.bag'
    with Writer(path) as writer:
        connection = writer.add_connection('/points', CLOUD, typestore=store)
        writer.write(connection, 10, store.serialize_ros1(_recorded(store, 1), CLOUD))
    return path


def _write_bag2(path: Path, rng: Rng) -> Path:
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    store = _typestore('ROS2_HUMBLE')
    storage = pick((StoragePlugin.SQLITE3, StoragePlugin.MCAP), rng)
    writer = Writer(path, version=8, storage_plugin=storage)
    mode = pick((CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE), rng)
    if mode != CompressionMode.NONE and storage == StoragePlugin.SQLITE3:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/points', CLOUD, typestore=store)
        for number in range(2):
            content = store.serialize_cdr(_recorded(store, 2), CLOUD)
            writer.write(connection, 10 + number, content)
    return path


@cache
def _typestore(name: str) -> Any:
    """Parsing the definitions takes ten times as long as writing a bag."""
    from rosbags.typesys import get_typestore, Stores

    return get_typestore(Stores[name])


def _recorded(store: Any, ros: int) -> Any:
    types = store.types
    field, header = types['sensor_msgs/msg/PointField'], types['std_msgs/msg/Header']
    stamp = types['builtin_interfaces/msg/Time'](sec=7, nanosec=9)
    numbered = {'seq': 0} if ros == 1 else {}
    return types[CLOUD](
        header=header(**numbered, stamp=stamp, frame_id='lidar'),
        height=1,
        width=3,
        fields=[field(name=n, offset=o, datatype=t, count=1) for n, o, t in FIELDS],
        is_bigendian=False,
        point_step=STEP,
        row_step=3 * STEP,
        data=np.zeros(3 * STEP, np.uint8),
        is_dense=True,
    )


def _pack_zeros(bag: Path) -> Path:
    """A recording of 3 GB in some hundred kB, beside honest metadata."""
    from rosbags.rosbag2 import writer

    if not bag.is_dir():
        return bag
    part = vars(writer)['zstd'].compress(bytes(64 << 20))  # Python's own, or its backport
    for path in bag.iterdir():
        if path.suffix in ('.db3', '.mcap', '.zstd'):
            packed = path.with_name(path.name.removesuffix('.zstd') + '.zstd')
            path.unlink()
            packed.write_bytes(part * (PACKED_MB // 64))
            _say_packed(bag / 'metadata.yaml', packed)
    return bag


def _say_packed(metadata: Path, packed: Path) -> None:
    text = metadata.read_text()
    plain = packed.name.removesuffix('.zstd')
    text = text.replace(packed.name, plain).replace(plain, packed.name)
    text = text.replace("compression_format: ''", 'compression_format: zstd')
    text = text.replace("compression_mode: ''", 'compression_mode: file')
    metadata.write_text(text)


def use_bag(path: Path) -> None:
    bag = Bag(path)
    for index in range(len(bag)):
        decode(bag.read(index))
