"""Labels say what was done after a frame; read back through the card they move the arm there."""

import dataclasses

import bag_tools as tools
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_core import rotations
from openvla_core.conventions import load_convention
from openvla_core.datasets import actions
from openvla_core.datasets.bags.reader import ReadingSettings, read_episode
from openvla_core.errors import DatasetError
from openvla_core.types import Pose

CARDS = sorted((tools.ROOT / "config" / "conventions").glob("*.yaml"))
ALL = ReadingSettings(trim_idle=False)


@pytest.fixture(scope="module")
def scribe():
    return tools.Scribe()


def walk(seed: int, steps: int = 20) -> np.ndarray:
    """Poses (T, 7) of a tool that points down and wanders in all six directions."""
    rng = np.random.default_rng(seed)
    pose = Pose(np.array([0.5, 0.0, 0.2]), np.array(tools.DOWN))
    rows = []
    for _ in range(steps):
        rows.append([*pose.position, *pose.quaternion])
        pose = rotations.moved(pose, rng.uniform(-0.03, 0.03, 3), rng.uniform(-0.1, 0.1, 3))
    return np.array(rows)


@pytest.mark.parametrize("path", CARDS, ids=[path.stem for path in CARDS])
@pytest.mark.parametrize("rotation", actions.ROTATION_CHOICES)
def test_a_label_moves_the_start_to_the_end(path, rotation):
    card = actions.card_for(load_convention(path), rotation)
    rows = walk(1)
    labels = actions.differences(card, rows[:-1], rows[1:], np.ones(len(rows) - 1))
    for label, start, end in zip(labels, rows[:-1], rows[1:], strict=True):
        pose = Pose(start[:3], start[3:])
        step = card.action(label.astype(np.float64), pose)
        there = rotations.moved(pose, step.translation, step.rotation)
        np.testing.assert_allclose(there.position, end[:3], atol=1e-7)
        assert np.linalg.norm(rotations.rotation_between(there.quaternion, end[3:])) < 1e-6
        assert step.gripper == 1.0


def test_rotation_vectors_get_a_card_of_their_own():
    """A checkpoint trained on them must not be executed as Euler differences."""
    card = load_convention(tools.ROOT / "config" / "conventions" / "bridge_orig.yaml")
    changed = actions.card_for(card, "rotation_vector")
    assert (changed.rotation, changed.name) == ("rotation_vector", "bridge_orig_rotation_vector")
    assert "default_rotation" not in changed.to_mapping()
    assert actions.card_for(changed, "rotation_vector") is changed
    with pytest.raises(DatasetError, match="choose one of"):
        actions.card_for(card, "quaternion")


def test_measured_labels_are_differences_of_the_measured_poses(scribe, tmp_path):
    tape = tools.demonstration(3)
    episode = read_episode(scribe.write(tape, tmp_path), ALL)
    poses = np.array([note.value[:3] for note in tape.notes[tools.POSE]])
    stamps = np.array([note.stamp_ns for note in tape.notes[tools.POSE]])
    order = np.argsort(stamps)
    frames = episode.metadata["start_ns"] + np.round(episode.times_s * 1e9).astype(np.int64)
    at = poses[order][np.searchsorted(stamps[order], frames + 1, side="right") - 1]
    np.testing.assert_allclose(episode.actions[:-1, :3], np.diff(at, axis=0), atol=1e-6)
    np.testing.assert_allclose(episode.state["pose"][:, :3], at, atol=1e-6)


def test_target_labels_end_at_the_target_in_force_one_step_later(scribe, tmp_path):
    tape = tools.demonstration(3)
    episode = read_episode(scribe.write(tape, tmp_path), ReadingSettings(trim_idle=False, actions="target"))
    targets = sorted(tape.notes[tools.TARGET], key=lambda note: note.stamp_ns)
    stamps = np.array([note.stamp_ns for note in targets])
    frames = episode.metadata["start_ns"] + np.round(episode.times_s * 1e9).astype(np.int64)
    reached = np.array([targets[i].value[:3] for i in np.searchsorted(stamps, frames[1:] + 1, side="right") - 1])
    ends = episode.state["pose"][:-1, :3] + episode.actions[:-1, :3]
    np.testing.assert_allclose(ends, reached, atol=1e-6)
    assert episode.metadata["actions"] == "target"


