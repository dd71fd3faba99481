# SPDX-License-Identifier: Apache-2.0
"""What of rclpy the package uses: every name was looked up in the sources of Humble (3.3) and
Jazzy (7.1), of rolling at 8.0, and is in Kilted's wheels (9.1). A new one is looked up there
first, and then written down here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from rclpy.clock import Clock
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.lifecycle.publisher import LifecyclePublisher
from rclpy.subscription import Subscription

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [
    *sorted((ROOT / 'lidar_kd' / 'ros').rglob('*.py')),
    *sorted((ROOT / 'training' / 'live').glob('*.py')),
]
IMPORTED = {
    *('rclpy.clock.Clock', 'rclpy.clock.ClockType', 'rclpy.clock.JumpThreshold'),
    'rclpy.duration.Duration',
    'rclpy.exceptions.ParameterException',
    *('rclpy.executors.ExternalShutdownException', 'rclpy.executors.SingleThreadedExecutor'),
    *('rclpy.lifecycle.LifecycleNode', 'rclpy.lifecycle.LifecycleState'),
    'rclpy.lifecycle.TransitionCallbackReturn',
    'rclpy.node.Node',
    'rclpy.parameter.Parameter',
    *('rclpy.qos.DurabilityPolicy', 'rclpy.qos.HistoryPolicy', 'rclpy.qos.QoSPolicyKind'),
    *('rclpy.qos.QoSProfile', 'rclpy.qos.ReliabilityPolicy'),
    'rclpy.qos_overriding_options.QoSOverridingOptions',
    'rclpy.serialization.deserialize_message',
    'rclpy.time.Time',
    *('rclpy.utilities.get_rmw_implementation_identifier', 'rclpy.utilities.remove_ros_args'),
    # what init raises has no other door, in none of them
    *('rclpy._rclpy_pybind11.RCLError', 'rclpy._rclpy_pybind11.UnknownROSArgsError'),
}
OF_THE_MODULE = {'init', 'ok', 'shutdown', 'spin', 'spin_once', 'logging', 'signals'}
METHODS = {
    # of nodes
    *('add_on_set_parameters_callback', 'create_lifecycle_publisher', 'create_publisher'),
    *('create_subscription', 'create_timer', 'declare_parameter', 'destroy_lifecycle_publisher'),
    *('destroy_node', 'destroy_subscription', 'destroy_timer', 'get_clock'),
    *('get_fully_qualified_name', 'get_logger', 'get_name', 'get_namespace'),
    *('get_node_names_and_namespaces', 'get_parameter', 'get_publishers_info_by_topic'),
    *('has_parameter', 'resolve_topic_name', 'trigger_activate', 'trigger_configure'),
    *('on_activate', 'on_configure', 'on_deactivate', 'on_shutdown'),
    # of publishers, subscriptions, executors, clocks
    *('destroy', 'get_subscription_count', 'publish', 'topic_name', 'wait_for_all_acked'),
    *('add_node', 'shutdown', 'spin', 'spin_once'),
    *('create_jump_callback', 'now'),
}
PRIVATE = {
    '_parameter_overrides',  # of nodes: rclpy tells it nowhere else
    '_data',  # of messages: the setter copies
}
DOCUMENTED = {'_asdict', '_exit'}  # by Python, which means no secret by their underscores


def trees() -> list[ast.AST]:
    return [
        node for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
    ]


def test_every_import_from_rclpy_was_looked_up() -> None:
    found = {
        f'{node.module}.{alias.name}'
        for node in trees()
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'rclpy'
        for alias in node.names
    }
    assert found == IMPORTED


def test_every_use_of_the_module_was_looked_up() -> None:
    found = {
        node.attr
        for node in trees()
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == 'rclpy'
    }
    assert found == OF_THE_MODULE


def test_every_method_of_rclpys_classes_was_looked_up() -> None:
    kinds = (LifecycleNode, LifecyclePublisher, Subscription, SingleThreadedExecutor, Clock)
    theirs = {name for kind in kinds for name in dir(kind) if not name.startswith('_')}
    used = {node.attr for node in trees() if isinstance(node, ast.Attribute)}
    alike = {  # names that numpy, threads, settings and our own classes have, too
        *('callback', 'clock', 'context', 'handle', 'names', 'msg_type', 'start', 'topic'),
    }
    assert used & theirs - alike == METHODS


def test_of_what_others_keep_to_themselves_two_names_are_used() -> None:
    used = {
        node.attr
        for node in trees()
        if isinstance(node, ast.Attribute)
        if node.attr.startswith('_') and not node.attr.startswith('__')
        if not (isinstance(node.value, ast.Name) and node.value.id == 'self')
    }
    assert used - DOCUMENTED == PRIVATE
