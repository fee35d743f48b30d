"""What the arm does when the instruction changes, the camera stops or the policy process dies."""

import os
import signal

import numpy as np
import pytest
import rclpy

from openvla_core.sim.tasks import Task, is_reached
from openvla_ros import bringup, conversions, topics
from openvla_ros.demo import free_domain
from openvla_ros.episode_runner import EpisodeRunner

HOLD_WITHIN_S = 0.5
FRAME_PERIOD_S = 1 / 15
STILL_M = 0.001
FAR_M = 0.03  # the arm was really on its way, not already there


class Cell:
    """The running system, with everything that was commanded to the arm and measured on it."""

    def __init__(self, processes: bringup.ProcessGroup) -> None:
        self.processes = processes
        self.runner = EpisodeRunner(lambda: None)
        self.targets: list[tuple[float, np.ndarray]] = []
        self.measured: list[tuple[float, np.ndarray]] = []
        for topic, track in ((topics.TARGET_POSE, self.targets), (topics.CURRENT_POSE, self.measured)):
            self.runner.node.create_subscription(topics.PoseStamped, topic, self._tracker(track), topics.COMMAND)

    @staticmethod
    def _tracker(track):
        def on_pose(message) -> None:
            track.append((conversions.stamp_ns(message) * 1e-9, conversions.to_pose(message).position))

        return on_pose

    @property
    def tool(self) -> np.ndarray:
        return self.runner.scene.tcp.position

    def cube(self, color: str) -> np.ndarray:
        return self.runner.scene.objects[f"{color} cube"]

    def distance_to_goal(self, color: str) -> float:
        """Metres from the tool to the place above the cube where a reach ends."""
        return float(np.linalg.norm(self.cube(color) + np.array([0.0, 0.0, 0.1]) - self.tool))

    def colors_by_distance(self) -> list[str]:
        names = [name.split()[0] for name in self.runner.scene.objects]
        return sorted(names, key=self.distance_to_goal)

    def begin_reach(self, scene_seed: int) -> str:
        """Tells the arm to go to the farthest cube and returns once it is on its way: the colour."""
        self.runner.prepare(scene_seed)
        color = self.colors_by_distance()[-1]
        start = self.tool.copy()
        self.runner.instruct(Task("reach", color).sentence())
        self.runner.require(lambda: np.linalg.norm(self.tool - start) > 0.02, 20.0, "arm on its way")
        return color

    def watch_until(self, moment_s: float) -> None:
        """Listens until commands and measurements of after this moment (seconds, ROS time) have arrived."""
        self.runner.require(
            lambda: min(self.targets[-1][0], self.measured[-1][0]) > moment_s, 20.0, "commands and measurements"
        )

    def assert_held_from(self, moment_s: float, for_s: float = 1.0) -> None:
        """Commands stay where they are from that moment on, and the arm comes to rest there."""
        commanded = between(self.targets, moment_s, moment_s + for_s)
        assert len(commanded) > 10, "the controller stopped talking to the robot"
        assert np.ptp(commanded, axis=0).max() < STILL_M
        assert np.ptp(between(self.measured, moment_s + 0.3, moment_s + for_s), axis=0).max() < STILL_M


def between(track, start_s: float, end_s: float) -> np.ndarray:
    return np.array([position for stamp_s, position in track if start_s <= stamp_s <= end_s])


@pytest.fixture(scope="module")
def cell(shipped_checkpoint, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(free_domain()))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        rclpy.init()
        processes = bringup.start_demo({"checkpoint": shipped_checkpoint}, tmp_path_factory.mktemp("logs"))
        try:
            running = Cell(processes)
            running.runner.wait_until_ready(240.0)
            yield running
            running.runner.close()
        finally:
            processes.stop()
            rclpy.try_shutdown()


def test_new_instruction_redirects_the_arm(cell):
    first = cell.begin_reach(scene_seed=900_100)
    cube = cell.cube(first)
    second = max(cell.colors_by_distance(), key=lambda color: np.linalg.norm(cell.cube(color) - cube))
    cell.runner.instruct(Task("reach", second).sentence())
    cell.runner.require(lambda: is_reached(cell.tool, cell.cube(second)), 20.0, "arm above the second cube")
    assert cell.distance_to_goal(second) < cell.distance_to_goal(first)


def test_arm_holds_when_the_camera_stops_and_goes_on_when_it_is_back(cell):
    color = cell.begin_reach(scene_seed=900_101)
    cell.runner.set_sim_parameters(camera_enabled=False)
    last_frame_s = cell.runner.camera_stamp_ns * 1e-9
    # Until the next frame is due nobody can know that the camera has stopped.
    stopped_s = last_frame_s + FRAME_PERIOD_S
    cell.watch_until(stopped_s + HOLD_WITHIN_S + 1.0)
    assert cell.runner.camera_stamp_ns * 1e-9 == last_frame_s
    assert cell.distance_to_goal(color) > FAR_M
    cell.assert_held_from(stopped_s + HOLD_WITHIN_S)
    assert cell.runner.controller.state == topics.State.HOLD
    assert cell.runner.policy.code == "CAM_STALE"

    cell.runner.set_sim_parameters(camera_enabled=True)
    cell.runner.require(lambda: is_reached(cell.tool, cell.cube(color)), 20.0, "arm above the cube after all")


def test_arm_holds_while_the_policy_process_is_stopped_and_ignores_what_it_says_late(cell):
    color = cell.begin_reach(scene_seed=900_103)
    process = cell.processes.processes["policy_node"]
    stopped_s = cell.runner.now_ns() * 1e-9
    os.kill(process.pid, signal.SIGSTOP)
    try:
        cell.watch_until(stopped_s + HOLD_WITHIN_S + 1.0)
        cell.assert_held_from(stopped_s + HOLD_WITHIN_S)
        assert cell.distance_to_goal(color) > FAR_M
    finally:
        os.kill(process.pid, signal.SIGCONT)
    cell.runner.require(lambda: is_reached(cell.tool, cell.cube(color)), 20.0, "arm above the cube after all")
    late = [applied for applied in cell.runner._applied if applied.photon_to_command_s > 0.5]
    assert not late, "an action from an image of before was carried out"


def test_arm_holds_when_the_policy_process_is_killed(cell):
    """The last test of this file: nothing starts the policy again."""
    color = cell.begin_reach(scene_seed=900_102)
    process = cell.processes.processes["policy_node"]
    killed_s = cell.runner.now_ns() * 1e-9
    os.kill(process.pid, signal.SIGKILL)
    cell.watch_until(killed_s + HOLD_WITHIN_S + 1.0)
    assert process.wait(5) == -signal.SIGKILL
    assert cell.distance_to_goal(color) > FAR_M
    cell.assert_held_from(killed_s + HOLD_WITHIN_S)
    assert cell.runner.controller.state == topics.State.HOLD
