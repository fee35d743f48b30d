"""The recorder node in a real graph: what is said between start and end is in the bag, byte for byte."""

import errno
import json

import pytest
import yaml
from rclpy.serialization import deserialize_message
from recorder_bench import DISCARD, END, ROOT, START, Cell, facts_of, read

from openvla_core.config import check_setting
from openvla_core.datasets.bags import store as bag_store
from openvla_core.datasets.bags import writer as bag_writer
from openvla_core.datasets.bags.metadata import read_metadata
from openvla_core.datasets.bags.repair import repair
from openvla_core.datasets.bags.sentences import longest
from openvla_core.errors import ConfigError
from openvla_ros import conversions, topics
from openvla_ros.recorder_settings import RecorderSettings, wanted_topics


@pytest.fixture
def cell(world, camera, tmp_path) -> Cell:
    cell = Cell(world, tmp_path / "episodes").start_recorder()
    cell.wait_until_ready()
    return cell


def test_the_bag_holds_the_bytes_that_were_sent(cell, camera):
    folder = cell.record()
    heard = read(folder)
    poses = heard["/robot/current_pose"]
    first = cell.sent.index(poses[0])
    assert poses == cell.sent[first : first + len(poses)], "a pose was lost or changed"
    images = [deserialize_message(data, topics.Image) for data in heard["/camera/image_raw"]]
    assert {conversions.stamp_ns(image) for image in images} <= set(camera.stamps)
    assert conversions.to_rgb(images[0]).shape == (112, 112, 3)


def test_the_episode_says_what_it_is(cell):
    cell.instruct("pick up the red cube")
    facts = facts_of(cell.record())
    assert facts["openvla.instruction"] == "pick up the red cube"
    assert (facts["openvla.outcome"], facts["openvla.operator"], facts["openvla.robot"]) == ("success", "Ada", "sim")
    assert json.loads(facts["openvla.convention"])["name"] == "sim_tabletop"
    rates = json.loads(facts["openvla.rates"])
    assert rates["/robot/current_pose"] > rates["/camera/image_raw"] > 1.0
    assert json.loads(facts["openvla.missing"]) == []


def test_types_and_offered_qos_are_in_the_bag(cell):
    folder = cell.record()
    entries = [entry["topic_metadata"] for entry in read_metadata(folder)["topics_with_message_count"]]
    by_name = {entry["name"]: entry for entry in entries}
    image = by_name["/camera/image_raw"]
    assert image["type"] == "sensor_msgs/msg/Image"
    assert image["offered_qos_profiles"][0]["reliability"] == "best_effort"
    (info,) = cell.world.peer.get_publishers_info_by_topic("/camera/image_raw")
    assert image["type_description_hash"] == str(info.topic_type_hash)


def test_the_instruction_given_before_is_in_the_bag_too(cell):
    cell.instruct("pick up the red cube")
    (data,) = read(cell.record())["/instruction"]
    assert deserialize_message(data, topics.String).data == "pick up the red cube"


def test_what_the_policy_follows_counts_more_than_what_was_said(cell):
    cell.instruct("Pick up the red cube!")
    active = cell.world.peer.create_publisher(topics.String, topics.POLICY_INSTRUCTION, topics.LATCHED)
    active.publish(conversions.text_message("pick up the red cube"))
    cell.world.wait_for(lambda: cell.recorder.sentences.active, "the policy's instruction")
    assert facts_of(cell.record())["openvla.instruction"] == "pick up the red cube"


def test_an_instruction_that_is_over_does_not_label_the_next_episode(cell):
    """The first of a series once gave its sentence to the second, which was told its own a moment after the start."""
    active = cell.world.peer.create_publisher(topics.String, topics.POLICY_INSTRUCTION, topics.LATCHED)
    cell.instruct("pick up the red cube")
    active.publish(conversions.text_message("pick up the red cube"))
    cell.world.wait_for(lambda: cell.recorder.sentences.active, "the policy's instruction")
    active.publish(conversions.text_message(""))
    cell.world.wait_for(lambda: not cell.recorder.sentences.active, "the end of the task")
    assert cell.call(START)[0]
    assert cell.recorder.sentences.entries == []
    cell.instruct("lift the yellow cube")
    cell.wait_for_messages(5)
    cell.call(END, True)
    (folder,) = bag_store.EpisodeStore(cell.root).committed()
    assert facts_of(folder)["openvla.instruction"] == "lift the yellow cube"


def test_the_instruction_in_force_for_the_longest_time_names_the_episode():
    assert longest([[0.0, "old"], [0.02, "new"]], 5.0) == "new"
    assert longest([[0.0, "reach"], [4.0, "pick"]], 5.0) == "reach"


def test_a_failure_is_committed_as_one(cell):
    assert facts_of(cell.record(success=False))["openvla.outcome"] == "failure"


def test_discarded_episodes_are_not_committed(cell):
    assert cell.call(START)[0]
    cell.wait_for_messages(3)
    done, sentence = cell.call(DISCARD)
    assert done and ".discarded" in sentence
    store = bag_store.EpisodeStore(cell.root)
    assert store.committed() == store.left_open() == []


def test_one_episode_at_a_time_and_none_ends_twice(cell):
    assert not cell.call(END, True)[0]
    assert not cell.call(DISCARD)[0]
    assert cell.call(START)[0]
    done, sentence = cell.call(START)
    assert not done and "end or discard it first" in sentence
    assert cell.call(END, True)[0]
    assert not cell.call(END, True)[0]


