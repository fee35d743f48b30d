"""The pose at the time of an image, and nothing made up outside the time that was measured."""

import numpy as np
import pytest

from openvla_core import rotations
from openvla_core.observation_buffer import PoseBuffer
from openvla_core.types import Pose

S = 1_000_000_000


def pose(x, yaw=0.0):
    return Pose(np.array([x, 0.0, 0.0]), rotations.from_rotation_vector(np.array([0.0, 0.0, yaw])))


@pytest.fixture
def buffer():
    buffer = PoseBuffer(duration_s=2.0, lead_s=0.1)
    for second in range(5):
        assert buffer.add(second * S, pose(second, 0.1 * second))
    return buffer


def test_between_two_measurements_the_pose_is_interpolated(buffer):
    between = buffer.at(round(3.25 * S))
    assert np.allclose(between.position, [3.25, 0, 0])
    assert np.allclose(rotations.to_rotation_vector(between.quaternion), [0, 0, 0.325])


def test_at_a_measurement_the_pose_is_the_measured_one(buffer):
    assert np.array_equal(buffer.at(3 * S).position, [3.0, 0, 0])


def test_an_image_slightly_newer_than_the_last_pose_gets_that_pose(buffer):
    assert np.array_equal(buffer.at(round(4.05 * S)).position, [4.0, 0, 0])


@pytest.mark.parametrize("stamp_s", [-1.0, 1.9, 4.2])
def test_outside_what_was_measured_there_is_no_pose(buffer, stamp_s):
    assert buffer.at(round(stamp_s * S)) is None


def test_a_pose_that_tells_nothing_new_does_not_count(buffer):
    assert not buffer.add(4 * S, pose(9))
    assert not buffer.add(3 * S, pose(9))
    assert not buffer.add(5 * S, Pose(np.array([np.nan, 0, 0]), rotations.IDENTITY))
    assert buffer.newest().position[0] == 4.0


def test_a_clock_that_restarts_empties_the_buffer(buffer):
    assert buffer.add(0, pose(7))
    assert buffer.at(4 * S) is None and buffer.newest().position[0] == 7.0
