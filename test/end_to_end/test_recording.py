"""Recording as a person does it, and a recorder that is killed, through the real graph."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from openvla_core.datasets.bags.metadata import read_metadata
from openvla_core.datasets.bags.store import EpisodeStore

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 300


def run(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> list[Path]:
    """Two episodes of the expert."""
    root = tmp_path_factory.mktemp("recordings")
    finished = run("-m", "openvla_ros.record", "--source", "expert", "--episodes", "2", "--root", str(root))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    store = EpisodeStore(root)
    assert store.left_open() == []
    return store.committed()


def test_a_series_of_the_expert_is_committed_with_verdict_instruction_and_card(episodes):
    assert len(episodes) == 2
    facts = [read_metadata(folder)["custom_data"] for folder in episodes]
    assert [fact["openvla.outcome"] for fact in facts] == ["success", "success"]
    assert all("block" in fact["openvla.instruction"] or "cube" in fact["openvla.instruction"] for fact in facts)
    assert facts[0]["openvla.instruction"] != facts[1]["openvla.instruction"]
    assert {json.loads(fact["openvla.convention"])["name"] for fact in facts} == {"sim_tabletop"}
    assert all(json.loads(fact["openvla.missing"]) == [] for fact in facts)


def test_every_action_of_the_episode_is_there_with_its_instruction(episodes):
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in (ROOT / "msg").glob("*.msg"):
        store.register(get_types_from_msg(path.read_text(), f"openvla_ros/msg/{path.stem}"))
    for folder in episodes:
        with Reader(folder) as reader:
            wanted = [c for c in reader.connections if c.topic == "/policy_node/action_chunk"]
            chunks = [store.deserialize_cdr(data, c.msgtype) for c, _, data in reader.messages(wanted)]
        assert len(chunks) > 3
        numbers = [chunk.sequence for chunk in chunks]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert {chunk.instruction for chunk in chunks} == {read_metadata(folder)["custom_data"]["openvla.instruction"]}


def test_what_makes_a_training_step_is_in_every_episode(episodes):
    for folder in episodes:
        listed = read_metadata(folder)["topics_with_message_count"]
        counts = {entry["topic_metadata"]["name"]: entry["message_count"] for entry in listed}
        for topic in ("/camera/image_raw", "/robot/current_pose", "/joint_states", "/controller_node/applied_action"):
            assert counts[topic] > 3, topic


@pytest.fixture(scope="module")
def crash(tmp_path_factory) -> dict:
    """A small run of the crash test."""
    out = tmp_path_factory.mktemp("crash") / "report.json"
    finished = run(str(ROOT / "benchmarks" / "recorder_crash.py"), "--kills", "5", "--out", str(out))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(out.read_text())


def test_a_killed_recorder_loses_nothing_committed_and_little_of_the_open_episode(crash):
    figures = crash["crash"]
    assert figures["kills"] == 5
    assert figures["committed_lost"] == figures["committed_damaged"] == figures["listed_before_complete"] == 0
    assert figures["open_episodes"] > 0
    assert figures["open_loss_max_s"] <= 0.5


def test_a_full_disk_is_told_and_costs_no_committed_episode(crash):
    full = crash["disk_full"]
    if "left_out" in full:
        pytest.skip(full["left_out"])
    assert full["told"] == "disk"
    assert "is full" in full["sentence"]
    assert full["committed_lost"] == full["committed_damaged"] == 0
    assert full["episodes_confirmed"] > 0
    assert [repaired["action"] for repaired in full["repaired"]] == ["repaired"]
