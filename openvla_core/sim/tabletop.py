"""The simulated cell, with the interface of a real one: target pose and gripper in, camera and state out."""

import mujoco
import numpy as np

from openvla_core.sim.kinematics import ToolKinematics
from openvla_core.sim.scene import (
    ARM_JOINTS,
    CUBE_COLORS,
    CUBE_HALF,
    FINGER_JOINTS,
    FINGER_TRAVEL,
    HOME_JOINTS,
    JOINT_SPEED,
    TOOL_LINK,
    scene_xml,
)
from openvla_core.types import Pose

TOOL_DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # x, y, z, w: the gripper points down, fingers open along base y
CONTROL_PERIOD = 0.02  # seconds between two joint targets
FINGER_LENGTH = 0.045  # metres from the finger's slide to the middle of its pad
FINGER_SPEED = 0.10  # metres per second of each finger
CUBE_AREA = (np.array([0.40, -0.17]), np.array([0.62, 0.17]))  # x, y of cube centres, metres
CUBE_GAP = 0.085  # smallest distance between cube centres, metres
START_AREA = (np.array([0.42, -0.15, 0.20]), np.array([0.58, 0.15, 0.28]))  # tool position at reset, metres
IMAGE_SIZES = {"policy": (112, 112), "overview": (240, 320)}  # rows, columns


