"""Keys move a goal; the goal stays near the arm."""

import numpy as np
import pytest

from openvla_core import rotations
from openvla_core.jogging import LEASH_M, LEASH_RAD, STEP_M, STEP_RAD, JogGoal
from openvla_core.types import Pose

DOWN = np.array([1.0, 0.0, 0.0, 0.0])
HOME = Pose(np.array([0.4, 0.0, 0.3]), DOWN)


@pytest.fixture
def goal() -> JogGoal:
    goal = JogGoal()
    goal.near(HOME)
    return goal


@pytest.mark.parametrize(("axis", "index"), [("x", 0), ("y", 1), ("z", 2)])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_step_moves_one_axis_of_the_base(goal, axis, index, direction):
    goal.step(axis, direction)
    expected = np.zeros(3)
    expected[index] = direction * STEP_M
    np.testing.assert_allclose(goal.pose.position - HOME.position, expected, atol=1e-12)


def test_a_turn_is_about_the_axes_of_the_base(goal):
    goal.step("yaw", 1)
    turn = rotations.rotation_between(DOWN, goal.pose.quaternion)
    np.testing.assert_allclose(turn, [0.0, 0.0, STEP_RAD], atol=1e-9)


def test_the_goal_stays_on_a_leash(goal):
    for _ in range(100):
        goal.step("x", 1)
        goal.step("roll", -1)
    pose = goal.near(HOME)
    assert np.linalg.norm(pose.position - HOME.position) == pytest.approx(LEASH_M)
    turn = rotations.rotation_between(HOME.quaternion, pose.quaternion)
    assert np.linalg.norm(turn) == pytest.approx(LEASH_RAD)
    goal.step("x", -1)
    assert goal.pose.position[0] == pytest.approx(HOME.position[0] + LEASH_M - STEP_M)


def test_without_a_key_the_goal_is_where_it_was(goal):
    goal.step("z", 1)
    before = goal.pose.position
    sagged = Pose(HOME.position - [0.0, 0.0, 0.005], DOWN)
    np.testing.assert_allclose(goal.near(sagged).position, before, atol=1e-12)


def test_nothing_moves_before_the_first_pose():
    goal = JogGoal()
    goal.step("x", 1)
    assert goal.pose is None
    np.testing.assert_array_equal(goal.near(HOME).position, HOME.position)


def test_speed_scales_the_step_and_ends_at_both_ends(goal):
    for _ in range(10):
        goal.change_speed(-1)
    assert goal.speed == 0.25
    goal.step("x", 1)
    assert goal.pose.position[0] == pytest.approx(HOME.position[0] + 0.25 * STEP_M)
    for _ in range(10):
        goal.change_speed(1)
    assert goal.speed == 2.0


def test_the_gripper_toggles(goal):
    goal.toggle_gripper()
    assert goal.opening == 0.0
    goal.toggle_gripper()
    assert goal.opening == 1.0
