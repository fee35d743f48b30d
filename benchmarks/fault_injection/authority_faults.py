"""Rows about who may command: intruders, floods, parameters, the emergency stop; and about time and load."""

import math
import multiprocessing
import subprocess
import sys
import time

import numpy as np

from fault_injection.processes import HERE, memory
from fault_injection.rows import Trial, row
from fault_injection.spy import ROGUE
from fault_injection.stream_faults import latched, random_phase, stopped
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.topics import State

LONGEST_GAP_S = 0.25  # of a stream that goes on; the robot's own time-out follows
HOME = Pose(np.array([0.45, 0.0, 0.30]), np.array([1.0, 0.0, 0.0, 0.0]))


@row(
    52,
    fault="a second process publishes actions",
    expected="MULTI_PUB SESSION_CHANGED",
    cell="robot",
    repeats=20,
    quick=2,
    bound_s=0.5,
)
def second_policy(cell, i: int) -> Trial:
    at_s = time.monotonic()
    intruder = cell.spy.node.create_publisher(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, topics.ACTION)
    try:
        return latched(cell, stopped(cell, at_s, "MULTI_PUB", "SESSION_CHANGED", "BACKEND_MULTI"))
    finally:
        cell.spy.node.destroy_publisher(intruder)
        time.sleep(0.2)


@row(
    52,
    fault="a second process commands the robot",
    expected="BACKEND_MULTI",
    cell="robot",
    repeats=20,
    quick=2,
    bound_s=0.5,
)
def second_controller(cell, i: int) -> Trial:
    at_s = time.monotonic()
    intruder = cell.spy.node.create_publisher(topics.PoseStamped, cell.command_topic, topics.COMMAND)
    try:
        intruder.publish(conversions.pose_message(HOME, 0, ROGUE))
        return latched(cell, stopped(cell, at_s, "MULTI_PUB", "SESSION_CHANGED", "BACKEND_MULTI"))
    finally:
        cell.spy.node.destroy_publisher(intruder)
        time.sleep(0.2)


@row(53, fault="12 more participants join at once", expected="OK", cell="robot", repeats=5, quick=1)
def participants(cell, i: int) -> Trial:
    crowd = flood("participants", "12", cell.namespace)
    begun_s = time.monotonic()
    time.sleep(8.0)
    crowd.terminate()
    crowd.wait(10)
    return goes_on(cell, begun_s, "12 participants")


FLOODS = ("instructions", "large", "poses")


@row(54, fault="a flood of instructions, 1 MB messages, poses", expected="OK", cell="robot", repeats=6, quick=3)
def topic_flood(cell, i: int) -> Trial:
    kind = FLOODS[i % 3]
    # The spy drowns in poses as the controller does: where the stream begins meanwhile cannot be told.
    cell.spy.stream.knows_poses = kind != "poses"
    flooder = flood(kind, "0", cell.namespace)
    try:
        time.sleep(2.0)  # its start
        begun_s = time.monotonic()
        time.sleep(3.0)
        trial = goes_on(cell, begun_s, kind)
    finally:
        flooder.terminate()
        flooder.wait(10)
    cell.recover()
    cell.spy.stream.flush()
    cell.spy.stream.knows_poses = True
    return trial


def goes_on(cell, begun_s: float, what: str) -> Trial:
    """Whether the stream of commands went on since a moment, whatever it held for."""
    now_s = time.monotonic()
    stamps = np.array([s for t, s, _ in list(cell.spy.commands) if t > begun_s])
    rate_hz = len(stamps) / (now_s - begun_s)
    gap_s = float(np.diff(stamps).max()) if len(stamps) > 1 else math.inf
    codes = sorted(set(cell.spy.codes_since(begun_s)) - {"OK"})
    return Trial("OK" if gap_s < LONGEST_GAP_S else "GAP", note=f"{what}: {rate_hz:.0f} commands per second, longest "
                 f"gap {gap_s * 1e3:.0f} ms, holds: {', '.join(codes) or 'none'}")  # fmt: skip


