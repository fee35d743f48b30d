"""What goes wrong at the robot becomes a problem with a code and a sentence, and goes away when it is over."""

from dataclasses import replace

import numpy as np
import pytest
from backend_bench import HOME, ROOT, Bench, Settings, parameters

from openvla_core import rotations
from openvla_core.arm_kinematics import load_arm
from openvla_core.errors import ConfigError, KinematicsError
from openvla_core.types import Pose, SafeAction
from openvla_ros import topics
from openvla_ros.backends import NAMES, interface_packages, make_backend

MODES = "/wx250s/set_operating_modes"
HOLD = SafeAction(HOME, None)
WIDOWX = Settings(base_frame="wx250s/base_link", arm="wx250s")
FR3_HOME = np.array([0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398])


def crisp(world, **values):
    from crisp import FakeCrisp

    return world.add(FakeCrisp(parameter_overrides=parameters(values)))


def servo(world, api="jazzy", **values):
    from servo import FakeServo

    return world.add(FakeServo(parameter_overrides=parameters({"api": api, **values})))


def trajectory(world, **values):
    from joint_trajectory import FakeJointTrajectory

    return world.add(FakeJointTrajectory(parameter_overrides=parameters(values)))


def interbotix(world, **values):
    from interbotix import FakeInterbotix

    return world.add(FakeInterbotix(parameter_overrides=parameters(values)))


def switch(robot, fault: str) -> None:
    robot.set_parameters(parameters({"fault": fault}))
    assert robot.fault == fault


# Nobody there ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "topic", "kind"),
    [
        ("sim", Settings(), "/robot/target_pose", "geometry_msgs/PoseStamped"),
        ("crisp", Settings(), "/target_pose", "geometry_msgs/PoseStamped"),
        ("servo_twist", Settings(), "/servo_node", "start_servo"),
        ("servo_pose", Settings(), "/servo_node", "switch_command_type"),
        ("joint_trajectory", Settings(), "/fr3_arm_controller/joint_trajectory", "trajectory_msgs/JointTrajectory"),
        ("interbotix", WIDOWX, MODES, "service"),
    ],
)
def test_an_absent_robot_is_named_with_its_topic_and_type(world, name, settings, topic, kind):
    bench = Bench(world, name, settings)
    problem = bench.until_problem("BACKEND_ABSENT")
    assert topic in problem.sentence and kind in problem.sentence
    assert not problem.latched, "it is only not there yet"


@pytest.mark.parametrize(
    ("name", "settings", "own"),
    [("joint_trajectory", Settings(), {}), ("interbotix", WIDOWX, {"set_profile": False})],
)
def test_a_missing_controller_is_named_before_its_missing_joint_states(world, name, settings, own):
    bench = Bench(world, name, settings, **own)
    bench.until_problem("BACKEND_ABSENT")
    solver = bench.backend._solver
    world.wait_for(lambda: solver.problem(), "no joint states either")
    assert solver.problem().code == "JOINTS_STALE" and bench.backend.problem().code == "BACKEND_ABSENT"


def test_a_controller_that_goes_away_while_the_arm_moves_is_a_latched_problem(world):
    robot = crisp(world)
    bench = Bench(world, "crisp", gripper="none")
    bench.connect(HOLD, robot.received)
    bench.until_healthy(HOLD)
    switch(robot, "absent")
    assert bench.until_problem("BACKEND_ABSENT", HOLD).latched
    switch(robot, "")
    bench.backend.reset()
    bench.until_healthy(HOLD)


def test_a_listener_that_asks_for_more_than_is_offered_does_not_count(world):
    world.peer.create_subscription(topics.PoseStamped, "target_pose", lambda message: None, topics.LATCHED)
    bench = Bench(world, "crisp", gripper="none")
    bench.backend.send(HOLD, bench.now_ns())
    problem = bench.until_problem("BACKEND_ABSENT", HOLD)
    assert "does not take geometry_msgs/PoseStamped" in problem.sentence


# A second commander ---------------------------------------------------------------------------------------------------


