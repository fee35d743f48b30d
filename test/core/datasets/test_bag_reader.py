"""Bags of every kind become episodes, with their pictures left in the file."""

import copy
from dataclasses import replace
from datetime import datetime, timezone

import bag_tools as tools
import cv2
import numpy as np
import pytest
from bag_tools import CAMERA, GRIPPER, INSTRUCTION, JOINTS, POSE, RAW, S
from made_episodes import Episodes
from rosbags.rosbag2 import StoragePlugin

from openvla_core.conventions import convention_from_mapping, load_convention
from openvla_core.datasets.bags.message_types import MessageTypes
from openvla_core.datasets.bags.messages import MessageReader
from openvla_core.datasets.bags.metadata import TopicFacts
from openvla_core.datasets.bags.reader import BagSource, ReadingSettings, load_settings, read_episode
from openvla_core.datasets.bags.recording import read_recording
from openvla_core.datasets.bags.writer import BagWriter, facts_as_custom_data
from openvla_core.datasets.streaming.sources import EpisodeSteps
from openvla_core.errors import ConfigError, DatasetError

ALL = ReadingSettings(trim_idle=False)


@pytest.fixture(scope="module")
def scribe():
    return tools.Scribe()


@pytest.fixture(scope="module")
def tape():
    return tools.demonstration(1)


@pytest.fixture
def bag(scribe, tape, tmp_path):
    return scribe.write(tape, tmp_path)


def test_the_facts_of_the_bag_are_the_facts_of_the_episode(bag, tape):
    episode = read_episode(bag)
    assert episode.name == "episode_0001"
    assert episode.instruction == "pick up the green cube"
    assert episode.success is True
    assert convention_from_mapping(episode.convention).name == "sim_tabletop"
    assert episode.metadata["operator"] == "ada"
    assert (episode.metadata["actions"], episode.metadata["gripper"]) == ("measured", "command")
    assert episode.rate_hz == 5.0
    np.testing.assert_allclose(np.diff(episode.times_s), 0.2, atol=1 / 15 / 2 + 0.005)


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_both_storages_hold_the_same_episode(scribe, tape, bag, tmp_path, plugin):
    other = read_episode(scribe.write(tape, tmp_path / "other", plugin))
    episode = read_episode(bag)
    np.testing.assert_array_equal(other.actions, episode.actions)
    np.testing.assert_array_equal(other.images["primary"][3], episode.images["primary"][3])


def test_every_picture_is_the_one_that_was_recorded_with_its_stamp(bag, tape):
    episode = read_episode(bag, ALL)
    stamps = episode.metadata["start_ns"] + np.round(episode.times_s * S).astype(np.int64)
    by_stamp = {note.stamp_ns // 1000: note.value for note in tape.notes[CAMERA]}
    for i, stamp in enumerate(stamps):
        near = min(by_stamp, key=lambda known: abs(known - stamp // 1000))
        assert episode.images["primary"].encoded(i) == tools.jpeg(by_stamp[near])
        want = cv2.cvtColor(cv2.imdecode(np.frombuffer(tools.jpeg(by_stamp[near]), np.uint8), 1), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(episode.images["primary"][i], want)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "rgba8", "yuv422_yuy2"])
def test_raw_pictures_of_any_encoding_are_rgb(scribe, tape, tmp_path, encoding):
    from openvla_core.images import decode_raw

    channels = {"rgb8": 3, "bgr8": 3, "mono8": 1, "rgba8": 4, "yuv422_yuy2": 2}[encoding]
    raw = tools.Tape("raw", {t: n for t, n in tape.notes.items() if t != CAMERA}, tape.facts)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (12, 16, channels), dtype=np.uint8) for _ in tape.notes[CAMERA]]
    for note, array in zip(tape.notes[CAMERA], arrays, strict=True):
        raw.add(RAW, note.stamp_ns, (encoding, array), note.arrival_ns - note.stamp_ns, "camera")
    episode = read_episode(scribe.write(raw, tmp_path), ALL)
    want = decode_raw(arrays[0].tobytes(), 12, 16, 16 * channels, encoding)
    np.testing.assert_array_equal(episode.images["primary"][0], want)
    assert episode.images["primary"].encoded(0) is None


def test_frames_can_be_handed_to_another_process(bag):
    """A copy takes the places of the pictures along, never the open file."""
    episode = read_episode(bag)
    first = episode.images["primary"][0]
    again = copy.deepcopy(episode)
    np.testing.assert_array_equal(again.images["primary"][0], first)


def test_pictures_stay_in_the_file(bag):
    """What an episode holds of its pictures is where they are."""
    frames = read_episode(bag).images["primary"]
    frames[0]
    assert len(repr(copy.deepcopy(frames).__dict__)) < 100 * len(frames)