def flood(what: str, count: str, namespace: str) -> subprocess.Popen:
    """A process that makes a nuisance of itself."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "nuisance.py"), what, count, namespace], stdin=subprocess.DEVNULL
    )


@row(41, fault="the CPU is taken: four busy processes for 3 s", expected="OK", cell="robot", repeats=5, quick=1)
def starvation(cell, i: int) -> Trial:
    busy = [multiprocessing.get_context("fork").Process(target=_burn, args=(3.0,)) for _ in range(4)]
    begun_s = time.monotonic()
    for process in busy:
        process.start()
    for process in busy:
        process.join()
    return goes_on(cell, begun_s, "4 busy processes")


def _burn(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        pass


@row(42, fault="memory and open files of the controller, 12 s", expected="OK", cell="robot", repeats=5, quick=1)
def leaks(cell, i: int) -> Trial:
    return steady_memory(cell, "controller", 12.0, i)


@row(42, fault="memory and open files of the real policy, 10 s", expected="OK", cell="policy", repeats=5, quick=1)
def policy_leaks(cell, i: int) -> Trial:
    return steady_memory(cell, "policy", 10.0, i)


def steady_memory(cell, name: str, seconds: float, i: int) -> Trial:
    """Memory and open files of a process at both ends of a stretch of ordinary work."""
    pid = cell.processes.running[name].pid
    first = memory(pid)
    time.sleep(seconds)
    last = memory(pid)
    grown_mb, more = last[0] - first[0], last[1] - first[1]
    return Trial("OK" if grown_mb < 1.0 and more <= 0 else "GROWS", note=f"{name}, {seconds:g} s: {grown_mb:+.2f} MB, "
                 f"{more:+d} open files")  # fmt: skip


@row(
    55,
    fault="every parameter of the running controller: NaN, inf, -1, 0, beyond the cap, wrong type",
    expected="REFUSED",
    cell="robot",
    repeats=5,
    quick=1,
)
def parameters(cell, i: int) -> Trial:
    from openvla_ros.controller_settings import ControllerSettings

    accepted, tried = [], 0
    for name, field in ControllerSettings.__dataclass_fields__.items():
        for value in (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e6, -1, "wrong", True, [1.0, 2.0]):
            tried += 1
            done, _ = cell.spy.set_parameter("controller_node", name, value)
            if done:
                accepted.append(f"{name}={value}")
        del field
    return Trial("REFUSED" if not accepted else "ACCEPTED", note=f"{tried} values tried, {len(accepted)} accepted",
                 inputs=tried)  # fmt: skip


@row(
    56,
    57,
    fault="e-stop by topic; released; started without reset, then with it",
    expected="ESTOP",
    cell="robot",
    repeats=40,
    quick=5,
    bound_s=0.04,
)
def estop_topic(cell, i: int) -> Trial:
    stop = estop_publisher(cell)
    random_phase()
    at_s = time.monotonic()
    stop.publish(topics.Bool(data=True))
    trial = stopped(cell, at_s, "ESTOP")
    stop.publish(topics.Bool(data=False))
    time.sleep(0.25)
    refused = not cell.spy.trigger("start")[0]
    stays = cell.spy.report.state == State.ESTOP
    done = cell.spy.until(lambda: cell.spy.trigger("reset")[0], 3.0, "reset")
    standby = cell.spy.report.state in (State.STANDBY, State.ESTOP)
    trial.ok = refused and stays and done and standby
    return trial


@row(56, fault="e-stop by service", expected="ESTOP", cell="robot", repeats=20, quick=2, bound_s=0.06)
def estop_service(cell, i: int) -> Trial:
    random_phase()
    at_s = time.monotonic()
    cell.spy.call(topics.SetBool, "controller_node/estop", topics.SetBool.Request(data=True))
    return stopped(cell, at_s)


@row(
    58,
    fault="the only source of the e-stop leaves the graph",
    expected="ESTOP_LOST",
    cell="robot",
    repeats=20,
    quick=2,
    bound_s=0.5,
)
def estop_lost(cell, i: int) -> Trial:
    stop = estop_publisher(cell)
    stop.publish(topics.Bool(data=False))
    time.sleep(0.4)  # the controller looks at the graph ten times a second
    at_s = time.monotonic()
    cell.spy.node.destroy_publisher(stop)
    cell.estop = None
    return stopped(cell, at_s)


@row(
    58,
    fault="a required e-stop source falls silent",
    expected="ESTOP_LOST",
    cell="estop",
    repeats=20,
    quick=1,
    bound_s=0.56,
)
def estop_silent(cell, i: int) -> Trial:
    at_s = cell.silence_estop()
    trial = stopped(cell, at_s, "ESTOP_LOST")
    cell.beat()
    return trial


def estop_publisher(cell):
    """The one e-stop button of a cell, heard by the controller."""
    if getattr(cell, "estop", None) is None:
        cell.estop = cell.spy.node.create_publisher(topics.Bool, topics.ESTOP, topics.RECORD)
        # The controller listens twice: with RECORD and with LATCHED.
        cell.spy.until(lambda: cell.estop.get_subscription_count() >= 1, 5.0, "the controller hears the e-stop")
        time.sleep(0.15)
    return cell.estop


@row(
    49,
    fault="the clock jumps by -60 s, +60 s, +1 h",
    expected="CLOCK_JUMP POSE_STALE OBS_STALE OBS_FUTURE ACTION_STALE",
    cell="simtime",
    repeats=20,
    quick=2,
)
def clock_jump(cell, i: int) -> Trial:
    at_s = cell.jump((-60.0, 60.0, 3600.0)[i % 3])
    trial = stopped(cell, at_s)
    trial.hold_s = None
    return trial


@row(
    50,
    fault="the clock of the simulation freezes",
    expected="POSE_STALE CLOCK_JUMP",
    cell="simtime",
    repeats=20,
    quick=1,
    bound_s=0.3,
)
def clock_frozen(cell, i: int) -> Trial:
    random_phase()
    at_s = cell.freeze()
    trial = stopped(cell, at_s)
    time.sleep(0.3)
    return trial


@row(
    50,
    fault="the simulation is reset: its clock starts at 0",
    expected="CLOCK_JUMP POSE_STALE OBS_FUTURE",
    cell="simtime",
    repeats=20,
    quick=1,
)
def clock_reset(cell, i: int) -> Trial:
    at_s = cell.reset_clock()
    trial = stopped(cell, at_s)
    trial.hold_s = None
    return trial
