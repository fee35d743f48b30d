"""What every source of actions other than a policy shares: it takes the policy's place in the graph.

Run as the node `policy_node` (system.py does that), it publishes the same topics, so that the controller checks and
limits its actions as it would a policy's, and the recorder finds them where it expects them.
"""

import uuid

import numpy as np
from rclpy.node import Node

from openvla_core.conventions import ActionConvention
from openvla_core.types import Pose
from openvla_ros import conversions, topics
from openvla_ros.conversions import Chunk


class ActionSource:
    """Publishes single actions of a convention card, and the instruction they follow.

    A step is given by where it starts and ends; the card turns that into its seven numbers.
    """

    def __init__(self, node: Node, card: ActionConvention, rate_hz: float) -> None:
        self.card = card
        self.instruction = ""
        self.count = 0
        self._rate_hz = rate_hz
        self._session_id = uuid.uuid4().hex
        self._chunks = node.create_publisher(topics.ActionChunk, topics.ACTION_CHUNK, topics.ACTION)
        self._active = node.create_publisher(topics.String, topics.ACTIVE_INSTRUCTION, topics.LATCHED)
        self.follow("")

    def follow(self, instruction: str) -> None:
        """Makes this the instruction in force; empty for none."""
        self.instruction = instruction
        self._active.publish(conversions.text_message(instruction))

    def act(self, start: Pose, end: Pose, opening: float, stamp_ns: int) -> None:
        """Publishes the action that leads from `start`, measured at stamp_ns, to `end`; opening 0 closed to 1 open."""
        row = self.card.difference(start, end, opening)
        unknown = np.full((1, len(row)), -1)
        chunk = Chunk(
            stamp_ns=stamp_ns,
            frame=self.card.frame,
            session_id=self._session_id,
            sequence=self.count,
            instruction=self.instruction,
            convention=self.card.name,
            rate_hz=self._rate_hz,
            actions=row[None],
            token_ids=unknown,
            token_probabilities=np.zeros_like(unknown, dtype=np.float64),
        )
        self._chunks.publish(conversions.chunk_message(chunk))
        self.count += 1
