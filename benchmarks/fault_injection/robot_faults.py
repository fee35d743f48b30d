"""Rows about the robot, its feedback, its controller and the gripper."""

import signal
import time

import numpy as np

from fault_injection.cell import HAS_ROBOT_STATE
from fault_injection.rows import Trial, row
from fault_injection.spy import Disturbed, Timeout
from fault_injection.stream_faults import latched, random_phase, stopped
from openvla_ros.topics import State

LAST_STEP_MM = 0.5  # 0.025 m/s
LATEST_S = 0.03
STILL = 0.001  # m/s: the pretend arm comes ever nearer to its target


@row(
    17,
    fault="no joint angles for the pose (a pose out of reach)",
    expected="IK_FAIL",
    cell="joints",
    repeats=6,
    quick=1,
)
def no_inverse(cell, i: int) -> Trial:
    """The box reaches further than the arm: it is sent there."""
    way = np.array([(0.05, 0.02, 0.04), (0.05, -0.03, 0.03), (0.04, 0.05, 0.03)][i % 3])
    at_s = time.monotonic()
    deadline_s = at_s + 25.0
    while time.monotonic() < deadline_s:
        cell.spy.order(row=[*way, 0, 0, 0, 1.0], count=5)
        time.sleep(0.4)
        codes = [r.code for t, r in list(cell.spy.reports) if t > at_s]
        if "IK_FAIL" in codes:
            time.sleep(0.5)
            return Trial("IK_FAIL", note=f"then {cell.spy.report.state.name}")
    return Trial(cell.spy.report.code, ok=False)


@row(
    35,
    fault="the controller is killed; it comes back in standby",
    expected="STOPPED BACKEND_MULTI",
    cell="robot",
    repeats=10,
    quick=1,
)
def controller_killed(cell, i: int) -> Trial:
    random_phase()
    cell.processes.kill("controller")
    time.sleep(0.3)
    still_s = time.monotonic()
    cell.spy.until(lambda: cell.spy.speed(0.1, measured=True) < STILL, 2.0, "the robot stands still")
    still_s = 0.3 + time.monotonic() - still_s
    cell.spy.catch_up()
    cell.spy.reports.clear()
    last_s = cell.spy.commands[-1][0]
    cell.start_controller()
    cell.spy.until(lambda: cell.spy.report and cell.spy.report.code != "STARTING", 30.0, "the controller's word")
    time.sleep(1.0)  # good actions come all the time
    report = cell.spy.report
    quiet = cell.spy.commands[-1][0] == last_s
    begun_s = time.monotonic()
    cell.recover(60.0)
    return Trial(
        report.code, ok=quiet and report.state == State.STANDBY,
        note=f"robot still after {still_s:.1f} s, {'nothing' if quiet else 'SOMETHING'} sent before start; started "
        f"{time.monotonic() - begun_s:.0f} s later",
    )  # fmt: skip


@row(
    36,
    fault="the controller is stopped for 2 s (SIGSTOP)",
    expected="TICK_LATE ACTION_STALE CLOCK_JUMP POSE_STALE ROBOT_STATE_STALE",
    cell="robot",
    repeats=10,
    quick=1,
)
def controller_stopped(cell, i: int) -> Trial:
    random_phase()
    cell.processes.signal("controller", signal.SIGSTOP)
    time.sleep(2.0)
    still = cell.spy.speed(0.3, measured=True) < STILL
    at_s = cell.processes.signal("controller", signal.SIGCONT)
    trial = stopped(cell, at_s)
    trial.hold_s = None
    trial.ok = still
    return trial


