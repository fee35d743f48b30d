"""What a recorder meets in a lab: late and odd publishers, clocks that are set, disks that go, two of its kind."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from recorder_bench import DISCARD, END, START, Cell, facts_of, read

from openvla_core.datasets.bags import thread as bag_thread
from openvla_core.datasets.bags import writer as bag_writer
from openvla_core.datasets.bags.recording import read_recording
from openvla_core.datasets.bags.repair import repair
from openvla_core.datasets.bags.sentences import told
from openvla_core.datasets.bags.store import EpisodeStore
from openvla_core.datasets.check.run import check_bags
from openvla_ros import conversions, episode_facts, topics
from openvla_ros.recorder_node import RecorderNode


@pytest.fixture
def cell(world, camera, tmp_path) -> Cell:
    cell = Cell(world, tmp_path / "episodes").start_recorder()
    cell.wait_until_ready()
    return cell


def begin(cell: Cell, messages: int = 5) -> None:
    done, sentence = cell.call(START)
    assert done, sentence
    cell.wait_for_messages(messages)


def found(cell: Cell) -> set[str]:
    return {finding.code for finding in check_bags(cell.root).findings}


# Sentences -----------------------------------------------------------------------------------------------------------


def test_a_sentence_repeated_for_latecomers_counts_though_it_was_said_before(world, camera, tmp_path):
    """It was in the bag, but the recorder said that there was none: it asked for no repetition."""
    publisher = world.peer.create_publisher(topics.String, topics.INSTRUCTION, topics.LATCHED)
    publisher.publish(conversions.text_message("pick up the red cube"))
    cell = Cell(world, tmp_path / "episodes")
    world.peer.destroy_publisher(cell.instructions)
    world.wait_for(lambda: world.peer.count_publishers("/instruction") == 1, "only the publisher that repeats it")
    cell.start_recorder()
    cell.wait_until_ready()
    world.wait_for(lambda: cell.recorder.sentences.current, "the sentence")
    assert facts_of(cell.record())["openvla.instruction"] == "pick up the red cube"


def test_a_sentence_that_changes_in_the_middle_is_told_noted_and_found(cell):
    cell.instruct("pick up the red cube")
    begin(cell)
    cell.recorder.started_s -= 10.0
    cell.recorder.sentences._started_s -= 10.0
    cell.instruct("push the blue cube")
    cell.wait_for_messages(15)
    done, sentence = cell.call(END, True)
    assert done and "The instruction changed in between." in sentence
    (folder,) = EpisodeStore(cell.root).committed()
    first, second = told(read_recording(folder))
    assert (first.sentence, second.sentence) == ("pick up the red cube", "push the blue cube")
    camera = read_recording(folder).streams["primary"].arrivals_ns
    assert camera.min() < second.begin_ns < camera.max()
    assert "INSTRUCTION_CHANGED" in found(cell)


def test_a_crash_does_not_forget_that_the_sentence_changed(world, camera, tmp_path, start):
    """A repaired episode once had the sentence of its beginning for all of its steps."""
    cell = Cell(world, tmp_path / "episodes")
    process = start("openvla_ros.recorder_node", "-p", f"root:={cell.root}", "-p", "min_free_gb:=0.0")
    cell.wait_until_ready()
    assert cell.call(START)[0]
    world.wait_for(lambda: cell.instructions.get_subscription_count() >= 2, "listeners of the instruction")
    cell.instructions.publish(conversions.text_message("push the blue cube"))
    noted = cell.root / ".open"
    world.wait_for(
        lambda: any("push the blue cube" in path.read_text() for path in noted.glob("*/episode.json")), "the note"
    )
    kept = "pictures and poses on the disk, without which there would be nothing to repair"
    world.wait_for(lambda: any(path.stat().st_size > 100_000 for path in noted.glob("*/*.mcap")), kept)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (result,) = repair(cell.root)
    assert facts_of(result.folder)["openvla.instruction"] == "push the blue cube"
    assert [held.sentence for held in told(read_recording(result.folder))] == ["push the blue cube"]


def test_a_sentence_of_two_megabytes_does_not_make_the_bag_unreadable(cell):
    cell.recorder.sentences.hear("x" * 2_000_000)
    folder = cell.record()
    assert (folder / "metadata.yaml").stat().st_size < 100_000
    assert "INSTRUCTION_INVALID" in found(cell)


# Publishers ----------------------------------------------------------------------------------------------------------


def test_a_publisher_of_less_quality_that_comes_later_is_heard(cell):
    """A reliable listener hears nothing of a best-effort publisher, and nobody says so."""
    begin(cell)
    late = cell.world.peer.create_publisher(topics.PoseStamped, topics.CURRENT_POSE, topics.SENSOR)
    assert late.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    seen = cell.recorder.count_publishers
    cell.world.wait_for(lambda: seen("/robot/current_pose") == 2, "the second publisher")
    cell.world.wait_for(lambda: late.get_subscription_count(), "the recorder to listen anew")
    from openvla_core.types import Pose

    pose = Pose(np.array([9.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0]))

    def heard() -> bool:
        late.publish(conversions.pose_message(pose, cell.world.peer.get_clock().now().nanoseconds, "panda_link0"))
        return b"".join([np.float64(9.0).tobytes()]) in (cell.recorder.taps[1].last or (0, b""))[1]

    cell.world.wait_for(heard, "the pose of the late publisher")
    before = cell.recorder.taps[1].count
    cell.world.wait_for(lambda: cell.recorder.taps[1].count > before + 10, "the other publisher to be heard still")


def test_the_compressed_form_is_taken_though_it_is_discovered_a_moment_later(world, camera, tmp_path, monkeypatch):
    """Thirty times the bytes were recorded when the raw form of a camera was discovered first."""
    files = world.peer.create_publisher(topics.CompressedImage, f"{topics.CAMERA_IMAGE}/compressed", topics.SENSOR)
    cell = Cell(world, tmp_path / "episodes")
    real = RecorderNode.get_publishers_info_by_topic
    hidden = ["once"]

    def late(node, name, *others):
        known = real(node, name, *others)
        if name.endswith("/compressed") and known and hidden:
            hidden.clear()
            return []
        return known

    monkeypatch.setattr(RecorderNode, "get_publishers_info_by_topic", late)
    world.wait_for(lambda: world.peer.count_publishers("/camera/image_raw/compressed"), "both forms")
    cell.start_recorder()
    world.wait_for(lambda: cell.recorder.taps[0].facts is not None, "the camera")
    assert not hidden
    assert cell.recorder.taps[0].facts.name == "/camera/image_raw/compressed"
    assert files.topic_name.endswith("compressed")


def test_one_broken_picture_does_not_keep_later_episodes_from_starting(world, camera, tmp_path):
    cell = Cell(world, tmp_path / "episodes").start_recorder(images="jpeg")
    cell.wait_until_ready()
    camera.break_encoding = True
    world.wait_for(lambda: cell.code() == "TOPIC_MISSING", "the warning")
    assert "cannot be encoded" in cell.statuses[-1].sentence
    camera.break_encoding = False
    cell.wait_until_ready()
    assert len(read(cell.record())["/camera/image_raw/compressed"]) >= 10


# Clocks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_s", [-3.0, 3.0])
def test_a_clock_that_is_set_while_recording_is_told_noted_and_found(cell, monkeypatch, by_s):
    begin(cell)
    real = time.time_ns
    monkeypatch.setattr(episode_facts.time, "time_ns", lambda: real() + int(by_s * 1e9))
    cell.wait_for_messages(15)
    cell.world.wait_for(lambda: cell.recorder.clock.jumps, "the jump")
    done, sentence = cell.call(END, True)
    assert done and f"The clock was set by {by_s:+.1f} s" in sentence
    (folder,) = EpisodeStore(cell.root).committed()
    assert json.loads(facts_of(folder)["openvla.clock_jumps"])[0][1] == pytest.approx(by_s, abs=0.05)
    assert "CLOCK_JUMP" in found(cell)


# Disks ---------------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_gone_is_told_and_the_recorder_lives_on(cell):
    """A disk that is pulled out once ended the process in the once-a-second report of free space."""
    begin(cell)
    shutil.rmtree(cell.root)
    cell.recorder.board.publish()
    done, sentence = cell.call(END, True)
    assert not done and "cannot be written" in sentence
    assert cell.code() == "DISK"
    done, sentence = cell.call(START)
    assert not done and "cannot be written" in sentence
    (cell.root / ".open").mkdir(parents=True)
    assert len(read(cell.record())["/robot/current_pose"]) >= 10


def test_an_error_nobody_foresaw_stops_the_episode_instead_of_committing_half_of_it(cell, monkeypatch):
    def broken(writer, topic, log_ns, data, publish_ns=None):
        raise ValueError("the library has a bad day")

    begin(cell)
    with monkeypatch.context() as patch:
        patch.setattr(bag_writer.BagWriter, "write", broken)
        cell.world.wait_for(lambda: cell.code() == "DISK", "the error")
    assert "a bad day" in cell.statuses[-1].sentence
    assert not cell.call(END, True)[0]
    assert EpisodeStore(cell.root).committed() == []
    assert [result.action for result in repair(cell.root)] == ["repaired"]


def test_a_disk_that_does_not_keep_up_is_told_and_counted(cell, monkeypatch):
    begin(cell)
    monkeypatch.setattr(bag_thread, "WAITING_BYTES", 0)
    cell.world.wait_for(lambda: cell.code() == "DISK_SLOW", "the warning")
    assert cell.call(END, True)[0]
    (folder,) = EpisodeStore(cell.root).committed()
    assert int(facts_of(folder)["openvla.dropped"]) > 0
    assert "MESSAGES_DROPPED" in found(cell)


def test_a_discard_works_on_a_full_disk(cell, monkeypatch):
    begin(cell)

    def full(output, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(bag_writer._Output, "write", full)
        done, sentence = cell.call(DISCARD)
    assert done and ".discarded" in sentence
    assert EpisodeStore(cell.root).left_open() == []


# Two of its kind -----------------------------------------------------------------------------------------------------


def test_two_recorders_share_a_folder_without_harm(cell):
    overrides = [Parameter("root", value=str(cell.root)), Parameter("min_free_gb", value=0.0)]
    other = cell.world.add(RecorderNode(namespace="other", parameter_overrides=[
        *overrides, Parameter("topics", value=["/camera/image_raw", "/robot/current_pose"])
    ]))  # fmt: skip
    cell.world.wait_for(lambda: other.board.report.code == "READY", "the other recorder")
    begin(cell)
    assert conversions.replied(cell.world.call(topics.Trigger, "other/recorder_node/start_episode"))[0]
    ours, theirs = cell.recorder.writing.episode.name, other.writing.episode.name
    assert ours != theirs
    assert {result.action for result in repair(cell.root)} == {"in use"}
    cell.wait_for_messages(15)
    assert cell.call(END, True)[0]
    done, sentence = conversions.replied(
        cell.world.call(topics.SetBool, "other/recorder_node/end_episode", topics.SetBool.Request(data=True))
    )
    assert done, sentence
    assert {path.name for path in EpisodeStore(cell.root).committed()} == {ours, theirs}
    assert cell.recorder.others == 0


def test_a_second_recorder_of_the_same_name_is_told(cell):
    cell.world.add(RecorderNode(parameter_overrides=[Parameter("root", value=str(cell.root))]))
    cell.world.wait_for(lambda: cell.recorder.others == 1, "the other one to be noticed")


def test_an_episode_without_any_message_is_an_episode_and_found(world, tmp_path):
    cell = Cell(world, tmp_path / "episodes").start_recorder(require_topics=False, topics=("nobody/speaks",))
    assert cell.call(START)[0]
    done, sentence = cell.call(END, True)
    assert done and "/nobody/speaks is missing" in sentence
    assert "BAG_EMPTY" in found(cell)
