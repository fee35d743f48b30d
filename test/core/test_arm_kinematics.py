"""Joint angles to pose and back, against plain matrices built from the published tables."""

import subprocess
import sys

import mujoco
import numpy as np
import pytest

from openvla_core import rotations
from openvla_core.arm_kinematics import load_arm
from openvla_core.errors import KinematicsError
from openvla_core.sim import scene
from openvla_core.types import Pose

ARMS = {name: load_arm(name) for name in ("fr3", "panda", "wx250s")}
READY = {
    "fr3": np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]),
    "panda": np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]),
    "wx250s": np.array([-0.13192, -0.76239, 0.44485, -0.01994, 1.75641, -0.15953]),  # where BridgeV2 episodes start
}
DT = 0.02  # of a 50 Hz stream
STEP_POSITION, STEP_ROTATION = 0.25 * DT, 1.0 * DT  # metres and radians in that time


def turn(axis, angle):
    x, y, z = axis
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def transform(rotation, translation):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def franka_pose(joints):
    """Franka's Denavit-Hartenberg table (a, alpha, d), after Craig; then the flange, and the hand with its TCP."""
    quarter = np.pi / 2
    rows = [(0, 0, 0.333), (0, -quarter, 0), (0, quarter, 0.316), (0.0825, quarter, 0), (-0.0825, -quarter, 0.384),
            (0, quarter, 0), (0.088, quarter, 0)]  # fmt: skip
    pose = np.eye(4)
    for (a, alpha, d), theta in zip(rows, joints, strict=True):
        pose = pose @ transform(turn((1, 0, 0), alpha), (a, 0, 0)) @ transform(turn((0, 0, 1), theta), (0, 0, d))
    return pose @ transform(np.eye(3), (0, 0, 0.107)) @ transform(turn((0, 0, 1), -np.pi / 4), (0, 0, 0.1034))


def widowx_pose(joints):
    """Product of exponentials: each joint turns all that follows about a line of the home pose (axis, point on it)."""
    x, y, z, height = (1, 0, 0), (0, 1, 0), (0, 0, 1), 0.36065
    lines = [
        (z, (0, 0, 0)), (y, (0, 0, 0.11065)), (y, (0.04975, 0, height)),
        (x, (0, 0, height)), (y, (0.29975, 0, height)), (x, (0, 0, height)),
    ]  # fmt: skip
    pose = transform(np.eye(3), (0.458325, 0, 0.36065))
    for (axis, point), angle in reversed(list(zip(lines, joints, strict=True))):
        rotation = turn(axis, angle)
        pose = transform(rotation, np.array(point) - rotation @ np.array(point)) @ pose
    return pose


def matrix_of(pose):
    return transform(rotations.to_matrix(pose.quaternion), pose.position)


def drawn(arm, generator, margin=0.1):
    return generator.uniform(arm.joint_lower + margin, arm.joint_upper - margin)


def errors(arm, joints, pose):
    there = arm.forward(joints)
    angle = np.linalg.norm(rotations.rotation_between(there.quaternion, pose.quaternion))
    return np.linalg.norm(there.position - pose.position), angle


def moved_a_bit(pose, generator, share=1.0):
    """The pose one tick of a full-speed stream later."""
    directions = [vector / np.linalg.norm(vector) for vector in generator.normal(size=(2, 3))]
    return rotations.moved(pose, share * STEP_POSITION * directions[0], share * STEP_ROTATION * directions[1])


@pytest.mark.parametrize(("name", "table"), [("fr3", franka_pose), ("panda", franka_pose), ("wx250s", widowx_pose)])
def test_the_pose_of_random_joint_angles_agrees_with_the_published_table(name, table):
    arm, generator = ARMS[name], np.random.default_rng(0)
    for _ in range(200):
        joints = drawn(arm, generator, margin=0.0)
        assert np.abs(matrix_of(arm.forward(joints)) - table(joints)).max() <= 1e-9


