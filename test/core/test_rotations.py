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