@row(37, fault="no robot at the start; activation by lifecycle", expected="REFUSED", cell="", repeats=6, quick=2)
def robot_absent(cell, i: int) -> Trial:
    """Asked to activate once it knows that nobody is there; or at once, and then to start."""
    from fault_injection.cell import UnheardCell

    absent = UnheardCell()
    try:
        absent.start_controller("-p", "autostart:=false")
        assert absent.lifecycle(1, 30.0), "not configured"
        begun_s = time.monotonic()
        if i % 2:
            assert absent.lifecycle(3, 10.0), "not activated"
        missing = ("BACKEND_ABSENT", "ROBOT_STATE_STALE")
        absent.spy.until(
            lambda: absent.spy.report is not None and absent.spy.report.code in missing, 20.0, "the robot is missed"
        )
        time.sleep(0.5)  # just after it was configured a robot that is still starting is no reason to refuse
        done = absent.spy.trigger("start")[0] if i % 2 else absent.lifecycle(3, 10.0)
        passed_s = time.monotonic() - begun_s
        sentence = absent.spy.report.sentence
        named = ("target_pose" in sentence or "robot_state" in sentence) and not absent.spy.commands
        return Trial("TAKEN" if done else "REFUSED", ok=named and passed_s < 5.0, note=f"{sentence[:60]} ...")
    finally:
        absent.close()


@row(
    38,
    fault="the robot's controller goes away while the arm moves",
    expected="BACKEND_ABSENT",
    cell="unheard",
    repeats=10,
    quick=1,
)
def robot_unlistening(cell, i: int) -> Trial:
    at_s = cell.set_fault("absent")
    trial = stopped(cell, at_s, "BACKEND_ABSENT")
    return latched(cell, trial)


@row(
    38,
    fault="the robot's driver is killed while the arm moves",
    expected="POSE_STALE",
    cell="robot",
    repeats=20,
    quick=1,
    bound_s=0.15,
)
def robot_killed(cell, i: int) -> Trial:
    trial = stopped(cell, cell.processes.kill("robot"))
    cell.start_robot()
    return trial


@row(44, fault="the measured pose falls silent", expected="POSE_STALE", cell="robot", repeats=20, quick=2, bound_s=0.18)
def pose_silent(cell, i: int) -> Trial:
    random_phase()
    return stopped(cell, cell.set_fault("silent"))


@row(
    44,
    fault="the robot's process is stopped (SIGSTOP)",
    expected="POSE_STALE",
    cell="robot",
    repeats=20,
    quick=2,
    bound_s=0.14,
)
def robot_stopped(cell, i: int) -> Trial:
    random_phase()
    at_s = cell.processes.signal("robot", signal.SIGSTOP)
    trial = stopped(cell, at_s)
    cell.processes.signal("robot", signal.SIGCONT)
    return trial


@row(
    44, fault="the measured pose comes 0.3 s late", expected="OK TRACKING POSE_STALE", cell="robot", repeats=20, quick=1
)
def pose_late(cell, i: int) -> Trial:
    at_s = cell.set_fault("late")
    try:
        return Trial(stopped(cell, at_s, timeout_s=1.5).code)
    except Timeout:
        return Trial("OK")


@row(
    45, fault="the measured pose jumps by 0.3 m", expected="POSE_JUMP", cell="robot", repeats=20, quick=2, bound_s=0.30
)
def pose_jump(cell, i: int) -> Trial:
    return latched(cell, stopped(cell, cell.set_fault("teleporting"), "POSE_JUMP"))


@row(46, fault="the measured pose is NaN", expected="POSE_INVALID", cell="robot", repeats=20, quick=2, bound_s=0.15)
def pose_nan(cell, i: int) -> Trial:
    return latched(cell, stopped(cell, cell.set_fault("nan"), "POSE_INVALID"))


@row(
    56,
    fault="the robot stops itself in a reflex and says so",
    expected="ROBOT_REFLEX",
    cell="robot",
    repeats=20 if HAS_ROBOT_STATE else 0,
    quick=2 if HAS_ROBOT_STATE else 0,
    bound_s=0.15,
)
def reflex(cell, i: int) -> Trial:
    return latched(cell, stopped(cell, cell.set_fault("reflex"), "ROBOT_REFLEX"))


@row(
    47,
    fault="the arm is blocked: commands are not followed",
    expected="TRACKING",
    cell="robot",
    repeats=20,
    quick=2,
    bound_s=0.8,
)
def blocked(cell, i: int) -> Trial:
    return stopped(cell, cell.set_fault("blocked"), "TRACKING")