def test_a_second_publisher_is_reported_and_crisp_follows_nobody(world):
    robot = crisp(world)
    bench = Bench(world, "crisp", gripper="none")
    bench.connect(HOLD, robot.received)
    rogue = world.peer.create_publisher(topics.PoseStamped, "target_pose", topics.COMMAND)
    problem = bench.until_problem("BACKEND_MULTI", HOLD)
    assert problem.latched and "/target_pose" in problem.sentence
    count = robot.dropped
    world.wait_for(lambda: bench.send(HOLD) and robot.dropped > count, "CRISP drops targets")
    world.peer.destroy_publisher(rogue)
    bench.until_healthy(HOLD)


@pytest.mark.parametrize("name", ["sim", "crisp", "servo_twist", "joint_trajectory"])
def test_before_its_first_command_a_backend_is_no_publisher_and_asks_for_nothing(world, name):
    """CRISP drops the commands of everybody while there are two: a dry run beside a teleoperator must be invisible."""
    robot = servo(world)
    bench = Bench(world, name, **({} if name == "sim" else {"gripper": "none"}))
    for _ in range(20):
        bench.backend.problem()
        world.executor.spin_once(timeout_sec=0.02)
    for topic in (
        "robot/target_pose",
        "target_pose",
        "servo_node/delta_twist_cmds",
        "fr3_arm_controller/joint_trajectory",
    ):
        assert bench.node.count_publishers(topic) == 0
    assert robot.requests == []


# Services that have to agree ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api", "requests"), [("humble", ["start_servo"]), ("jazzy", ["switch_command_type", "pause_servo"])]
)
def test_servo_is_asked_in_the_way_of_its_release(world, api, requests):
    robot = servo(world, api)
    bench = Bench(world, "servo_twist", gripper="none")
    bench.connect(HOLD, robot.received)
    assert robot.requests == requests
    if api == "jazzy":
        assert robot.command_type == robot.kind.Request.TWIST


@pytest.mark.parametrize("api", ["humble", "jazzy"])
def test_a_servo_that_refuses_gets_no_command_until_it_agrees(world, api):
    robot = servo(world, api, fault="rejecting")
    bench = Bench(world, "servo_twist", gripper="none")
    assert "refuses" in bench.until_problem("BACKEND_REFUSED", HOLD).sentence
    assert bench.node.count_publishers("servo_node/delta_twist_cmds") == 0
    switch(robot, "")
    bench.until_healthy(HOLD)
    bench.connect(HOLD, robot.received)


def test_the_answer_of_a_service_is_noticed_without_a_further_command(world):
    servo(world, "humble")
    bench = Bench(world, "servo_twist", gripper="none")
    world.wait_for(lambda: bench.backend.send(HOLD, bench.now_ns()) or bench.backend.problem(), "the question is sent")
    assert bench.backend.problem().code == "BACKEND_STARTING"
    bench.until_healthy()


@pytest.mark.parametrize("api", ["humble", "jazzy"])
def test_a_servo_that_halts_is_a_problem_while_it_does(world, api):
    robot = servo(world, api)
    bench = Bench(world, "servo_twist", gripper="none")
    bench.connect(HOLD, robot.received)
    switch(robot, "reflex")
    assert "collision" in bench.until_problem("SERVO_HALT", HOLD).sentence
    switch(robot, "")
    bench.until_healthy(HOLD)


def test_servo_pose_says_at_once_that_humble_takes_no_poses(world):
    with pytest.raises(ConfigError, match="servo_twist"):
        Bench(world, "servo_pose", api="humble", gripper="none")
    servo(world, "humble")
    assert Bench(world, "servo_pose", gripper="none").until_problem("BACKEND_REFUSED", HOLD).latched


def test_a_restarted_driver_is_asked_again_for_its_modes(world):
    robot = interbotix(world)
    home = SafeAction(load_arm("wx250s").forward(robot.joints), None)
    bench = Bench(world, "interbotix", WIDOWX)
    bench.until_healthy()
    bench.connect(home, robot.groups)
    world.executor.remove_node(robot)
    world.nodes.remove(robot)
    robot.destroy_node()
    bench.until_problem("BACKEND_ABSENT", home)
    client = world.peer.create_client(interface_packages.load("interbotix_xs_msgs.srv.OperatingModes"), MODES)
    world.wait_for(lambda: not client.service_is_ready(), "the service is gone")
    bench.backend.send(home, bench.now_ns())
    again = interbotix(world)
    world.wait_for(lambda: bench.backend.send(home, bench.now_ns()) or len(again.modes) == 2, "modes are set again")