def test_a_bag_of_our_own_writer_reads_the_same(scribe, tape, bag, tmp_path):
    types = MessageTypes(lambda name: None)
    writer = BagWriter(tmp_path / "ours" / tape.name)
    for topic in tape.notes:
        kind = tape.kinds[topic]
        writer.add_topic(TopicFacts(topic, kind, *types.describe(kind)))
    rows = sorted((note.arrival_ns, topic, note) for topic, notes in tape.notes.items() for note in notes)
    for arrival, topic, note in rows:
        data = scribe.store.serialize_cdr(scribe.message(tape.kinds[topic], note), tape.kinds[topic])
        writer.write(topic, arrival, bytes(data))
    writer.finish(facts_as_custom_data(tape.facts))
    writer.close()
    ours, other = read_episode(writer.folder), read_episode(bag)
    np.testing.assert_array_equal(ours.actions, other.actions)
    np.testing.assert_array_equal(ours.images["primary"][5], other.images["primary"][5])
    assert (ours.instruction, ours.convention, ours.success) == (other.instruction, other.convention, other.success)


def test_a_plain_recording_needs_only_a_small_file(scribe, tape, tmp_path):
    """Other topic names, no facts: what `ros2 bag record` leaves."""
    foreign = tools.Tape("foreign")
    names = {CAMERA: "/cam/color/image_raw/compressed", POSE: "/franka/ee_pose", JOINTS: "/franka/joints"}
    for topic, name in names.items():
        foreign.notes[name], foreign.kinds[name] = tape.notes[topic], tape.kinds[topic]
    folder = scribe.write(foreign, tmp_path)
    (tmp_path / "lab.yaml").write_text(
        "topics: {primary: /cam/color/image_raw/compressed, pose: ee_pose, joints: /franka/joints}\n"
        f"convention: {tools.ROOT}/config/conventions/bridge_orig_fr3.yaml\ninstruction: take the cup\n"
    )
    settings = load_settings(tmp_path / "lab.yaml")
    episode = read_episode(folder, settings)
    assert (episode.instruction, episode.success) == ("take the cup", None)
    assert episode.metadata["gripper"] == "measured"
    assert set(episode.actions[:, 6]) == {0.0, 1.0}
    assert episode.actions[0, 6] == 1.0 and episode.actions[-1, 6] == 0.0
    assert convention_from_mapping(episode.convention) == load_convention(settings.convention)
    np.testing.assert_array_equal(episode.actions[:, :3], read_episode_actions(scribe, tape, tmp_path)[:, :3])


def read_episode_actions(scribe, tape, tmp_path):
    return read_episode(scribe.write(tape, tmp_path / "own")).actions


def test_topics_are_found_below_a_namespace(scribe, tape, tmp_path):
    moved = tools.Tape("moved", {f"/left{t}": n for t, n in tape.notes.items()}, tape.facts)
    moved.kinds = {f"/left{t}": kind for t, kind in tape.kinds.items()}
    assert len(read_episode(scribe.write(moved, tmp_path))) > 10


def test_two_robots_in_one_bag_are_not_mixed_up(scribe, tape, tmp_path):
    two = tools.Tape("two", dict(tape.notes), tape.facts)
    two.notes = {f"/{side}{t}": n for t, n in tape.notes.items() for side in ("left", "right")}
    two.kinds = {f"/{side}{t}": kind for t, kind in tape.kinds.items() for side in ("left", "right")}
    with pytest.raises(DatasetError, match="could be any of"):
        read_recording(scribe.write(two, tmp_path))


def test_the_instruction_topic_speaks_when_the_facts_are_silent(scribe, tape, tmp_path):
    silent = tools.Tape("silent", dict(tape.notes), {k: v for k, v in tape.facts.items() if k != "instruction"})
    first = tape.notes[CAMERA][0].arrival_ns
    silent.notes[INSTRUCTION] = [
        tools.Note(first - 3 * S, 0, "an old sentence"),
        tools.Note(first - S, 0, "pick up the cup"),
        tools.Note(first + 3 * S, 0, "put it down"),
    ]
    episode = read_episode(scribe.write(silent, tmp_path), ALL)
    assert episode.instruction == "pick up the cup"
    assert episode.times_s[-1] < 3.0
    assert episode.metadata["dropped"]["another instruction or none"] > 3


def test_topics_that_were_renamed_are_found_by_what_the_recorder_noted(scribe, tape, tmp_path):
    """The pose of a CRISP robot is current_pose, and a camera is called as its driver likes it."""
    names = {CAMERA: "/front/image/compressed", POSE: "/current_pose"}
    moved = tools.Tape("renamed", {names.get(t, t): n for t, n in tape.notes.items()})
    moved.facts = {**tape.facts, "topics": {"camera/image_raw": names[CAMERA], "robot/current_pose": names[POSE]}}
    moved.kinds = {names.get(t, t): kind for t, kind in tape.kinds.items()}
    episode = read_episode(scribe.write(moved, tmp_path))
    np.testing.assert_array_equal(episode.actions, read_episode_actions(scribe, tape, tmp_path))


