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

HOME = Pose(np.array([0.45, 0.0, 0.30]), np.array([1.0, 0.0, 0.0, 0.0]))


@row(
    52,
    fault="a second process publishes actions",
    expected="MULTI_PUB SESSION_CHANGED",
    cell="robot",
    repeats=8,
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
    repeats=8,
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


@row(53, fault="12 more participants join at once", expected="OK", cell="robot", repeats=1, quick=0)
def participants(cell, i: int) -> Trial:
    before = len([c for c in list(cell.spy.commands) if c[0] > time.monotonic() - 2.0])
    crowd = flood("participants", "12", cell.namespace)
    begun_s = time.monotonic()
    time.sleep(8.0)
    crowd.terminate()
    crowd.wait(10)
    seen = [(a, r.code) for a, r in list(cell.spy.reports) if a > begun_s]
    times = np.array([s for t, s, _ in list(cell.spy.commands) if t > begun_s])
    gap = float(np.diff(times).max()) * 1e3
    codes = sorted({code for _, code in seen} - {"OK"})
    return Trial(cell.spy.report.code, note=f"longest gap of commands {gap:.0f} ms, rate before {before / 2:.0f} Hz, "
                 f"holds on the way: {', '.join(codes) or 'none'}")  # fmt: skip


@row(54, fault="a flood of poses and e-stop messages", expected="OK", cell="robot", repeats=2, quick=1)
def topic_flood(cell, i: int) -> Trial:
    flooder = flood(("poses", "large")[i % 2], "0", cell.namespace)
    time.sleep(2.0)  # its start
    begun_s = time.monotonic()
    time.sleep(3.0)
    ended_s = time.monotonic()
    flooder.terminate()
    flooder.wait(10)
    rate = len([c for c in list(cell.spy.commands) if begun_s < c[0] < ended_s]) / (ended_s - begun_s)
    codes = sorted({r.code for t, r in list(cell.spy.reports) if begun_s < t < ended_s} - {"OK"})
    return Trial("OK", note=f"{rate:.0f} commands per second during the flood ({('poses', '1 MB')[i % 2]}); "
                 f"holds: {', '.join(codes) or 'none'}")  # fmt: skip


def flood(what: str, count: str, namespace: str) -> subprocess.Popen:
    """A process that makes a nuisance of itself."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "nuisance.py"), what, count, namespace], stdin=subprocess.DEVNULL
    )


@row(41, fault="the CPU is taken: four busy processes for 3 s", expected="OK", cell="robot", repeats=2, quick=1)
def starvation(cell, i: int) -> Trial:
    busy = [multiprocessing.get_context("fork").Process(target=_burn, args=(3.0,)) for _ in range(4)]
    begun_s = time.monotonic()
    for process in busy:
        process.start()
    for process in busy:
        process.join()
    times = np.array([s for t, s, _ in list(cell.spy.commands) if t > begun_s])
    gap = float(np.diff(times).max()) * 1e3
    codes = sorted({r.code for t, r in list(cell.spy.reports) if t > begun_s} - {"OK"})
    cell.recover()
    return Trial(
        cell.spy.report.code, note=f"longest gap of commands {gap:.0f} ms; holds: {', '.join(codes) or 'none'}"
    )


def _burn(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        pass


@row(42, fault="memory and open files over a minute of motion", expected="OK", cell="robot", repeats=1, quick=0)
def leaks(cell, i: int) -> Trial:
    pid = cell.processes.running["controller"].pid
    figures = []
    for _ in range(6):
        figures.append(memory(pid))
        time.sleep(10.0)
    first, last = figures[0], figures[-1]
    grown = last[0] - first[0]
    note = f"controller: {first[0]:.1f} MB to {last[0]:.1f} MB, {first[1]} to {last[1]} open files in 50 s of motion"
    return Trial("OK", ok=grown < 2.0 and last[1] <= first[1], note=note)


@row(
    55,
    fault="every parameter of the running controller: NaN, inf, -1, 0, beyond the cap, wrong type",
    expected="REFUSED",
    cell="robot",
    repeats=1,
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
    return Trial("REFUSED" if not accepted else "ACCEPTED", note=f"{tried} values tried, {len(accepted)} accepted")


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


@row(56, fault="e-stop by service", expected="ESTOP", cell="robot", repeats=10, quick=2, bound_s=0.06)
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
    repeats=8,
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
    repeats=5,
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
    repeats=6,
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
    repeats=5,
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
    repeats=3,
    quick=1,
)
def clock_reset(cell, i: int) -> Trial:
    at_s = cell.reset_clock()
    trial = stopped(cell, at_s)
    trial.hold_s = None
    return trial
