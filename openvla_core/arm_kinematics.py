"""Joint angles to tool pose and back, for the arms in arm_chains.py. The solver is mink; only this file knows it.

A solution is always the one near the joint angles the arm has: every joint stays within a given distance of its start,
so an arm is never asked to swing to another posture that happens to reach the same pose.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from openvla_core import rotations
from openvla_core.arm_chains import CHAINS, Chain, Offset
from openvla_core.errors import KinematicsError
from openvla_core.types import Pose

TOLERANCE = 1e-6  # metres and radians
JOINT_MARGIN = 0.10  # rad a solution keeps from the ends of each joint
SMALLEST_MARGIN = 0.05
MAX_MOVE = 0.5  # rad, the furthest a joint may be from its start when the caller does not say
_ITERATIONS = 40
_PATIENCE = 6  # iterations without progress before giving up
_STRIDE = 0.25  # rad per iteration: beyond it the linear model of the arm says little
_DAMPING = 1e-9  # makes the quadratic program well posed where the arm is singular
_ERROR_DAMPING = 1e-3  # times the squared error: short steps while far away, exact ones near the goal
# A seven-joint arm reaches a pose in many postures, and its elbow would wander off over many steps. It is led back
# while the tool moves, and only then: so much, in rad, per metre and per radian that the tool has to go.
_PULL = 2.0
_PULL_SHARE = 0.3  # of max_move, at most
_POSTURE_COST = 0.01  # against 1 for the pose; only in the first iteration, so that the pose is reached exactly
_BEYOND_LIMIT = 0.1  # rad a measured joint may lie beyond its limit before its angle is taken for a mistake


class Arm:
    """One arm. Not for two threads at once: it keeps the state of its last calculation.

    joint_lower, joint_upper (n,) float64 radians and joint_speed (n,) float64 rad/s are the limits of the maker.
    """

    def __init__(self, chain: Chain, margin: float = JOINT_MARGIN) -> None:
        mujoco, self._mink, self._solver = _libraries()
        self.name, self.base_link, self.tool_link = chain.name, chain.base_link, chain.tool_link
        self.joint_names = tuple(name for name, *_ in chain.joints)
        self.joint_lower, self.joint_upper, self.joint_speed = np.array([limits for _, *limits in chain.joints]).T
        self._margin = margin
        self._rest = np.array(chain.rest)
        self._configuration = self._mink.Configuration(mujoco.MjModel.from_xml_string(_mjcf(chain)))
        self._task = self._mink.FrameTask(
            "tool", "site", position_cost=1.0, orientation_cost=1.0, lm_damping=_ERROR_DAMPING
        )
        self._posture = self._mink.PostureTask(self._configuration.model, cost=_POSTURE_COST)

    def forward(self, joints: np.ndarray) -> Pose:
        """The tool pose in the base frame at the joint angles (n,) rad; raises KinematicsError when not finite."""
        self._configuration.update(self._checked("joint angles", joints))
        return self._tool()

    def inverse(self, pose: Pose, start: np.ndarray, max_move: np.ndarray | float = MAX_MOVE) -> np.ndarray:
        """Joint angles (n,) float64 rad near `start` that put the tool at a pose.

        Args:
            pose: tool pose in the base frame.
            start: joint angles (n,) rad the arm has now. A joint that is already inside the margin at its end may stay
                there, but does not move further in.
            max_move: rad, one number or (n,): the furthest any joint may be from its start. In a stream of commands
                this is joint_speed times the period.

        Raises:
            KinematicsError: a number is not finite, or no such angles were found within TOLERANCE: the pose is out of
                reach, or needs a joint beyond its margin or further away than max_move.
        """
        start = self._checked("start angles", start)
        self._refuse_impossible(start)
        target = rotations.checked_pose(pose.position, pose.quaternion)
        if target is None:
            raise KinematicsError(
                f"the pose {_words(pose.position)} m, {_words(pose.quaternion)} is no pose: expected three finite "
                "numbers and a quaternion x, y, z, w. Check what computes the target."
            )
        lower = np.maximum(np.minimum(self.joint_lower + self._margin, start), start - max_move)
        upper = np.minimum(np.maximum(self.joint_upper - self._margin, start), start + max_move)
        found = self._approach(target, start, lower, upper)
        if not found.reached:
            raise KinematicsError(self._failure(found, target, start, max_move))
        return found.joints

    def _approach(self, target: Pose, start: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> "_Found":
        """The best joint angles between the bounds (n,)."""
        self._task.set_target(self._mink.SE3(np.array([*target.quaternion[[3, 0, 1, 2]], *target.position])))
        best = _Found(start, np.inf, np.inf)
        joints, without_progress = start, 0
        for iteration in range(_ITERATIONS):
            here = self._measured(joints, target)
            without_progress = 0 if here.error < 0.9 * best.error else without_progress + 1
            best = min(best, here, key=lambda found: found.error)
            if best.error <= 0.1 * TOLERANCE or without_progress >= _PATIENCE:
                break
            tasks = [self._task]
            if iteration == 0 and self._rest.size:
                self._posture.set_target(start + self._pull(start, here.error, upper - lower))
                tasks.append(self._posture)
            joints = np.clip(joints + self._step(tasks, joints, lower, upper), lower, upper)
        return best

    def _pull(self, start: np.ndarray, error: float, room: np.ndarray) -> np.ndarray:
        """A small move (n,) of the joints towards their rest posture."""
        towards = self._rest - start
        size = min(_PULL * error, _PULL_SHARE * float(room.min()) / 2)
        return towards * min(1.0, size / max(float(np.abs(towards).max()), 1e-9))

    def _measured(self, joints: np.ndarray, target: Pose) -> "_Found":
        self._configuration.update(joints)
        tool = self._tool()
        distance = float(np.linalg.norm(target.position - tool.position))
        angle = float(np.linalg.norm(rotations.rotation_between(tool.quaternion, target.quaternion)))
        return _Found(joints, distance, angle)

    def _step(self, tasks: list[Any], joints: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """One step of the joints (n,) towards the targets of the tasks, inside the bounds."""
        problem = self._mink.build_ik(self._configuration, tasks, dt=1.0, damping=_DAMPING, limits=[])
        problem.lb, problem.ub = np.maximum(lower - joints, -_STRIDE), np.minimum(upper - joints, _STRIDE)
        solution = self._solver.solve_problem(problem, solver="daqp")
        return solution.x if solution.found else np.zeros_like(joints)

    def _tool(self) -> Pose:
        wxyz_xyz = self._configuration.get_transform_frame_to_world("tool", "site").wxyz_xyz
        return Pose(wxyz_xyz[4:].copy(), wxyz_xyz[[1, 2, 3, 0]])

    def _checked(self, what: str, joints: np.ndarray) -> np.ndarray:
        values = np.array(joints, dtype=np.float64)
        if values.shape != self.joint_lower.shape or not np.isfinite(values).all():
            raise KinematicsError(
                f"{what} of {self.name} are {_words(values)}, expected {len(self.joint_names)} finite numbers, "
                f"radians, of {', '.join(self.joint_names)}. Check the joint states of the robot."
            )
        return values

    def _refuse_impossible(self, start: np.ndarray) -> None:
        beyond = np.maximum(start - self.joint_upper, self.joint_lower - start)
        worst = int(np.argmax(beyond))
        if beyond[worst] > _BEYOND_LIMIT:
            raise KinematicsError(
                f"{self.joint_names[worst]} is at {start[worst]:.3f} rad, expected {self._range(worst)}. "
                "Check that the joint states are in radians and belong to this arm."
            )

    def _range(self, joint: int) -> str:
        return f"{self.joint_lower[joint]:.3f} to {self.joint_upper[joint]:.3f} rad"

    def _failure(self, found: "_Found", target: Pose, start: np.ndarray, max_move: np.ndarray | float) -> str:
        """Says how far the arm would get and what stops it."""
        names = self.joint_names
        ends = np.minimum(found.joints - self.joint_lower, self.joint_upper - found.joints) <= self._margin + 1e-6
        moved = np.abs(found.joints - start) >= max_move - 1e-6
        reasons = [f"{name} is at its limit ({self._range(i)})" for i, name in enumerate(names) if ends[i]]
        reasons += [f"{name} would have to move further at once" for i, name in enumerate(names) if moved[i]]
        return (
            f"{self.name} does not reach {_words(target.position)} m in {self.base_link} from where it is: it ends "
            f"{found.distance:.4f} m and {found.angle:.4f} rad short, expected {TOLERANCE:g} m and {TOLERANCE:g} rad "
            f"({'; '.join(reasons) or 'out of reach or at a singularity'}). Use a target nearer to the arm's pose, or "
            "move the arm to another posture by hand."
        )


@dataclass(frozen=True)
class _Found:
    """Joint angles (n,) rad, and the distance (m) and angle (rad) between their tool pose and the target."""

    joints: np.ndarray
    distance: float
    angle: float

    @property
    def error(self) -> float:
        return self.distance + self.angle

    @property
    def reached(self) -> bool:
        return max(self.distance, self.angle) <= TOLERANCE


def load_arm(name: str, margin: float = JOINT_MARGIN) -> Arm:
    """The arm of this name; raises KinematicsError for an unknown one, a margin below 0.05 rad or a missing library.

    margin: rad that solutions keep from both ends of each joint.
    """
    if name not in CHAINS:
        raise KinematicsError(
            f"arm {name!r} is unknown. Known arms: {', '.join(sorted(CHAINS))}. Set arm to one of these."
        )
    if not SMALLEST_MARGIN <= margin <= 0.5:
        raise KinematicsError(f"the joint margin is {margin!r} rad, expected {SMALLEST_MARGIN} to 0.5. Set it there.")
    return Arm(CHAINS[name], margin)


def _libraries() -> tuple[ModuleType, ModuleType, ModuleType]:
    """mujoco, mink and qpsolvers; imported late, because only robots that are driven by joint angles need them."""
    try:
        import mink
        import mujoco
        import qpsolvers
    except ImportError as error:
        raise KinematicsError(
            f"joint angles need the Python package mink, which cannot be imported: {error}. "
            "Install it with: pip install 'openvla_ros[arms]'"
        ) from error
    return mujoco, mink, qpsolvers


def _mjcf(chain: Chain) -> str:
    """The chain as a MuJoCo model. Joints have no range there: the solver is given its bounds at every step."""
    body = f'<site name="tool" {_placed(chain.tool)}/>'
    for (name, *_), offset, axis in reversed(list(zip(chain.joints, chain.offsets, chain.axes, strict=True))):
        joint = f'<joint name="{name}" axis="{_numbers(axis)}"/>'
        mass = '<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>'  # unused, but a body must have one
        body = f"<body {_placed(offset)}>{mass}{joint}{body}</body>"
    return f"<mujoco><worldbody>{body}</worldbody></mujoco>"


def _placed(offset: Offset) -> str:
    return f'pos="{_numbers(offset[0])}" quat="{_numbers(offset[1])}"'


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(repr(value) for value in values)


def _words(values: np.ndarray) -> str:
    return np.array2string(np.asarray(values, dtype=np.float64), precision=4, separator=", ")
