"""How fast the arm is stopped, and how far it goes meanwhile.

    python benchmarks/stop_times.py [--events 300] [--kills 30] [--presses 1000] [--node-presses 100]

1. The policy process is stopped (SIGSTOP) or killed at random moments while the arm moves at full speed: time to the
   first report of a hold, and what the arm was still commanded to travel. Bound: T_a + 30 ms at the 99 % quantile.
   Every event is in one of the counts: `n` of the times, `held_before_the_stop`, `not_noticed`.
2. The emergency stop of the supervisor, in this process, pressed at random moments between two ticks of a 50 Hz loop:
   time until the first command of the stop, then to standstill. Bound: 20 ms at the 99 % quantile.
3. The same through the real controller node, in this process: from publishing the press to the backend's command.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

TICK_S = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300, help="stops of the policy process")
    parser.add_argument("--kills", type=int, default=30, help="of these, how many by SIGKILL")
    parser.add_argument("--presses", type=int, default=1000, help="emergency stops in this process")
    parser.add_argument("--node-presses", type=int, default=100, help="the same through the controller node")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    from fault_injection import running

    from openvla_ros import pace

    print(pace.take_priority(20))  # as the controller's own process does
    result = {**running.machine(), "estop": estop(arguments.presses)}
    give_priority_back()
    print_part("e-stop, in process", result["estop"], 20.0)
    if arguments.node_presses:
        result["estop_node"] = estop_node(arguments.node_presses)
        print_part("e-stop, controller node in process", result["estop_node"], 20.0)
    if arguments.events:
        result["silence"] = silence(arguments.events, arguments.kills)
        print_part("policy falls silent, T_a 150 ms, processes", result["silence"], 180.0)
    result["machine"]["load_after"] = os.getloadavg()
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def print_part(title: str, part: dict, bound_ms: float) -> None:
    """One part of the result as text."""
    print(f"{title} (bound {bound_ms:g} ms at 99 %, load {part['load'][0]:.1f} to {part['load'][1]:.1f})")
    for name, value in part.items():
        if isinstance(value, dict):
            print("  " + f"{name}: " + ", ".join(f"{key} {number:g}" for key, number in value.items()))
        elif name != "load":
            print(f"  {name}: {value}")


def spread(values: list[float], scale: float = 1e3) -> dict:
    """Count, median, 99 % quantile and maximum, scaled."""
    array = np.array(values) * scale
    figures = (np.median(array), np.percentile(array, 99), array.max())
    return {"n": len(array), **{k: round(float(v), 2) for k, v in zip(("median", "p99", "max"), figures, strict=True)}}


def estop(presses: int) -> dict:
    """Emergency stops at random moments of a 50 Hz loop on a clock of its own, plus the time the computing takes."""
    sys.path.insert(0, str(ROOT / "test" / "core"))
    from supervisor_bench import Bench

    from openvla_core.conventions import load_convention
    from openvla_core.supervisor import State, SupervisorSettings

    card = load_convention(ROOT / "config" / "conventions" / "metres_rotation_vector.yaml")
    bench = Bench(card=card, limits=SupervisorSettings(tool_link="fr3_hand_tcp"))
    random = np.random.default_rng(0)
    load = [os.getloadavg()[0]]
    first, standstill, travel, speeds = [], [], [], []
    for press in range(presses):
        toward = 1.0 if bench.arm.position[0] < 0.5 else -1.0
        for _ in range(int(random.integers(8, 14))):
            bench.act((0.025 * toward, 0, 0, 0, 0, 0, 1.0), convention=card.name, rate_hz=10.0)
            bench.run(0.1)
        bench.run(TICK_S * int(random.integers(0, 5)))
        speed = float(np.linalg.norm(bench.sent[-1].safe.velocity))
        phase_s = float(random.uniform(0.0005, TICK_S))
        bench.now_s += phase_s
        bench.supervisor.on_clock(bench.ros_ns, bench.now_s)
        where = bench.arm.position
        begun_s = time.perf_counter()
        bench.supervisor.estop.on_topic(True, bench.now_s)
        bench.sent.append(bench.supervisor.tick(bench.now_s))  # as the node does: at once, not with the next tick
        first.append(time.perf_counter() - begun_s)
        assert bench.verdict.state == State.ESTOP, press
        bench.arm = bench.sent[-1].safe.pose
        ticks = 0
        while bench.sent[-1].safe.velocity.any() or bench.sent[-1].safe.angular_velocity.any():
            bench.run(TICK_S)
            ticks += 1
        standstill.append(ticks * TICK_S)
        travel.append(float(np.linalg.norm(bench.arm.position - where)))
        speeds.append(speed)
        bench.supervisor.estop.on_topic(False, bench.now_s)
        bench.run(0.1)
        assert bench.verdict.state == State.ESTOP and not bench.supervisor.start(bench.now_s)[0], (
            "released is not enough"
        )
        assert bench.supervisor.reset(bench.now_s)[0] and bench.supervisor.start(bench.now_s)[0]
        bench.run(0.1)
    return {
        "first_command_ms": spread(first),
        "standstill_ms": spread(standstill),
        "travel_mm": spread(travel),
        "speed_before_mm_s": spread(speeds),
        "latched": f"{presses} of {presses}",
        "load": [*load, os.getloadavg()[0]],
    }


def estop_node(presses: int) -> dict:
    """Emergency stops of the real controller node, spun in this process like a process of its own."""
    sys.path.insert(0, str(ROOT / "test" / "ros"))
    import rclpy
    from controller_bench import HOME, Bench
    from fault_injection import running

    from openvla_ros import pace

    running.enter_private_domain()
    random = np.random.default_rng(1)
    print(pace.take_priority(20))  # as the node's own process does
    bench, load, first, standstill = Bench(), [os.getloadavg()[0]], [], []
    braking: list[float] = []
    try:
        bench.ready()
        send, pressed_s = bench.controller.backend.send, [0.0]

        def sent(safe, stamp_ns: int) -> None:
            if pressed_s[0] and bench.controller.supervisor.estop.verdict(time.monotonic()):
                braking.append(time.perf_counter())
            send(safe, stamp_ns)

        bench.controller.backend.send = sent
        for _ in range(presses):
            toward = 1.0 if bench.arm.position[0] < HOME.position[0] else -1.0
            start_m = bench.arm.position[0]
            while abs(bench.arm.position[0] - start_m) < 0.008:
                bench.act((0.05 * toward, 0, 0, 0, 0, 0, 1.0), age_s=0.02)  # one that comes before a re-base is lost
                until_s = time.monotonic() + 0.1
                while time.monotonic() < until_s:
                    bench.executor.spin_once(timeout_sec=0.01)
            until_s = time.monotonic() + float(random.uniform(0.0, TICK_S))
            while time.monotonic() < until_s:
                bench.executor.spin_once(timeout_sec=0.001)
            braking.clear()
            pressed_s[0] = time.perf_counter()
            bench.press_estop(True)
            bench.until(lambda: braking, "a command of the stop")
            first.append(braking[0] - pressed_s[0])
            bench.until(lambda: bench.controller.supervisor.at_rest, "standstill")
            standstill.append(time.perf_counter() - pressed_s[0])
            pressed_s[0] = 0.0
            bench.press_estop(False)
            bench.until(lambda: bench.call("reset")[0] and bench.call("start")[0], "start again")
            bench.until_code("WAITING")
    finally:
        bench.close()
        rclpy.try_shutdown()
        give_priority_back()  # the processes started next would inherit it
    return {
        "first_command_ms": spread(first),
        "standstill_ms": spread(standstill),
        "load": [*load, os.getloadavg()[0]],
    }


def give_priority_back() -> None:
    """Every thread of this process as it began."""
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


def silence(events: int, kills: int) -> dict:
    """Stops and kills of the stub policy while the real controller drives a pretend robot at 0.25 m/s."""
    import signal

    from fault_injection import running
    from fault_injection.spy import Timeout
    from fault_injection.stream_faults import random_phase
    from rich.progress import track

    running.enter_private_domain()
    cell = running.make_cell("robot")
    load = [os.getloadavg()[0]]
    sent, stamped, after_stop, blind, standstill, lost = [], [], [], [], [], []
    silent = held_before = 0
    codes: Counter[str] = Counter()
    try:
        for event in track(range(events), description="stopping the policy"):
            cell.recover()
            time.sleep(0.15)
            random_phase()
            killed = event >= events - kills
            wall_s = time.time()
            at_s = cell.processes.kill("policy") if killed else cell.processes.signal("policy", signal.SIGSTOP)
            try:
                when_s, report = cell.spy.first_stop(at_s, timeout_s=4.0)
            except Timeout:
                lost.append(event)
                continue
            time.sleep(0.2)
            if not killed:
                cell.processes.signal("policy", signal.SIGCONT)
            if not was_active(cell.spy, wall_s):
                held_before += 1  # its last action was late: the hold came first, and is only repeated once a second
                continue
            codes[f"{report.state.name} {report.code}"] += 1
            sent.append(when_s - at_s)
            stamped.append(report.stamp_ns * 1e-9 - wall_s)
            track_s = [(s - wall_s, pose.position) for _, s, pose in list(cell.spy.commands) if s > wall_s - 0.03]
            if len(track_s) < 3:
                silent += 1  # the stream itself had stopped: the stamp of the hold tells when it went on
                continue
            blind.append(float(np.linalg.norm(track_s[-1][1] - track_s[0][1])))
            at_hold = next((p for s, p in track_s if s >= stamped[-1] - 0.03), track_s[-1][1])
            after_stop.append(float(np.linalg.norm(track_s[-1][1] - at_hold)))
            moving = [s for (s, p), (_, q) in zip(track_s[1:], track_s, strict=False) if (p != q).any()]
            standstill.append(max(moving, default=0.0) - stamped[-1])
        stream = cell.spy.stream
        return {
            "hold_sent_ms": spread(sent),
            "hold_stamped_ms": spread(stamped),
            "standstill_after_hold_ms": spread(standstill),
            "travel_after_hold_mm": spread(after_stop),
            "travel_blind_mm": spread(blind),
            "over_bound": int(sum(value > 0.18 for value in stamped)),
            "not_noticed": len(lost),
            "held_before_the_stop": held_before,
            "stream_stopped_too": silent,
            "events": events,
            "stopped_by": dict(codes),
            "slowest_ms": [round(value * 1e3) for value in sorted(stamped)[-8:]],
            "commands_checked": stream.commands,
            "unsafe": dict(stream.violations),
            "unsafe_examples": stream.examples[:5],
            "late_stamps": stream.late_stamps,
            "load": [*load, os.getloadavg()[0]],
        }
    finally:
        cell.close()


def was_active(spy, wall_s: float) -> bool:
    """Whether the controller was carrying out an action at a moment, by the stamps of its reports."""
    from openvla_ros.topics import State

    before = [report for _, report in list(spy.reports) if report.stamp_ns * 1e-9 <= wall_s]
    return bool(before) and before[-1].state == State.ACTIVE


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
