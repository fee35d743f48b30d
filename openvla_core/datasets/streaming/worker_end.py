"""When the processes that make examples end.

Ctrl-C and a cluster's SIGTERM reach all processes of a group. The one that trains decides when its workers end, since
it may need them for the step that it is in; but when it ends itself, Python sends them SIGTERM and waits for them.
"""

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from types import FrameType


def ending_event() -> Event:
    """An event for `stay`, set when this process begins to end."""
    ending = multiprocessing.get_context("fork").Event()
    Finalize(None, ending.set, exitpriority=100)  # those with a priority are called before children are told to end
    return ending


def stay(ending: Event) -> None:
    """Called in a worker: signals do nothing from now on, until the event is set."""

    def end(number: int, frame: FrameType | None) -> None:
        if ending.is_set():
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
