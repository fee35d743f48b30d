"""One bag, two ways to the model: read for training, and played to a live policy node. The inputs are the same bits.

A policy that is shown other pixels or another sentence than it was trained on still answers; it only fails more often.
"""

import json
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
SENTENCE = "  Pick up the RED cube "  # as people type


@pytest.fixture
def private_domain(monkeypatch):
    """A graph of our own, on this machine only."""
    from openvla_ros.demo import free_domain

    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))


@pytest.fixture(scope="module")
def tools():
    """The writer of test bags."""
    sys.path.insert(0, str(ROOT / "test" / "core" / "datasets"))
    import bag_tools

    yield bag_tools
    sys.path.remove(str(ROOT / "test" / "core" / "datasets"))


def record(tools, root: Path, transport: str) -> Path:
    """A bag with a camera that is larger than the model's picture, compressed or raw with blue first."""
    tape = tools.demonstration(0, camera_hz=10.0)
    tape.facts["instruction"] = SENTENCE
    tape.notes[tools.INSTRUCTION][0].value = SENTENCE
    rng = np.random.default_rng(0)
    for note in tape.notes[tools.CAMERA]:
        large = np.kron(note.value, np.ones((2, 3, 1), np.uint8))
        note.value = np.clip(large + rng.normal(0, 12, large.shape), 0, 255).astype(
            np.uint8
        )  # detail that resizing mixes
    if transport == "raw":
        frames = tape.notes.pop(tools.CAMERA)
        for note in frames:
            note.value = ("bgr8", np.ascontiguousarray(note.value[..., ::-1]))
        tape.notes[tools.RAW] = frames
    return tools.Scribe().write(tape, root)


def card_with(tmp_path: Path, preprocessing: str) -> Path:
    """The card of the checkpoint, asking for this image preparation."""
    from openvla_core.training.tiny_checkpoint import tiny_convention

    card = tiny_convention()
    card["image"]["preprocessing"] = preprocessing
    path = tmp_path / "card.json"
    path.write_text(json.dumps(card))
    return path


def training_inputs(bag: Path, checkpoint: Path, preprocessing: str) -> dict[int, dict]:
    """Stamp of the frame -> the example a training batch is made of."""
    from openvla_core import load_policy
    from openvla_core.action_statistics import statistics_of
    from openvla_core.datasets.bags.reader import BagSource
    from openvla_core.datasets.examples import ExampleBuilder
    from openvla_core.datasets.statistics import dataset_statistics
    from openvla_core.datasets.streaming.sources import EpisodeSteps

    source = BagSource(bag.parent)
    policy = load_policy(checkpoint, image_preparation=preprocessing)
    statistics = statistics_of(dataset_statistics("bag", source), "bag")
    builder = ExampleBuilder(policy.processor, {source.name: statistics})
    steps = EpisodeSteps(source)
    (episode,) = source
    stamps = episode.metadata["start_ns"] + np.round(episode.times_s * 1e9).astype(np.int64)
    examples = (builder(steps[i], np.random.default_rng(i)) for i in range(len(steps)))
    return {int(stamp): example for stamp, example in zip(stamps, examples, strict=True)}


