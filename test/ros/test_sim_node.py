"""The simulated robot cell as others see it: topics, service, parameters."""

import numpy as np
import pytest
from rclpy.parameter import Parameter

from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.sim_node import Beat, Pace, SimNode

DOWN = np.array([1.0, 0.0, 0.0, 0.0])


class Sim:
    """The node under test and what others see of it."""

    def __init__(self, world, **parameters) -> None:
        self.world = world
        self.node = world.add(
            SimNode(parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()])
        )
        self.poses = world.listen(topics.PoseStamped, topics.CURRENT_POSE, topics.SENSOR)
        self.scenes = world.listen(topics.SceneState, "sim_node/scene_state", topics.RECORD, conversions.to_scene)
        self.targets = world.peer.create_publisher(topics.PoseStamped, topics.TARGET_POSE, topics.COMMAND)
        self.grippers = world.peer.create_publisher(topics.Float64, topics.GRIPPER_COMMAND, topics.COMMAND)
        world.wait_for(lambda: self.poses and self.scenes, "the first state")
        world.wait_for(lambda: self.targets.get_subscription_count() and self.grippers.get_subscription_count())

    def send(self, position, quaternion=DOWN, frame="panda_link0") -> None:
        pose = Pose(np.array(position, dtype=float), np.array(quaternion, dtype=float))
        self.targets.publish(conversions.pose_message(pose, self.now_ns(), frame))

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def position(self) -> np.ndarray:
        return conversions.to_pose(self.poses[-1]).position

    def reset(self, seed: int):
        assert self.node.set_parameters([Parameter("scene_seed", value=seed)])[0].successful
        assert conversions.replied(self.world.call(topics.Trigger, "sim_node/reset"))[0]
        asked_ns = self.now_ns()
        self.world.wait_for(lambda: self.scenes[-1].stamp_ns > asked_ns, "a scene after the reset")
        return self.scenes[-1]


@pytest.fixture
def sim(world):
    return Sim(world)


def test_the_camera_shows_the_policys_picture_with_growing_stamps(sim, world):
    frames = world.listen(topics.Image, topics.CAMERA_IMAGE, topics.SENSOR)
    asked_ns = sim.now_ns()
    world.wait_for(lambda: len(frames) >= 3, "three frames")
    assert {(f.height, f.width, f.encoding) for f in frames} == {(112, 112, "rgb8")}
    stamps = [conversions.stamp_ns(frame) for frame in frames]
    assert stamps == sorted(set(stamps))
    assert asked_ns - 1_000_000_000 < stamps[0] <= sim.now_ns()
    assert conversions.to_rgb(frames[-1]).std() > 10, "the picture is not one flat colour"


def test_the_picture_is_the_simulations_own(sim, world):
    """No scaling, flipping or colour change on the way."""
    frames = world.listen(topics.Image, topics.CAMERA_IMAGE, topics.SENSOR, conversions.to_rgb)
    sim.reset(4)
    count = len(frames)
    world.wait_for(lambda: len(frames) > count + 1, "frames of the new scene")
    difference = np.abs(frames[-1].astype(int) - sim.node.sim.render("policy").astype(int))
    assert difference.mean() < 1.0


def test_joint_states_name_seven_joints_and_two_fingers(sim, world):
    states = world.listen(topics.JointState, topics.JOINT_STATES, topics.RECORD)
    world.wait_for(lambda: states, "joint states")
    assert len(states[-1].name) == len(states[-1].position) == len(states[-1].velocity) == 9


def test_the_arm_goes_where_it_is_told(sim, world):
    goal = np.array([0.5, 0.1, 0.3])
    assert conversions.frame_of(sim.poses[-1]) == "panda_link0"
    sim.send(goal)
    world.wait_for(lambda: np.linalg.norm(sim.position() - goal) < 0.01, "the arm at its goal")


def test_the_gripper_closes_and_opens(sim, world):
    for command in (0.0, 1.0):
        sim.grippers.publish(conversions.number_message(command))
        world.wait_for(lambda wanted=command: abs(sim.scenes[-1].gripper_opening - wanted) < 0.1, f"opening {command}")


