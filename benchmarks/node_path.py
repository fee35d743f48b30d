"""From the camera's stamp to the command, inside the running demo: where the time goes, and at which rate it acts.

    python benchmarks/node_path.py [--seconds 120] [--json benchmarks/results/<date>-node-path.json]

Starts the graph as `openvla demo` does (simulator, policy and controller as processes, without a window), runs
episodes in turn for that long, and reads what policy_node publishes in /diagnostics: median and 95th percentile of
each stretch over the last 10 s, once per 10 s. The table holds the medians of those windows. `photon to command` is
the controller's own, per action: it adds the way to the controller and the wait for its next tick (50 Hz).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

WINDOW_S = 10.0  # of the figures in /diagnostics
NODES = ("sim_node", "controller_node", "policy_node")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long episodes are run")
    parser.add_argument("--seed", type=int, default=3, help="which held-out scenes, colours and phrasings")
    parser.add_argument("--film", action="store_true", help="with the overview camera, as when the demo films")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    from rich.console import Console

    from openvla_core.training.versions import run_facts
    from openvla_ros import demo

    with tempfile.TemporaryDirectory(prefix="node-path-") as folder:
        options = demo.build_parser().parse_args(["--out", folder, "--seed", str(arguments.seed)])
        demo.use_private_graph(None)
        console = Console(highlight=False)
        with demo.graph(options, Path(folder), console, demo.Interruption()) as runner:
            result = run_facts("rclpy") | measure(runner, arguments)
    result["load_after"] = os.getloadavg()
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


class Windows:
    """What policy_node says of itself in /diagnostics, once per window."""

    def __init__(self, runner) -> None:
        from openvla_ros import topics

        self.kept: list[dict[str, float]] = []
        self.last: dict[str, str] = {}
        self._next_s = time.monotonic() + WINDOW_S
        runner.node.create_subscription(topics.DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, 10)

    def _on_diagnostics(self, message) -> None:
        for entry in message.status:
            if entry.name == "policy_node":
                self.last = {pair.key: pair.value for pair in entry.values}
        path = {key: float(value) for key, value in self.last.items() if key.startswith("path_")}
        if path and time.monotonic() >= self._next_s:
            self._next_s += WINDOW_S
            self.kept.append(path)

    def stretches(self) -> dict[str, dict[str, float]]:
        """Median over the windows of each stretch's two figures, milliseconds, in the order of the way."""
        names = [key.removeprefix("path_").removesuffix("_p50_ms") for key in self.kept[0] if key.endswith("_p50_ms")]
        return {
            name: {
                kind: round(float(np.median([window[f"path_{name}_{kind}_ms"] for window in self.kept])), 2)
                for kind in ("p50", "p95")
            }
            for name in names
        }


def measure(runner, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs episodes until the time is over."""
    from openvla_core.evaluation.episodes import plan_episodes
    from openvla_core.evaluation.results import summarize

    plan = iter(plan_episodes(10_000, arguments.seed, ("reach", "pick")))
    windows, rows = Windows(runner), []
    processes = children()
    began_s, cpu_s = time.monotonic(), {name: cpu_seconds(pid) for name, pid in processes.items()}
    while time.monotonic() < began_s + max(arguments.seconds, 1.5 * WINDOW_S):
        rows.append(runner.run(next(plan), "", record=arguments.film)[0])
    passed_s = time.monotonic() - began_s
    summary = summarize(rows)
    return {
        "seconds": round(passed_s, 1),
        "filmed": arguments.film,
        "episodes": summary["episodes"],
        "successes": summary["successes"],
        "policy_hz": summary["policy_hz"],
        "policy_hz_lowest_episode": min(row.policy_hz for row in rows if row.policy_hz),
        "stretches_ms": windows.stretches(),
        "windows": len(windows.kept),
        "photon_to_command_ms": summary["latency_ms"],
        "counts": {key: int(value) for key, value in windows.last.items() if value.isdigit()},
        "cores_used": {name: round((cpu_seconds(pid) - cpu_s[name]) / passed_s, 3) for name, pid in processes.items()},
    }


def children() -> dict[str, int]:
    """Process id of each node that this process has started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue  # it ended meanwhile
        for name in NODES:
            if parent == os.getpid() and f"openvla_ros.{name}".encode() in words:
                found[name] = int(folder.name)
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(result: dict[str, Any]) -> None:
    """The tables."""
    print(f"\n{'stretch':26} p50 ms   p95 ms")
    for name, told in result["stretches_ms"].items():
        print(f"{name if name != 'total' else 'stamp to publication':24}{told['p50']:9.2f}{told['p95']:9.2f}")
    latency = result["photon_to_command_ms"]
    print(f"{'photon to command':24}{latency['p50']:9.2f}{latency['p95']:9.2f}   of {latency['count']} actions")
    print(
        f"\npolicy rate {result['policy_hz']} Hz (lowest episode {result['policy_hz_lowest_episode']}), "
        f"{result['successes']} of {result['episodes']} episodes succeeded in {result['seconds']:.0f} s"
    )
    print("counts of policy_node: " + ", ".join(f"{name} {count}" for name, count in result["counts"].items()))
    print("cores used: " + ", ".join(f"{name} {share:.2f}" for name, share in result["cores_used"].items()))
    print(f"load {result['machine']['load_before'][0]:.1f} to {result['load_after'][0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