def test_an_episode_does_not_start_without_its_topics(world, tmp_path):
    cell = Cell(world, tmp_path).start_recorder()
    world.wait_for(lambda: cell.statuses and "image_raw has no publisher" in cell.statuses[-1].sentence, "the warning")
    done, sentence = cell.call(START)
    assert not done
    assert "/camera/image_raw has no publisher" in sentence


def test_a_camera_that_falls_silent_is_told_while_recording(cell, camera):
    assert cell.call(START)[0]
    cell.wait_for_messages(10)
    camera.on = False
    cell.world.wait_for(lambda: cell.code() == "TOPIC_MISSING", "the warning")
    assert "/camera/image_raw is silent" in cell.statuses[-1].sentence
    camera.on = True
    cell.world.wait_for(lambda: cell.code() != "TOPIC_MISSING", "the camera to be heard again")


def test_a_slow_topic_is_told_at_the_end(world, camera, tmp_path):
    cell = Cell(world, tmp_path).start_recorder(topics=("camera/image_raw@500", "robot/current_pose@10"))
    cell.wait_until_ready()
    assert cell.call(START)[0]
    cell.wait_for_messages(10)
    _, sentence = cell.call(END, True)
    assert "/camera/image_raw came at" in sentence and "expected 500 Hz" in sentence


def test_pictures_are_encoded_when_asked(world, camera, tmp_path):
    cell = Cell(world, tmp_path).start_recorder(images="jpeg")
    cell.wait_until_ready()
    folder = cell.record()
    files = read(folder)["/camera/image_raw/compressed"]
    message = deserialize_message(files[0], topics.CompressedImage)
    assert conversions.to_rgb(message).shape == (112, 112, 3)
    assert conversions.stamp_ns(message) in camera.stamps


def test_too_little_space_is_refused_with_what_to_do(world, camera, tmp_path):
    cell = Cell(world, tmp_path).start_recorder(min_free_gb=1e9)
    cell.wait_until_ready()
    done, sentence = cell.call(START)
    assert not done
    assert "min_free_gb" in sentence
    assert cell.statuses[-1].state == topics.State.FAULT


def test_a_disk_error_stops_the_episode_and_keeps_the_committed_ones(cell, monkeypatch):
    def no_space(output, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    committed = cell.record()
    before = {path.name: path.read_bytes() for path in committed.iterdir()}
    assert cell.call(START)[0]
    cell.wait_for_messages(5)
    with monkeypatch.context() as patch:
        patch.setattr(bag_writer._Output, "write", no_space)
        cell.world.wait_for(lambda: cell.code() == "DISK", "the error")
    assert "is full" in cell.statuses[-1].sentence
    assert {path.name: path.read_bytes() for path in committed.iterdir()} == before
    done, sentence = cell.call(END, True)
    assert not done and "is full" in sentence
    assert [result.action for result in repair(cell.root)] == ["repaired"]
    assert len(read(cell.record())["/robot/current_pose"]) >= 10


def test_a_recorder_that_is_told_to_end_leaves_the_episode_for_a_repair(cell):
    """Nobody has said how it went, so it is not committed as anything."""
    assert cell.call(START)[0]
    cell.wait_for_messages(10)
    cell.recorder.close()
    store = bag_store.EpisodeStore(cell.root)
    assert store.committed() == []
    (result,) = repair(cell.root)
    assert result.action == "committed"
    assert facts_of(result.folder)["openvla.outcome"] == "unknown"
    assert facts_of(result.folder)["openvla.interrupted"] == "true"


def test_sigterm_in_the_middle_of_an_episode_ends_the_process_and_keeps_the_episode(world, camera, tmp_path, start):
    cell = Cell(world, tmp_path / "episodes")
    process = start("openvla_ros.recorder_node", "-p", f"root:={cell.root}", "-p", "min_free_gb:=0.0")
    cell.wait_until_ready()
    assert cell.call(START)[0]
    before = len(cell.sent)
    world.wait_for(lambda: len(cell.sent) > before + 20, "poses")
    process.terminate()
    world.wait_for(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 0, process.log.read_text()
    assert bag_store.EpisodeStore(cell.root).committed() == []
    (result,) = repair(cell.root)
    assert facts_of(result.folder)["openvla.outcome"] == "unknown"
    assert len(read(result.folder)["/robot/current_pose"]) >= 20


def test_the_shipped_file_says_what_the_settings_say():
    import dataclasses

    content = yaml.safe_load((ROOT / "config" / "record.yaml").read_text())["/**/recorder_node"]["ros__parameters"]
    fields = {field.name: field for field in dataclasses.fields(RecorderSettings)}
    for name, value in content.items():
        check_setting(fields[name], value)
        default = fields[name].default
        assert (list(default) if isinstance(default, tuple) else default) == value, name


@pytest.mark.parametrize("entry", ["camera@", "camera@fast", "@5", "camera@-1", "camera@nan"])
def test_entries_that_are_not_understood_are_refused(entry):
    with pytest.raises(ConfigError, match="name@Hz"):
        wanted_topics(RecorderSettings(topics=(entry,)))


def test_a_topic_named_twice_is_refused():
    with pytest.raises(ConfigError, match="twice"):
        wanted_topics(RecorderSettings(topics=("instruction",)))