def test_applied_actions_belong_to_the_frame_they_were_made_from(scribe, tmp_path):
    tape = tools.demonstration(3, camera_hz=5.0)
    for i, note in enumerate(tape.notes[tools.CAMERA]):
        row = [0.001 * i, 0.0, 0.0, 0.0, 0.0, 0.0, float(i % 2)]
        tape.add(tools.APPLIED, note.stamp_ns, row, delay_ns=150_000_000)
    episode = read_episode(scribe.write(tape, tmp_path), ReadingSettings(trim_idle=False, actions="applied"))
    assert len(episode) == len(tape.notes[tools.CAMERA]) - 1
    np.testing.assert_allclose(episode.actions[:, 0], 0.001 * np.arange(len(episode)), atol=1e-7)
    np.testing.assert_array_equal(episode.actions[:, 6], np.arange(len(episode)) % 2)


def test_commands_that_were_not_recorded_cannot_label(scribe, tmp_path):
    with pytest.raises(DatasetError, match="actions=measured"):
        read_episode(scribe.write(tools.demonstration(3), tmp_path), ReadingSettings(actions="applied"))


def test_fingers_around_a_cube_are_closed():
    openings = np.concatenate([np.full(10, 1.0), np.linspace(1, 0.5, 5), np.full(10, 0.5)])
    noise = np.random.default_rng(0).normal(0, 0.01, len(openings))
    assert actions.binary_measured(openings + noise).tolist() == [1.0] * 13 + [0.0] * 12


@pytest.mark.parametrize("opening", [0.0, 0.02, 0.98, 1.0])
def test_a_gripper_that_never_moves_has_one_state(opening):
    noise = np.random.default_rng(0).normal(0, 0.02, 30)
    assert set(actions.binary_measured(opening + noise)) == {float(opening > 0.5)}


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=50))
def test_binary_openings_are_zero_or_one(openings):
    assert set(actions.binary_measured(np.array(openings))) <= {0.0, 1.0}


def test_a_step_that_does_nothing_goes_unless_the_gripper_changes():
    """As in the published LIBERO data: the gripper is compared with the last step that was kept."""
    move, stay = [0.01, 0, 0, 0, 0, 0], [5e-5, 0, 0, 0, 0, 0]
    rows = np.array([[*stay, 1], [*move, 1], [*stay, 1], [*stay, 0], [*stay, 0], [*stay, 1], [*move, 1], [*stay, 1]])
    assert actions.noop_filter(rows).tolist() == [False, True, False, True, False, True, True, False]


def test_filtering_twice_changes_nothing():
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (200, 7)) * rng.choice([0.0, 0.01], (200, 1))
    rows[:, 6] = rng.integers(0, 2, 200)
    kept = rows[actions.noop_filter(rows)]
    assert 0 < len(kept) < 200
    assert actions.noop_filter(kept).all()


def test_idle_ends_are_trimmed_but_for_one_step():
    idle = np.array([1, 1, 1, 0, 1, 0, 1, 1, 1], dtype=bool)
    assert actions.trim_idle(idle) == slice(2, 7)
    assert actions.trim_idle(np.ones(4, dtype=bool)) == slice(0, 0)


def test_an_episode_begins_where_the_arm_does(scribe, tmp_path):
    tape = tools.demonstration(3)
    first = {topic: notes[0] for topic, notes in tape.notes.items() if topic != tools.INSTRUCTION}
    for topic, note in first.items():
        every = 66_000_000 if topic == tools.CAMERA else 20_000_000
        still = [tools.Note(note.arrival_ns - k * every, note.stamp_ns - k * every, note.value, note.frame)
                 for k in range(4_000_000_000 // every, 0, -1)]  # fmt: skip
        tape.notes[topic] = still + tape.notes[topic]
    tape.notes[tools.INSTRUCTION] = [  # said before the arm stood there
        dataclasses.replace(note, arrival_ns=note.arrival_ns - 4_000_000_000) for note in tape.notes[tools.INSTRUCTION]
    ]
    folder = scribe.write(tape, tmp_path)
    trimmed, whole = read_episode(folder), read_episode(folder, ALL)
    assert len(whole) - len(trimmed) == trimmed.metadata["dropped"]["without motion"] >= 18
    assert np.linalg.norm(trimmed.actions[1, :3]) > 0.002
