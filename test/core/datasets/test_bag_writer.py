"""The writer makes bags that an independent reader understands, with everything the episode is known by."""

import json
import os
from pathlib import Path

import bag_bench
import pytest
import yaml
from mcap.reader import make_reader
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader

from openvla_core.datasets.bags import writer as bag_writer
from openvla_core.datasets.bags.message_types import MessageTypes
from openvla_core.datasets.bags.metadata import read_metadata
from openvla_core.datasets.bags.store import EpisodeStore, label
from openvla_core.datasets.bags.writer import BagWriter, StorageError
from openvla_core.errors import DatasetError


@pytest.fixture
def bag(tmp_path) -> Path:
    return bag_bench.record(tmp_path, 30, rates={"/instruction": 50.0}, operator="Ada")


def test_an_independent_reader_finds_every_message_as_it_was(bag):
    heard = bag_bench.read(bag)
    assert [message.data for message in heard[bag_bench.TEXT]] == [f"message {n}" for n in range(30)]
    assert [message.sentence for message in heard[bag_bench.STATUS]] == [f"sentence {n}" for n in range(30)]


def test_counts_types_hashes_and_qos_are_in_the_metadata(bag):
    with Reader(bag) as reader:
        topics = {connection.topic: connection for connection in reader.connections}
        assert reader.message_count == 60
        assert reader.start_time == bag_bench.START_NS
    assert topics[bag_bench.STATUS].msgtype == "openvla_ros/msg/Status"
    assert topics[bag_bench.TEXT].msgcount == topics[bag_bench.STATUS].msgcount == 30
    assert topics[bag_bench.TEXT].digest == bag_bench.text_topic().type_hash
    (quality,) = topics[bag_bench.TEXT].ext.offered_qos_profiles
    assert (quality.reliability, quality.durability) == (QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL)


def test_the_mcap_file_alone_tells_types_qos_and_metadata(bag):
    (path,) = bag.glob("*.mcap")
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        schemas = {schema.name: schema for schema in summary.schemas.values()}
        assert schemas["openvla_ros/msg/Status"].encoding == "ros2msg"
        assert "MSG: std_msgs/Header" in schemas["openvla_ros/msg/Status"].data.decode()
        (channel,) = (c for c in summary.channels.values() if c.topic == bag_bench.TEXT)
        assert yaml.safe_load(channel.metadata["offered_qos_profiles"])[0]["durability"] == "transient_local"
        times = [(m.log_time, m.publish_time) for _, c, m in reader.iter_messages() if c.topic == bag_bench.TEXT]
        assert times[0] == (bag_bench.START_NS, bag_bench.START_NS - 1000)
        (metadata,) = reader.iter_metadata()
    assert yaml.safe_load(metadata.metadata["serialized_metadata"]) == read_metadata(bag)


def test_metadata_has_every_key_of_version_9(bag):
    metadata = read_metadata(bag)
    assert set(metadata) == {
        "version", "storage_identifier", "duration", "starting_time", "message_count", "topics_with_message_count",
        "compression_format", "compression_mode", "relative_file_paths", "files", "custom_data", "ros_distro",
    }  # fmt: skip
    assert (metadata["version"], metadata["storage_identifier"]) == (9, "mcap")
    assert metadata["duration"] == {"nanoseconds": 29 * bag_bench.STEP_NS}
    assert metadata["files"][0]["path"] == metadata["relative_file_paths"][0] == f"{bag.name}_0.mcap"


def test_the_episode_tells_what_it_is(bag):
    facts = bag_bench.custom_data(bag)
    assert facts["openvla.instruction"] == "pick up the red cube"
    assert facts["openvla.outcome"] == "success"
    assert facts["openvla.operator"] == "Ada"
    assert json.loads(facts["openvla.rates"]) == {"/instruction": 50.0}
    assert all(isinstance(value, str) for value in facts.values())


