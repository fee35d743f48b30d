"""What every node shares: running until told to stop, status in words, measured rates, lifecycle start-up."""

import ctypes
import dataclasses
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node

from openvla_core import errors
from openvla_ros import conversions, topics
from openvla_ros.conversions import StatusReport
from openvla_ros.topics import State

# Watchdogs and heartbeats must not stop or jump with the wall clock.
STEADY = Clock(clock_type=ClockType.STEADY_TIME)

# Exit codes of a node process: 0 asked to stop, 1 a bug or a sticky device error, 3 a setting or file to correct.
EXIT_FAULT = 1
EXIT_CONFIG = 3

# Set by the supervisor of bringup.py to its own process id.
PARENT_VARIABLE = "OPENVLA_SUPERVISOR_PID"

CODES: dict[type[errors.OpenVLAError], str] = {
    errors.CheckpointError: "CHECKPOINT_REFUSED",
    errors.StatisticsError: "STATISTICS_REFUSED",
    errors.ActionTokenError: "ACT_TOKEN",
    errors.InstructionError: "INSTRUCTION_REFUSED",
    errors.ImageError: "CAM_IMAGE",
    errors.ConventionError: "CONVENTION_REFUSED",
    errors.ActionError: "ACT_REFUSED",
    errors.ConfigError: "CONFIG_REFUSED",
}


# Ordinary changes, logged as information; every other code is worth a warning.
QUIET_CODES = {"OK", "STARTING", "UNCONFIGURED", "INACTIVE", "READY", "PAUSED"}


def error_code(error: errors.OpenVLAError) -> str:
    """The stable status code of an error."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), "ERROR")


def run(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Runs one node until Ctrl-C, SIGTERM, its `done` or a non-zero `exit_code`; returns the process exit code.

    A node may offer `close()` to stop its threads before it is destroyed.
    """
    node: Node | None = None
    executor = None
    exit_code = 0
    try:
        end_with_parent()
        rclpy.init(args=None if args is None else list(args))
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        # An idle spin() can lose SIGTERM; coming back every 0.1 s cannot.
        while rclpy.ok() and not getattr(node, "exit_code", 0) and not getattr(node, "done", False):
            executor.spin_once(timeout_sec=0.1)
        exit_code = getattr(node, "exit_code", 0)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except errors.OpenVLAError as error:
        rclpy.logging.get_logger("openvla").fatal(str(error))
        exit_code = EXIT_CONFIG
    except Exception:
        # SIGTERM ends the context at once, also in the middle of a callback that is about to publish.
        if rclpy.ok():
            raise
    finally:
        # Ctrl-C reaches the process group and the launcher relays it: the second one must not land in the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if node is not None:
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        if executor is not None:
            executor.shutdown()
        rclpy.try_shutdown()
    return exit_code


def end_with_parent() -> None:
    """Asks Linux to end this process when its supervisor dies: nobody would be left to stop the arm."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before the line above
        os.kill(os.getpid(), signal.SIGTERM)


def steady_timer(node: Node, period_s: float, callback: Callable[[], None]):
    """A timer that keeps its pace when the wall clock or simulated time jumps."""
    return node.create_timer(period_s, callback, clock=STEADY)


class RateWindow:
    """Rate and latency over the last seconds. Times are seconds of time.monotonic()."""

    def __init__(self, span_s: float = 10.0) -> None:
        self._span_s = span_s
        self._entries: deque[tuple[float, float]] = deque(maxlen=4096)

    def add(self, latency_s: float = 0.0, now_s: float | None = None) -> None:
        """Notes one event and how long it took."""
        self._entries.append((time.monotonic() if now_s is None else now_s, latency_s))

    def clear(self) -> None:
        """Forgets every event."""
        self._entries.clear()

    def rate_hz(self, now_s: float | None = None) -> float:
        """Events per second; 0 with fewer than two events in the window."""
        self._forget(now_s)
        if len(self._entries) < 2:
            return 0.0
        elapsed = self._entries[-1][0] - self._entries[0][0]
        return (len(self._entries) - 1) / elapsed if elapsed > 0 else 0.0

    def percentile_ms(self, percent: float, now_s: float | None = None) -> float:
        """The latency that `percent` of the events did not exceed, milliseconds; 0 without events."""
        self._forget(now_s)
        if not self._entries:
            return 0.0
        return float(np.percentile([latency for _, latency in self._entries], percent)) * 1000.0

    def _forget(self, now_s: float | None) -> None:
        oldest = (time.monotonic() if now_s is None else now_s) - self._span_s
        while self._entries and self._entries[0][0] < oldest:
            self._entries.popleft()


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
        self._publisher = node.create_publisher(topics.Status, topics.STATUS, topics.LATCHED)
        self._diagnostics = node.create_publisher(topics.DiagnosticArray, topics.DIAGNOSTICS, 10)
        self.report = StatusReport(State.STANDBY, "STARTING", "Starting.")
        self._timer = steady_timer(node, period_s, self.publish)

    def set(self, state: State, code: str, sentence: str) -> None:
        """States what is true now. Saying the same thing again does nothing."""
        if (state, code, sentence) == (self.report.state, self.report.code, self.report.sentence):
            return
        self.report = dataclasses.replace(self.report, state=state, code=code, sentence=sentence)
        # rclpy ties a log call's severity to its source line, so each severity needs its own line.
        text = f"{state.name} {code}: {sentence}"
        if state in (State.FAULT, State.ESTOP):
            self._node.get_logger().error(text)
        elif state in (State.STANDBY, State.ACTIVE) and code in QUIET_CODES:
            self._node.get_logger().info(text)
        else:
            self._node.get_logger().warning(text)
        self.publish()

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
            **self._details(),
        }
        name = self._node.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(conversions.diagnostics_message(name, self.report, values))


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


def transition(node: LifecycleNode, board: StatusBoard, step: Callable[[], None]) -> TransitionCallbackReturn:
    """Runs one lifecycle step and says why when it fails: rclpy itself would swallow the exception.

    An OpenVLAError refuses the transition (FAILURE: the node stays where it was); anything else is a fault (ERROR).
    """
    try:
        step()
    except errors.OpenVLAError as error:
        board.set(State.FAULT, error_code(error), str(error))
        return TransitionCallbackReturn.FAILURE
    except Exception:  # noqa: BLE001 - logged with its traceback, and the node goes to its error state
        node.get_logger().error(traceback.format_exc())
        board.set(State.FAULT, "FAULT", "An unexpected error; see the log of this node.")
        return TransitionCallbackReturn.ERROR
    return TransitionCallbackReturn.SUCCESS


def autostart(node: LifecycleNode) -> None:
    """Configures and activates the node by itself, once it spins; ends the process when that fails.

    Sets `node.exit_code` to EXIT_CONFIG when the transition was refused and to EXIT_FAULT after an unexpected error.
    """

    def start() -> None:
        node.destroy_timer(timer)
        for step in (node.trigger_configure, node.trigger_activate):
            result = step()
            if result != TransitionCallbackReturn.SUCCESS:
                refused = result == TransitionCallbackReturn.FAILURE
                node.exit_code = EXIT_CONFIG if refused else EXIT_FAULT  # type: ignore[attr-defined]
                return

    timer = node.create_timer(0.0, start, clock=STEADY)
