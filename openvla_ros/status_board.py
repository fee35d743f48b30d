"""A node's state in words: a topic, diagnostics and the log."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rclpy.node import Node

from openvla_core import errors
from openvla_ros import conversions, network, topics
from openvla_ros.conversions import StatusReport
from openvla_ros.timing import steady_timer
from openvla_ros.topics import State

CODES: dict[type[errors.OpenVLAError], str] = {
    errors.CheckpointError: "CHECKPOINT_REFUSED",
    errors.StatisticsError: "STATISTICS_REFUSED",
    errors.ActionTokenError: "ACT_TOKEN",
    errors.InstructionError: "INSTRUCTION_REFUSED",
    errors.ImageError: "CAM_IMAGE",
    errors.ConventionError: "CONVENTION_REFUSED",
    errors.ActionError: "ACT_REFUSED",
    errors.DeadlineError: "MODEL_LATE",
    errors.ConfigError: "CONFIG_REFUSED",
}

# Ordinary changes, logged as information; every other code is worth a warning.
QUIET_CODES = {"OK", "STARTING", "UNCONFIGURED", "INACTIVE", "READY", "PAUSED", "RECORDING", "COMMITTED", "DISCARDED"}
# The same words are not logged again sooner, as when a slow policy makes the arm hold after every action.
REPEAT_S = 5.0


def error_code(error: errors.OpenVLAError) -> str:
    """The stable status code of an error."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), "ERROR")


class StatusBoard:
    """A node's state in words: logged and published on every change, repeated once a second, and as diagnostics.

    Args:
        measure: called before each publication; returns the fields of StatusReport it has measured
            (instruction, rate_hz, latency_p50_ms, ...).
        details: called once a second; returns further key-value pairs for /diagnostics.
    """

    def __init__(
        self,
        node: Node,
        measure: Callable[[], dict] = dict,
        details: Callable[[], dict[str, str]] = dict,
        period_s: float = 1.0,
    ) -> None:
        self._node = node
        self._measure = measure
        self._details = details
        self._said = RecentWords()
        self._publisher = node.create_publisher(topics.Status, topics.STATUS, topics.LATCHED)
        self._diagnostics = node.create_publisher(topics.DiagnosticArray, topics.DIAGNOSTICS, 10)
        self.report = StatusReport(State.STANDBY, "STARTING", "Starting.")
        self._timer = steady_timer(node, period_s, self.publish)

    def set(self, state: State, code: str, sentence: str) -> None:
        """States what is true now. Saying the same thing again does nothing."""
        if (state, code, sentence) == (self.report.state, self.report.code, self.report.sentence):
            return
        self.report = dataclasses.replace(self.report, state=state, code=code, sentence=sentence)
        self._log(state, code, f"{state.name} {code}: {sentence}")
        self.publish()

    def _log(self, state: State, code: str, text: str) -> None:
        latched = state in (State.FAULT, State.ESTOP)
        text = self._said.worth_saying(text, time.monotonic(), always=latched)
        # rclpy ties a log call's severity to its source line, so each severity needs its own line.
        if not text:
            return
        if latched:
            self._node.get_logger().error(text)
        elif state in (State.STANDBY, State.ACTIVE) and code in QUIET_CODES:
            self._node.get_logger().info(text)
        else:
            self._node.get_logger().warning(text)

    def publish(self) -> None:
        """Publishes the present state with fresh measurements."""
        now_ns = self._node.get_clock().now().nanoseconds
        self.report = dataclasses.replace(self.report, stamp_ns=now_ns, **self._measure())
        self._publisher.publish(conversions.status_message(self.report))
        values = {
            "state": self.report.state.name,
            "instruction": self.report.instruction,
            "rate_hz": f"{self.report.rate_hz:.2f}",
            "latency_p50_ms": f"{self.report.latency_p50_ms:.1f}",
            "latency_p95_ms": f"{self.report.latency_p95_ms:.1f}",
            "clip_rate": f"{self.report.clip_rate:.3f}",
            "network": network.describe(),
            **self._details(),
        }
        name = self._node.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(conversions.diagnostics_message(name, self.report, values))


class RecentWords:
    """What was said lately, so that a state that comes and goes fills no log."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, int]] = {}  # text -> when it was said, how often it was kept back since

    def worth_saying(self, text: str, now_s: float, always: bool = False) -> str:
        """The text, with how often it was kept back; empty when it was said less than 5 s ago."""
        said_s, kept_back = self._said.get(text, (float("-inf"), 0))
        if not always and now_s - said_s < REPEAT_S:
            self._said[text] = (said_s, kept_back + 1)
            return ""
        # Sentences may hold numbers: forget the old ones, or there would be more and more.
        self._said = {known: entry for known, entry in self._said.items() if now_s - entry[0] < 2 * REPEAT_S}
        self._said[text] = (now_s, 0)
        return f"{text} ({kept_back} times more in {now_s - said_s:.0f} s)" if kept_back else text


@contextmanager
def report_errors(
    board: StatusBoard, then: Callable[[], None] = lambda: None, state: State = State.HOLD
) -> Iterator[None]:
    """Turns an OpenVLAError into one status and log line and calls `then` (hold the robot). Other errors are bugs."""
    try:
        yield
    except errors.OpenVLAError as error:
        then()
        board.set(state, error_code(error), str(error))
