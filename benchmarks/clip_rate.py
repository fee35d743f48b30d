"""How many ordinary actions the limits change, and how much later they make them.

    python benchmarks/clip_rate.py [--actions 5000]

1. Actions drawn from the statistics of bridge_orig (normal, clipped to its 1 % and 99 % quantiles) at 5 Hz, through the
   supervisor of each robot on a clock of its own: share of actions whose step or goal a limit changed, at most 1 %.
   The arm is led home like a policy would: drawn steps that lead away from the middle of the box change their sign.
2. Time the controller adds from a chunk to the first command of it: the computing, in process, and over DDS.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "test" / "core")]

# bridge_orig of the published checkpoint: metres, radians, 0 closed to 1 open.
Q01 = np.array([-0.028727, -0.041703, -0.026094, -0.080921, -0.092887, -0.207183])
Q99 = np.array([0.028310, 0.040855, 0.040162, 0.081920, 0.077929, 0.203826])
STD = np.array([0.00977, 0.01369, 0.01267, 0.02853, 0.03064, 0.07691])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", type=int, default=5000, help="actions per robot")
    parser.add_argument("--dds", type=int, default=300, help="actions over DDS; 0 for none")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    from fault_injection import running

    result = running.machine()
    for name in ("default", "franka", "widowx"):
        result[name] = clip_rate(name, arguments.actions)
        part = result[name]
        print(
            f"{name}: {part['clip_rate']:.2%} of {part['actions']} actions changed {part['reasons']}; when the next "
            f"comes, the stream lags its goal by {part['lag_mm']['median']} mm (99 %: {part['lag_mm']['p99']} mm); "
            f"ms: chunk to goal {part['chunk_ms']}, tick {part['tick_ms']}"
        )
    if arguments.dds:
        result["dds"] = over_dds(arguments.dds)
        print(f"chunk heard to first command heard, over DDS: {result['dds']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(result[name]["clip_rate"] <= 0.01 for name in ("default", "franka", "widowx")) else 1


def spread(values: list[float], scale: float) -> dict:
    """Median, 99 % quantile and maximum, scaled."""
    array = np.array(values) * scale
    figures = (np.median(array), np.percentile(array, 99), array.max())
    return {k: round(float(v), 3) for k, v in zip(("median", "p99", "max"), figures, strict=True)}


def clip_rate(name: str, count: int) -> dict:
    """Drives the supervisor with drawn actions at 5 Hz."""
    import supervisor_bench
    from fault_injection.cell import limits_of

    from openvla_core.conventions import load_convention
    from openvla_core.supervisor import SupervisorSettings
    from openvla_core.types import Pose

    card = load_convention(ROOT / "config" / "conventions" / "metres_rotation_vector.yaml")
    limits = SupervisorSettings() if name == "default" else limits_of(name)
    card = type(card)(**{**vars(card), "tool_link": limits.tool_link})
    low, high = np.array(limits.workspace_low), np.array(limits.workspace_high)
    middle = (low + high) / 2
    bench = BoxBench(supervisor_bench, card, limits, Pose(middle, np.array([1.0, 0.0, 0.0, 0.0])))
    random = np.random.default_rng(0)
    reasons: Counter[str] = Counter()
    clipped, lags, chunk_s, tick_s = 0, [], [], []
    turned = np.zeros(3)
    for _ in range(count):
        row = np.clip(random.normal(0.0, STD), Q01, Q99)
        # Beyond a third of the way to the border the sign leads back, so that it is the steps that count, not the box.
        away = bench.arm.position - middle
        back = (np.abs(away) > (high - low) / 6) & (np.sign(row[:3]) == np.sign(away))
        row[:3] = np.where(back, -row[:3], row[:3])
        row[3:] = np.where((np.abs(turned) > 0.5) & (np.sign(row[3:]) == np.sign(turned)), -row[3:], row[3:])
        turned += row[3:]
        begun_s = time.perf_counter()
        bench.act((*row, 1.0), convention=card.name, rate_hz=5.0, age_s=0.1)
        chunk_s.append(time.perf_counter() - begun_s)
        progress = bench.supervisor.progress
        accepted = progress._accepted
        assert accepted is not None, bench.verdict
        clipped += bool(accepted.reasons)
        reasons.update(accepted.reasons)
        begun_s = time.perf_counter()
        bench.run(0.2)
        tick_s.append((time.perf_counter() - begun_s) / 10)
        stream = bench.supervisor._stream
        lags.append(float(np.linalg.norm(stream._adapter.last.position - bench.arm.position)))
    return {
        "actions": count,
        "clip_rate": clipped / count,
        "reasons": dict(reasons),
        "lag_mm": spread(lags, 1e3),
        "chunk_ms": spread(chunk_s, 1e3),
        "tick_ms": spread(tick_s, 1e3),
        "load": os.getloadavg()[0],
    }


def BoxBench(module, card, limits, home):
    """A bench whose arm starts in the middle of the box of a robot."""

    class Bench(module.Bench):
        def __init__(self) -> None:
            self._home = home
            super().__init__(card, limits)

        def run(self, seconds: float) -> None:
            if self.sequence < 0 and self.arm is module.HOME:
                self.arm = self._home
            for _ in range(round(seconds / module.TICK)):
                self.now_s += module.TICK
                self.supervisor.on_clock(self.ros_ns, self.now_s)
                self.supervisor.on_pose(self.arm, self.ros_ns, limits.base_frame, self.now_s)
                command = self.supervisor.tick(self.now_s)
                self.sent = [command]
                if command is not None:
                    self.arm = command.safe.pose

    return Bench()


def over_dds(count: int) -> dict:
    """From a chunk to the first command made from it, both as a third process hears them and as they are stamped."""
    from fault_injection import running

    running.enter_private_domain()
    cell = running.make_cell("robot")
    try:
        begun = len(cell.spy.applied)
        load = os.getloadavg()[0]
        cell.spy.until(lambda: len(cell.spy.applied) - begun >= count, count / 8 + 60, "actions")
        chunks = np.array(cell.spy.chunks)
        delays = []
        for at_s, _ in list(cell.spy.applied)[begun:]:
            earlier = chunks[chunks < at_s + 0.001]
            if len(earlier):
                delays.append(at_s - earlier[-1])
        return {"n": len(delays), **spread(delays, 1e3), "tick_ms": 20, "load": load}
    finally:
        cell.close()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
