"""What a dead recorder leaves behind is never taken for complete, and everything whole in it comes back."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import bag_bench
import pytest

from openvla_core.datasets.bags import repair as bag_repair
from openvla_core.datasets.bags import writer as bag_writer
from openvla_core.datasets.bags.metadata import read_metadata
from openvla_core.datasets.bags.repair import main, repair
from openvla_core.datasets.bags.salvage import read_messages
from openvla_core.datasets.bags.store import EpisodeStore
from openvla_core.errors import DatasetError

COUNT = 6


@pytest.fixture
def left_behind(tmp_path, monkeypatch) -> Path:
    """A root with one episode whose recorder is gone; every message is a chunk of its own."""
    monkeypatch.setattr(bag_writer, "FLUSH_S", 0.0)
    episode = bag_bench.begin(tmp_path / "root", operator="Ada")
    bag_bench.fill(episode, COUNT)
    episode.leave()
    return tmp_path / "root"


def mcap_of(root: Path) -> Path:
    (path,) = (root / ".open").glob("*/*.mcap")
    return path


def sentences(folder: Path) -> list[str]:
    heard = bag_bench.read(folder)
    return [m.data for m in heard.get(bag_bench.TEXT, [])] + [m.sentence for m in heard.get(bag_bench.STATUS, [])]


def test_a_cut_off_episode_becomes_a_complete_bag_of_unknown_outcome(left_behind):
    assert EpisodeStore(left_behind).committed() == []
    (result,) = repair(left_behind)
    assert (result.action, result.messages) == ("repaired", 2 * COUNT)
    assert EpisodeStore(left_behind).committed() == [result.folder]
    assert EpisodeStore(left_behind).left_open() == []
    facts = bag_bench.custom_data(result.folder)
    assert facts["openvla.outcome"] == "unknown"
    assert facts["openvla.repaired"] == "true"
    assert facts["openvla.operator"] == "Ada"
    assert json.loads(facts["openvla.rates"])[bag_bench.TEXT] == 50.0
    assert len(sentences(result.folder)) == 2 * COUNT


def test_types_qos_and_times_survive(left_behind):
    (result,) = repair(left_behind)
    listed = read_metadata(result.folder)["topics_with_message_count"]
    topics = {entry["topic_metadata"]["name"]: entry["topic_metadata"] for entry in listed}
    expected = bag_bench.text_topic()
    assert topics[bag_bench.TEXT]["type_description_hash"] == expected.type_hash
    assert topics[bag_bench.TEXT]["offered_qos_profiles"] == [dict(profile) for profile in expected.qos]
    assert read_metadata(result.folder)["starting_time"] == {"nanoseconds_since_epoch": bag_bench.START_NS}


def test_a_file_cut_at_any_byte_yields_the_messages_before_the_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(bag_writer, "FLUSH_S", 0.0)
    episode = EpisodeStore(tmp_path).begin({})
    episode.writer.add_topic(bag_bench.status_topic())
    for number in range(COUNT):
        episode.writer.write(bag_bench.STATUS, bag_bench.START_NS + number, bag_bench.status(f"sentence {number}"))
    episode.leave()
    path = mcap_of(tmp_path)
    whole = path.read_bytes()
    with path.open("rb") as file:
        everything = [(topic.name, log_ns, data) for topic, log_ns, _, data in read_messages(file)]
    assert len(everything) == COUNT
    cut, counts = tmp_path / "cut.mcap", []
    # Every byte of the last chunks with their indexes, and a sample of the rest.
    for size in sorted({*range(0, len(whole), 61), *range(len(whole) - 500, len(whole) + 1)}):
        cut.write_bytes(whole[:size])
        with cut.open("rb") as file:
            found = [(topic.name, log_ns, data) for topic, log_ns, _, data in read_messages(file)]
        assert found == everything[: len(found)], size
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == COUNT


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\xff" * 100, os.urandom(64), b"\x06" + b"\xff" * 8])
def test_rubbish_at_the_end_does_not_hide_what_is_before(left_behind, tail):
    """After a power cut the last blocks of a file may hold anything."""
    with mcap_of(left_behind).open("ab") as file:
        file.write(tail)
    (result,) = repair(left_behind)
    assert (result.action, result.messages) == ("repaired", 2 * COUNT)


def test_a_damaged_chunk_is_left_out_and_the_rest_kept(left_behind):
    path = mcap_of(left_behind)
    data = bytearray(path.read_bytes())
    data[data.index(b"message 3")] ^= 0xFF
    path.write_bytes(data)
    (result,) = repair(left_behind)
    assert result.messages == 2 * COUNT - 1
    assert "message 3" not in sentences(result.folder)
    assert "message 4" in sentences(result.folder)


def test_no_damage_to_the_file_makes_reading_fail(left_behind, tmp_path):
    """Bytes changed anywhere cost messages, never an exception."""
    whole = mcap_of(left_behind).read_bytes()
    chance = random.Random(0)
    damaged = tmp_path / "damaged.mcap"
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(8, len(data))] = chance.randrange(256)
        damaged.write_bytes(data[: chance.randint(1000, len(data))])
        with damaged.open("rb") as file:
            assert len(list(read_messages(file))) <= 2 * COUNT


def test_an_episode_without_a_message_is_put_aside(tmp_path):
    bag_bench.begin(tmp_path).leave()
    (tmp_path / ".open" / "never_begun").mkdir()
    assert {result.action for result in repair(tmp_path)} == {"empty"}
    assert EpisodeStore(tmp_path).committed() == EpisodeStore(tmp_path).left_open() == []


def test_a_commit_that_was_cut_off_before_its_last_step_is_completed(tmp_path):
    """The operator had said success, and the bag was complete: only the move was missing."""
    episode = bag_bench.begin(tmp_path)
    bag_bench.fill(episode, COUNT)
    episode.finish({"outcome": "success"})
    episode.leave()
    (result,) = repair(tmp_path)
    assert result.action == "committed"
    facts = bag_bench.custom_data(result.folder)
    assert facts["openvla.outcome"] == "success"
    assert "openvla.repaired" not in facts


def test_an_episode_being_recorded_is_left_alone(tmp_path):
    episode = bag_bench.begin(tmp_path)
    bag_bench.fill(episode, COUNT)
    (result,) = repair(tmp_path)
    assert result.action == "in use"
    assert episode.commit({"outcome": "success"}).is_dir()


@pytest.mark.parametrize("step", ["publish", "finish"])
def test_a_repair_that_dies_halfway_is_repeated(left_behind, monkeypatch, step):
    class Killed(BaseException):
        pass

    def die(*arguments, **options):
        raise Killed

    owner = EpisodeStore if step == "publish" else bag_repair.BagWriter
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, die)
        with pytest.raises(Killed):
            repair(left_behind)
    assert EpisodeStore(left_behind).committed() == []
    (result,) = repair(left_behind)
    assert (result.action, result.messages) == ("repaired", 2 * COUNT)


def test_an_original_that_outlived_its_repair_is_removed(left_behind, tmp_path):
    (folder,) = EpisodeStore(left_behind).left_open()
    shutil.copytree(folder, tmp_path / "copy")
    (first,) = repair(left_behind)
    shutil.copytree(tmp_path / "copy", folder)
    (again,) = repair(left_behind)
    assert again.folder == first.folder
    assert EpisodeStore(left_behind).left_open() == []
    assert len(sentences(first.folder)) == 2 * COUNT


def test_a_name_that_is_taken_is_not_written_over(left_behind):
    (folder,) = EpisodeStore(left_behind).left_open()
    other = bag_bench.record(left_behind.parent / "other", 3)
    shutil.move(other, left_behind / folder.name)
    (result,) = repair(left_behind)
    assert result.action == "failed"
    assert "never written over" in result.sentence
    assert mcap_of(left_behind).is_file()
    assert len(bag_bench.read(left_behind / folder.name)[bag_bench.TEXT]) == 3


def test_a_full_disk_during_a_repair_costs_nothing(left_behind, monkeypatch):
    def full(*arguments, **options):
        raise bag_writer.StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(bag_repair.BagWriter, "write", full)
        (result,) = repair(left_behind)
    assert (result.action, result.sentence) == ("failed", "the disk is full")
    assert [path.suffix for path in EpisodeStore(left_behind).left_open()] == [""]
    assert repair(left_behind)[0].messages == 2 * COUNT


def test_a_lost_note_costs_the_facts_but_not_the_data(left_behind):
    next((left_behind / ".open").glob("*/episode.json")).write_text("{")
    (result,) = repair(left_behind)
    assert result.messages == 2 * COUNT
    assert bag_bench.custom_data(result.folder)["openvla.outcome"] == "unknown"


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(DatasetError, match="there is no folder"):
        repair(tmp_path / "nowhere")


def test_the_command_says_what_it_did(left_behind, capsys):
    assert main([str(left_behind)]) == 0
    assert f"repaired, {2 * COUNT} messages" in capsys.readouterr().out
    assert main([str(left_behind)]) == 0
    assert "No open episodes" in capsys.readouterr().out
    assert main([str(left_behind / "nowhere")]) == 3


WRITER = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
import bag_bench
root = pathlib.Path(sys.argv[1])
bag_bench.record(root, 10)
episode = bag_bench.begin(root)
number = 0
while True:
    bag_bench.fill(episode, 5)
    number += 5
    print(number, flush=True)
"""


def mcap_of_writer(root: Path) -> int:
    """Bytes that have reached the open file."""
    return sum(path.stat().st_size for path in (root / ".open").glob("*/*.mcap"))


def test_the_lock_of_a_killed_process_is_gone_and_its_committed_episode_whole(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in process.stdout:
            if mcap_of_writer(tmp_path) > 50_000:
                break
        assert [result.action for result in repair(tmp_path)] == ["in use"]
        process.send_signal(signal.SIGKILL)
    (result,) = repair(tmp_path)
    assert result.action == "repaired"
    assert result.messages > 0
    assert len(EpisodeStore(tmp_path).committed()) == 2
    for folder in EpisodeStore(tmp_path).committed():
        assert sentences(folder)
