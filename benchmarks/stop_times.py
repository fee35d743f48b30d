"""How fast the arm is stopped, and how far it goes meanwhile.

    python benchmarks/stop_times.py [--events 300] [--kills 5] [--presses 1000]

1. The policy process is stopped (SIGSTOP) or killed at random moments while the arm moves at full speed: time to the
   first report of a hold, and what the arm was still commanded to travel. Bound: T_a + 30 ms at the 99 % quantile.
2. The emergency stop of the supervisor, in this process, at random moments between two ticks of a 50 Hz loop: time
   until the first command of the stop, then to standstill. Bound: 20 ms at the 99 % quantile.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

TICK_S = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300, help="stops of the policy process")
    parser.add_argument("--kills", type=int, default=5, help="of these, how many by SIGKILL")
    parser.add_argument("--presses", type=int, default=1000, help="emergency stops in this process")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    from fault_injection import running

    result = {**running.machine(), "estop": estop(arguments.presses)}
    print_part("e-stop, in process", result["estop"], 20.0)
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
        until_tick_s = float(random.uniform(0.0, TICK_S))
        begun_s = time.perf_counter()
        bench.supervisor.estop.on_topic(True, bench.now_s)
        where = bench.arm.position
        bench.run(TICK_S)
        assert bench.verdict.state == State.ESTOP, press
        first.append(until_tick_s + time.perf_counter() - begun_s)
        ticks = 1
        while bench.sent[-1].safe.velocity.any() or bench.sent[-1].safe.angular_velocity.any():
            bench.run(TICK_S)
            ticks += 1
        standstill.append(until_tick_s + (ticks - 1) * TICK_S)
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


def silence(events: int, kills: int) -> dict:
    """Stops and kills of the stub policy while the real controller drives a pretend robot at 0.25 m/s."""
    import signal

    from fault_injection import running
    from fault_injection.spy import Timeout
    from fault_injection.stream_faults import random_phase
    from rich.progress import track

    from openvla_ros.topics import State

    running.enter_private_domain()
    cell = running.make_cell("robot")
    load = [os.getloadavg()[0]]
    heard, stamped, after_stop, blind, standstill, lost = [], [], [], [], [], []
    silent = held_before = 0
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
            assert report.state == State.HOLD, report
            time.sleep(0.2)
            if not killed:
                cell.processes.signal("policy", signal.SIGCONT)
            if not was_active(cell.spy, wall_s):
                held_before += 1  # its last action was late: the hold came first, and is only repeated once a second
                continue
            heard.append(when_s - at_s)
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
            "hold_heard_ms": spread(heard),
            "hold_stamped_ms": spread(stamped),
            "standstill_after_hold_ms": spread(standstill),
            "travel_after_hold_mm": spread(after_stop),
            "travel_blind_mm": spread(blind),
            "over_bound": int(sum(value > 0.18 for value in stamped)),
            "not_noticed": len(lost),
            "held_before_the_stop": held_before,
            "stream_stopped_too": silent,
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
