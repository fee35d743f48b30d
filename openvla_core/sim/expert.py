"""The scripted expert: a memoryless rule from the true state to the action a demonstrator would take."""

import numpy as np

from openvla_core.sim.tasks import POINT_HEIGHT, REACH_HEIGHT, Task

MAX_STEP = 0.05  # metres per action
CLOSED_ON_CUBE = 0.58  # opening below which fingers around a cube have closed on it (the cube fills 0.5)
LIFT_TO = 0.20  # metres, tool height at the end of a lift
ALIGNED = 0.010  # metres, horizontal error at which the gripper may go all the way down
FUNNEL_SLOPE = 3.5  # height kept per metre of horizontal error beyond ALIGNED
FUNNEL_HEIGHT = 0.09  # metres above the grasp height when far away


def expert_action(task: Task, tool: np.ndarray, opening: float, cube: np.ndarray) -> np.ndarray:
    """The expert's action in this state.

    Args:
        task: what to do.
        tool: measured tool position (3,) metres, base frame.
        opening: measured gripper opening, 0..1.
        cube: centre (3,) of the named cube, metres.

    Returns:
        Action (7,) float64: translation in metres (norm at most 0.05), zero rotation, gripper 0 closed or 1 open.
    """
    if task.kind == "reach":
        step, gripper = cube + [0.0, 0.0, REACH_HEIGHT] - tool, float(opening > CLOSED_ON_CUBE)
    elif task.kind == "point":
        offset = cube + [0.0, 0.0, POINT_HEIGHT] - tool
        step, gripper = offset + [0.0, 0.0, _clearance(offset)], 0.0
    else:
        step, gripper = _pick(tool, opening, cube)
    norm = float(np.linalg.norm(step))
    step = step * min(1.0, MAX_STEP / norm) if norm > 0 else step
    return np.concatenate([step, np.zeros(3), [gripper]])


def _pick(tool: np.ndarray, opening: float, cube: np.ndarray) -> tuple[np.ndarray, float]:
    offset = cube - tool
    sideways = float(np.linalg.norm(offset[:2]))
    around = sideways < 0.018 and abs(offset[2]) < 0.018
    if around and opening < CLOSED_ON_CUBE:
        return np.array([0.0, 0.0, LIFT_TO - tool[2]]), 0.0
    if sideways < 0.012 and abs(offset[2]) < 0.012:
        return offset, 0.0
    return offset + [0.0, 0.0, _clearance(offset)], 1.0


def _clearance(offset: np.ndarray) -> float:
    """Metres to stay above the goal that lies at `offset` (3,): the further to the side, the more."""
    sideways = float(np.linalg.norm(offset[:2]))
    return min(FUNNEL_HEIGHT, FUNNEL_SLOPE * max(0.0, sideways - ALIGNED))