class TabletopSim:
    """A Panda over a table with four coloured cubes. Everything random comes from the seed given to `reset`."""

    def __init__(self) -> None:
        self._model = mujoco.MjModel.from_xml_string(scene_xml())
        self._data = mujoco.MjData(self._model)
        self._kinematics = ToolKinematics(self._model)
        self._site = self._model.site(TOOL_LINK).id
        self._renderers: dict[str, mujoco.Renderer] = {}
        self._cubes = {f"{color} cube": int(self._model.joint(f"{color} cube").qposadr[0]) for color in CUBE_COLORS}
        self._target = Pose(np.zeros(3), TOOL_DOWN)
        self._joint_target = HOME_JOINTS.copy()
        self._finger_target = self._finger_goal = FINGER_TRAVEL
        self._until_control = 0.0
        self.reset(0)

    # -- command side -------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> None:
        """Lays out the scene of this seed: cubes apart from each other, the open gripper somewhere above them."""
        rng = np.random.default_rng(seed)
        cubes = sample_cube_positions(rng)
        yaws = rng.uniform(-0.15, 0.15, len(cubes))
        self.place(rng.uniform(*START_AREA), opening=1.0, cubes=cubes, yaws=yaws)

    def place(self, tool: np.ndarray, opening: float, cubes: np.ndarray, yaws: np.ndarray | None = None) -> None:
        """Puts the scene into a state at rest.

        Args:
            tool: tool position (3,) metres in the base frame, gripper down.
            opening: gripper opening, 0 closed to 1 open.
            cubes: centres (4, 3) metres, in the order of `object_positions`.
            yaws: rotation of each cube about z (4,) rad.
        """
        data = self._data
        mujoco.mj_resetData(self._model, data)
        self._target = Pose(np.array(tool, dtype=np.float64), TOOL_DOWN)
        self._joint_target = self._kinematics.solve(self._target, HOME_JOINTS, iterations=60)
        data.qpos[:7] = self._joint_target
        self._finger_target = self._finger_goal = opening * FINGER_TRAVEL
        data.qpos[7:9] = self._finger_target
        for index, address in enumerate(self._cubes.values()):
            yaw = 0.0 if yaws is None else float(yaws[index])
            data.qpos[address : address + 7] = [*cubes[index], np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        data.ctrl[:7], data.ctrl[7:] = self._joint_target, self._finger_target
        self._until_control = 0.0
        mujoco.mj_forward(self._model, data)

    def set_target(self, target: Pose) -> None:
        """Sets the pose, in the base frame, that the arm's own controller tracks from now on."""
        self._target = target

    def set_gripper(self, opening: float) -> None:
        """Sets the gripper goal, 0 closed to 1 open; the fingers travel there at their own speed."""
        self._finger_goal = float(np.clip(opening, 0.0, 1.0)) * FINGER_TRAVEL

    def step(self, duration_s: float) -> None:
        """Advances physics by about `duration_s` seconds (a whole number of 4 ms steps)."""
        timestep = self._model.opt.timestep
        for _ in range(max(1, round(duration_s / timestep))):
            if self._until_control <= 1e-9:
                self._update_controls()
                self._until_control = CONTROL_PERIOD
            mujoco.mj_step(self._model, self._data)
            self._until_control -= timestep

    def _update_controls(self) -> None:
        solution = self._kinematics.solve(self._target, self._joint_target, iterations=3)
        reach = JOINT_SPEED * CONTROL_PERIOD
        self._joint_target = self._joint_target + np.clip(solution - self._joint_target, -reach, reach)
        travel = FINGER_SPEED * CONTROL_PERIOD
        self._finger_target += float(np.clip(self._finger_goal - self._finger_target, -travel, travel))
        self._data.ctrl[:7], self._data.ctrl[7:] = self._joint_target, self._finger_target

    # -- state side ---------------------------------------------------------------------------------------------

    @property
    def time_s(self) -> float:
        """Simulated seconds since the last reset."""
        return float(self._data.time)

    def tcp_pose(self) -> Pose:
        """Measured pose of `panda_hand_tcp` in `panda_link0`."""
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._data.site_xmat[self._site])
        return Pose(self._data.site_xpos[self._site].copy(), quaternion[[1, 2, 3, 0]])

    def joint_state(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Names, positions (9,) and velocities (9,) of seven arm joints (rad) and two fingers (m)."""
        return [*ARM_JOINTS, *FINGER_JOINTS], self._data.qpos[:9].copy(), self._data.qvel[:9].copy()

    def gripper_opening(self) -> float:
        """Measured opening, 0 closed to 1 open."""
        return float(np.clip(self._data.qpos[7:9].mean() / FINGER_TRAVEL, 0.0, 1.0))

    def object_positions(self) -> dict[str, np.ndarray]:
        """Centre (3,) of each object in the base frame, metres."""
        return {name: self._data.qpos[address : address + 3].copy() for name, address in self._cubes.items()}

    def render(self, camera: str = "policy") -> np.ndarray:
        """Image (H, W, 3) uint8 RGB of the camera named `policy` or `overview`."""
        if camera not in self._renderers:
            height, width = IMAGE_SIZES[camera]
            self._renderers[camera] = mujoco.Renderer(self._model, height, width)
        renderer = self._renderers[camera]
        renderer.update_scene(self._data, camera)
        return renderer.render()

    def project(self, points: np.ndarray, camera: str = "policy") -> np.ndarray:
        """Where points (N, 3) in the base frame appear in the image: (N, 2) float64, column and row in pixels."""
        height, width = IMAGE_SIZES[camera]
        index = self._model.camera(camera).id
        base_from_camera = self._data.cam_xmat[index].reshape(3, 3)
        in_camera = (np.asarray(points) - self._data.cam_xpos[index]) @ base_from_camera
        focal = 0.5 * height / np.tan(0.5 * np.deg2rad(self._model.cam_fovy[index]))
        # MuJoCo cameras look along their -z axis with y up.
        offset = focal * in_camera[:, :2] / -in_camera[:, 2:]
        return np.column_stack([width / 2 + offset[:, 0], height / 2 - offset[:, 1]])

    def fingertips(self) -> np.ndarray:
        """Tips of the two fingers (2, 3) in the base frame, metres."""
        fingers = [self._data.body(name) for name in ("panda_leftfinger", "panda_rightfinger")]
        return np.stack([finger.xpos + finger.xmat.reshape(3, 3)[:, 2] * FINGER_LENGTH for finger in fingers])

    def close(self) -> None:
        """Frees the renderers; call it before the process ends."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def sample_cube_positions(rng: np.random.Generator) -> np.ndarray:
    """Centres (4, 3) of cubes standing on the table, far enough apart for the open fingers."""
    while True:
        centres = rng.uniform(*CUBE_AREA, size=(len(CUBE_COLORS), 2))
        distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + np.eye(len(centres))
        if distances.min() > CUBE_GAP:
            return np.column_stack([centres, np.full(len(centres), CUBE_HALF)])