def test_the_widowx_home_pose_is_the_published_one():
    home = ARMS["wx250s"].forward(np.zeros(6))
    assert np.allclose(home.position, [0.458325, 0, 0.36065], atol=1e-12)
    assert np.allclose(home.quaternion, [0, 0, 0, 1], atol=1e-12)


def test_the_franka_agrees_with_the_simulated_arm():
    model = mujoco.MjModel.from_xml_string(scene.scene_xml())
    data, generator = mujoco.MjData(model), np.random.default_rng(1)
    for _ in range(100):
        joints = drawn(ARMS["panda"], generator)
        data.qpos[:7] = joints
        mujoco.mj_kinematics(model, data)
        site = data.site(scene.TOOL_LINK)
        for name in ("panda", "fr3"):
            pose = ARMS[name].forward(joints)
            assert np.abs(pose.position - site.xpos).max() <= 1e-9
            # The scene writes the -45 degrees of the hand with seven digits.
            assert np.abs(rotations.to_matrix(pose.quaternion) - site.xmat.reshape(3, 3)).max() <= 1e-7
    assert np.array_equal(ARMS["panda"].joint_lower, scene.JOINT_LOWER)
    assert np.array_equal(ARMS["panda"].joint_upper, scene.JOINT_UPPER)
    assert np.array_equal(ARMS["panda"].joint_speed, scene.JOINT_SPEED)


