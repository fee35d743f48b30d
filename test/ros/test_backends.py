"""Every backend moves its pretend robot exactly where the actions say, by arithmetic that shares no code with ours."""

from dataclasses import replace

import numpy as np
import pytest
from backend_bench import (
    HOME,
    ROOT,
    Bench,
    Settings,
    bridge_actions,
    distance,
    euler_angles,
    euler_matrix,
    matrix_of,
    parameters,
    rodrigues,
)

from openvla_core import rotations
from openvla_core.arm_kinematics import load_arm
from openvla_core.conventions import load_convention
from openvla_core.safety import SafetyLimiter, SafetySettings
from openvla_core.types import Pose, SafeAction
from openvla_ros import conversions, topics

TOLERANCE = 1e-6  # metres and radians
ACTIONS = 500
PERIOD_S = 0.2  # of BridgeV2
HOLD = SafeAction(HOME, None)


def stepped(card: str, state: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The matrix (4, 4) after one row of a card."""
    end = state.copy()
    end[:3, 3] += row[:3]
    if card == "bridge_orig_fr3":
        default = np.diag([1.0, -1.0, -1.0])
        angles = euler_angles(state[:3, :3] @ default.T) + row[3:6]
        end[:3, :3] = euler_matrix(*angles) @ default
    elif card == "bridge_orig_composed":
        end[:3, :3] = euler_matrix(*row[3:6]) @ state[:3, :3]
    else:
        end[:3, :3] = rodrigues(row[3:6]) @ state[:3, :3]
    return end


def commands(card: str, rows: np.ndarray):
    """The safe action of each row, from the last commanded pose on, and the matrix it should end in."""
    convention = load_convention(ROOT / "config" / "conventions" / f"{card}.yaml")
    pose, truth = HOME, matrix_of(HOME)
    for row in rows:
        action = convention.action(row, pose)
        pose = rotations.moved(pose, action.translation, action.rotation)
        truth = stepped(card, truth, row)
        velocities = {"velocity": action.translation / PERIOD_S, "angular_velocity": action.rotation / PERIOD_S}
        yield SafeAction(pose, None, **velocities), truth


class TargetRobot:
    """Whoever listens to poses on a topic."""

    def __init__(self, world, topic: str) -> None:
        self.received = world.listen(
            topics.PoseStamped,
            topic,
            topics.COMMAND,
            lambda m: (conversions.stamp_ns(m), conversions.frame_of(m), conversions.to_pose(m)),
        )


def pose_robot(world, name: str):
    if name == "crisp":
        from crisp import FakeCrisp

        return world.add(FakeCrisp())
    if name == "servo_pose":
        return servo_robot(world, "jazzy")
    world.listen(topics.Float64, topics.GRIPPER_COMMAND, topics.COMMAND)
    return TargetRobot(world, topics.TARGET_POSE)


def servo_robot(world, api: str, **values):
    from servo import FakeServo

    return world.add(FakeServo(parameter_overrides=parameters({"api": api, **values})))


@pytest.mark.parametrize("card", ["bridge_orig_fr3", "bridge_orig_composed", "metres_rotation_vector"])
@pytest.mark.parametrize("name", ["crisp", "servo_pose", "sim"])
def test_poses_arrive_where_the_actions_lead(world, name, card):
    robot = pose_robot(world, name)
    bench = Bench(world, name, **({} if name == "sim" else {"gripper": "none"}))
    bench.connect(HOLD, robot.received)
    worst = 0.0
    for command, truth in commands(card, bridge_actions(ACTIONS if card == "bridge_orig_fr3" else 100)):
        sent_ns, (stamp_ns, frame, pose) = bench.deliver(command, robot.received, PERIOD_S)
        assert (stamp_ns, frame) == (sent_ns, "fr3_link0")
        worst = max(worst, distance(matrix_of(pose), truth))
    print(f"{name} {card}: {worst:.1e}")
    assert worst <= TOLERANCE


@pytest.mark.parametrize("api", ["humble", "jazzy"])
def test_twists_add_up_to_where_the_actions_lead(world, api):
    robot = servo_robot(world, api)
    # BridgeV2 holds steps faster than our limits: up to 0.3 m/s and 1.2 rad/s.
    bench = Bench(world, "servo_twist", Settings(max_speed=0.5, max_angular_speed=1.5), gripper="none")
    bench.connect(HOLD, robot.received)
    state, worst, last_ns, speeds = matrix_of(HOME), 0.0, 0, None
    last_truth = state
    rows = bridge_actions(ACTIONS if api == "jazzy" else 100)
    for command, truth in commands("bridge_orig_fr3", rows):
        sent_ns, (stamp_ns, frame, twist) = bench.deliver(command, robot.received, PERIOD_S)
        assert (stamp_ns, frame) == (sent_ns, "fr3_link0")
        if speeds is not None:  # what was in force until this stamp
            elapsed_s = (stamp_ns - last_ns) * 1e-9
            state[:3, 3] += speeds[0] * elapsed_s
            state[:3, :3] = rodrigues(speeds[1] * elapsed_s) @ state[:3, :3]
            worst = max(worst, distance(state, last_truth))
        speeds, last_ns, last_truth = twist, stamp_ns, truth
    print(f"servo_twist {api}: {worst:.1e}")
    assert worst <= TOLERANCE


def test_the_twists_of_the_limited_stream_add_up_to_its_poses(world):
    robot = servo_robot(world, "jazzy")
    bench = Bench(world, "servo_twist", Settings(max_angular_speed=SafetySettings.max_angular_speed), gripper="none")
    bench.connect(HOLD, robot.received)
    state, last_ns, speeds, worst = matrix_of(HOME), 0, None, 0.0
    for command in limited_stream(HOME, bridge_actions(60), 0.02, 5):
        _, (stamp_ns, _, twist) = bench.deliver(command, robot.received, 0.02)
        # The velocity of a tick is the one that led to its pose.
        state[:3, 3] += twist[0] * 0.02
        state[:3, :3] = rodrigues(twist[1] * 0.02) @ state[:3, :3]
        assert speeds is None or stamp_ns - last_ns == 20_000_000
        last_ns, speeds = stamp_ns, twist
        worst = max(worst, distance(state, matrix_of(command.pose)))
    assert worst <= TOLERANCE
    standing = SafeAction(HOME, None)
    _, (_, _, twist) = bench.deliver(standing, robot.received, 0.02)
    assert not np.any(twist), "holding is a velocity of zero, sent"


def test_a_restart_of_the_stream_is_no_motion(world):
    robot = servo_robot(world, "jazzy")
    bench = Bench(world, "servo_twist", gripper="none")
    bench.connect(HOLD, robot.received)
    aside = rotations.moved(HOME, np.array([0.004, 0.0, 0.0]), np.full(3, 0.004))
    _, (_, _, twist) = bench.deliver(SafeAction(aside, None, restarted=True), robot.received, 0.02)
    assert not np.any(twist), "the arm is there already"
    moving = SafeAction(Pose(aside.position + np.array([0.001, 0.0, 0.0]), aside.quaternion), None)
    _, (_, _, twist) = bench.deliver(moving, robot.received, 0.02)
    assert twist[0] == pytest.approx([0.05, 0.0, 0.0]), "the next step starts where the stream was restarted"


def test_no_twist_is_faster_than_the_limits_when_a_tick_comes_early(world):
    robot = servo_robot(world, "jazzy")
    bench = Bench(world, "servo_twist", gripper="none")
    bench.connect(HOLD, robot.received)
    end = rotations.moved(HOME, np.array([0.0, 0.004, 0.0]), np.array([0.0, 0.0, 0.014]))
    _, (_, _, twist) = bench.deliver(SafeAction(end, None), robot.received, 0.01)
    assert twist[0] == pytest.approx([0.0, 0.25, 0.0]), "0.4 m/s from the poses alone"
    assert twist[1] == pytest.approx([0.0, 0.0, 0.8], abs=1e-6), "1.4 rad/s from the poses alone"


def limited_stream(home: Pose, rows: np.ndarray, tick_s: float, ticks: int, **limits):
    """The safe action of every tick; each row starts at home, so that the goals stay near it."""
    convention = load_convention(ROOT / "config" / "conventions" / "metres_rotation_vector.yaml")
    low, high = home.position - 0.2, home.position + 0.2
    settings = SafetySettings(workspace_low=tuple(low), workspace_high=tuple(high), **limits)
    limiter = SafetyLimiter(settings, home)
    for row in rows:
        goal, _ = limiter.limit(convention.action(row, home), home)
        for _ in range(ticks):
            pose = limiter.follow(goal, tick_s)
            yield SafeAction(pose, None, (), limiter.velocity.copy(), limiter.angular_velocity.copy())


# Joint angles: forward kinematics from the makers' tables -------------------------------------------------------------

WX250S_HOME = np.array([[1, 0, 0, 0.458325], [0, 1, 0, 0], [0, 0, 1, 0.36065], [0, 0, 0, 1.0]])
WX250S_SCREWS = np.array(
    [
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, -0.11065, 0, 0],
        [0, 1, 0, -0.36065, 0, 0.04975],
        [1, 0, 0, 0, 0.36065, 0],
        [0, 1, 0, -0.36065, 0, 0.29975],
        [1, 0, 0, 0, 0.36065, 0],
    ]
)
# a (m), d (m), alpha (rad) of each joint, and flange to the tool centre of the hand.
FR3_ROWS = [
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
]


def wx250s_forward(joints: np.ndarray) -> np.ndarray:
    """The pose (4, 4) of ee_gripper_link in base_link, as a product of exponentials."""
    pose = np.eye(4)
    for (wx, wy, wz, *v), angle in zip(WX250S_SCREWS, joints, strict=True):
        axis = np.array([wx, wy, wz])
        cross = np.array([[0, -wz, wy], [wz, 0, -wx], [-wy, wx, 0]])
        turn = np.eye(4)
        turn[:3, :3] = rodrigues(axis * angle)
        shape = angle * np.eye(3) + (1 - np.cos(angle)) * cross + (angle - np.sin(angle)) * cross @ cross
        turn[:3, 3] = shape @ np.array(v)
        pose = pose @ turn
    return pose @ WX250S_HOME


def fr3_forward(joints: np.ndarray) -> np.ndarray:
    """The pose (4, 4) of fr3_hand_tcp in fr3_link0, by Denavit and Hartenberg's parameters."""
    pose = np.eye(4)
    for (a, d, alpha), angle in zip(FR3_ROWS, joints, strict=True):
        link = np.eye(4)
        link[:3, :3] = rodrigues(alpha * np.eye(3)[0]) @ rodrigues(angle * np.eye(3)[2])
        link[:3, 3] = rodrigues(alpha * np.eye(3)[0]) @ [0, 0, d] + np.array([a, 0, 0])
        pose = pose @ link
    hand = np.eye(4)
    hand[:3, :3] = rodrigues(-np.pi / 4 * np.eye(3)[2])
    hand[:3, 3] = [0, 0, 0.107 + 0.1034]
    return pose @ hand


def joint_stream(home: Pose, count: int):
    """Slow enough for the joints, so that they never trail."""
    limits = {"max_speed": 0.1, "max_angular_speed": 0.4}
    return limited_stream(home, bridge_actions(count), 0.05, 1, **limits)


def test_trajectory_points_are_angles_of_the_commanded_poses(world):
    from joint_trajectory import FakeJointTrajectory

    robot = world.add(FakeJointTrajectory())
    start = robot.joints
    home = load_arm("fr3").forward(start)
    bench = Bench(world, "joint_trajectory", Settings(rate_hz=20.0))
    bench.until_healthy()
    bench.connect(SafeAction(home, None), robot.received)
    worst, last = 0.0, start
    for command in joint_stream(home, ACTIONS):
        _, (stamp_ns, names, positions, duration_ns) = bench.deliver(command, robot.received)
        assert stamp_ns == 0, "at once, whatever the clocks of both machines are"
        assert names == tuple(f"fr3_joint{i}" for i in range(1, 8))
        assert duration_ns == 100_000_000, "two periods"
        assert np.abs(positions - last).max() <= 1.25 * 0.05 + 1e-9, "no joint jumps"
        worst = max(worst, distance(fr3_forward(positions), matrix_of(command.pose)))
        last = positions
    print(f"joint_trajectory: {worst:.1e}")
    assert worst <= TOLERANCE and robot.refused == 0


def test_joint_groups_are_angles_of_the_commanded_poses(world):
    from interbotix import FakeInterbotix

    robot = world.add(FakeInterbotix())
    start = robot.joints
    home = load_arm("wx250s").forward(start)
    bench = Bench(world, "interbotix", Settings(base_frame="wx250s/base_link", rate_hz=20.0, arm="wx250s"))
    bench.until_healthy()
    bench.connect(SafeAction(home, None), robot.groups)
    worst, last = 0.0, start
    for command in joint_stream(home, ACTIONS):
        _, (name, angles) = bench.deliver(command, robot.groups)
        assert name == "arm" and len(angles) == 6
        assert np.abs(angles - last).max() <= 1.2 * 0.05 + 1e-6, "no joint jumps"
        # Angles travel as float32: up to 1.2e-7 rad each, which the arm's length turns into as many metres.
        worst = max(worst, distance(wx250s_forward(angles), matrix_of(command.pose)))
        last = angles
    print(f"interbotix: {worst:.1e}")
    assert worst <= TOLERANCE


def test_a_pose_that_asks_for_too_fast_joints_is_followed_late_without_a_jump(world):
    from joint_trajectory import FakeJointTrajectory

    robot = world.add(FakeJointTrajectory())
    last = start = robot.joints
    arm = load_arm("fr3")
    bench = Bench(world, "joint_trajectory")
    bench.until_healthy()
    bench.connect(SafeAction(arm.forward(start), None), robot.received)
    goal = arm.forward(start + np.array([0.2, 0, 0, 0, 0, 0, 0]))
    for _ in range(12):
        _, (_, _, positions, _) = bench.deliver(SafeAction(goal, None), robot.received)
        assert np.abs(positions - last).max() <= 1.25 * 0.02 + 1e-9
        last = positions
    assert distance(fr3_forward(last), matrix_of(goal)) <= TOLERANCE


def test_interbotix_motors_get_the_control_period_as_their_profile_before_the_first_command(world):
    from interbotix import FakeInterbotix

    robot = world.add(FakeInterbotix())
    home = load_arm("wx250s").forward(robot.joints)
    bench = Bench(world, "interbotix", Settings(base_frame="wx250s/base_link", rate_hz=50.0, arm="wx250s"))
    bench.until_healthy()
    assert not robot.modes, "nothing is changed before the first command"
    world.wait_for(lambda: bench.send(SafeAction(home, 1.0)) and robot.groups, "a command")
    arm, gripper = robot.modes
    assert (arm.cmd_type, arm.name, arm.mode, arm.profile_type) == ("group", "arm", "position", "time")
    assert (arm.profile_velocity, arm.profile_acceleration) == (20, 10)
    assert (gripper.cmd_type, gripper.name, gripper.mode) == ("single", "gripper", "linear_position")


@pytest.mark.parametrize(
    ("mode", "opened", "closed"), [("linear_position", 2 * 0.037, 2 * 0.015), ("pwm", 250.0, -250.0)]
)
def test_interbotix_gripper_is_told_only_when_it_changes(world, mode, opened, closed):
    from interbotix import FakeInterbotix

    robot = world.add(FakeInterbotix())
    home = load_arm("wx250s").forward(robot.joints)
    settings = Settings(base_frame="wx250s/base_link", arm="wx250s")
    bench = Bench(world, "interbotix", settings, gripper=mode)
    bench.until_healthy()
    bench.connect(SafeAction(home, None), robot.groups)
    assert not robot.singles
    world.wait_for(lambda: bench.send(SafeAction(home, 1.0)) and robot.singles, "the first wish arrives")
    for opening in [1.0] * 5 + [0.0] * 5 + [1.0, 1.0]:
        bench.deliver(SafeAction(home, opening), robot.groups)
    world.wait_for(lambda: len(robot.singles) >= 3, "all changes arrive")
    assert [name for name, _ in robot.singles] == ["gripper"] * 3
    assert [value for _, value in robot.singles] == pytest.approx([opened, closed, opened])


def test_interbotix_gripper_is_told_nothing_in_a_hold_and_again_after_it_was_moved_by_hand(world):
    from interbotix import FakeInterbotix

    robot = world.add(FakeInterbotix())
    home = load_arm("wx250s").forward(robot.joints)
    bench = Bench(world, "interbotix", Settings(base_frame="wx250s/base_link", arm="wx250s"))
    bench.until_healthy()
    closed = SafeAction(home, 0.0)
    bench.connect(replace(closed, active=False), robot.groups)
    for _ in range(20):
        bench.deliver(replace(closed, active=False), robot.groups)
    assert not robot.singles, "the wish of an action that was interrupted"
    told = robot.singles
    world.wait_for(lambda: bench.send(closed) and told, "the wish arrives with the next action")
    bench.deliver(replace(closed, active=False, restarted=True), robot.groups)
    world.wait_for(lambda: bench.send(closed) and len(told) == 2, "the same wish is sent again after a restart")
    bench.deliver(replace(closed, gripper=None), robot.groups)
    world.wait_for(lambda: bench.send(closed) and len(told) == 3, "and after the gripper was left alone")
    for _ in range(5):
        bench.deliver(closed, robot.groups)
    assert len(told) == 3


def test_a_scale_of_servo_below_our_limits_is_announced_with_the_numbers(world, capfd):
    Bench(world, "servo_twist", Settings(max_angular_speed=1.0), gripper="none")
    said = capfd.readouterr().err
    assert "0.8 rad/s (rotational_scale)" in said and "max_angular_speed allows 1 rad/s" in said
    assert "linear_scale" not in said


def test_settings_of_a_backend_are_parameters_of_its_node(world):
    bench = Bench(world, "crisp", topic="other_pose", gripper="none")
    assert bench.node.get_parameter("crisp.topic").value == "other_pose"
    assert bench.node.get_parameter("crisp.gripper").value == "none"
    assert "target" in bench.node.describe_parameter("crisp.topic").description


def test_a_backend_can_be_made_again_after_it_was_closed(world):
    from openvla_ros.backends import make_backend

    robot = pose_robot(world, "crisp")
    bench = Bench(world, "crisp", gripper="none")
    bench.connect(HOLD, robot.received)
    bench.backend.close()
    bench.backend = make_backend("crisp", bench.node, replace(bench.settings))
    bench.connect(HOLD, robot.received)
    bench.until_healthy(HOLD)
