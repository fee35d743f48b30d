"""The simulated robot cell as a node: camera, joint states and tool pose out, target pose and gripper in, real time."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.node import Node

from openvla_core.config import setting
from openvla_core.errors import ActionError, ConfigError, OpenVLAError
from openvla_core.sim.rendering import prepare_headless
from openvla_ros import conversions, topics
from openvla_ros.conversions import Scene
from openvla_ros.node_support import run, steady_timer
from openvla_ros.parameters import declare_settings

BASE_FRAME = "panda_link0"
STATE_RATE_HZ = 50.0
SCENE_RATE_HZ = 20.0
PACE_RATE_HZ = 0.2
PHYSICS_STEP_S = 0.004
LONGEST_CATCH_UP_S = 0.1  # a longer pause of this process is not simulated afterwards


@dataclass(frozen=True, kw_only=True)
class SimSettings:
    """Parameters of sim_node."""

    scene_seed: int = setting(0, "Scene that the next ~/reset lays out", minimum=0)
    image_rate_hz: float = setting(
        25.0, "Frames per second of the policy's camera", unit="Hz", minimum=1.0, maximum=50.0, read_only=True
    )
    overview_rate_hz: float = setting(
        8.0,
        "Frames per second of the overview camera, while watched",
        unit="Hz",
        minimum=1.0,
        maximum=30.0,
        read_only=True,
    )
    camera_enabled: bool = setting(True, "Publish the policy's camera; false plays a camera that has failed")
    real_time_factor: float = setting(1.0, "Simulated seconds per second", minimum=0.05, maximum=2.0)


class SimNode(Node):
    """Steps the simulation by the time that has passed and shows its state, all in one thread."""

    def __init__(self, **node_arguments) -> None:
        super().__init__("sim_node", **node_arguments)
        self.settings = declare_settings(self, SimSettings, self.change_settings)
        self.seed = self.settings.scene_seed
        self.sim = make_simulation(self.seed)
        self.clock_s = time.monotonic()
        self.owed_s = 0.0
        self.pace = Pace(self.settings.real_time_factor)

        self.images = self.create_publisher(topics.Image, topics.CAMERA_IMAGE, topics.SENSOR)
        self.overview = self.create_publisher(topics.Image, topics.OVERVIEW_IMAGE, topics.SENSOR)
        self.joints = self.create_publisher(topics.JointState, topics.JOINT_STATES, topics.RECORD)
        self.poses = self.create_publisher(topics.PoseStamped, topics.CURRENT_POSE, topics.COMMAND)
        self.scenes = self.create_publisher(topics.SceneState, topics.SCENE_STATE, topics.RECORD)
        self.create_subscription(topics.PoseStamped, topics.TARGET_POSE, self.on_target, topics.COMMAND)
        self.create_subscription(topics.Float64, topics.GRIPPER_COMMAND, self.on_gripper, topics.COMMAND)
        self.create_service(topics.Trigger, topics.RESET, self.on_reset)
        # One timer for all: every timer of its own would wake the executor once more.
        self.beats = [
            Beat(SCENE_RATE_HZ, self.publish_scene),
            Beat(self.settings.image_rate_hz, self.publish_image),
            Beat(self.settings.overview_rate_hz, self.publish_overview),
            Beat(PACE_RATE_HZ, self.log_pace),
        ]
        steady_timer(self, 1.0 / STATE_RATE_HZ, self.tick)
        self.get_logger().info(f"simulated arm ready: scene {self.seed}, camera at {self.settings.image_rate_hz:g} Hz")

    def change_settings(self, settings: SimSettings) -> None:
        """Takes new parameters; a new scene_seed waits for ~/reset."""
        self.settings = settings
        self.pace = Pace(settings.real_time_factor)

    def close(self) -> None:
        """Frees the renderers."""
        self.sim.close()

    # Time -----------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Publishes the state, and whatever else is due."""
        self.publish_state()
        now_s = time.monotonic()
        for beat in self.beats:
            if beat.is_due(now_s):
                beat.act()

    def advance(self) -> int:
        """Brings the simulation up to the present; returns the present as a stamp, nanoseconds of the ROS clock."""
        now_s = time.monotonic()
        passed_s = min(now_s - self.clock_s, LONGEST_CATCH_UP_S)
        self.clock_s = now_s
        self.owed_s += passed_s * self.settings.real_time_factor
        steps = int(self.owed_s / PHYSICS_STEP_S)
        if steps:
            self.sim.step(steps * PHYSICS_STEP_S)
            self.owed_s -= steps * PHYSICS_STEP_S
            self.pace.simulated_s += steps * PHYSICS_STEP_S
        return self.get_clock().now().nanoseconds

    def log_pace(self) -> None:
        sentence = self.pace.change()
        if sentence:
            self.get_logger().info(sentence)

    # Out ------------------------------------------------------------------------------------------------------------

    def publish_state(self) -> None:
        now_ns = self.advance()
        names, positions, velocities = self.sim.joint_state()
        self.joints.publish(conversions.joint_state_message(names, positions, velocities, now_ns))
        self.poses.publish(conversions.pose_message(self.sim.tcp_pose(), now_ns, BASE_FRAME))

    def publish_scene(self) -> None:
        now_ns = self.advance()
        scene = Scene(
            stamp_ns=now_ns,
            frame=BASE_FRAME,
            seed=self.seed,
            objects=self.sim.object_positions(),
            tcp=self.sim.tcp_pose(),
            gripper_opening=self.sim.gripper_opening(),
        )
        self.scenes.publish(conversions.scene_message(scene))

    def publish_image(self) -> None:
        if not self.settings.camera_enabled:
            return
        now_ns = self.advance()
        self.images.publish(conversions.image_message(self.sim.render("policy"), now_ns, "camera"))

    def publish_overview(self) -> None:
        if self.overview.get_subscription_count():
            now_ns = self.advance()
            self.overview.publish(conversions.image_message(self.sim.render("overview"), now_ns, "overview_camera"))

    # In -------------------------------------------------------------------------------------------------------------

    def on_target(self, message: topics.PoseStamped) -> None:
        try:
            frame = conversions.frame_of(message)
            if frame != BASE_FRAME:
                raise ActionError(f"target pose in frame {frame!r}; the simulated arm takes {BASE_FRAME!r} only.")
            self.sim.set_target(conversions.to_pose(message))
        except OpenVLAError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)

    def on_gripper(self, message: topics.Float64) -> None:
        opening = conversions.to_number(message)
        if 0.0 <= opening <= 1.0:
            self.sim.set_gripper(opening)
        else:
            self.get_logger().warning(
                f"gripper command {opening}; expected 0 (closed) to 1 (open).", throttle_duration_sec=5.0
            )

    def on_reset(self, request, response):
        self.advance()
        self.seed = self.settings.scene_seed
        self.sim.reset(self.seed)
        self.owed_s = 0.0
        self.publish_state()
        self.publish_scene()
        return conversions.reply(response, True, f"Scene {self.seed} is laid out.")