def test_names_and_limits_are_those_of_the_makers():
    fr3, widowx = ARMS["fr3"], ARMS["wx250s"]
    assert (fr3.base_link, fr3.tool_link) == ("fr3_link0", "fr3_hand_tcp")
    assert (ARMS["panda"].base_link, ARMS["panda"].tool_link) == (scene.BASE_FRAME, scene.TOOL_LINK)
    assert (widowx.base_link, widowx.tool_link) == ("wx250s/base_link", "wx250s/ee_gripper_link")
    assert fr3.joint_names == tuple(f"fr3_joint{i}" for i in range(1, 8))
    assert widowx.joint_names == ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
    assert np.allclose(fr3.joint_lower, [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159])
    assert np.allclose(fr3.joint_upper, [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159])
    assert np.allclose(fr3.joint_speed, [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
    assert np.allclose(np.degrees(widowx.joint_lower), [-180, -108, -123, -180, -100, -180], atol=1e-3)
    assert np.allclose(np.degrees(widowx.joint_upper), [180, 114, 92, 180, 123, 180], atol=1e-3)
    assert np.allclose(widowx.joint_speed, np.pi)


@pytest.mark.parametrize("name", ARMS)
def test_five_hundred_poses_are_reached_from_nearby_within_every_limit(name):
    """No pose is given up: the joint angles are drawn up to 0.05 rad from the ones that made the pose."""
    arm, generator = ARMS[name], np.random.default_rng(2)
    lower, upper = arm.joint_lower + 0.1, arm.joint_upper - 0.1
    worst = np.zeros(2)
    for _ in range(500):
        joints = drawn(arm, generator)
        start = np.clip(joints + generator.uniform(-0.05, 0.05, len(joints)), lower, upper)
        solution = arm.inverse(arm.forward(joints), start)
        worst = np.maximum(worst, errors(arm, solution, arm.forward(joints)))
        assert (solution >= lower).all() and (solution <= upper).all()
        assert np.abs(solution - start).max() <= 0.5 + 1e-12
    assert (worst <= 1e-6).all()


@pytest.mark.parametrize("name", ARMS)
def test_along_straight_paths_no_joint_is_faster_than_it_may_be(name):
    """A stream at full tool speed between poses in front of the arm; every tick is solved from the one before."""
    arm, generator = ARMS[name], np.random.default_rng(3)
    low, high = ([0.18, -0.15, 0.05], [0.36, 0.15, 0.22]) if name == "wx250s" else ([0.35, -0.3, 0.1], [0.6, 0.3, 0.45])
    joints = READY[name]
    pose = arm.forward(joints)
    down = pose.quaternion
    ticks, fastest = 0, 0.0
    for _ in range(12):
        tilt = rotations.from_euler_xyz(generator.normal(0, [0.1, 0.1, 0.3]))
        start, goal = pose, Pose(generator.uniform(low, high), rotations.multiply(tilt, down))
        turned = np.linalg.norm(rotations.rotation_between(start.quaternion, goal.quaternion))
        steps = int(
            np.ceil(max(np.linalg.norm(goal.position - start.position) / STEP_POSITION, turned / STEP_ROTATION))
        )
        for step in range(1, steps + 1):
            pose = rotations.interpolate(start, goal, step / steps)
            solution = arm.inverse(pose, joints, max_move=arm.joint_speed * DT)
            assert max(errors(arm, solution, pose)) <= 1e-6
            fastest = max(fastest, float((np.abs(solution - joints) / (arm.joint_speed * DT)).max()))
            joints, ticks = solution, ticks + 1
    assert ticks > 300
    assert fastest <= 1.0 + 1e-9


@pytest.mark.parametrize("name", ARMS)
def test_holding_a_pose_moves_no_joint(name):
    arm, generator = ARMS[name], np.random.default_rng(4)
    joints = drawn(arm, generator)
    assert np.array_equal(arm.inverse(arm.forward(joints), joints), joints)


def test_the_elbow_of_a_franka_comes_back_after_every_circle():
    """Steps of least joint motion alone turned the base joint by 1.5 rad in five circles of 0.2 m."""
    arm, joints = ARMS["fr3"], READY["fr3"]
    home = arm.forward(joints)
    for angle in np.linspace(0, 3 * 2 * np.pi, 151)[1:]:
        target = home.position + 0.1 * np.array([np.cos(angle) - 1.0, np.sin(angle), 0.0])
        joints = arm.inverse(Pose(target, home.quaternion), joints)
    assert np.abs(joints - READY["fr3"]).max() < 0.02


# Singular there, or nearly: wrist axes in line, or the arm stretched out.
SINGULAR = {
    "wx250s": [np.zeros(6), np.array([0.3, 0.2, -1.374, 0.0, 0.8, 0.5])],
    "fr3": [np.array([0.0, 0.3, 0.0, -0.26, 0.0, 1.9, 0.8])],
}


@pytest.mark.parametrize("name", SINGULAR)
def test_near_a_singularity_joints_move_little_or_the_pose_is_refused(name):
    arm, generator = ARMS[name], np.random.default_rng(5)
    most = arm.joint_speed * DT
    reached = 0
    for singular in SINGULAR[name]:
        for _ in range(100):
            start = singular + generator.normal(0, 0.01, len(singular))
            target = moved_a_bit(arm.forward(start), generator, share=0.2)
            try:
                solution = arm.inverse(target, start, max_move=most)
            except KinematicsError:
                continue
            reached += 1
            assert (np.abs(solution - start) <= most + 1e-9).all()
            assert max(errors(arm, solution, target)) <= 1e-6
    assert reached > 10


@pytest.mark.parametrize("name", ARMS)
def test_a_pose_out_of_reach_is_refused_with_what_is_missing(name):
    arm = ARMS[name]
    pose = Pose(np.array([2.0, 0.0, 0.3]), arm.forward(READY[name]).quaternion)
    with pytest.raises(
        KinematicsError, match=r"does not reach .* m in .*link.* short, expected 1e-06 m .* Use a target"
    ):
        arm.inverse(pose, READY[name])


@pytest.mark.parametrize(
    "pose",
    [
        Pose(np.array([np.nan, 0, 0]), np.array([0, 0, 0, 1.0])),
        Pose(np.array([0.3, 0, 0.3]), np.array([0, 0, np.inf, 1.0])),
        Pose(np.array([0.3, 0, 0.3]), np.zeros(4)),
        Pose(np.array([0.3, 0]), np.array([0, 0, 0, 1.0])),
    ],
)
def test_numbers_that_are_no_pose_are_refused(pose):
    with pytest.raises(KinematicsError, match="is no pose: expected three finite numbers"):
        ARMS["wx250s"].inverse(pose, READY["wx250s"])


@pytest.mark.parametrize("joints", [np.zeros(5), np.zeros(7), np.array([0, 0, np.nan, 0, 0, 0]), np.zeros((6, 1))])
def test_numbers_that_are_no_joint_angles_are_refused(joints):
    arm = ARMS["wx250s"]
    with pytest.raises(KinematicsError, match="expected 6 finite numbers, radians, of waist, shoulder"):
        arm.forward(joints)
    with pytest.raises(KinematicsError, match="start angles of wx250s"):
        arm.inverse(arm.forward(READY["wx250s"]), joints)


def test_degrees_are_noticed():
    arm = ARMS["wx250s"]
    with pytest.raises(
        KinematicsError, match=r"wrist_angle is at 100.6.* rad, expected -1.745 to 2.147 rad.*in radians"
    ):
        arm.inverse(arm.forward(READY["wx250s"]), np.degrees(READY["wx250s"]))


def test_a_joint_stops_at_its_margin_and_is_named():
    arm = ARMS["wx250s"]
    inside, beyond = READY["wx250s"].copy(), READY["wx250s"].copy()
    inside[4], beyond[4] = arm.joint_upper[4] - 0.11, arm.joint_upper[4] - 0.06
    with pytest.raises(KinematicsError, match=r"wrist_angle is at its limit \(-1.745 to 2.147 rad\)"):
        arm.inverse(arm.forward(beyond), inside)
    assert np.allclose(load_arm("wx250s", margin=0.05).inverse(arm.forward(beyond), inside), beyond, atol=1e-5)


def test_a_joint_inside_its_margin_may_stay_or_leave_but_not_go_deeper():
    """The sleep pose of a WidowX has its shoulder there, 0.085 rad from the end."""
    arm = ARMS["wx250s"]
    sleep = np.array([0.0, -1.80, 1.40, 0.0, 0.8, 0.0])
    out, deeper = sleep + [0, 0.03, 0, 0, 0, 0], sleep - [0, 0.03, 0, 0, 0, 0]
    assert np.array_equal(arm.inverse(arm.forward(sleep), sleep), sleep)
    assert np.allclose(arm.inverse(arm.forward(out), sleep), out, atol=1e-5)
    with pytest.raises(KinematicsError, match="shoulder is at its limit"):
        arm.inverse(arm.forward(deeper), sleep)


def test_a_pose_that_needs_a_larger_move_than_allowed_is_refused():
    arm, start = ARMS["wx250s"], READY["wx250s"]
    target = arm.forward(start + [0.05, 0, 0, 0, 0, 0])
    assert np.allclose(arm.inverse(target, start, max_move=0.06), start + [0.05, 0, 0, 0, 0, 0], atol=1e-5)
    with pytest.raises(KinematicsError, match="waist would have to move further at once"):
        arm.inverse(target, start, max_move=0.04)


@pytest.mark.parametrize(
    ("name", "margin", "match"), [("ur5", 0.1, "fr3, panda, wx250s"), ("fr3", 0.01, "0.05 to 0.5")]
)
def test_an_arm_that_cannot_be_loaded_says_what_can(name, margin, match):
    with pytest.raises(KinematicsError, match=match):
        load_arm(name, margin)


def test_without_the_library_the_module_still_imports_and_names_what_to_install():
    program = """
import sys
sys.modules.update(dict.fromkeys(("mink", "mujoco", "torch")))  # None: importing them fails
from openvla_core import arm_kinematics
from openvla_core.errors import KinematicsError
try:
    arm_kinematics.load_arm("wx250s")
except KinematicsError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install" in run.stdout and "mink" in run.stdout
