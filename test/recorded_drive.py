# SPDX-License-Identifier: Apache-2.0
"""A recorded drive: clouds of all kinds and five other topics; no test in here.

The robot drives along x with 1 m/s and turns left by 0.1 rad/s; the sensor sits 2 m above its
base and 1 m ahead of it, so that everything about it is known by a formula.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
import math
from pathlib import Path
from typing import Any

from cloud_messages import FakeCloud, pack
import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

from lidar_kd.scans.bags import open_recording, POINT_CLOUD

STORE = get_typestore(Stores.ROS2_HUMBLE)
STORAGES = {'sqlite3': StoragePlugin.SQLITE3, 'mcap': StoragePlugin.MCAP}
CLOUDS, WORDS, ODOMETRY, TF, STATIC, IMU = (
    *('/front/points', '/words', '/odom', '/tf', '/tf_static', '/imu'),
)
TYPES = {
    CLOUDS: POINT_CLOUD,
    WORDS: 'std_msgs/msg/String',
    ODOMETRY: 'nav_msgs/msg/Odometry',
    TF: 'tf2_msgs/msg/TFMessage',
    STATIC: 'tf2_msgs/msg/TFMessage',
    IMU: 'sensor_msgs/msg/Imu',
}
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
FRAME = 'front_lidar'
MOUNT = (1.0, 0.0, 2.0)
TURN_RADPS = 0.1
Contents = dict[str, list[tuple[int, bytes]]]


def make_qos(reliability: QosReliability, depth: int, durability: QosDurability) -> Qos:
    never = QosTime(2147483647, 4294967295)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=durability,
        deadline=never,
        lifespan=never,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=never,
        avoid_ros_namespace_conventions=False,
    )


QOS = {
    CLOUDS: [make_qos(QosReliability.BEST_EFFORT, 5, QosDurability.VOLATILE)],
    STATIC: [make_qos(QosReliability.RELIABLE, 1, QosDurability.TRANSIENT_LOCAL)],
    TF: [make_qos(QosReliability.RELIABLE, 100, QosDurability.VOLATILE)] * 2,
}


def write_drive(path: Path, clouds: int, storage: str = 'sqlite3', version: Any = 8) -> Path:
    """Messages of all topics in turn; two clouds are always received in the same nanosecond."""
    with Writer(path, version=version, storage_plugin=STORAGES[storage]) as writer:
        writer.set_custom_data('robot', 'number five')
        connections = {
            topic: writer.add_connection(
                topic, kind, typestore=STORE, offered_qos_profiles=QOS.get(topic, [])
            )
            for topic, kind in TYPES.items()
        }
        for topic, received_ns, message in list_messages(clouds):
            content = STORE.serialize_cdr(message, TYPES[topic])
            writer.write(connections[topic], received_ns, content)
    return path


def list_messages(clouds: int) -> Iterator[tuple[str, int, Any]]:
    yield STATIC, START_NS, make_transforms('base', FRAME, START_NS, MOUNT, 0.0)
    for number in range(clouds):
        now_ns = START_NS + number * PERIOD_NS
        x, y, yaw = place_of(1e-9 * (now_ns - START_NS))
        yield TF, now_ns + 1, make_transforms('odom', 'base', now_ns, (x, y, 0.0), yaw)
        yield ODOMETRY, now_ns + 2, make_odometry(now_ns, (x, y, 0.0), yaw)
        yield WORDS, now_ns + 3, STORE.types[TYPES[WORDS]](data='word ' * (number % 5))
        yield IMU, now_ns + 3, make_imu(now_ns, number)
        twin = (number // 2 * 2) * PERIOD_NS
        yield CLOUDS, START_NS + twin + 4, make_cloud(number, now_ns)


def place_of(time_s: float) -> tuple[float, float, float]:
    """x, y, yaw of the base: an arc of 10 m radius."""
    yaw = TURN_RADPS * time_s
    return math.sin(yaw) / TURN_RADPS, (1 - math.cos(yaw)) / TURN_RADPS, yaw


def make_cloud(number: int, stamp_ns: int) -> Any:
    """Every layout in turn; some are empty, some organised with padded rows, some big endian."""
    count = 0 if number % 50 == 7 else 4 + number % 9 * 2
    points = [(i + 1, number % 7 - 3.5, 0.25 * i - 1.5, float(10 * i)) for i in range(count)]
    layout = ('velodyne', 'ouster', 'hesai', 'bare', 'float64', 'kitti')[number % 6]
    organised = {'height': 2, 'padding': 8} if number % 6 == 1 and count else {}
    return fill_message(pack(layout, points, big=number % 6 == 4, **organised), stamp_ns)


def fill_message(cloud: FakeCloud, stamp_ns: int) -> Any:
    field = STORE.types['sensor_msgs/msg/PointField']
    return STORE.types[POINT_CLOUD](
        header=make_header(stamp_ns, FRAME),
        height=cloud.height,
        width=cloud.width,
        fields=[field(**vars(each)) for each in cloud.fields],
        is_bigendian=cloud.is_bigendian,
        point_step=cloud.point_step,
        row_step=cloud.row_step,
        data=np.frombuffer(cloud.data, np.uint8),
        is_dense=cloud.is_dense,
    )


def make_header(stamp_ns: int, frame: str) -> Any:
    time = STORE.types['builtin_interfaces/msg/Time']
    stamp = time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return STORE.types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame)


def make_transforms(parent: str, child: str, stamp_ns: int, place: Any, yaw: float) -> Any:
    types = STORE.types
    transform = types['geometry_msgs/msg/Transform'](
        translation=types['geometry_msgs/msg/Vector3'](*place), rotation=make_turn(yaw)
    )
    stamped = types['geometry_msgs/msg/TransformStamped'](
        header=make_header(stamp_ns, parent), child_frame_id=child, transform=transform
    )
    return types[TYPES[TF]](transforms=[stamped])


def make_turn(yaw: float) -> Any:
    quaternion = STORE.types['geometry_msgs/msg/Quaternion']
    return quaternion(0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))


def make_odometry(stamp_ns: int, place: Any, yaw: float) -> Any:
    types = STORE.types
    zero, unknown = types['geometry_msgs/msg/Vector3'](0.0, 0.0, 0.0), np.zeros(36)
    pose = types['geometry_msgs/msg/Pose'](
        position=types['geometry_msgs/msg/Point'](*place), orientation=make_turn(yaw)
    )
    return types[TYPES[ODOMETRY]](
        header=make_header(stamp_ns, 'odom'),
        child_frame_id='base',
        pose=types['geometry_msgs/msg/PoseWithCovariance'](pose=pose, covariance=unknown),
        twist=types['geometry_msgs/msg/TwistWithCovariance'](
            twist=types['geometry_msgs/msg/Twist'](linear=zero, angular=zero), covariance=unknown
        ),
    )


def make_imu(stamp_ns: int, number: int) -> Any:
    types = STORE.types
    measured = types['geometry_msgs/msg/Vector3'](0.1 * number, 0.0, 9.81)
    unknown = np.zeros(9)
    return types[TYPES[IMU]](
        make_header(stamp_ns, 'imu'), make_turn(0.0), unknown, measured, unknown, measured, unknown
    )


def read_contents(bag: Path) -> Contents:
    """Topic -> when received, and the bytes, in order."""
    found: Contents = defaultdict(list)
    with open_recording(bag) as reader:
        for connection, received_ns, content in reader.messages():
            found[connection.topic].append((received_ns, bytes(content)))
    return dict(found)


def read_descriptions(bag: Path) -> dict[str, tuple[Any, ...]]:
    """Topic -> type, definition, hash, serialization and QoS."""
    with open_recording(bag) as reader:
        return {
            each.topic: (each.msgtype, each.msgdef, each.digest, each.ext)
            for each in reader.connections
        }


def read_cloud(content: bytes) -> Any:
    return STORE.deserialize_cdr(content, POINT_CLOUD)
