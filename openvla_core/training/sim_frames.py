"""Makes labelled frames of the tabletop: states drawn at random, and states the expert (or a learner) walks through.

Every frame is labelled for all eight tasks at once, because the expert is memoryless: one image, eight instructions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from openvla_core.errors import ConfigError
from openvla_core.sim.expert import CLOSED_ON_CUBE, expert_action
from openvla_core.sim.scene import CUBE_HALF
from openvla_core.sim.tabletop import TOOL_DOWN, TabletopSim, sample_cube_positions
from openvla_core.sim.tasks import ALL_TASKS, COLORS, Judge, Task
from openvla_core.types import Pose

WORKSPACE = (np.array([0.36, -0.23, 0.03]), np.array([0.66, 0.23, 0.31]))  # tool positions worth seeing, metres
LOWEST_TOOL = CUBE_HALF / 2 + 0.003  # metres; below it the fingertips would enter the table
NOISE_SIGMAS = (0.0, 0.006, 0.015, 0.03)  # metres added to an expert step, one of these per episode
NOISE_WEIGHTS = (0.3, 0.3, 0.25, 0.15)
GRIPPER_FLIP = 0.06  # share of expert steps with the wrong gripper command
TASK_SWITCH = 0.04  # share of expert steps at which the task changes
EPISODE_STEPS = 24
LATENCY_S = 0.06  # image to command in the running system
PERIOD_S = 0.2  # one policy step at 5 Hz
JUDGED_PARTS = 7  # looks the judge takes at one step


@dataclass
class Frames:
    """N labelled frames. points are the two fingertips, then the four cubes; pixels are their image positions."""

    images: np.ndarray  # (N, 112, 112, 3) uint8 RGB
    points: np.ndarray  # (N, 6, 3) float32, metres, base frame
    pixels: np.ndarray  # (N, 6, 2) float32, column and row
    tools: np.ndarray  # (N, 3) float32, metres
    openings: np.ndarray  # (N,) float32, 0 closed to 1 open
    actions: np.ndarray  # (N, 8, 7) float32, the expert's action for each of ALL_TASKS

    def __len__(self) -> int:
        return len(self.images)

    def save(self, path: Path) -> None:
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Frames":
        with np.load(path, allow_pickle=False) as archive:
            return cls(**{field.name: archive[field.name] for field in fields(cls)})

    @classmethod
    def join(cls, parts: list["Frames"]) -> "Frames":
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def observe(sim: TabletopSim) -> Frames:
    """One labelled frame (N = 1) of the simulation as it stands."""
    tool, opening, objects = sim.tcp_pose().position, sim.gripper_opening(), sim.object_positions()
    points = np.concatenate([sim.fingertips(), [objects[f"{color} cube"] for color in COLORS]])
    actions = [expert_action(task, tool, opening, objects[task.object_name]) for task in ALL_TASKS]
    return Frames(
        images=sim.render("policy")[None],
        points=points[None].astype(np.float32),
        pixels=sim.project(points)[None].astype(np.float32),
        tools=tool[None].astype(np.float32),
        openings=np.array([opening], np.float32),
        actions=np.array([actions], np.float32),
    )


def random_states(sim: TabletopSim, count: int, rng: np.random.Generator) -> Iterator[Frames]:
    """Frames of states at rest: anywhere, near a cube, around a cube, and holding one."""
    for kind in rng.choice(4, size=count, p=(0.30, 0.35, 0.17, 0.18)):
        cubes = sample_cube_positions(rng)
        cube = cubes[rng.integers(len(cubes))]
        opening = 1.0 if rng.random() < 0.75 else float(rng.choice([0.0, 0.5, rng.uniform(0, 1)]))
        if kind == 0:
            tool = rng.uniform(*WORKSPACE)
        elif kind == 1:
            tool = cube + np.append(rng.normal(0, 0.02, 2), rng.uniform(0.0, 0.12))
        elif kind == 2:
            opening = float(rng.choice([0.5, 0.5, rng.uniform(0.5, 1), 1.0]))
            play = max(opening - 0.5, 0.0) * 0.03
            tool = cube + [rng.normal(0, 0.006), rng.uniform(-play, play), rng.normal(0, 0.006)]
        else:
            opening = 0.5
            tool = np.array([*rng.uniform(WORKSPACE[0][:2], WORKSPACE[1][:2]), rng.uniform(0.02, 0.26)])
            cube[:] = tool + [rng.normal(0, 0.005), 0.0, rng.normal(0, 0.005)]
            others = np.linalg.norm(cubes[:, :2] - cube[:2], axis=1)
            if tool[2] < 0.09 and np.sort(others)[1] < 0.085:
                tool[2] += 0.09
                cube[2] += 0.09
        tool[2] = max(tool[2], LOWEST_TOOL)
        if kind < 3:
            tool = clear_of_cubes(tool, opening, cubes)
        sim.place(tool, opening, cubes, rng.uniform(-0.15, 0.15, len(cubes)))
        yield observe(sim)


def clear_of_cubes(tool: np.ndarray, opening: float, cubes: np.ndarray) -> np.ndarray:
    """Raises a low tool (3,) until neither finger would stand inside a cube."""
    fingers = tool[1] + np.array([-1, 1]) * (opening * 0.04 + 0.009)
    for cube in cubes:
        beside = np.abs(fingers - cube[1]).min() < 0.028
        if beside and abs(tool[0] - cube[0]) < 0.033 and tool[2] - cube[2] < 0.034:
            return np.array([tool[0], tool[1], cube[2] + 0.034])
    return tool


def advance(sim: TabletopSim, action: np.ndarray, judge: Judge | None = None) -> None:
    """Executes one action as the running system does: measured at the image, applied one latency later."""
    measured = sim.tcp_pose()
    sim.step(LATENCY_S)
    sim.set_target(Pose(measured.position + action[:3], TOOL_DOWN))
    sim.set_gripper(float(action[6] > 0.5))
    for _ in range(JUDGED_PARTS):
        sim.step((PERIOD_S - LATENCY_S) / JUDGED_PARTS)
        if judge is not None:
            judge.update(sim.tcp_pose().position, sim.gripper_opening(), sim.object_positions(), sim.time_s)


def expert_walk(sim: TabletopSim, count: int, rng: np.random.Generator) -> Iterator[Frames]:
    """Frames the expert meets when its steps are disturbed, its gripper slips and its task changes on the way."""
    made = 0
    while made < count:
        sim.reset(int(rng.integers(2**31)))
        task = _random_task(rng)
        sigma = rng.choice(NOISE_SIGMAS, p=NOISE_WEIGHTS)
        for _ in range(min(EPISODE_STEPS, count - made)):
            frame = observe(sim)
            yield frame
            made += 1
            action = frame.actions[0, ALL_TASKS.index(task)].astype(np.float64)
            action[:3] += rng.normal(0, sigma, 3)
            if rng.random() < GRIPPER_FLIP:
                action[6] = 1 - action[6]
            if rng.random() < TASK_SWITCH:
                task = _random_task(rng)
            if _lifted(sim, task) and rng.random() < 0.5:
                break
            advance(sim, keep_above_table(sim, action))


def keep_above_table(sim: TabletopSim, action: np.ndarray) -> np.ndarray:
    """The action, shortened downwards so that the fingertips stay above the table."""
    action = action.copy()
    action[2] = max(action[2], LOWEST_TOOL - sim.tcp_pose().position[2])
    return action


def learner_walk(
    sims: list[TabletopSim],
    count: int,
    rng: np.random.Generator,
    act: Callable[[np.ndarray, list[Task]], np.ndarray],
    expert_share: float = 0.2,
) -> Iterator[Frames]:
    """Frames the learner itself meets (DAgger): `act(images (B, 112, 112, 3), tasks)` gives actions (B, 7).

    A share of the steps is the expert's, so that episodes also get past the places where the learner is stuck.
    """
    tasks, ages = [_random_task(rng) for _ in sims], [0] * len(sims)
    for sim in sims:
        sim.reset(int(rng.integers(2**31)))
    for _ in range(-(-count // len(sims))):
        frames = [observe(sim) for sim in sims]
        yield from frames
        actions = act(np.concatenate([frame.images for frame in frames]), tasks)
        for i, (sim, frame) in enumerate(zip(sims, frames, strict=True)):
            expert = frame.actions[0, ALL_TASKS.index(tasks[i])].astype(np.float64)
            chosen = expert if rng.random() < expert_share else actions[i]
            advance(sim, keep_above_table(sim, chosen))
            ages[i] += 1
            if ages[i] >= EPISODE_STEPS or (_lifted(sim, tasks[i]) and rng.random() < 0.4):
                sim.reset(int(rng.integers(2**31)))
                tasks[i], ages[i] = _random_task(rng), 0
            elif rng.random() < TASK_SWITCH:
                tasks[i] = _random_task(rng)


def _random_task(rng: np.random.Generator) -> Task:
    # Picking is the harder half; it gets two of three episodes.
    kind = "pick" if rng.random() < 0.67 else "reach"
    return Task(kind, COLORS[rng.integers(len(COLORS))])


def _lifted(sim: TabletopSim, task: Task) -> bool:
    return sim.object_positions()[task.object_name][2] > 0.16 and sim.gripper_opening() < CLOSED_ON_CUBE


def make_frames(kind: str, count: int, seed: int) -> Frames:
    """Frames of one kind, `random` or `expert`, from their own simulation. Meant for a worker process."""
    makers = {"random": random_states, "expert": expert_walk}
    if kind not in makers:
        raise ConfigError(f"frames of kind {kind!r} are not known; choose one of {', '.join(makers)}.")
    sim = TabletopSim()
    try:
        return Frames.join(list(makers[kind](sim, count, np.random.default_rng(seed))))
    finally:
        sim.close()