def told(tape, *spoken: tuple[float, str], **facts) -> tools.Tape:
    """A recording by our own recorder in which these sentences were told: seconds, sentence."""
    first = tape.notes[CAMERA][0].arrival_ns
    entries = [[seconds, sentence, first + int(seconds * S)] for seconds, sentence in spoken]
    others = {k: v for k, v in tape.facts.items() if k != "instruction"}
    return tools.Tape("told", dict(tape.notes), {**others, "instructions": entries, **facts})


def test_of_two_sentences_the_episode_has_the_steps_of_the_one_it_is_named_after(scribe, tape, tmp_path):
    """All steps once had the longest sentence, those during which another one was followed too."""
    both = told(tape, (-1.0, "open the drawer"), (1.5, "pick up the cup"), instruction="pick up the cup")
    whole = read_episode(scribe.write(told(tape, instruction="pick up the cup"), tmp_path / "whole"), ALL)
    episode = read_episode(scribe.write(both, tmp_path), ALL)
    assert episode.instruction == "pick up the cup"
    assert episode.metadata["start_ns"] >= tape.notes[CAMERA][0].arrival_ns + 1.4 * S
    np.testing.assert_array_equal(episode.actions, whole.actions[len(whole) - len(episode) :])
    assert episode.metadata["dropped"]["another instruction or none"] == len(whole) - len(episode) > 5


@pytest.mark.parametrize(
    ("spoken", "facts", "begin_s", "end_s"),
    [
        ([(-1.0, "a"), (1.0, "b")], {}, 1.0, 9.0),
        ([(-1.0, "a"), (1.0, "b"), (2.0, "a")], {}, 2.0, 9.0),
        ([(-9.0, "a"), (0.5, "b")], {"instruction": "a"}, 0.0, 0.5),
        ([(-1.0, "a"), (2.5, "")], {"instruction": "a"}, 0.0, 2.5),
        ([(1.2, "a")], {"instruction": "a"}, 1.2, 9.0),
        ([(0.3, "a")], {"instruction": "a"}, 0.0, 9.0),
        ([(-1.0, "b"), (0.3, "a")], {"instruction": "a"}, 0.3, 9.0),
        ([(-1.0, "a"), (1.0, "b")], {"instruction": "corrected by hand"}, 0.0, 9.0),
        ([(-1.0, "a"), (1.0, "a")], {"instruction": "a"}, 0.0, 9.0),
    ],
)
def test_an_episode_lasts_as_long_as_its_sentence(spoken, facts, begin_s, end_s, scribe, tape, tmp_path):
    episode = read_episode(scribe.write(told(tape, *spoken, **facts), tmp_path), ALL)
    last = (tape.notes[CAMERA][-1].arrival_ns - tape.notes[CAMERA][0].arrival_ns) / S
    begin = (episode.metadata["start_ns"] - tape.notes[CAMERA][0].stamp_ns) / S
    assert 0 <= begin - begin_s < 0.25
    assert 0 <= min(end_s, last) - (begin + episode.times_s[-1]) < 0.45


def test_recordings_of_an_earlier_release_have_no_times_but_a_beginning(scribe, tape, tmp_path):
    began = datetime.fromtimestamp(tape.notes[CAMERA][0].arrival_ns / S, timezone.utc).isoformat()
    entries = [[0.0, "pick up the cup"], [2.0, "put it down"]]
    old = told(tape, instruction="pick up the cup", started=began)
    old.facts["instructions"] = entries
    assert 1.0 < read_episode(scribe.write(old, tmp_path), ALL).times_s[-1] < 2.0


@pytest.mark.parametrize("instructions", ["pick", [["now", "pick"]], [[1.0]], [[0.0, 5, 7]], [None]])
def test_notes_that_are_damaged_count_as_none(instructions, scribe, tape, tmp_path):
    broken = told(tape, instruction="pick up the cup")
    broken.facts["instructions"] = instructions
    assert read_episode(scribe.write(broken, tmp_path), ALL).instruction == "pick up the cup"


