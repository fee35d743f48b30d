"""Rows about the actions and the process they come from: wrong numbers, silence, stops, restarts."""

import math
import signal
import time

import numpy as np

from fault_injection.rows import Trial, row
from openvla_ros.topics import State

T_A = 0.150  # s, the controller's time-out for a policy at 10 Hz
TICK = 0.020
STOP_BOUND = T_A + 0.030
RANDOM = np.random.default_rng(7)
BAD_NUMBERS = (math.nan, math.inf, -math.inf)


def random_phase() -> None:
    """Waits for up to one period of the policy."""
    time.sleep(float(RANDOM.uniform(0.0, 0.1)))


def stopped(cell, at_s: float, *codes: str, timeout_s: float = 5.0) -> Trial:
    """The first stop (with one of these codes) after a moment, as a Trial."""
    cell.spy.require_motion(at_s)
    when_s, report = cell.spy.first_stop(at_s, codes, timeout_s)
    return Trial(report.code, when_s - at_s)


def latched(cell, trial: Trial) -> Trial:
    """A fault must not clear by itself while good actions go on."""
    time.sleep(0.25)
    trial.ok = trial.ok and cell.spy.report.state == State.FAULT
    return trial


@row(
    11,
    fault="NaN, Inf or 1e308 in one of the seven numbers",
    expected="ACT_NONFINITE ACT_TOO_LARGE",
    cell="robot",
    repeats=28,
    quick=3,
    bound_s=0.05,
)
def not_finite(cell, i: int) -> Trial:
    value = (*BAD_NUMBERS, 1e308)[i // 7 % 4]
    numbers = [0.02, 0, 0, 0, 0, 0, 1.0]
    numbers[i % 7] = value
    at_s = cell.spy.order(row=numbers, count=1)
    if value == 1e308 and i % 7 == 6:  # a gripper beyond its range is clipped, nothing moves by it
        return Trial("ACT_TOO_LARGE")
    return latched(cell, stopped(cell, at_s, "ACT_NONFINITE", "ACT_TOO_LARGE"))


@row(
    13,
    fault="6 or 8 numbers, a dimension of 0 or 3",
    expected="ACT_SHAPE",
    cell="robot",
    repeats=20,
    quick=2,
    bound_s=0.05,
)
def wrong_shape(cell, i: int) -> Trial:
    order = ({"row": [0.02] * 6}, {"row": [0.02] * 8}, {"dim": 0}, {"dim": 3})[i % 4]
    return latched(cell, stopped(cell, cell.spy.order(count=1, **order), "ACT_SHAPE"))


@row(14, fault="targets outside the workspace for 3 s", expected="WORKSPACE", cell="robot", repeats=8, quick=1)
def outside(cell, i: int) -> Trial:
    diagonal = i % 4 == 3
    way = np.array([-1, 1, 1]) / math.sqrt(3) if diagonal else np.eye(3)[i % 4] * (-1) ** (i // 4)
    numbers = [*(0.05 * way), 0, 0, 0, 1.0]
    at_s = cell.spy.order(row=numbers, count=400)
    when_s, report = cell.spy.first_stop(at_s, ("WORKSPACE",), 12.0)
    return Trial(report.code, None, note=f"{'diagonal' if diagonal else 'xyz'[i % 4]} after {when_s - at_s:.1f} s")


@row(
    15, fault="step of 1 to 4 times the limit: shortened", expected="OK ACTION_STALE", cell="robot", repeats=20, quick=1
)
def too_large(cell, i: int) -> Trial:
    # Back and forth, so that it is the length and not the box that limits.
    size = 0.05 * (1.1 + 2.8 * (i % 4) / 3)
    toward = 1.0 if cell.spy.commands[-1][2].position[0] < 0.5 else -1.0
    at_s = cell.spy.order(row=[size * toward, 0, 0, 0, 0, 0, 1.0], count=2)
    reasons = lambda: [a for t, a in list(cell.spy.applied) if t > at_s and a.reasons]  # noqa: E731
    cell.spy.until(reasons, 2.0, "a shortened step")
    applied = reasons()[0]
    return Trial(cell.spy.report.code, ok=float(np.linalg.norm(applied.translation)) <= 0.05 + 1e-9)


@row(
    15,
    fault="step beyond 4 times the limit: refused",
    expected="ACT_TOO_LARGE",
    cell="robot",
    repeats=20,
    quick=1,
    bound_s=0.05,
)
def absurd(cell, i: int) -> Trial:
    size = (0.21, 1.0, 5.0, 100.0)[i % 4]
    numbers = [size, 0, 0, 0, 0, 0, 1.0] if i // 4 % 2 == 0 else [0, 0, 0, 0, 5 * size, 0, 1.0]
    return latched(cell, stopped(cell, cell.spy.order(row=numbers, count=1), "ACT_TOO_LARGE"))


@row(16, fault="turning through +-pi and gimbal poses", expected="OK", cell="robot", repeats=6, quick=1)
def turning(cell, i: int) -> Trial:
    axis = np.zeros(3)
    axis[i % 3] = (-1) ** (i // 3)
    cell.spy.order(row=[0, 0, 0, *(0.1 * axis), 1.0], count=45)
    seen = []
    deadline_s = time.monotonic() + 4.4  # more than pi at 1 rad/s
    while time.monotonic() < deadline_s:
        seen.append(cell.spy.report.code)
        time.sleep(0.05)
    others = sorted(set(seen) - {"OK"})
    return Trial("OK" if not others else others[0])


@row(
    24,
    fault="the action follows another card or frame",
    expected="CONVENTION_MISMATCH FRAME_MISMATCH",
    cell="robot",
    repeats=20,
    quick=2,
)
def other_card(cell, i: int) -> Trial:
    order = ({"convention": "bridge_orig"}, {"frame": "camera"})[i % 2]
    at_s = cell.spy.order(count=50, **order)
    codes = ("CONVENTION_MISMATCH", "FRAME_MISMATCH")
    return stopped(cell, at_s, *codes)


@row(
    30,
    fault="the instruction changes mid-motion",
    expected="NEW_TASK TASK_OVER",
    cell="robot",
    repeats=30,
    quick=5,
    bound_s=0.05,
)
def new_task(cell, i: int) -> Trial:
    random_phase()
    at_s = cell.spy.order(announce=f"another task {i}")
    trial = stopped(cell, at_s, "NEW_TASK", "TASK_OVER")
    # The stub goes on with the old task: nothing of it may be carried out.
    time.sleep(0.2)
    late = [a for t, a in list(cell.spy.applied) if t > at_s + trial.hold_s + 0.005]
    trial.ok = not late and cell.spy.report.code in ("NEW_TASK", "TASK_OVER")
    return trial


@row(
    33,
    fault="the policy is killed (SIGKILL)",
    expected="ACTION_STALE",
    cell="robot",
    repeats=20,
    quick=1,
    bound_s=STOP_BOUND,
)
def policy_killed(cell, i: int) -> Trial:
    random_phase()
    return stopped(cell, cell.processes.kill("policy"))


@row(
    34,
    fault="the policy is stopped for 0.35 s (SIGSTOP)",
    expected="ACTION_STALE",
    cell="robot",
    repeats=60,
    quick=10,
    bound_s=STOP_BOUND,
)
def policy_stopped(cell, i: int) -> Trial:
    random_phase()
    at_s = cell.processes.signal("policy", signal.SIGSTOP)
    trial = stopped(cell, at_s)
    time.sleep(max(at_s + 0.35 - time.monotonic(), 0.0))
    cell.processes.signal("policy", signal.SIGCONT)
    return explained(cell, trial, at_s)


def explained(cell, trial: Trial, at_s: float) -> Trial:
    """Adds what the stream did when a stop came late: the gaps between commands and between measured poses."""
    if trial.hold_s is not None and trial.hold_s > 2 * STOP_BOUND:
        end_s = at_s + trial.hold_s + 0.05
        heard = [t for t, _, _ in list(cell.spy.commands) if at_s - 0.05 < t < end_s]
        stamps = [s for t, s, _ in list(cell.spy.commands) if at_s - 0.05 < t < end_s]
        poses = [t for t, _ in list(cell.spy.measured) if at_s - 0.05 < t < end_s]
        gaps = [1e3 * max(np.diff(times), default=0.0) for times in (heard, stamps, poses)]
        trial.note = (
            "late by {:.0f} ms; longest gaps: commands heard {:.0f}, stamped {:.0f}, poses heard {:.0f} ms".format(
                1e3 * (trial.hold_s - STOP_BOUND), *gaps
            )
        )
    return trial


@row(
    34,
    fault="the policy is stopped for 2 s; what it says then is old",
    expected="ACTION_STALE",
    cell="robot",
    repeats=10,
    quick=1,
    bound_s=STOP_BOUND,
)
def policy_stopped_long(cell, i: int) -> Trial:
    random_phase()
    at_s = cell.processes.signal("policy", signal.SIGSTOP)
    trial = stopped(cell, at_s)
    time.sleep(2.0)
    # Its first chunk after that is of an image of before the stop.
    resumed_s = cell.processes.signal("policy", signal.SIGCONT)
    cell.spy.until(lambda: any(t > resumed_s for t, _ in list(cell.spy.applied)), 5.0, "it goes on")
    first = next(a for t, a in list(cell.spy.applied) if t > resumed_s)
    trial.ok = first.photon_to_command_s < 0.5
    return trial


@row(
    34,
    fault="a burst of 10 actions of an image 0.6 to 5 s old",
    expected="OBS_STALE",
    cell="robot",
    repeats=20,
    quick=2,
)
def old_burst(cell, i: int) -> Trial:
    at_s = cell.spy.order(age_s=0.6 + 0.44 * i, count=50)
    trial = stopped(cell, at_s, "OBS_STALE")
    trial.ok = not [a for t, a in list(cell.spy.applied) if a.photon_to_command_s > 0.53]
    trial.hold_s = None
    return trial


@row(
    51,
    fault="actions doubled, in the wrong order, of a session that is over",
    expected="SEQ_BACKWARDS SESSION_OVER",
    cell="robot",
    repeats=12,
    quick=2,
)
def wrong_order(cell, i: int) -> Trial:
    if i % 3 == 2:
        # A policy that restarts: silence, another session; then the first one speaks again.
        cell.spy.order(silent=True)
        cell.spy.first_stop(time.monotonic() - 0.3, ("ACTION_STALE",), 3.0)
        cell.spy.order(new_session=f"second {i}")
        cell.recover()
        at_s = cell.spy.order(session="x", count=0, silent=True)
        cell.spy.first_stop(at_s, ("ACTION_STALE",), 3.0)
        cell.spy.order(new_session=f"third {i}")
        cell.recover()
        cell.spy.order(silent=True)
        cell.spy.first_stop(at_s, ("ACTION_STALE",), 3.0)
        at_s = cell.spy.order(session=f"second {i}", count=50)
        return Trial(stopped(cell, at_s, "SESSION_OVER").code)
    shift = (-20, -7)[i % 3]
    before = len(cell.spy.applied)
    at_s = cell.spy.order(sequence=shift, count=6)
    trial = stopped(cell, at_s, "SEQ_BACKWARDS")
    trial.hold_s = None
    trial.ok = len([a for t, a in list(cell.spy.applied) if t > at_s + 0.05]) == 0 or len(cell.spy.applied) >= before
    return trial


@row(
    52,
    fault="another session begins to speak amid an action",
    expected="SESSION_CHANGED",
    cell="robot",
    repeats=20,
    quick=2,
    bound_s=0.05,
)
def session_changed(cell, i: int) -> Trial:
    at_s = cell.spy.order(session=f"intruder {i}", count=1)
    return latched(cell, stopped(cell, at_s, "SESSION_CHANGED"))