@pytest.mark.parametrize("name", ["ActionChunk", "AppliedAction", "SceneState", "Status"])
def test_type_hashes_are_those_of_the_build(name):
    """rosidl writes the hash it computed beside the generated message."""
    pytest.importorskip("ament_index_python")
    from ament_index_python.packages import get_package_share_directory

    built = json.loads(Path(get_package_share_directory("openvla_ros"), "msg", f"{name}.json").read_text())
    full_name = f"openvla_ros/msg/{name}"
    (expected,) = (entry["hash_string"] for entry in built["type_hashes"] if entry["type_name"] == full_name)
    assert MessageTypes(bag_bench.find_definition).describe(full_name)[1] == expected


def test_an_unknown_type_is_named():
    with pytest.raises(DatasetError, match="toaster_msgs/msg/Toast"):
        MessageTypes(lambda name: None).describe("toaster_msgs/msg/Toast")


def test_types_are_found_through_the_types_they_are_made_of():
    texts = {"a_msgs/msg/Outer": "a_msgs/Inner[] parts\n", "a_msgs/msg/Inner": "float64 x\n"}
    definition, _ = MessageTypes(texts.get).describe("a_msgs/msg/Outer")
    assert "MSG: a_msgs/Inner" in definition


def test_nothing_is_committed_before_commit_and_everything_after(tmp_path):
    store = EpisodeStore(tmp_path)
    episode = bag_bench.begin(tmp_path)
    bag_bench.fill(episode, 3)
    assert store.committed() == []
    assert store.left_open() == [tmp_path / ".open" / episode.name]
    folder = episode.commit({"outcome": "failure"})
    assert store.committed() == [folder] == [tmp_path / episode.name]
    assert store.left_open() == []
    assert sorted(path.name for path in folder.iterdir()) == [f"{episode.name}_0.mcap", "metadata.yaml"]


def test_a_discarded_episode_is_out_of_the_way_but_not_lost(tmp_path):
    episode = bag_bench.begin(tmp_path)
    bag_bench.fill(episode, 3)
    folder = episode.discard()
    assert folder == tmp_path / ".discarded" / episode.name
    assert list(folder.glob("*.mcap"))
    assert EpisodeStore(tmp_path).committed() == EpisodeStore(tmp_path).left_open() == []


def test_two_episodes_of_one_second_get_two_names(tmp_path):
    store = EpisodeStore(tmp_path)
    names = [store.begin({}, name="reach").commit({"outcome": "success"}).name for _ in range(3)]
    assert names == ["reach", "reach_2", "reach_3"]
    with pytest.raises(DatasetError, match="cannot be called"):
        store.begin({}, name="../outside")


def test_an_outcome_can_be_corrected_later(bag):
    label(bag, "failure")
    assert bag_bench.custom_data(bag)["openvla.outcome"] == "failure"
    assert len(bag_bench.read(bag)[bag_bench.TEXT]) == 30
    with pytest.raises(DatasetError, match="success, failure"):
        label(bag, "good")


def test_what_was_flushed_is_in_the_file_at_once(tmp_path, monkeypatch):
    """A killed process keeps nothing back: the file is not buffered."""
    monkeypatch.setattr(bag_writer, "FLUSH_S", 0.0)
    episode = bag_bench.begin(tmp_path)
    bag_bench.fill(episode, 5)
    from openvla_core.datasets.bags.salvage import read_messages

    with episode.writer.path.open("rb") as file:
        assert len(list(read_messages(file))) == 10
    episode.leave()


def test_too_little_space_is_refused_before_recording(tmp_path):
    store = EpisodeStore(tmp_path)
    store.require_space(0.0)
    with pytest.raises(StorageError, match="GB free"):
        store.require_space(1e9)


def test_a_full_disk_is_said_at_once(tmp_path, monkeypatch):
    """/dev/full takes nothing, as a disk without space."""
    monkeypatch.setattr(bag_writer, "FLUSH_S", 0.0)
    episode = bag_bench.begin(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, episode.writer._output.descriptor)
    os.close(full)
    with pytest.raises(StorageError, match="disk of .* is full.*committed episodes are intact"):
        bag_bench.fill(episode, 1)
    episode.leave()


def test_an_existing_folder_is_not_written_over(bag):
    with pytest.raises(DatasetError, match="never written over"):
        BagWriter(bag)
