"""The policy node with a real, untrained tiny OpenVLA, in this process."""

import threading

from rclpy.parameter import Parameter

from openvla_ros import conversions, topics
from openvla_ros.policy_node import PolicyNode

KNOWN = "move to the red cube"  # among the training instructions of the tiny checkpoint
OTHER = "move to the green cube"
UNTRAINED = "take the red block"  # words it knows, in a sentence it was not trained on


class Listener:
    """What is said to a policy node and heard of it.

    Subclasses set world, chunks, statuses and instructions; who: the beginning of what is told when a wait fails.
    """

    who = ""

    def ready(self) -> "Listener":
        self.wait_for_code("READY")
        self.world.wait_for(self.instructions.get_subscription_count, "a reader of the instruction")
        return self

    def say(self, sentence: str) -> None:
        self.instructions.publish(conversions.text_message(sentence))

    def wait_for_code(self, code: str):
        self.world.wait_for(lambda: self.statuses and self.statuses[-1].code == code, f"{self.who}status {code}")
        return self.statuses[-1]

    def wait_for_chunks(self, count: int = 1) -> list:
        have = len(self.chunks)
        self.world.wait_for(lambda: len(self.chunks) >= have + count, f"{self.who}{count} more chunks")
        return self.chunks[have:]


class Policy(Listener):
    """The node under test and what others see of it."""

    def __init__(self, world, checkpoint, **parameters) -> None:
        values = {"checkpoint": str(checkpoint), "rate_hz": 20.0, "max_observation_age_s": 2.0, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.world = world
        self.node = world.add(PolicyNode(parameter_overrides=overrides))
        self.chunks = world.listen(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, topics.COMMAND, conversions.to_chunk)
        self.statuses = world.listen(topics.Status, "policy_node/status", topics.LATCHED, conversions.to_status)
        self.active = world.listen(topics.String, "policy_node/active_instruction", topics.LATCHED, conversions.to_text)
        self.instructions = world.peer.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)

    def wait_for_frames(self, count: int) -> None:
        target = self.node.eyes.frames + count
        self.world.wait_for(lambda: self.node.eyes.frames >= target, f"{count} more frames")

    def trigger(self, name: str) -> tuple[bool, str]:
        return conversions.replied(self.world.call(topics.Trigger, f"policy_node/{name}"))


class Gate:
    """Holds every inference until it is opened."""

    def __init__(self, node) -> None:
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.sentences = []
        predict = node.model.policy.predict

        def gated(image, instruction):
            self.sentences.append(instruction)
            self.entered.set()
            assert self.opened.wait(60)
            return predict(image, instruction)

        node.model.policy.predict = gated
