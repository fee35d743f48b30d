"""Windows of the past and chunks of the future, at the ends of an episode."""

import numpy as np
import pytest

from openvla_core.datasets.chunking import chunk_actions, relative_mask, window_indices
from openvla_core.errors import DatasetError

ACTIONS = np.array([[1.0, 10.0, 0.0], [2.0, 20.0, 1.0], [3.0, 30.0, 0.5]], dtype=np.float32)


def test_past_the_end_motion_stops_and_the_gripper_stays():
    chunks = chunk_actions(ACTIONS, relative_mask(3), future=2)
    np.testing.assert_array_equal(chunks[0], ACTIONS)
    np.testing.assert_array_equal(chunks[1], [[2, 20, 1], [3, 30, 0.5], [0, 0, 0.5]])
    np.testing.assert_array_equal(chunks[2], [[3, 30, 0.5], [0, 0, 0.5], [0, 0, 0.5]])


def test_before_the_beginning_the_first_action_is_repeated():
    chunks = chunk_actions(ACTIONS, relative_mask(3), window=3)
    np.testing.assert_array_equal(chunks[0], ACTIONS[[0, 0, 0]])
    np.testing.assert_array_equal(chunks[2], ACTIONS)


def test_a_hole_in_the_recording_ends_a_chunk_as_the_end_of_the_episode_does():
    rows = np.arange(1.0, 16.0).reshape(5, 3)
    chunks = chunk_actions(rows, relative_mask(3), window=2, future=1, segment=np.array([0, 0, 0, 1, 1]))
    for start, stop in ((0, 3), (3, 5)):
        alone = chunk_actions(rows[start:stop], relative_mask(3), window=2, future=1)
        np.testing.assert_array_equal(chunks[start:stop], alone)


def test_a_window_does_not_look_across_a_hole():
    indices, real = window_indices(4, 2, np.array([0, 0, 7, 7]))
    np.testing.assert_array_equal(indices, [[0, 0], [0, 1], [2, 2], [2, 3]])
    np.testing.assert_array_equal(real[:, 0], [False, True, False, True])
    assert window_indices(0, 2)[0].shape == (0, 2)


def test_segments_of_another_length_are_refused():
    with pytest.raises(DatasetError, match="segment"):
        chunk_actions(ACTIONS, relative_mask(3), segment=np.zeros(2, dtype=int))


def test_without_window_and_future_actions_are_what_they_were():
    chunks = chunk_actions(ACTIONS, relative_mask(3))
    np.testing.assert_array_equal(chunks[:, 0], ACTIONS)
    assert chunks.dtype == ACTIONS.dtype


def test_the_recording_is_not_changed():
    before = ACTIONS.copy()
    chunk_actions(ACTIONS, np.ones(3, dtype=bool), future=5)
    np.testing.assert_array_equal(ACTIONS, before)


def test_frames_before_the_first_are_marked():
    indices, real = window_indices(3, 2)
    np.testing.assert_array_equal(indices, [[0, 0], [0, 1], [1, 2]])
    np.testing.assert_array_equal(real, [[False, True], [True, True], [True, True]])


@pytest.mark.parametrize(
    ("actions", "relative", "window", "future"),
    [
        (ACTIONS, np.ones(2, dtype=bool), 1, 0),
        (ACTIONS[0], np.ones(3, dtype=bool), 1, 0),
        (ACTIONS[:0], np.ones(3, dtype=bool), 1, 0),
        (ACTIONS, np.ones(3, dtype=bool), 0, 0),
        (ACTIONS, np.ones(3, dtype=bool), 1, -1),
    ],
)
def test_what_cannot_be_cut_is_refused(actions, relative, window, future):
    with pytest.raises(DatasetError, match="expected"):
        chunk_actions(actions, relative, window, future)
