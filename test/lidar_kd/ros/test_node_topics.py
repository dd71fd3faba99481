# SPDX-License-Identifier: Apache-2.0
"""The table of topics in docs/robot.md is what the node has."""

from __future__ import annotations

from pathlib import Path
import re

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from ros_partner import NAME, Partner

from lidar_kd.ros.node import SegmentNode

TABLE = Path(__file__).resolve().parents[3] / 'docs' / 'robot.md'
OF_ROS = {'/rosout', '/parameter_events', f'/{NAME}/transition_event'}


def read_table() -> dict[str, str]:
    """Topic -> the types that its row names."""
    section = TABLE.read_text().split('## Topics', 1)[1].split('\n## ', 1)[0]
    rows = [line.split('|')[1:3] for line in section.splitlines() if line.startswith('| `')]
    return {name: kinds for names, kinds in rows for name in expand(names)}


def expand(cell: str) -> list[str]:
    """The names in a cell, in which {a,b} stands for both."""
    found = []
    for word in re.findall('`([^`]+)`', cell):
        opening, _, rest = word.partition('{')
        inner, _, end = rest.partition('}')
        found += [f'{opening}{each}{end}' for each in inner.split(',')] if rest else [word]
    return found


def test_every_topic_stands_in_the_table_with_its_type(
    node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    table = read_table()
    offered = [
        *node.get_publisher_names_and_types_by_node(NAME, '/'),
        *node.get_subscriber_names_and_types_by_node(NAME, '/'),
    ]
    for topic, (kind,) in offered:
        if topic not in OF_ROS:
            short = topic.removeprefix(f'/{NAME}/')
            assert kind.replace('/msg/', '/') in table[short], topic
    assert len(offered) > 15