# Joint angles ---------------------------------------------------------------------------------------------------------


def test_a_pose_out_of_reach_is_held_and_after_five_in_a_row_latched(world):
    robot = trajectory(world)
    home = load_arm("fr3").forward(FR3_HOME)
    bench = Bench(world, "joint_trajectory")
    bench.until_healthy()
    bench.connect(SafeAction(home, None), robot.received)
    away = SafeAction(Pose(home.position + np.array([0.0, 0.0, 1.0]), home.quaternion), None)
    for count in range(1, 6):
        bench.send(away)
        problem = bench.backend.problem()
        assert problem.code == "IK_FAIL" and problem.latched == (count == 5)
    assert bench.settled(robot.received) and not robot.received, "nothing was sent"
    bench.backend.reset()
    _, (_, _, positions, _) = bench.deliver(SafeAction(home, None), robot.received)
    assert np.abs(positions - FR3_HOME).max() < 1e-4 and bench.backend.problem() is None


def test_a_single_failure_is_over_with_the_next_pose(world):
    robot = trajectory(world)
    home = load_arm("fr3").forward(FR3_HOME)
    bench = Bench(world, "joint_trajectory")
    bench.until_healthy()
    bench.connect(SafeAction(home, None), robot.received)
    bench.send(SafeAction(Pose(home.position + 1.0, home.quaternion), None))
    assert bench.backend.problem().code == "IK_FAIL"
    bench.deliver(SafeAction(home, None), robot.received)
    assert bench.backend.problem() is None


@pytest.mark.parametrize("fault", ["silent", "nan"])
def test_without_measured_angles_nothing_is_sent(world, fault):
    robot = trajectory(world, fault=fault)
    bench = Bench(world, "joint_trajectory")
    home = SafeAction(load_arm("fr3").forward(FR3_HOME), None)
    problem = bench.until_problem("JOINTS_STALE", home)
    assert "fr3_joint1" in problem.sentence and not robot.received
    switch(robot, "")
    bench.connect(home, robot.received)
    switch(robot, fault)
    bench.until_problem("JOINTS_STALE", home)


def other_posture(arm, joints: np.ndarray, steps: int) -> np.ndarray:
    """Angles (7,) of the same tool pose with the elbow elsewhere, by about 0.1 rad a step."""
    pose = arm.forward(joints)
    for _ in range(steps):
        columns = [arm.forward(joints + 1e-6 * axis).position - arm.forward(joints).position for axis in np.eye(7)]
        turns = [
            rotations.rotation_between(arm.forward(joints).quaternion, arm.forward(joints + 1e-6 * axis).quaternion)
            for axis in np.eye(7)
        ]
        free = np.linalg.svd(np.hstack([columns, turns]).T)[2][-1]
        joints = arm.inverse(pose, joints + 0.1 * free * np.sign(free[0]) / np.abs(free).max(), 0.1)
    return joints


@pytest.mark.parametrize(("sign", "steps"), [("restarted", 2), ("gap", 2), ("far", 6)])
def test_an_arm_guided_to_another_posture_of_the_same_pose_is_not_pulled_back(world, sign, steps):
    """Seven joints reach a pose in many postures: the old one would be a jump of all joints with the tool at rest."""
    robot = trajectory(world)
    arm = load_arm("fr3")
    home = SafeAction(arm.forward(FR3_HOME), None)
    bench = Bench(world, "joint_trajectory")
    bench.until_healthy()
    bench.connect(home, robot.received)
    guided = other_posture(arm, FR3_HOME, steps)
    assert np.abs(guided - FR3_HOME).max() > 0.15
    robot.put(guided)
    seen = world.listen(topics.JointState, topics.JOINT_STATES, topics.SENSOR, lambda m: np.array(m.position[:7]))
    world.wait_for(lambda: seen and np.abs(seen[-1] - guided).max() < 1e-6, "the new posture is measured")
    world.wait_for(lambda: bench.settled(robot.received), "the backend has measured it too")
    command = replace(home, restarted=sign == "restarted")
    _, (_, _, positions, _) = bench.deliver(command, robot.received, 5.0 if sign == "gap" else None)
    assert np.abs(positions - guided).max() < 1e-3


