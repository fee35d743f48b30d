"""A recorder node in a cell that only talks, and what it has written."""

from pathlib import Path

import numpy as np
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Reader

from openvla_core.datasets.bags.metadata import read_metadata
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.recorder_node import RecorderNode

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / "config" / "conventions" / "sim_tabletop.yaml"
START, END, DISCARD = (f"recorder_node/{name}_episode" for name in ("start", "end", "discard"))


class Cell:
    """A recorder with a robot that only talks."""

    def __init__(self, world, root: Path) -> None:
        self.world, self.root = world, root
        self.statuses = world.listen(topics.Status, "recorder_node/status", topics.LATCHED, conversions.to_status)
        publish = world.peer.create_publisher
        self.poses = publish(topics.PoseStamped, topics.CURRENT_POSE, topics.COMMAND)
        self.instructions = publish(topics.String, topics.INSTRUCTION, topics.COMMAND)
        self.sent: list[bytes] = []
        world.peer.create_timer(0.02, self.talk)
        self.recorder = None

    def start_recorder(self, **settings):
        values = {
            "root": str(self.root),
            "operator": "Ada",
            "robot": "sim",
            "convention": str(CARD),
            "min_free_gb": 0.0,
        }
        overrides = [
            Parameter(name, value=list(value) if isinstance(value, tuple) else value)
            for name, value in {**values, **settings}.items()
        ]
        self.recorder = self.world.add(RecorderNode(parameter_overrides=overrides))
        return self

    def talk(self) -> None:
        pose = Pose(np.array([0.4, 0.0, 0.3 + 1e-4 * len(self.sent)]), np.array([0.0, 1.0, 0.0, 0.0]))
        message = conversions.pose_message(pose, self.world.peer.get_clock().now().nanoseconds, "panda_link0")
        self.sent.append(serialize_message(message))
        self.poses.publish(message)

    def instruct(self, sentence: str) -> None:
        self.world.wait_for(lambda: self.instructions.get_subscription_count() >= 2, "listeners of the instruction")
        self.instructions.publish(conversions.text_message(sentence))
        self.world.wait_for(lambda: self.recorder.sentences.current == sentence, "the instruction")

    def wait_until_ready(self) -> None:
        self.world.wait_for(lambda: self.code() == "READY", "the recorder to hear its topics")

    def code(self) -> str:
        return self.statuses[-1].code if self.statuses else ""

    def call(self, name: str, success: bool | None = None) -> tuple[bool, str]:
        kind = topics.Trigger if success is None else topics.SetBool
        request = kind.Request() if success is None else kind.Request(data=success)
        return conversions.replied(self.world.call(kind, name, request))

    def wait_for_messages(self, count: int) -> None:
        taps = self.recorder.taps[:2]
        self.world.wait_for(lambda: min(tap.count for tap in taps) >= count, f"{count} messages on each topic")

    def record(self, success: bool = True) -> Path:
        done, sentence = self.call(START)
        assert done, sentence
        self.wait_for_messages(10)
        done, sentence = self.call(END, success)
        assert done, sentence
        return self.root / sentence.split()[1].rstrip(":")


def read(folder: Path) -> dict[str, list[bytes]]:
    heard: dict[str, list[bytes]] = {}
    with Reader(folder) as reader:
        for connection, _, data in reader.messages():
            heard.setdefault(connection.topic, []).append(bytes(data))
    return heard


def facts_of(folder: Path) -> dict[str, str]:
    return read_metadata(folder)["custom_data"]
