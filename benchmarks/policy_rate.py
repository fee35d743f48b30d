"""At which rate should the demo's policy act? The closed loop in simulated time: a busy machine changes nothing.

    python benchmarks/policy_rate.py [--episodes 16] [--rates 7.5 12.5] [--delays quick busy]

Simulator, shipped policy, limits and controller are the real ones, without ROS. The time from a frame to its action is
drawn from a distribution: `quick` and `busy` are what a quiet and a loaded machine with two cores show, `slow` is one
that needs longer than the period. Per rate and delay: successes, actions per second, and the share of the time during
which the arm was held because the next action was overdue.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

STEP_S, TICK_STEPS = 0.004, 5  # physics; every fifth step the cell and the controller have their turn, at 50 Hz
CAMERAS_HZ = {7.5: 15.0, 10.0: 20.0, 12.5: 25.0, 15.0: 30.0, 25.0: 25.0}
DELAYS_S = {"quick": (0.035, 0.060), "busy": (0.050, 0.100), "slow": (0.120, 0.250)}  # median, 95th percentile


@dataclass(frozen=True)
class Chunk:
    """One action, as the controller reads it."""

    stamp_ns: int
    sequence: int
    actions: np.ndarray
    instruction: str
    rate_hz: float
    frame: str = "base"
    session_id: str = "bench"
    convention: str = "sim_tabletop"


@dataclass(frozen=True)
class Ended:
    """How one episode went: whether it succeeded, seconds, actions, and the share of ticks that held an overdue arm."""

    success: bool
    seconds: float
    actions: int
    overdue: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=16, help="per rate and delay, the tasks in turn")
    parser.add_argument("--seed", type=int, default=2, help="which held-out scenes, colours and phrasings")
    parser.add_argument("--rates", type=float, nargs="+", default=list(CAMERAS_HZ), choices=list(CAMERAS_HZ))
    parser.add_argument("--delays", nargs="+", default=list(DELAYS_S), choices=list(DELAYS_S))
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    from openvla_core.sim.rendering import prepare_headless

    prepare_headless()
    import torch

    from openvla_core.evaluation.episodes import plan_episodes
    from openvla_core.policy import load_policy
    from openvla_core.sim.tabletop import TabletopSim
    from openvla_core.training.versions import run_facts

    torch.set_num_threads(1)
    policy = load_policy(ROOT / "checkpoints" / "openvla-tiny-sim")
    sim = TabletopSim()
    plan = plan_episodes(arguments.episodes, arguments.seed, ("reach", "pick"))
    rows = []
    print(f"{'rate':>6} {'camera':>6}  delay  successes  median s  actions/s  overdue")
    for rate_hz in arguments.rates:
        for delay in arguments.delays:
            ended = [episode(sim, policy, planned, rate_hz, delay) for planned in plan]
            rows.append(row(rate_hz, delay, ended))
            told = rows[-1]
            print(
                f"{rate_hz:6g} {CAMERAS_HZ[rate_hz]:6g}  {delay:5}  {told['successes']:3} of {told['episodes']:3}"
                f"{told['median_s']:10.2f}{told['actions_per_s']:11.2f}{100 * told['overdue']:7.1f} %",
                flush=True,
            )
    if arguments.json:
        result = run_facts() | {"seed": arguments.seed, "delays_s": DELAYS_S, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def row(rate_hz: float, delay: str, ended: list[Ended]) -> dict:
    """What the episodes of one rate and delay add up to."""
    seconds = sum(one.seconds for one in ended)
    return {
        "rate_hz": rate_hz,
        "camera_hz": CAMERAS_HZ[rate_hz],
        "delay": delay,
        "episodes": len(ended),
        "successes": sum(one.success for one in ended),
        "median_s": round(float(np.median([one.seconds for one in ended])), 3),
        "actions_per_s": round(sum(one.actions for one in ended) / seconds, 3),
        "overdue": round(sum(one.overdue * one.seconds for one in ended) / seconds, 4),
    }


def episode(sim, policy, planned, rate_hz: float, delay: str) -> Ended:
    """One episode, from the instruction to success or time-out."""
    from openvla_core.sim.tasks import Judge

    sim.reset(planned.scene_seed)
    judge, supervisor = Judge(planned.task), make_supervisor()
    supervisor.start(0.0)
    median_s, p95_s = DELAYS_S[delay]
    spread = math.log(p95_s / median_s) / 1.645
    random = np.random.default_rng([planned.scene_seed, 1])
    frame_due_s, action_due_s, due = 0.0, 0.0, True
    frame, under_way = None, None  # (stamp, picture) that nobody has used; (ready at, chunk)
    sequence = overdue = ticks = 0
    now_s = 0.0
    for step in range(round(planned.timeout_s / STEP_S)):
        now_s, now_ns = step * STEP_S, round(step * STEP_S * 1e9)
        sim.step(STEP_S)
        if now_s >= action_due_s:
            due, action_due_s = True, action_due_s + 1.0 / rate_hz
        if under_way is not None and now_s >= under_way[0]:
            supervisor.on_chunk(under_way[1], now_ns, now_s)
            under_way = None
        if step % TICK_STEPS == 0:
            tool = sim.tcp_pose()
            judge.update(tool.position, sim.gripper_opening(), sim.object_positions(), now_s)
            supervisor.on_pose(tool, now_ns, supervisor.settings.base_frame, now_s)
            if now_s >= frame_due_s - 1e-9:
                frame_due_s, frame = frame_due_s + 1.0 / CAMERAS_HZ[rate_hz], (now_ns, sim.render("policy"))
            command = supervisor.tick(now_s)
            ticks += sequence > 0
            overdue += supervisor.verdict(now_s).code == "ACTION_STALE"
            if command is not None:
                sim.set_target(command.safe.pose)
                if command.safe.gripper is not None:
                    sim.set_gripper(command.safe.gripper)
        if due and under_way is None and frame is not None:
            stamp_ns, picture = frame
            action = policy.predict(picture, planned.instruction).action
            chunk = Chunk(stamp_ns, sequence, action[None], planned.instruction, rate_hz)
            under_way = (now_s + median_s * math.exp(spread * random.standard_normal()), chunk)
            sequence, due, frame = sequence + 1, False, None
        if judge.success:
            break
    return Ended(judge.success, now_s, sequence, overdue / max(ticks, 1))


def make_supervisor():
    """The controller's supervisor with the settings of the simulated arm."""
    import yaml

    from openvla_core.conventions import load_convention
    from openvla_core.supervisor import Supervisor, SupervisorSettings

    files = yaml.safe_load((ROOT / "config" / "robots" / "sim.yaml").read_text(encoding="utf-8"))
    parameters = files["/**/controller_node"]["ros__parameters"]
    known = {name: value for name, value in parameters.items() if name in SupervisorSettings.__dataclass_fields__}
    return Supervisor(
        SupervisorSettings(**known), load_convention(ROOT / "config" / "conventions" / "sim_tabletop.yaml")
    )


if __name__ == "__main__":
    sys.exit(main())
