# SPDX-License-Identifier: Apache-2.0
"""How the node is doing: counts of scans, warnings that do not flood the log, and /diagnostics."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode

from lidar_kd.ros.log import BackOff
from lidar_kd.ros.pipeline import Pipeline
from lidar_kd.ros.settings import NodeSettings
from lidar_kd.ros.statistics import ERROR, judge, list_values, NodeStatistics, OK, WARN
from lidar_kd.ros.topics import Input

CLOCK_SILENT = (
    'use_sim_time is set but /clock is silent: play the bag with --clock, or set it to false'
)


class Health:
    """Told by the node what happens to it; a timer of the node publishes the verdict."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._quiet = BackOff()
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.failure = ''  # why configuring or activating failed
        self.missing = ''  # which topics are not offered
        self.begin()

    def begin(self) -> None:
        """Counts anew: from an activation on."""
        self.statistics = NodeStatistics(time.monotonic())

    def drop(self, reason: str, why: str) -> None:
        self.statistics.drop(reason, time.monotonic())
        self.warn(reason, f'scan dropped: {why}')

    def warn(self, cause: str, sentence: str) -> None:
        """At most once in 5 s per cause, and ever more rarely while it goes on."""
        if self._quiet.is_due(cause, time.monotonic()):
            self._node.get_logger().warning(sentence)

    def publish(
        self, pipeline: Pipeline | None, source: Input | None, limits: NodeSettings
    ) -> None:
        values: dict[str, str] = {}
        if pipeline:
            values = {**pipeline.facts(), **pipeline.intensity_facts()}
            if self.missing:
                values['topics'] = self.missing
        level, sentence = self._assess(values, source, limits)
        status = DiagnosticStatus(
            level=bytes([level]),
            name=f'{self._node.get_fully_qualified_name()}: segmentation',
            message=sentence,
            hardware_id=values.get('device', ''),
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _assess(
        self, values: dict[str, str], source: Input | None, limits: NodeSettings
    ) -> tuple[int, str]:
        """The level and a sentence; `values` gets the numbers."""
        level, sentence = OK, 'not active'
        if self.failure:
            level, sentence = ERROR, self.failure
        if source:
            level, sentence = self._judge(values, source, limits)
        if self._node.get_clock().now().nanoseconds:
            return level, sentence
        self.warn('clock', CLOCK_SILENT)
        return max(level, WARN), f'{CLOCK_SILENT}; {sentence}' if level == ERROR else CLOCK_SILENT

    def _judge(
        self, values: dict[str, str], source: Input, limits: NodeSettings
    ) -> tuple[int, str]:
        summary = self.statistics.summarise(time.monotonic())
        values.update(list_values(summary))
        if 1e3 * summary.unheard_s > limits.max_silence_ms:
            cause = source.explain_silence()
            sentence = f'no scan on {source.topic} for {summary.unheard_s:.0f} s; {cause}'
            self.warn(cause, sentence)
            return ERROR, sentence
        return judge(
            summary,
            max_processing_time_ms=limits.max_processing_time_ms,
            max_silence_ms=limits.max_silence_ms,
        )
