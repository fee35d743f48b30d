"""Inverse kinematics of the simulated arm: damped least squares on the MuJoCo Jacobian of the tool site."""

import mujoco
import numpy as np

from openvla_core.sim.scene import HOME_JOINTS, JOINT_LOWER, JOINT_UPPER, TOOL_LINK
from openvla_core.types import Pose

DAMPING = 0.02
REST_GAIN = 0.02  # pull of the free elbow towards the home posture, per iteration


class ToolKinematics:
    """Solves joint angles for tool poses on a private MjData, so that the simulation itself is left alone."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._site = model.site(TOOL_LINK).id
        self._jacobian = np.zeros((6, model.nv))

    def solve(self, target: Pose, start: np.ndarray, iterations: int, max_step: float = 0.2) -> np.ndarray:
        """Moves joint angles (7,) rad from `start` towards the target pose in the base frame.

        Args:
            target: pose of the tool site in the base frame.
            start: joint angles (7,) rad to start from.
            iterations: number of damped least-squares steps.
            max_step: largest change of one joint per iteration, rad.

        Returns:
            Joint angles (7,) rad inside the joint limits; the best reached when the target is out of reach.
        """
        joints = np.array(start, dtype=np.float64)
        for _ in range(iterations):
            error = self._error(joints, target)
            jacobian = self._jacobian[:, :7]
            damped = jacobian @ jacobian.T + DAMPING**2 * np.eye(6)
            pseudo_inverse = jacobian.T @ np.linalg.inv(damped)
            step = pseudo_inverse @ error
            step += (np.eye(7) - pseudo_inverse @ jacobian) @ (REST_GAIN * (HOME_JOINTS - joints))
            joints = np.clip(joints + np.clip(step, -max_step, max_step), JOINT_LOWER, JOINT_UPPER)
        return joints

    def error(self, joints: np.ndarray, target: Pose) -> tuple[float, float]:
        """Distance (m) and angle (rad) between the tool at `joints` (7,) and the target."""
        error = self._error(joints, target)
        return float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))

    def _error(self, joints: np.ndarray, target: Pose) -> np.ndarray:
        data = self._data
        data.qpos[:7] = joints
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_comPos(self._model, data)
        mujoco.mj_jacSite(self._model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        current, difference, rotation = np.empty(4), np.empty(4), np.empty(3)
        mujoco.mju_mat2Quat(current, data.site_xmat[self._site])
        mujoco.mju_negQuat(current, current)
        mujoco.mju_mulQuat(difference, target.quaternion[[3, 0, 1, 2]], current)
        mujoco.mju_quat2Vel(rotation, difference, 1.0)
        return np.concatenate([target.position - data.site_xpos[self._site], rotation])