@row(48, fault="the measured pose is in another frame", expected="POSE_STALE", cell="robot", repeats=5, quick=1)
def other_frame(cell, i: int) -> Trial:
    cell.processes.kill("robot")
    cell.processes.kill("controller")
    cell.spy.reports.clear()
    cell.start_robot("-p", "base_frame:=map")
    cell.start_controller("-p", "start_when_active:=true")
    report = cell.spy.until(
        lambda: next((r for _, r in list(cell.spy.reports) if r.code == "POSE_STALE" and "map" in r.sentence), None),
        30.0, "the frame is named",
    )  # fmt: skip
    still = cell.spy.speed(0.2) == 0.0
    cell.processes.kill("robot")
    cell.processes.kill("controller")
    cell.start_robot()
    cell.start_controller()
    cell.recover(60.0)
    return Trial(report.code, ok=still and "map" in report.sentence)


@row(
    43,
    fault="SIGINT or SIGTERM to the controller while the arm moves",
    expected="EXIT_0",
    cell="robot",
    repeats=20,
    quick=2,
)
def terminated(cell, i: int) -> Trial:
    random_phase()
    at_s = cell.processes.signal("controller", (signal.SIGINT, signal.SIGTERM)[i % 2])
    code = cell.processes.wait("controller", 10.0)
    passed_s = time.monotonic() - at_s
    time.sleep(0.3)
    cell.spy.catch_up()
    if cell.spy.lag_s() > LATEST_S:
        raise Disturbed("what was sent last may have been lost on its way to a spy that was not scheduled")
    last = [pose.position for _, _, pose in list(cell.spy.commands)[-6:]]
    moving = [k for k, (a, b) in enumerate(zip(last, last[1:], strict=False)) if (a != b).any()]
    holds = len(last) - 1 - max(moving, default=-1)
    last_mm = 1e3 * float(np.linalg.norm(last[-1] - last[-2]))
    # Three are sent; what is under way when a process ends may be lost. No robot is left with speed.
    quiet = "Traceback" not in cell.processes.log("controller")
    return Trial(
        f"EXIT_{code}", ok=(holds >= 2 or last_mm < LAST_STEP_MM) and passed_s < 2.0 and quiet,
        note="the last three commands heard are one pose" if holds >= 3
        else f"of the last three commands, which are one pose, {holds} were heard; the last step was {last_mm:.2f} mm",
    )  # fmt: skip


@row(39, fault="the gripper rejects, aborts, hangs", expected="GRIPPER_FAULT", cell="gripper", repeats=6, quick=1)
def gripper_fault(cell, i: int) -> Trial:
    at_s = cell.set_gripper_fault(("rejecting", "blocked", "silent")[i % 3])
    closes = i % 2 == 0
    stopped_at = None
    deadline_s = at_s + 15.0
    while time.monotonic() < deadline_s and stopped_at is None:
        x = cell.spy.commands[-1][2].position[0]
        cell.spy.order(row=[0.01 if x < 0.5 else -0.01, 0, 0, 0, 0, 0, 0.0 if closes else 1.0], count=12)
        time.sleep(0.6)
        stopped_at = next((t for t, r in list(cell.spy.reports) if t > at_s and r.code == "GRIPPER_FAULT"), None)
        if stopped_at is None and time.monotonic() - at_s > 3.0:
            closes = not closes
            at_s = time.monotonic()
    moved = cell.spy.commands[-1][0] > at_s
    cell.set_gripper_fault("")
    return Trial("GRIPPER_FAULT" if stopped_at else "NONE", ok=moved, note="arm commands go on all the time")


@row(40, fault="the gripper is told to toggle with every action", expected="OK", cell="sim", repeats=6, quick=1)
def gripper_chatter(cell, i: int) -> Trial:
    before, begun_s = len(cell.spy.grippers), time.monotonic()
    for step in range(30):
        x = cell.spy.commands[-1][2].position[0]
        held = step // (i + 1) % 2  # toggles after 1, 2 or 3 equal wishes
        cell.spy.order(row=[0.02 if x < 0.5 else -0.02, 0, 0, 0, 0, 0, float(held)], count=2)
        time.sleep(0.1)
    toggles = len(cell.spy.grippers) - before
    return Trial(
        cell.spy.report.code,
        ok=toggles <= (time.monotonic() - begun_s) / 0.3 + 1,
        note=f"{toggles} toggles in 3 s for {30 // (i + 1)} asked",
    )