class Live:
    """A real policy node, what it publishes, and what its model is given."""

    def __init__(self, checkpoint: Path, card: Path, transport: str) -> None:
        from openvla_ros import conversions, topics
        from openvla_ros.policy_node import PolicyNode

        rclpy.init()
        self.topics, self.conversions = topics, conversions
        self.kind = topics.Image if transport == "raw" else topics.CompressedImage
        values = {
            "checkpoint": str(checkpoint),
            "convention": str(card),
            "image_transport": transport,
            "rate_hz": 100.0,
            "max_observation_age_s": 10.0,
        }
        self.executor = SingleThreadedExecutor()
        self.node = PolicyNode(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
        self.peer = rclpy.create_node("player")
        for node in (self.node, self.peer):
            self.executor.add_node(node)
        self.camera = self.peer.create_publisher(self.kind, topics.CAMERA_IMAGE, topics.SENSOR)
        self.instruction = self.peer.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
        self.chunks = {}
        self.peer.create_subscription(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, self.on_chunk, topics.COMMAND)
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(self) -> None:
        """Notes what the model of the node is given from now on."""
        self.wait_for(lambda: self.node.active, "an active policy node")
        generation = self.node.model.policy.generation
        one = generation.one

        def watched(inputs, count):
            input_ids, pixel_values = inputs
            self.seen.append((input_ids.clone(), pixel_values.clone()))
            return one(inputs, count)

        generation.one = watched
        self.wait_for(lambda: self.camera.get_subscription_count(), "a reader of the camera")
        self.wait_for(lambda: self.instruction.get_subscription_count(), "a reader of the instruction")

    def on_chunk(self, message) -> None:
        chunk = self.conversions.to_chunk(message)
        self.chunks[chunk.stamp_ns] = chunk

    def wait_for(self, condition, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come true within {PATIENCE_S:g} s"
            self.executor.spin_once(timeout_sec=0.05)

    def say(self, data: bytes) -> None:
        self.instruction.publish(deserialize_message(data, self.topics.String))
        self.wait_for(lambda: self.node.instruction, "an instruction in force")

    def show(self, data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
        """Plays one frame of the bag as if it were taken now; returns what the model was given for it."""
        message = deserialize_message(data, self.kind)
        stamp = self.peer.get_clock().now()
        message.header.stamp = stamp.to_msg()
        self.seen.clear()
        self.camera.publish(message)
        self.wait_for(lambda: stamp.nanoseconds in self.chunks, "the action for the frame")
        (inputs,) = self.seen
        return inputs

    def close(self) -> None:
        self.node.close()
        for node in (self.node, self.peer):
            node.destroy_node()
        self.executor.shutdown()
        rclpy.try_shutdown()


def messages(bag: Path, topic: str) -> dict[int, bytes]:
    """Stamp -> message as it lies in the bag."""
    from openvla_core.datasets.bags.file import open_bag
    from openvla_core.datasets.bags.messages import header_stamp_ns

    with closing(open_bag(bag)) as reader:
        wanted = [connection for connection in reader.connections if connection.topic == topic]
        return {header_stamp_ns(data): data for _, _, data in reader.messages(wanted)}


@pytest.mark.parametrize(
    "transport, preprocessing", [("compressed", "none"), ("raw", "bridge"), ("raw", "center_crop")]
)
def test_training_and_serving_show_the_model_the_same(
    transport, preprocessing, tools, shipped_checkpoint, private_domain, tmp_path
):
    bag = record(tools, tmp_path / "bags", transport)
    examples = training_inputs(bag, shipped_checkpoint, preprocessing)
    frames = messages(bag, tools.RAW if transport == "raw" else tools.CAMERA)
    (sentence,) = messages(bag, tools.INSTRUCTION).values()
    compared = list(examples.items())[::2]
    assert len(compared) >= 10
    with closing(Live(shipped_checkpoint, card_with(tmp_path, preprocessing), transport)) as live:
        live.watch()
        live.say(sentence)
        for stamp, example in compared:
            near = min(frames, key=lambda known: abs(known - stamp))
            assert abs(near - stamp) < 1000  # seconds as floats keep a microsecond
            input_ids, pixel_values = live.show(frames[near])
            prompt = input_ids.shape[1]
            assert torch.equal(pixel_values[0], example["pixel_values"])
            assert torch.equal(input_ids[0], example["input_ids"][:prompt])
            # What follows in training are the seven action tokens and the end: where the live model begins to answer.
            assert (example["labels"][:prompt] == -100).all() and (example["labels"][prompt:] != -100).all()
            assert len(example["labels"]) == prompt + 8


def test_a_difference_of_one_grey_level_would_be_noticed(tools, shipped_checkpoint, tmp_path):
    """The comparison above means something: one pixel off by one changes what the model is given."""
    from openvla_core import load_policy

    picture = tools.demonstration(0, camera_hz=5.0).notes[tools.CAMERA][0].value
    changed = picture.copy()
    changed[40, 40, 0] ^= 1
    processor = load_policy(shipped_checkpoint).processor
    assert not torch.equal(processor.pixel_values(picture), processor.pixel_values(changed))
