# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: `ros2 launch lidar_kd segment.launch.py points:=/velodyne_points`.

configure loads the bundle and warms up, activate subscribes, cleanup frees. One thread answers
ROS, a worker labels the newest scan; what comes while it is busy replaces what waits.
settings.py has the parameters, pipeline.py the way from cloud to clouds, topics.py and
outputs.py the topics, health.py the warnings and what /diagnostics says.
"""

from __future__ import annotations

from collections.abc import Sequence
import logging
import time
from typing import Any

from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
import torch

from lidar_kd.cli.console import Console
from lidar_kd.cloud import MalformedCloud
from lidar_kd.errors import ConfigError, LidarKdError
from lidar_kd.ros.frames import Frames, NoTransform
from lidar_kd.ros.health import Health
from lidar_kd.ros.labelled import Labelled
from lidar_kd.ros.log import explain, ToRos, trace
from lidar_kd.ros.mailbox import Worker
from lidar_kd.ros.merged import MergedCloud
from lidar_kd.ros.outputs import Outputs
from lidar_kd.ros.parameters import check_changes, declare_parameters
from lidar_kd.ros.pipeline import Pipeline, read_stamp
from lidar_kd.ros.scene import choose_late_topics
from lidar_kd.ros.session import explain_refusal, ros_session
from lidar_kd.ros.sharing import Seat, SharedParts
from lidar_kd.ros.statistics import Answer
from lidar_kd.ros.topics import Input

ADAPT_S = 0.25  # how soon new publishers are noticed
DIAGNOSE_S = 1.0
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class SegmentNode(LifecycleNode):
    def __init__(
        self, name: str = 'lidar_kd', *, shared: SharedParts | None = None, **options: Any
    ) -> None:
        self._shared = shared
        self._pipeline: Pipeline | None = None
        self._frames: Frames | None = None
        self._outputs: Outputs | None = None
        self._input: Input | None = None
        self._worker: Worker[PointCloud2] | Seat[PointCloud2] | None = None
        self._answered_s, self._is_told = 0.0, False
        super().__init__(name, **options)
        self.settings = declare_parameters(self)
        self.add_on_set_parameters_callback(self._check_changes)
        self._health = Health(self)
        # A steady clock: the node speaks also while the time of ROS stands still.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(ADAPT_S, self._adapt, clock=self._steady)
        self.create_timer(DIAGNOSE_S, self._diagnose, clock=self._steady)

    # transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._configure()
        except Exception as error:  # noqa: BLE001 - rclpy would drop it without a word
            self._release()
            return self._fail('not configured', error)
        self._health.failure = ''
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            result = super().on_activate(state)
            self._activate()
        except Exception as error:  # noqa: BLE001 - rclpy would drop it without a word
            self._stop()
            super().on_deactivate(state)
            return self._fail('not activated', error)
        self._health.failure = ''
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self.get_logger().info('deactivated')
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self._health.failure = ''
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self._release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.on_shutdown(state)

    def start(self) -> None:
        """Configure and activate; after a failure the node waits to be configured again."""
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def destroy_node(self) -> None:
        self._stop()
        self._release()
        super().destroy_node()

    def _configure(self) -> None:
        self._pipeline = Pipeline(self.settings, self._shared.networks if self._shared else None)
        self._frames = Frames(self, self.settings)
        self._outputs = Outputs(self, self._pipeline.clouds, self.settings)
        self._health.missing = self._outputs.offers.explain_missing()
        self.get_logger().info(f'configured: {", ".join(self._pipeline.facts().values())}')
        if self._health.missing:
            self.get_logger().info(self._health.missing)

    def _activate(self) -> None:
        assert self._pipeline is not None
        assert self._outputs is not None
        self._pipeline.begin()
        self._outputs.announce(self._pipeline.label_info())
        self._health.begin()
        self._answered_s, self._is_told = 0.0, False
        start_worker = self._shared.turns.join if self._shared else Worker
        self._worker = start_worker(self._label)
        self._input = Input(self, self.receive, self.settings.reliability)
        facts = ', '.join(self._pipeline.facts().values())
        self.get_logger().info(
            f'activated: listens to {self._input.topic}, answers on '
            f'{self.get_fully_qualified_name()}/{{{",".join(self._pipeline.clouds)}}}; {facts}'
        )

    def _fail(self, what: str, error: Exception) -> TransitionCallbackReturn:
        self._health.failure = f'{what}: {explain(error)}'
        self.get_logger().error(f'{self._health.failure}{trace(error)}')
        return FAILURE

    def _stop(self) -> None:
        if self._input:
            self._input.destroy()
        if self._worker:
            self._worker.stop()
        self._input = self._worker = None

    def _release(self) -> None:
        if self._outputs:
            self._outputs.destroy()
        if self._frames:
            self._frames.destroy()
        if self._pipeline:
            self._pipeline.release()
        self._outputs = self._frames = self._pipeline = None

    def _where(self) -> str:
        """The lifecycle's word for the state."""
        if self._input:
            return 'active'
        return 'inactive' if self._pipeline else 'unconfigured'

    # scans

    def receive(self, message: PointCloud2) -> None:
        """On the executor's thread: a malformed cloud must not push a good one out."""
        if self._pipeline is None or self._worker is None:
            return  # taken just before the subscription was destroyed
        self._health.statistics.receive(time.monotonic())
        try:
            self._pipeline.check(message)
        except MalformedCloud as error:
            self._health.drop('malformed', str(error))
            return
        if self._worker.put(message) is not None:
            self._health.drop('queue', 'a newer scan came before its turn: the network is slower')

    def _label(self, message: PointCloud2) -> None:
        """On the worker's thread."""
        try:
            self._answer(message)
        except MalformedCloud as error:
            self._health.drop('malformed', str(error))
        except NoTransform as error:
            self._health.drop('transform', str(error))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._health.drop(
                'GPU memory', f'{message.width * message.height:,} points did not fit the GPU'
            )
        except Exception as error:  # noqa: BLE001 - the worker's thread would end without a word
            self._health.drop('error', f'{explain(error)}{trace(error)}')

    def _answer(self, message: PointCloud2) -> None:
        assert self._pipeline is not None
        assert self._frames is not None
        assert self._outputs is not None
        start_s, settings = time.perf_counter(), self.settings
        age_s = self._age_s(message.header)
        if 0 < settings.max_age_s < age_s:
            self._health.drop('age', f'a scan was {age_s:.2f} s old; see parameter max_age_s')
            return
        wanted = self._outputs.wanted()
        merged = self._merged_cloud()
        if not wanted and not merged:
            self._health.statistics.skip(time.monotonic())
            return
        header, pose = self._frames.place(message.header)
        hints = self._frames.find_hints(message.header)
        labelled = self._pipeline.label(message, settings, pose, hints)
        late = choose_late_topics(wanted, settings)
        self._outputs.send_labels(header, labelled, wanted - late, settings)
        if merged:
            merged.add(self.get_namespace(), header, labelled, settings)
        times = {'pipeline_latency_ms': 1e3 * self._age_s(message.header)}
        if late:
            where = read_stamp(message), self._frames.locate(header)
            scene = self._pipeline.find_scene(labelled, settings, where)
            self._outputs.send_objects(header, labelled, scene, late, settings)
            times['objects_latency_ms'] = 1e3 * self._age_s(message.header)
        times['processing_time/total_ms'] = 1e3 * (time.perf_counter() - start_s)
        self._report(labelled, times, message.header, wanted)

    def _report(
        self, labelled: Labelled, times: dict[str, float], header: Header, wanted: frozenset[str]
    ) -> None:
        assert self._outputs is not None
        now_s, stages = time.monotonic(), labelled.stages_ms
        total_ms = times['processing_time/total_ms']
        postprocess_ms = total_ms - stages['preprocess'] - stages['inference']
        times |= {
            'processing_time/preprocess_ms': stages['preprocess'],
            'processing_time/inference_ms': stages['inference'],
            'processing_time/postprocess_ms': postprocess_ms,
        }
        if 'objects' in stages:
            times['processing_time/objects_ms'] = stages['objects']
        if self._answered_s:
            times['cyclic_time_ms'] = 1e3 * (now_s - self._answered_s)
        self._answered_s = now_s
        self._outputs.send_times(header, times, wanted)
        answer = Answer(
            latency_ms=times['pipeline_latency_ms'],
            total_ms=total_ms,
            points=len(labelled.cloud),
            unlabelled=labelled.unlabelled,
            entropy=labelled.entropy,
        )
        self._health.statistics.answer(answer, now_s)
        if not self._is_told:
            self._is_told = True
            self.get_logger().info(f'first scan labelled: {labelled.description}')

    def _merged_cloud(self) -> MergedCloud | None:
        """That of all sensors, where there is one and somebody listens to it."""
        merged = self._shared.merged if self._shared else None
        return merged if merged and merged.is_wanted() else None

    def _age_s(self, header: Header) -> float:
        """By hand: rclpy's Time refuses stamps before 1970, which drivers without a clock send."""
        stamp = header.stamp
        age_ns = self.get_clock().now().nanoseconds - stamp.sec * 10**9 - stamp.nanosec
        return float(age_ns) * 1e-9

    # timers and parameters

    def _adapt(self) -> None:
        if self._input:
            self._input.adapt()

    def _diagnose(self) -> None:
        self._health.publish(self._pipeline, self._input, self.settings)
        own = (self.get_name(), self.get_namespace())
        if self.get_node_names_and_namespaces().count(own) > 1:
            self._health.warn('name', f'another node is called {self.get_fully_qualified_name()}')

    def _check_changes(self, changes: Sequence[Any]) -> SetParametersResult:
        """Every change is checked with all others in place, or refused with a sentence."""
        try:
            settings = check_changes(self, changes, self._where())
            if self._pipeline:
                self._pipeline.check_classes(settings)
        except LidarKdError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.settings = settings
        return SetParametersResult(successful=True)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        with ros_session(arguments):
            logger = rclpy.logging.get_logger('lidar_kd')
            logging.getLogger('lidar_kd').addHandler(ToRos(logger))
            live()
    except (LidarKdError, ParameterException) as error:
        return Console().fail(ConfigError(explain_refusal(error)))
    return 0


def live() -> None:
    """Until a signal or an error ends it."""
    node = SegmentNode()
    try:
        if node.settings.autostart:
            node.start()
        if rclpy.ok():  # no signal came meanwhile
            rclpy.spin(node)
    finally:
        node.destroy_node()
