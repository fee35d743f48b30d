"""A process that keeps its pace: no search for garbage amid a tick, and real-time priority where that is permitted."""

import contextlib
import gc
import os
from collections.abc import Callable
from pathlib import Path

from rclpy.node import Node

from openvla_ros.timing import steady_timer

COLLECT_S = 1.0


def keep_pace(node: Node, priority: int, is_set_up: Callable[[], bool]) -> None:
    """For a process of one node: garbage is looked for once a second, between two ticks, and only among what is new.

    Args:
        priority: of the SCHED_FIFO schedule, 1 to 99; 0 leaves the process as it is.
        is_set_up: true once everything that stays is there; it is not searched for garbage from then on.
    """
    gc.disable()
    steady_timer(node, COLLECT_S, Collector(is_set_up).collect)
    if priority:
        node.get_logger().info(take_priority(priority))


class Collector:
    """Looks for garbage when it is told to."""

    def __init__(self, is_set_up: Callable[[], bool]) -> None:
        self._is_set_up = is_set_up
        self._frozen = False

    def collect(self) -> None:
        """One search; the first one after everything is set up leaves all that is there out of the later ones."""
        gc.collect()
        if not self._frozen and self._is_set_up():
            self._frozen = True
            gc.freeze()


def take_priority(priority: int) -> str:
    """Asks for SCHED_FIFO, for the threads of the middleware one step below; returns a sentence about what was had."""
    if not hasattr(os, "sched_setscheduler"):
        return "No real-time priority: this system has none."
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return (
            f"No real-time priority ({error.strerror}): on a busy machine commands may come late. To permit it, allow "
            f"rtprio {priority} in /etc/security/limits.conf."
        )
    for thread in Path("/proc/self/task").iterdir():
        if int(thread.name) != os.getpid():
            with contextlib.suppress(OSError):  # it may have ended
                os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(max(priority - 1, 1)))
    return f"Real-time priority {priority} (SCHED_FIFO)."
