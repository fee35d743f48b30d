#!/usr/bin/env python3
"""A policy without a model: moves the tool back and forth along x at 10 Hz, and says something else when it is told to.

Orders arrive as JSON on the topic stub/order, and take effect at once:

    {"row": [...], "count": 3, "age_s": 0.1, ...}  the next `count` chunks differ in these fields
    {"silent": true}                               no chunks
    {"instruction": "..."}                         another instruction is announced, and followed
    {"announce": "..."}                            another instruction is announced only
    {}                                             as at the start
"""

import json
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from rclpy.node import Node

from openvla_ros import conversions, topics
from openvla_ros.conversions import Chunk
from openvla_ros.node_support import run, steady_timer

FAR_X, NEAR_X = 0.58, 0.42


class StubPolicy(Node):
    """In the policy's place in the graph: same topics, same promises."""

    def __init__(self, **options) -> None:
        super().__init__("policy_node", **options)
        self.rate_hz = self.declare_parameter("rate_hz", 10.0).value
        self.card = self.declare_parameter("card", "metres_rotation_vector").value
        self.step = self.declare_parameter("step", 0.025).value  # 0.25 m/s at 10 Hz
        self.session = uuid.uuid4().hex
        self.sequence = -1
        self.order: dict = {}
        self.left = 0
        self.x = 0.5
        self.toward = 1.0
        self.instruction = self.announced = "move back and forth"
        self.taken_ns = 0  # when the image of the next chunk was taken: one period before it is published
        self.chunks = self.create_publisher(topics.ActionChunk, topics.ACTION_CHUNK, topics.ACTION)
        self.active = self.create_publisher(topics.String, topics.ACTIVE_INSTRUCTION, topics.LATCHED)
        self.create_subscription(topics.PoseStamped, "controller_node/commanded_pose", self.on_pose, topics.COMMAND)
        self.create_subscription(topics.String, "stub/order", self.on_order, topics.RECORD)
        self.active.publish(conversions.text_message(self.instruction))
        steady_timer(self, 1.0 / self.rate_hz, self.on_timer)

    def on_pose(self, message) -> None:
        """Keeps x, to turn round in time."""
        self.x = message.pose.position.x

    def on_order(self, message) -> None:
        """Does what it is told from now on."""
        self.order = json.loads(message.data)
        self.left = self.order.get("count", 0)
        self.session = self.order.get("new_session", self.session)
        announced = self.order.get("announce", self.order.get("instruction"))
        if not self.order and self.announced != "move back and forth":
            announced = self.instruction = "move back and forth"
        if announced is not None:
            self.announced = announced
            self.active.publish(conversions.text_message(announced))
        self.instruction = self.order.get("instruction", self.instruction)
        if self.left:
            self.publish()

    def on_timer(self) -> None:
        """One period."""
        if not self.order.get("silent"):
            self.publish()

    def publish(self) -> None:
        """One chunk, changed by the order while that lasts."""
        changes = self.order if self.left > 0 else {}
        self.left -= 1
        now_ns = self.get_clock().now().nanoseconds
        taken_ns, self.taken_ns = self.taken_ns or now_ns, now_ns
        if "age_s" in changes:
            taken_ns = now_ns - round(changes["age_s"] * 1e9)
        if not FAR_X > self.x > NEAR_X:
            self.toward = -1.0 if self.x > 0.5 else 1.0
        row = np.array(changes.get("row", [self.toward * self.step, 0, 0, 0, 0, 0, 1.0]), dtype=np.float64)
        self.sequence += 1
        chunk = Chunk(
            stamp_ns=taken_ns,
            frame=changes.get("frame", "base"),
            session_id=changes.get("session", self.session),
            sequence=self.sequence + changes.get("sequence", 0),
            instruction=changes.get("follow", self.instruction),
            convention=changes.get("convention", self.card),
            rate_hz=changes.get("rate_hz", self.rate_hz),
            actions=row[None],
            token_ids=np.full((1, len(row)), -1),
            token_probabilities=np.zeros((1, len(row))),
        )
        message = conversions.chunk_message(chunk)
        message.action_dim = changes.get("dim", message.action_dim)
        self.chunks.publish(message)


if __name__ == "__main__":
    sys.exit(run(StubPolicy))
