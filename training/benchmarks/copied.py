# SPDX-License-Identifier: Apache-2.0
"""What `bench.py copies` runs in processes of their own, in which large copies are counted."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import ctypes
import json
import os
import sys
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from lidar_kd.cloud import Payload
from lidar_kd.ros.topics import make_cloud

POINTS, POINT_BYTES = 125_000, 16
SETTLE_S = 0.2  # for what the middleware does on threads of its own
LIMIT_S = 120.0
TOPIC = 'copied'
QOS = QoSProfile(depth=2)


def take_apart(clouds: int) -> None:
    """Takes so many clouds of another process."""
    taken = []
    with counting_node('taker') as (node, count, _):
        heard: list[PointCloud2] = []
        executor = listen_to(node, heard)
        for _ in range(clouds):
            count()
            take_one(executor, heard)
            taken.append(count())
    tell_medians(take_apart=taken)


def send_apart(clouds: int) -> None:
    """Sends so many to another process; what is copied here is counted."""
    sent = []
    with counting_node('sender') as (node, count, payload):
        publisher = node.create_publisher(PointCloud2, TOPIC, QOS)
        listen_until(publisher.get_subscription_count, lambda: time.sleep(0.05))
        for _ in range(clouds):
            sent.append(measure_publish(publisher, payload, count))
        publisher.wait_for_all_acked()
    tell_medians(publish_apart=sent)


def count_alone(clouds: int) -> None:
    """All that happens within one process."""
    found: dict[str, list[float]] = {
        name: [] for name in ('hand_over', 'serialise', 'deserialise', 'publish', 'take')
    }
    with counting_node('alone') as (node, count, payload):
        heard: list[PointCloud2] = []
        publisher = node.create_publisher(PointCloud2, TOPIC, QOS)
        executor = listen_to(node, heard)
        listen_until(publisher.get_subscription_count, lambda: time.sleep(0.05))
        for _ in range(clouds):
            count()
            handed = [make_cloud(Header(), payload)]
            found['hand_over'].append(count())
            raw = serialize_message(handed.pop())
            found['serialise'].append(count())
            deserialize_message(raw, PointCloud2)
            found['deserialise'].append(count())
            found['publish'].append(measure_publish(publisher, payload, count))
            take_one(executor, heard)
            found['take'].append(count())
    tell_medians(**found)


@contextmanager
def counting_node(name: str) -> Iterator[tuple[Node, Callable[[], float], Payload]]:
    """The node, what tells how many copies of a cloud were made since it was asked, the cloud."""
    library = ctypes.CDLL(os.environ['LD_PRELOAD'])
    library.take_copied_bytes.restype = ctypes.c_ulong
    size = POINTS * POINT_BYTES
    payload = Payload(
        data=array('B', bytes(size)), fields=(), height=1, width=POINTS, point_step=POINT_BYTES,
        is_bigendian=False, is_dense=True,
    )  # fmt: skip
    rclpy.init(args=[])
    node = Node(name)
    try:
        yield node, lambda: float(library.take_copied_bytes()) / size, payload
    finally:
        node.destroy_node()
        rclpy.shutdown()


def listen_to(node: Node, heard: list[PointCloud2]) -> SingleThreadedExecutor:
    node.create_subscription(PointCloud2, TOPIC, heard.append, QOS)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    return executor


def take_one(executor: SingleThreadedExecutor, heard: list[PointCloud2]) -> None:
    listen_until(lambda: heard, lambda: executor.spin_once(0.1))
    heard.clear()


def measure_publish(publisher: Any, payload: Payload, count: Callable[[], float]) -> float:
    count()
    publisher.publish(make_cloud(Header(), payload))
    time.sleep(SETTLE_S)
    return count()


def listen_until(happened: Callable[[], Any], listen: Callable[[], None]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not happened():
        if time.monotonic() > end_s:
            raise TimeoutError(f'nothing on {TOPIC} within {LIMIT_S:.0f} s')
        listen()


def tell_medians(**found: list[float]) -> None:
    """Medians, as JSON for the parent."""
    sys.stdout.write(json.dumps({name: float(np.median(each)) for name, each in found.items()}))
