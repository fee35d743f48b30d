"""Rotations compared with plain 3 x 3 matrices."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_core import rotations
from openvla_core.types import Pose

vector = st.lists(st.floats(-6.0, 6.0), min_size=3, max_size=3).map(np.array)


def matrix(v):
    """Rodrigues' formula, independent of the quaternions."""
    angle = np.linalg.norm(v)
    if angle == 0:
        return np.eye(3)
    x, y, z = v / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


@given(vector, vector)
def test_rotating_a_vector_agrees_with_its_matrix(v, point):
    assert np.allclose(rotations.rotate(rotations.from_rotation_vector(v), point), matrix(v) @ point, atol=1e-9)


@given(vector, vector, vector)
def test_a_product_applies_its_right_side_first(a, b, point):
    q = rotations.multiply(rotations.from_rotation_vector(a), rotations.from_rotation_vector(b))
    assert np.allclose(rotations.rotate(q, point), matrix(a) @ matrix(b) @ point, atol=1e-9)


@given(vector)
def test_a_rotation_vector_comes_back_as_the_shortest_one(v):
    back = rotations.to_rotation_vector(rotations.from_rotation_vector(v))
    assert np.linalg.norm(back) <= math.pi + 1e-9
    assert np.allclose(matrix(back), matrix(v), atol=1e-7)


@given(vector, vector)
def test_the_rotation_between_two_poses_leads_from_one_to_the_other(a, b):
    start, end = rotations.from_rotation_vector(a), rotations.from_rotation_vector(b)
    there = rotations.moved(Pose(np.zeros(3), start), np.zeros(3), rotations.rotation_between(start, end))
    assert abs(abs(there.quaternion @ end) - 1.0) < 1e-9


@given(vector)
def test_euler_angles_are_turns_about_the_fixed_axes_in_order(angles):
    roll, pitch, yaw = (matrix(angle * axis) for angle, axis in zip(angles, np.eye(3), strict=True))
    q = rotations.from_euler_xyz(angles)
    for axis in np.eye(3):
        assert np.allclose(rotations.rotate(q, axis), yaw @ pitch @ roll @ axis, atol=1e-9)


def angle_between(a, b):
    return float(np.linalg.norm(rotations.rotation_between(a, b)))


@given(vector)
def test_euler_angles_of_a_rotation_give_that_rotation_back(v):
    q = rotations.from_rotation_vector(v)
    roll, pitch, yaw = rotations.to_euler_xyz(q)
    assert angle_between(q, rotations.from_euler_xyz(np.array([roll, pitch, yaw]))) < 1e-12
    assert abs(roll) <= math.pi and abs(pitch) <= math.pi / 2 and abs(yaw) <= math.pi


@given(st.floats(-3.1, 3.1), st.floats(-1.57, 1.57), st.floats(-3.1, 3.1))
def test_away_from_gimbal_lock_the_euler_angles_themselves_come_back(roll, pitch, yaw):
    angles = np.array([roll, pitch, yaw])
    # Dividing by cos(pitch) is what gimbal lock costs.
    tolerance = 1e-14 / math.cos(pitch)
    assert np.allclose(rotations.to_euler_xyz(rotations.from_euler_xyz(angles)), angles, rtol=0, atol=tolerance)


@pytest.mark.parametrize("pitch", [math.pi / 2, -math.pi / 2])
@pytest.mark.parametrize("distance", [0.0, 1e-16, 1e-12, 1e-9, 1e-8, 1e-7, 1e-4])
def test_euler_angles_at_and_near_gimbal_lock_keep_the_rotation(pitch, distance):
    """Reading roll and yaw from a matrix whose entries nearly vanish there is off by up to 1e-8 rad."""
    generator = np.random.default_rng(3)
    for roll, yaw in generator.uniform(-math.pi, math.pi, (50, 2)):
        q = rotations.from_euler_xyz(np.array([roll, pitch - math.copysign(distance, pitch), yaw]))
        assert angle_between(q, rotations.from_euler_xyz(rotations.to_euler_xyz(q))) < 1e-12


@pytest.mark.parametrize("angle", [math.pi, -math.pi, math.pi - 1e-12, -math.pi + 1e-12, 3 * math.pi, 0.0])
@pytest.mark.parametrize("axis", [0, 2])
def test_half_a_turn_about_one_axis_stays_about_that_axis(angle, axis):
    q = rotations.from_rotation_vector(angle * np.eye(3)[axis])
    angles = rotations.to_euler_xyz(q)
    assert np.allclose(np.cos(angles[axis]), np.cos(angle))
    assert np.allclose(np.delete(angles, axis), 0.0, atol=1e-15)


@given(vector)
def test_a_matrix_and_its_quaternion_are_the_same_rotation(v):
    q = rotations.from_rotation_vector(v)
    assert np.allclose(rotations.to_matrix(q), matrix(v), atol=1e-12)
    assert angle_between(q, rotations.from_matrix(matrix(v))) < 1e-7
    assert angle_between(q, rotations.from_matrix(rotations.to_matrix(q))) < 1e-12


@pytest.mark.parametrize("diagonal", [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)])
def test_half_turns_have_a_quaternion(diagonal):
    q = rotations.from_matrix(np.diag(diagonal).astype(float))
    assert np.allclose(rotations.to_matrix(q), np.diag(diagonal))


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((3, 3)), np.eye(4), -np.eye(3), np.diag([1.0, 1.0, -1.0]), 1.1 * np.eye(3), np.full((3, 3), np.nan)],
)
def test_a_matrix_that_is_no_rotation_is_not_taken_for_one(matrix):
    assert rotations.from_matrix(matrix) is None


@given(st.floats(-1e3, 1e3))
def test_a_wrapped_angle_points_the_same_way(angle):
    wrapped = float(rotations.wrapped(np.array(angle)))
    assert abs(wrapped) <= math.pi
    assert math.isclose(math.cos(wrapped), math.cos(angle), abs_tol=1e-9)
    assert math.isclose(math.sin(wrapped), math.sin(angle), abs_tol=1e-9)


def test_interpolation_turns_the_short_way_at_constant_speed():
    start = Pose(np.zeros(3), rotations.from_rotation_vector(np.array([0.0, 0.0, 3.0])))
    end = Pose(np.ones(3), -rotations.from_rotation_vector(np.array([0.0, 0.0, -3.0])))
    quarter = rotations.interpolate(start, end, 0.25)
    turned = rotations.rotation_between(start.quaternion, quarter.quaternion)
    assert np.allclose(turned, [0, 0, (2 * math.pi - 6.0) / 4])
    assert np.allclose(quarter.position, 0.25)


@pytest.mark.parametrize(
    ("position", "quaternion"),
    [
        ([0, 0, np.nan], [0, 0, 0, 1]),
        ([0, 0, 0], [0, 0, 0, 0]),
        ([0, 0, 0], [0, 0, 0, 1e308]),
        ([0, 0, 0], [np.inf, 0, 0, 1]),
        ([0, 0], [0, 0, 0, 1]),
    ],
)
def test_numbers_that_are_not_a_pose_are_not_taken_for_one(position, quaternion):
    assert rotations.checked_pose(np.array(position), np.array(quaternion)) is None
