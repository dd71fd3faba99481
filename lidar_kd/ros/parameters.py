# SPDX-License-Identifier: Apache-2.0
"""The table of settings.py as ROS parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from lidar_kd.ros.one_parameter import Parameter, Value
from lidar_kd.ros.settings import filter_parameters, NodeSettings, parameters


def declare_parameters(node: Node) -> NodeSettings:
    """The filters' parameters are known once their names are."""
    for parameter in parameters():
        _declare(node, parameter)
    for parameter in filter_parameters(node.get_parameter('filter_names').value):
        _declare(node, parameter)
    for name in overrides_of(node):
        if not node.has_parameter(name) and not name.startswith('qos_overrides.'):
            node.get_logger().warning(explain_unknown(name, _read(node)))
    return NodeSettings.from_values(_read(node))


def overrides_of(node: Node) -> Collection[str]:
    """Names of the parameters given at the start, whether the node has them or not."""
    given: Collection[str] = node._parameter_overrides  # rclpy tells it nowhere else
    return given


def explain_unknown(name: str, known: Collection[str]) -> str:
    """Files are written by hand, and ROS ignores what no node declares."""
    near = get_close_matches(name, known, n=1)
    hint = f' Did you mean {near[0]}?' if near else ''
    return f'parameter {name} is unknown and ignored.{hint}'


def check_changes(node: Node, changes: Iterable[Any], state: str) -> NodeSettings:
    """The settings with the changes in place; raises ConfigError where one cannot be."""
    values = _read(node)
    known = {parameter.name: parameter for parameter in parameters()}
    for change in changes:
        is_new = change.name in values and change.value != values[change.name]
        if change.name in known and is_new:
            known[change.name].check_change(state)
        if change.name in values:
            values[change.name] = change.value
    return NodeSettings.from_values(values)


def make_descriptor(parameter: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        name=parameter.name,
        description=parameter.description,
        additional_constraints=_constraints(parameter),
    )
    lower, upper = parameter.lower, parameter.upper
    if upper and isinstance(parameter.default, float):
        limits = FloatingPointRange(from_value=float(lower), to_value=float(upper))
        descriptor.floating_point_range = [limits]
    elif upper:
        limits = IntegerRange(from_value=int(lower), to_value=int(upper), step=1)
        descriptor.integer_range = [limits]
    return descriptor


def _constraints(parameter: Parameter) -> str:
    """What a descriptor has no field for."""
    told = []
    if parameter.choices:
        told.append(f'one of {", ".join(parameter.choices)}')
    if parameter.changes == 'start':
        told.append('read once, at the start')
    if parameter.changes in ('unconfigured', 'inactive'):
        told.append(f'changes only while the node is {parameter.changes}')
    return '; '.join(told)


def _declare(node: Node, parameter: Parameter) -> None:
    node.declare_parameter(parameter.name, parameter.default, make_descriptor(parameter))


def _read(node: Node) -> dict[str, Value]:
    names = [parameter.name for parameter in parameters()]
    names += [each.name for each in filter_parameters(node.get_parameter('filter_names').value)]
    return {name: node.get_parameter(name).value for name in names}
