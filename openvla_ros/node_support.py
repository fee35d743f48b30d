"""What every node shares: running until told to stop, and lifecycle start-up."""

import ctypes
import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from openvla_core import errors
from openvla_ros import preflight
from openvla_ros.status_board import StatusBoard, error_code
from openvla_ros.timing import STEADY, steady_timer
from openvla_ros.topics import State

__all__ = ["EXIT_CONFIG", "EXIT_FAULT", "autostart", "end_with_parent", "run", "steady_timer", "transition"]

# Exit codes of a node process: 0 asked to stop, 1 a bug or a sticky device error, 3 a setting or file to correct.
EXIT_FAULT = 1
EXIT_CONFIG = 3

# Set by bringup.py and launching.py to the id of the process that starts the others.
PARENT_VARIABLE = "OPENVLA_SUPERVISOR_PID"

# Braking takes 0.3 s at most; a launcher waits 5 s before it kills.
WIND_DOWN_S = 1.5


class StopRequest:
    """SIGINT and SIGTERM. The first one counts; the rest are ignored, as a launcher relays what a terminal also sends.

    rclpy's own handlers would end the context at once, and with it the stream that brakes the arm.
    """

    def __init__(self) -> None:
        self.made = False
        self.raises = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def ignore(self) -> None:
        """For the end of the process: Python puts the default handlers back while it ends, but leaves ignored ones."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: object) -> None:
        # Not by setting SIG_IGN: Python reports two signals at once, the second one then as an error of its own.
        first, self.made = not self.made, True
        if first and self.raises:
            raise KeyboardInterrupt


def run(make_node: Callable[[], Node], args: Sequence[str] | None = None, shared_memory: bool = True) -> int:
    """Runs one node until Ctrl-C, SIGTERM, its `done` or a non-zero `exit_code`; returns the process exit code.

    A node may have `hang_s`: a callback that takes longer ends the process, even one that never lets go of Python.
    A node may offer `close()` to stop its threads before it is destroyed, and `wind_down()`, called over and over after
    the signal while its callbacks go on, until it returns True (the arm stands still) or 1.5 s have passed. Its
    `nodes_beside` spin with it; to close them is its business.

    Args:
        shared_memory: whether it may share memory with others, who can then make it wait (network.environment).
    """
    node: Node | None = None
    executor = None
    exit_code = 0
    stop = StopRequest()
    try:
        end_with_parent()
        preflight.enter(args, shared_memory)
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
        node = make_node()
        preflight.verify(node)
        executor = SingleThreadedExecutor()
        for each in (node, *getattr(node, "nodes_beside", ())):
            executor.add_node(each)
        stop.raises = not hasattr(node, "wind_down")
        while not stop.made and rclpy.ok() and not getattr(node, "exit_code", 0) and not getattr(node, "done", False):
            guard_against_hanging(getattr(node, "hang_s", 0.0))
            executor.spin_once(timeout_sec=0.1)
        exit_code = getattr(node, "exit_code", 0)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except errors.OpenVLAError as error:
        rclpy.logging.get_logger("openvla").fatal(str(error))
        exit_code = EXIT_CONFIG
    except Exception:  # noqa: BLE001 - also then an arm in motion is braked first
        if not stop.made:  # a signal in the middle of a call into rclpy comes out as an error of that call
            rclpy.logging.get_logger("openvla").fatal(traceback.format_exc())
            exit_code = EXIT_FAULT
    finally:
        guard_against_hanging(0.0)
        stop.made = True  # from here on a signal must not interrupt the clean-up
        if node is not None and executor is not None:
            _wind_down(node, executor)
        if node is not None:
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        if executor is not None:
            executor.shutdown()
        rclpy.try_shutdown()
        stop.ignore()
    return exit_code


def guard_against_hanging(seconds: float) -> None:
    """Ends the process with a traceback unless called again within so many seconds; 0 for never."""
    if seconds > 0.0:
        faulthandler.dump_traceback_later(seconds, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()


def _wind_down(node: Node, executor: SingleThreadedExecutor) -> None:
    deadline_s = time.monotonic() + WIND_DOWN_S
    while time.monotonic() < deadline_s and rclpy.ok():
        try:
            if getattr(node, "wind_down", lambda: True)():
                return
            executor.spin_once(timeout_sec=0.02)
        except Exception:  # noqa: BLE001 - one broken callback must not keep the others from braking
            node.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)


def end_with_parent() -> None:
    """Asks Linux to end this process when the one that started it dies: nobody would be left to stop the arm."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != int(parent) and not Path(f"/proc/{parent}").exists():  # it died before the line above
        os.kill(os.getpid(), signal.SIGTERM)


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