class Beat:
    """Something done at a rate, whenever the tick of a faster timer finds it due."""

    def __init__(self, rate_hz: float, act: Callable[[], None]) -> None:
        self.act = act
        self._period_s = 1.0 / rate_hz
        self._next_s = time.monotonic() + self._period_s

    def is_due(self, now_s: float) -> bool:
        """True once per period; periods that were missed are not made up for."""
        if now_s < self._next_s:
            return False
        self._next_s = max(self._next_s + self._period_s, now_s)
        return True


class Pace:
    """How fast simulated time has passed, compared with what was asked for."""

    def __init__(self, wanted: float) -> None:
        self.wanted = wanted
        self.simulated_s = 0.0
        self._since_s = time.monotonic()
        self._kept: bool | None = None

    def change(self) -> str:
        """A sentence when keeping up began or ended since the last call, else nothing."""
        now_s = time.monotonic()
        factor = self.simulated_s / max(now_s - self._since_s, 1e-9)
        self.simulated_s, self._since_s = 0.0, now_s
        before, self._kept = self._kept, factor > 0.9 * self.wanted
        return f"real-time factor {factor:.2f} (wanted {self.wanted:g})" if self._kept != before else ""


def make_simulation(seed: int):
    """The simulation laid out for a seed, its camera tried once. Raises ConfigError when nothing can be rendered."""
    # mujoco decides how to render while it is imported.
    prepare_headless()
    from openvla_core.sim.tabletop import TabletopSim

    sim = TabletopSim()
    sim.reset(seed)
    try:
        sim.render("policy")
    except Exception as error:
        raise ConfigError(
            f"nothing can be rendered with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}). Install libegl1 and "
            "libegl-mesa0 (MUJOCO_GL=egl) or libosmesa6 (MUJOCO_GL=osmesa)."
        ) from error
    return sim


def main(args: list[str] | None = None) -> int:
    """Entry point of the simulation process."""
    return run(SimNode, args)


if __name__ == "__main__":
    sys.exit(main())