@pytest.mark.parametrize(("arm", "error"), [("", ConfigError), ("kuka", KinematicsError)])
def test_an_arm_that_is_not_known_is_said_when_the_backend_is_made(world, arm, error):
    with pytest.raises(error, match="arm"):
        Bench(world, "joint_trajectory", Settings(arm=arm))


# The robot's own mode -------------------------------------------------------------------------------------------------


def test_a_reflex_of_the_robot_is_latched(world):
    robot = crisp(world)
    bench = Bench(world, "crisp", gripper="none", robot_state="franka_robot_state_broadcaster/robot_state")
    bench.connect(HOLD, robot.received)
    bench.until_healthy(HOLD)
    switch(robot, "reflex")
    problem = bench.until_problem("ROBOT_REFLEX", HOLD)
    assert problem.latched and "error_recovery" in problem.sentence
    switch(robot, "")
    bench.until_healthy(HOLD)


@pytest.mark.parametrize("fault", ["", "silent"])
def test_a_robot_state_that_was_asked_for_and_is_not_heard_is_a_problem(world, fault):
    """A reflex could not be noticed: a wrong topic name must not pass for a healthy robot."""
    robot = crisp(world)
    state = "franka_robot_state_broadcaster/robot_state"
    bench = Bench(world, "crisp", gripper="none", robot_state=state if fault else "misspelt")
    bench.connect(HOLD, robot.received)
    if fault:
        bench.until_healthy(HOLD)
        switch(robot, fault)
    problem = bench.until_problem("ROBOT_STATE_STALE", HOLD)
    assert (state if fault else "/misspelt") in problem.sentence and not problem.latched
    if fault:
        switch(robot, "")
        bench.until_healthy(HOLD)


# Packages that are not installed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own", "missing", "advice"),
    [
        ("servo_twist", {"gripper": "none"}, "moveit_msgs", "ros-jazzy-moveit-msgs"),
        ("crisp", {"gripper": "franka"}, "franka_msgs", "ros-jazzy-franka-msgs"),
        ("crisp", {"gripper": "gripper_command"}, "control_msgs", "ros-jazzy-control-msgs"),
        ("crisp", {"gripper": "none", "robot_state": "state"}, "franka_msgs", "ros-jazzy-franka-msgs"),
        ("interbotix", {}, "interbotix_xs_msgs", "from source"),
    ],
)
def test_a_missing_message_package_is_named_with_how_to_install_it(world, monkeypatch, name, own, missing, advice):
    import sys

    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    for module in [module for module in sys.modules if module.split(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, module, None)
    for part in ("", ".msg", ".srv", ".action"):
        monkeypatch.setitem(sys.modules, missing + part, None)
    with pytest.raises(ConfigError, match=advice):
        Bench(world, name, WIDOWX if name == "interbotix" else Settings(), **own)


def test_servo_of_humble_needs_no_moveit_msgs(world, monkeypatch):
    import sys

    monkeypatch.setenv("ROS_DISTRO", "humble")
    monkeypatch.setitem(sys.modules, "moveit_msgs.srv", None)
    robot = servo(world, "humble")
    bench = Bench(world, "servo_twist", gripper="none")
    bench.connect(HOLD, robot.received)


def test_an_unknown_backend_is_refused_with_the_known_ones(world):
    with pytest.raises(ConfigError, match="crisp, servo_twist"):
        make_backend("gazebo", world.peer, Settings())
    assert set(NAMES) == {path.stem for path in (ROOT / "openvla_ros" / "backends").glob("*.py") if _makes(path)}


def _makes(path) -> bool:
    return "\ndef make(" in path.read_text()
