"""The scripted expert through the whole chain of limits: safety must not be bought by getting nothing done."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from openvla_core.conventions import load_convention
from openvla_core.sim.expert import expert_action
from openvla_core.sim.tabletop import TabletopSim
from openvla_core.sim.tasks import Judge, Task
from openvla_core.supervisor import Supervisor, SupervisorSettings

CONFIG = Path(__file__).parents[2] / "config"
TICK_S = 0.02
PERIOD_S = 0.2
LATENCY_S = 0.16
LIMIT_S = 12.0


@dataclass(frozen=True)
class Chunk:
    stamp_ns: int
    sequence: int
    actions: np.ndarray
    frame: str = "base"
    session_id: str = "expert"
    instruction: str = "reach"
    convention: str = "sim_tabletop"
    rate_hz: float = 5.0


@pytest.fixture(scope="module")
def settings() -> SupervisorSettings:
    (parameters,) = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())["/**/controller_node"].values()
    known = SupervisorSettings.__dataclass_fields__
    return SupervisorSettings(**{name: value for name, value in parameters.items() if name in known})


@pytest.mark.parametrize("kind", ["reach", "pick"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_expert_succeeds_at_5_hz_with_latency_and_is_never_clipped(settings, kind, seed):
    sim = TabletopSim()
    sim.reset(seed)
    task = Task(kind, "red")
    judge = Judge(task)
    supervisor = Supervisor(settings, load_convention(CONFIG / "conventions" / "sim_tabletop.yaml"))
    supervisor.start(0.0)
    waiting: list[tuple[int, Chunk]] = []
    codes = set()
    for tick in range(round(LIMIT_S / TICK_S)):
        now_s, now_ns = tick * TICK_S, round(tick * TICK_S * 1e9)
        sim.step(TICK_S)
        tool, opening, cubes = sim.tcp_pose(), sim.gripper_opening(), sim.object_positions()
        judge.update(tool.position, opening, cubes, now_s)
        supervisor.on_pose(tool, now_ns, settings.base_frame, now_s)
        if tick % round(PERIOD_S / TICK_S) == 0:
            row = expert_action(task, tool.position, opening, cubes[task.object_name])
            waiting.append((tick + round(LATENCY_S / TICK_S), Chunk(now_ns, tick, row[None])))
        while waiting and waiting[0][0] <= tick:
            supervisor.on_chunk(waiting.pop(0)[1], now_ns, now_s)
        command = supervisor.tick(now_s)
        codes.add(supervisor.verdict(now_s).code)
        if command is not None:
            sim.set_target(command.safe.pose)
            if command.safe.gripper is not None:
                sim.set_gripper(command.safe.gripper)
        if judge.success:
            break
    assert judge.success
    assert supervisor.progress.clip_rate == 0.0 and supervisor.progress.refused_count == 0
    assert codes == {"WAITING", "OK"}