def test_a_camera_hole_is_noted_and_no_chunk_crosses_it(scribe, tape, tmp_path):
    """Chunks once went on behind a pause of the camera as if nothing had happened meanwhile."""
    notes = tape.notes[CAMERA]
    holed = tools.Tape("holed", {**tape.notes, CAMERA: notes[:30] + notes[45:]}, tape.facts)
    episode = read_episode(scribe.write(holed, tmp_path), ALL)
    (hole,) = episode.metadata["holes"]
    assert episode.times_s[hole] - episode.times_s[hole - 1] > 1.0
    steps = EpisodeSteps(Episodes("holed", [episode]), future=3)
    np.testing.assert_array_equal(steps[hole - 1].actions[1:, :6], 0.0)
    np.testing.assert_array_equal(steps[hole - 1].actions[:, 6], episode.actions[hole - 1, 6])
    np.testing.assert_array_equal(steps[hole - 2].actions[:2], episode.actions[hole - 2 : hole])
    np.testing.assert_array_equal(steps[hole].actions, episode.actions[hole : hole + 4])


def test_steps_left_out_on_purpose_make_no_hole(scribe, tape, tmp_path):
    notes = {**tape.notes, POSE: [replace(n, value=tape.notes[POSE][150].value) if 100 < i < 200 else n
                                  for i, n in enumerate(tape.notes[POSE])]}  # fmt: skip
    folder = scribe.write(tools.Tape("still", notes, tape.facts), tmp_path)
    episode = read_episode(folder, ReadingSettings(noop_norm=1e-3, trim_idle=False))
    assert episode.metadata["dropped"]["without motion"] > 3
    assert episode.metadata["holes"] == []


def test_a_gripper_that_is_open_where_it_is_closed_is_refused(tmp_path):
    """It once became a division by zero."""
    (tmp_path / "lab.yaml").write_text("gripper_open: 1.0\ngripper_closed: 1.0\n")
    with pytest.raises(ConfigError, match="two different numbers"):
        load_settings(tmp_path / "lab.yaml")


def test_joint_states_in_changing_order_keep_their_meaning(scribe, tape, tmp_path):
    mixed = tools.Tape("mixed", dict(tape.notes), tape.facts)
    mixed.notes[JOINTS] = [
        tools.Note(n.arrival_ns, n.stamp_ns, (n.value[0][::-1], n.value[1][::-1]) if i % 2 else n.value)
        for i, n in enumerate(tape.notes[JOINTS])
    ]
    stream = read_recording(scribe.write(mixed, tmp_path)).streams["joints"]
    want = np.array([note.value[1] for note in tape.notes[JOINTS]])
    np.testing.assert_array_equal(stream.values, want)


@pytest.mark.parametrize("topic, words", [(POSE, "no messages for pose"), (CAMERA, "no messages for primary")])
def test_what_is_missing_is_named(scribe, tape, tmp_path, topic, words):
    less = tools.Tape("less", {t: n for t, n in tape.notes.items() if t != topic}, tape.facts)
    with pytest.raises(DatasetError, match=words):
        read_episode(scribe.write(less, tmp_path))


def test_no_card_no_episode(scribe, tape, tmp_path):
    bare = tools.Tape("bare", tape.notes, {"instruction": "x"})
    with pytest.raises(DatasetError, match="convention card"):
        read_episode(scribe.write(bare, tmp_path))


def test_no_gripper_no_episode(scribe, tape, tmp_path):
    less = tools.Tape("less", {t: n for t, n in tape.notes.items() if t not in (JOINTS, GRIPPER)}, tape.facts)
    with pytest.raises(DatasetError, match="gripper"):
        read_episode(scribe.write(less, tmp_path))


@pytest.mark.parametrize("length", [0, 7, 3000, -20])
def test_a_cut_file_is_an_error_of_ours(bag, length):
    (file,) = bag.glob("*.mcap")
    data = file.read_bytes()
    file.write_bytes(data[:length])
    with pytest.raises(DatasetError, match="repair"):
        read_episode(bag)


def test_a_folder_without_metadata_is_not_an_episode(bag):
    (bag / "metadata.yaml").unlink()
    with pytest.raises(DatasetError, match="no bags"):
        BagSource(bag.parent)
    with pytest.raises(DatasetError, match="record repair"):
        read_episode(bag)
    (file,) = bag.glob("*.mcap")
    assert read_recording(file).streams["pose"].values.shape[1] == 7


def test_open_episodes_are_not_part_of_the_data_set(scribe, tape, tmp_path):
    scribe.write(tape, tmp_path)
    scribe.write(tape, tmp_path / ".open")
    source = BagSource(tmp_path)
    assert len(source) == 1 and [episode.name for episode in source] == ["episode_0001"]


@pytest.mark.parametrize("text", ["topic: {}", "actions: guessed", "topics: [a]", "rate_hz: -1", "a: ["])
def test_settings_with_mistakes_are_refused(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_settings(tmp_path / "s.yaml")


def test_our_own_messages_are_known_where_nothing_is_installed(monkeypatch):
    """A bag of ROS 2 Humble in sqlite3 carries no definitions."""
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    assert MessageReader([]).has_header("openvla_ros/msg/AppliedAction")
