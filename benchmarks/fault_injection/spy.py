"""Hears everything that is said in one cell, notes when it came, and lets StreamCheck look at every command."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from fault_injection.stream_check import StreamCheck
from openvla_core.errors import ActionError
from openvla_core.supervisor import SupervisorSettings
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.timing import one_moment
from openvla_ros.topics import State

SHOWN = "controller_node/commanded_pose"  # every command once more, announced when the controller starts
ROGUE = "rogue"  # frame of commands that the harness itself sends as an intruder
# Deeper than what is published with: what the robot hears and a spy that was not scheduled does not is not checked.
DEEP = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
DEEP_LATCHED = QoSProfile(
    depth=2000, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
UNCOUNTED = 2**64 - 1  # the number of a message where the middleware does not count
SILENT_S = 0.6  # who was not heard for so long has nothing more to say
ANSWER_S = 2.0  # an answer that is not there after this long was lost on the way


class Timeout(Exception):
    """Something did not come true in time."""


class Disturbed(Exception):
    """The arm did not move when a fault was injected: the machine was too busy for it."""


class Spy:
    """A node in its own thread. Times are monotonic seconds of this process, comparable across processes on Linux."""

    def __init__(self, namespace: str, limits: SupervisorSettings, command_topic: str, sim_time: bool = False) -> None:
        self.namespace = namespace
        self.stream = StreamCheck(limits)
        self._by_stamp = not sim_time  # the stamps of a clock that jumps tell nothing about speeds
        if sim_time:
            self.stream.stamp_error_s = 0.01
        self.commands: deque[tuple[float, float, Pose]] = deque(maxlen=3000)  # received, stamp, pose
        self.measured: deque[tuple[float, Pose]] = deque(maxlen=3000)
        self.reports: deque[tuple[float, Any]] = deque(maxlen=2000)  # sent, StatusReport of the controller
        self.policy_reports: deque[tuple[float, Any]] = deque(maxlen=2000)
        self.chunks: deque[float] = deque(maxlen=2000)
        self.applied: deque[tuple[float, Any]] = deque(maxlen=2000)
        self.grippers: deque[tuple[float, float]] = deque(maxlen=3000)
        self._newest: dict[str, tuple[float, float]] = {}  # when it was heard (monotonic) and sent (system clock)
        parameters = [Parameter("use_sim_time", value=sim_time)]
        self.node = rclpy.create_node("spy", namespace=namespace, parameter_overrides=parameters)
        listen = self.node.create_subscription
        listen(topics.PoseStamped, command_topic, self._on_command, DEEP)
        listen(topics.PoseStamped, topics.CURRENT_POSE, self._on_measured, DEEP)
        listen(topics.Float64, topics.GRIPPER_COMMAND, self._on_gripper, DEEP)
        if command_topic != SHOWN:
            listen(topics.PoseStamped, SHOWN, self._on_shown, DEEP)
        listen(topics.Status, "controller_node/status", self._on_report, DEEP_LATCHED)
        listen(topics.Status, "policy_node/status", self._on_policy_report, DEEP_LATCHED)
        listen(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, self._on_chunk, DEEP)
        listen(topics.AppliedAction, "controller_node/applied_action", self._on_applied, DEEP)
        self._orders = self.node.create_publisher(topics.String, "stub/order", topics.RECORD)
        self._clients: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while True:
            try:
                return self._executor.spin()
            except ExternalShutdownException:
                return
            except InvalidHandle:  # a row destroyed a publisher between two lines of the executor
                continue

    def close(self) -> None:
        """Leaves the graph."""
        self.stream.finish()
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()

    # What is heard ----------------------------------------------------------------------------------------------

    def _on_command(self, message, info) -> None:
        if conversions.frame_of(message) == ROGUE:
            return
        stamp_s, pose = conversions.stamp_ns(message) * 1e-9, unchecked(message)
        self.commands.append((time.monotonic(), stamp_s, pose))
        self._newest["command"] = (time.monotonic(), info["source_timestamp"] * 1e-9)
        at_s = stamp_s if self._by_stamp else self._sent_s(info)
        self.stream.on_command(at_s, pose, conversions.frame_of(message), number_of(info))

    def _on_shown(self, message, info) -> None:
        if self._by_stamp:
            stamp_s = conversions.stamp_ns(message) * 1e-9
            self.stream.on_shown(stamp_s, unchecked(message), number_of(info))

    def _sent_s(self, info) -> float:
        """When a message was published, in the clock of the stream: that of the stamps, or the monotonic one."""
        return info["source_timestamp"] * 1e-9 if self._by_stamp else _sent_monotonic_s(info)

    def _on_measured(self, message, info) -> None:
        self._newest["measured"] = (time.monotonic(), info["source_timestamp"] * 1e-9)
        try:
            pose = conversions.to_pose(message)
        except ActionError:
            return
        if conversions.frame_of(message) != self.stream.limits.base_frame:
            return
        self.measured.append((time.monotonic(), pose))
        self.stream.on_measured(conversions.stamp_ns(message) * 1e-9 if self._by_stamp else self._sent_s(info), pose)

    def _on_gripper(self, message, info) -> None:
        value = conversions.to_number(message)
        if not self.grippers or self.grippers[-1][1] != value:
            self.grippers.append((time.monotonic(), value))
        self.stream.on_gripper(self._sent_s(info), value, number_of(info))

    def _on_report(self, message, info) -> None:
        report = conversions.to_status(message)
        last = self.reports[-1][1] if self.reports else None
        if last and (report.code, report.state, report.sentence) == (last.code, last.state, last.sentence):
            return
        sent_s = _sent_monotonic_s(info)
        self.reports.append((sent_s, report))
        at_s = report.stamp_ns * 1e-9 if self._by_stamp else sent_s
        self.stream.on_status(at_s, report.state == State.ACTIVE)

    def _on_policy_report(self, message) -> None:
        self.policy_reports.append((time.monotonic(), conversions.to_status(message)))

    def _on_chunk(self, message) -> None:
        self.chunks.append(time.monotonic())

    def _on_applied(self, message) -> None:
        applied = conversions.to_applied(message)
        self.applied.append((time.monotonic(), applied))
        self.stream.on_applied(applied.photon_to_command_s)

    # What is said -----------------------------------------------------------------------------------------------

    def order(self, **order) -> float:
        """Tells the stub policy (or the policy with faults) what to do; returns the time just before."""
        now_s = time.monotonic()
        self._orders.publish(conversions.text_message(json.dumps(order)))
        return now_s

    def call(self, kind, name: str, request=None, timeout_s: float = 20.0, repeat: bool = False):
        """The response of a service; raises Timeout. With `repeat` it is asked again when no answer comes.

        A server that died is still in the graph for a while: the first request after its restart may go there.
        """
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        deadline_s = time.monotonic() + timeout_s
        self.until(client.service_is_ready, timeout_s, f"service {name}")
        while True:
            future = client.call_async(request or kind.Request())
            left_s = deadline_s - time.monotonic()
            try:
                self.until(future.done, min(left_s, ANSWER_S) if repeat else left_s, f"answer of {name}")
                return future.result()
            except Timeout:
                if not repeat or left_s <= ANSWER_S:
                    raise

    def trigger(self, name: str) -> tuple[bool, str]:
        """Calls a service of the controller, such as "start"."""
        return conversions.replied(self.call(topics.Trigger, f"controller_node/{name}"))

    def set_parameter(self, node: str, name: str, value) -> tuple[bool, str]:
        """Sets one parameter of another node."""
        request = topics.SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self.call(topics.SetParameters, f"{node}/set_parameters", request, repeat=True).results[0]
        return result.successful, result.reason

    # Waiting ----------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        """The value of the condition once it is true; raises Timeout."""
        deadline_s = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline_s:
                last = [f"{r.state.name} {r.code}" for _, r in list(self.reports)[-3:]]
                raise Timeout(f"{what}: not within {timeout_s:g} s; the controller said {last}")
            time.sleep(0.002)
        return value

    def lag_s(self) -> float:
        """How late the newest command was heard, seconds."""
        heard_s, sent_s = self._newest["command"]
        return heard_s - sent_s + time.time() - time.monotonic()

    def catch_up(self, timeout_s: float = 10.0) -> None:
        """Returns once everything that was sent until now has been looked at: a busy machine makes the spy late."""
        now_s, deadline_s = time.time(), time.monotonic() + timeout_s

        def is_behind() -> bool:
            newest = list(self._newest.values())
            return any(sent_s < now_s and time.monotonic() - heard_s < SILENT_S for heard_s, sent_s in newest)

        while is_behind() and time.monotonic() < deadline_s:
            time.sleep(0.01)

    @property
    def report(self):
        """The newest word of the controller, or None."""
        return self.reports[-1][1] if self.reports else None

    @property
    def policy_report(self):
        """The newest word of the policy, or None."""
        return self.policy_reports[-1][1] if self.policy_reports else None

    def first_stop(self, after_s: float, codes: tuple[str, ...] = (), timeout_s: float = 5.0) -> tuple[float, Any]:
        """When the first report after a moment that is not ACTIVE (of one of these codes) was sent, and the report."""

        def find():
            for at_s, report in list(self.reports):
                if at_s > after_s and report.state != State.ACTIVE and (not codes or report.code in codes):
                    return at_s, report
            return None

        return self.until(find, timeout_s, f"a stop {' or '.join(codes)}")

    def require_motion(self, at_s: float) -> None:
        """Raises Disturbed when the controller did not follow actions at that moment."""
        before = [report for sent_s, report in list(self.reports) if sent_s <= at_s]
        if before and before[-1].state != State.ACTIVE:
            raise Disturbed(before[-1].code)

    def codes_since(self, after_s: float) -> list[str]:
        """The codes that the controller has reported after a moment."""
        return [report.code for at_s, report in list(self.reports) if at_s > after_s]

    def trace(self, over_s: float = 1.5) -> list[str]:
        """The last commands, measured poses and reports in the order in which they were heard."""
        now_s = time.monotonic()
        lines = [(t, f"command {s:.4f} {p.position.round(5).tolist()}") for t, s, p in list(self.commands)]
        lines += [(t, f"measured {p.position.round(5).tolist()}") for t, p in list(self.measured)]
        lines += [(t, f"state {r.stamp_ns * 1e-9:.4f} {r.state.name} {r.code}") for t, r in list(self.reports)]
        return [f"{t - now_s:.4f} {text}" for t, text in sorted(lines) if t > now_s - over_s]

    def speed(self, over_s: float = 0.2, measured: bool = False) -> float:
        """Mean speed of the commanded (or measured) pose over the last moments, m/s; 0 when nothing came."""
        now_s = time.monotonic()
        track = (
            [(at_s, pose) for at_s, pose in list(self.measured)]
            if measured
            else [(at_s, pose) for at_s, _, pose in list(self.commands)]
        )
        recent = [(at_s, pose.position) for at_s, pose in track if at_s > now_s - over_s]
        if len(recent) < 2:
            return 0.0
        way = sum(float(np.linalg.norm(b - a)) for (_, a), (_, b) in zip(recent, recent[1:], strict=False))
        return way / (recent[-1][0] - recent[0][0])


def _sent_monotonic_s(info) -> float:
    """When a message was published, seconds of time.monotonic(): how late it was heard is not the robot's business."""
    system_ns, steady_s = one_moment(time.time_ns)
    return (info["source_timestamp"] - system_ns) * 1e-9 + steady_s


def number_of(info) -> int | None:
    """The number of a message among those of its publisher, from 1 on; None where the middleware does not count."""
    number = info.get("publication_sequence_number")
    return number if number and number != UNCOUNTED else None


def unchecked(message) -> Pose:
    """The numbers of a message of a pose, whatever they are."""
    position, q = message.pose.position, message.pose.orientation
    return Pose(np.array([position.x, position.y, position.z]), np.array([q.x, q.y, q.z, q.w]))