@pytest.mark.parametrize(
    "bad",
    [
        {"position": [0.5, 0.1, 0.3], "frame": "world"},
        {"position": [np.nan, 0.1, 0.3]},
        {"position": [0.5, 0.1, 0.3], "quaternion": [0, 0, 0, 0]},
    ],
)
def test_a_target_that_makes_no_sense_does_not_move_the_arm(sim, world, bad):
    before = sim.position()
    sim.send(**bad)
    count = len(sim.poses)
    world.wait_for(lambda: len(sim.poses) > count + 25, "half a second of poses")
    assert np.linalg.norm(sim.position() - before) < 0.005


@pytest.mark.parametrize("command", [-0.5, 1.5, np.nan, np.inf])
def test_a_gripper_command_outside_its_range_is_ignored(sim, world, command):
    sim.grippers.publish(conversions.number_message(command))
    count = len(sim.scenes)
    world.wait_for(lambda: len(sim.scenes) > count + 10, "half a second of scenes")
    assert sim.scenes[-1].gripper_opening > 0.9


def test_reset_lays_out_the_scene_of_the_seed(sim):
    first = sim.reset(11)
    other = sim.reset(12)
    again = sim.reset(11)
    assert (first.seed, other.seed, again.seed) == (11, 12, 11)
    for name, position in first.objects.items():
        np.testing.assert_allclose(again.objects[name], position, atol=2e-3)
    assert any(np.linalg.norm(other.objects[name] - position) > 0.01 for name, position in first.objects.items())


def test_reset_forgets_the_old_target(sim, world):
    sim.send([0.6, 0.15, 0.15])
    world.wait_for(lambda: np.linalg.norm(sim.position() - [0.6, 0.15, 0.15]) < 0.02, "the arm at its goal")
    sim.reset(11)
    start = sim.position()
    count = len(sim.poses)
    world.wait_for(lambda: len(sim.poses) > count + 25, "half a second of poses")
    assert np.linalg.norm(sim.position() - start) < 0.01


def test_a_negative_seed_is_refused(sim):
    assert not sim.node.set_parameters([Parameter("scene_seed", value=-1)])[0].successful


def test_the_overview_is_rendered_only_while_somebody_watches(sim, world):
    rendered = []
    render = sim.node.sim.render
    sim.node.sim.render = lambda camera: rendered.append(camera) or render(camera)
    world.wait_for(lambda: len(rendered) >= 5, "policy pictures")
    assert set(rendered) == {"policy"}
    frames = world.listen(topics.Image, topics.OVERVIEW_IMAGE, topics.SENSOR)
    world.wait_for(lambda: frames, "an overview picture")
    assert (frames[0].height, frames[0].width) == (240, 320)


def test_simulated_time_follows_the_wanted_factor(world, monkeypatch):
    sim = Sim(world, real_time_factor=0.5)
    now = [sim.node.clock_s]
    monkeypatch.setattr("openvla_ros.sim_node.time.monotonic", lambda: now[0])
    started = sim.node.sim.time_s
    for _ in range(100):
        now[0] += 0.02
        sim.node.advance()
    assert sim.node.sim.time_s - started == pytest.approx(1.0, abs=0.01)


def test_a_long_pause_of_the_process_is_not_simulated_afterwards(sim, monkeypatch):
    """Otherwise a resumed process would race through seconds of motion at once."""
    now = [sim.node.clock_s + 30.0]
    monkeypatch.setattr("openvla_ros.sim_node.time.monotonic", lambda: now[0])
    started = sim.node.sim.time_s
    sim.node.advance()
    assert sim.node.sim.time_s - started <= 0.11


def test_pace_speaks_only_when_keeping_up_changes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("openvla_ros.sim_node.time.monotonic", lambda: now[0])
    pace = Pace(1.0)
    sentences = []
    for simulated in (5.0, 5.0, 2.0, 2.0, 5.0):
        now[0] += 5.0
        pace.simulated_s = simulated
        sentences.append(pace.change())
    assert [bool(sentence) for sentence in sentences] == [True, False, True, False, True]
    assert "0.40" in sentences[2]


def test_a_beat_keeps_its_rate_and_skips_what_it_missed(monkeypatch):
    monkeypatch.setattr("openvla_ros.sim_node.time.monotonic", lambda: 0.0)
    beat = Beat(15.0, lambda: None)
    ticks = [number * 0.02 for number in range(150)]  # three seconds at 50 Hz
    assert sum(beat.is_due(now_s) for now_s in ticks) == 44  # the first one after a period
    assert beat.is_due(10.0)
    assert [beat.is_due(10.0 + step * 0.02) for step in range(1, 4)] == [True, False, False]
