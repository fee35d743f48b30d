"""Listens to one topic, whatever its type, and hands on every message as the bytes that were sent."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message

from openvla_core.datasets.bags.message_types import MessageTypes
from openvla_core.datasets.bags.metadata import TopicFacts, qos_profile
from openvla_core.errors import DatasetError, ImageError
from openvla_ros import conversions, topics
from openvla_ros.recorder_settings import WantedTopic

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
COMPRESSED = "/compressed"
QUEUE_DEPTH = 200  # messages that may wait while the process is busy
Deliver = Callable[["TopicTap", int, bytes, int], None]  # tap, time of arrival and of sending (ns), message


class TopicTap:
    """One wanted topic: waits for a publisher, subscribes as it offers, counts what arrives.

    facts: what a bag says about the topic; None until somebody publishes it. problem: why it cannot be recorded.
    """

    def __init__(
        self, node: Node, wanted: WantedTopic, types: MessageTypes, deliver: Deliver, images: str, jpeg_quality: int
    ) -> None:
        self.wanted = wanted
        self.name = node.resolve_topic_name(wanted.name)
        self.facts: TopicFacts | None = None
        self.problem = ""
        self.heard_s = float("-inf")  # time.monotonic() of the newest message
        self.last: tuple[int, bytes] | None = None
        self.clear()
        self._node = node
        self._types = types
        self._deliver = deliver
        self._images = images
        self._quality = jpeg_quality
        self._encodes = False
        self._heard_name = self._subscribed_kind = ""
        self._profile = QoSProfile(depth=QUEUE_DEPTH)
        self._subscription: Any = None
        self._seen_raw = False

    def clear(self) -> None:
        """Starts to count anew."""
        self.count = 0
        self.first_ns = self.newest_ns = 0
        self.longest_gap_s = 0.0

    @property
    def rate_hz(self) -> float:
        """Messages per second since `clear`; 0 with fewer than two."""
        span_s = (self.newest_ns - self.first_ns) * 1e-9
        return (self.count - 1) / span_s if self.count > 1 and span_s > 0 else 0.0

    def silent_s(self) -> float:
        """Seconds since the newest message; infinite before the first."""
        return time.monotonic() - self.heard_s

    def look(self) -> None:
        """Subscribes once somebody publishes the topic, anew where a later publisher needs it; call it now and then."""
        if self.facts is not None:
            self._follow_publishers()
            return
        for name in self._names():
            publishers = self._node.get_publishers_info_by_topic(name)
            kinds = sorted({info.topic_type for info in publishers})
            if len(kinds) == 1:
                # The compressed form of a camera may be discovered a moment after the raw one.
                if name != self._names()[0] and kinds[0] == IMAGE and not self._seen_raw:
                    self._seen_raw = True
                    return
                self._subscribe(name, kinds[0], publishers)
                return
            if kinds:
                self.problem = f"{name} is published with several types: {', '.join(kinds)}."

    def _follow_publishers(self) -> None:
        """Listens anew when a publisher has come that cannot serve what was asked for: it would not be heard at all."""
        assert self.facts is not None
        publishers = [
            info
            for info in self._node.get_publishers_info_by_topic(self._heard_name)
            if info.topic_type == self._subscribed_kind
        ]
        profile = listening(publishers)
        asks_more = (
            self._profile.reliability == ReliabilityPolicy.RELIABLE != profile.reliability
            or self._profile.durability == DurabilityPolicy.TRANSIENT_LOCAL != profile.durability
        )
        if publishers and asks_more:
            self._node.destroy_subscription(self._subscription)
            self._listen(self._heard_name, self._subscribed_kind, publishers)

    def _names(self) -> list[str]:
        compressed = [] if self._images == "raw" or self.name.endswith(COMPRESSED) else [self.name + COMPRESSED]
        return compressed + [self.name]

    def _subscribe(self, name: str, kind: str, publishers: Sequence) -> None:
        try:
            self._encodes = self._images == "jpeg" and kind == IMAGE
            recorded_kind = COMPRESSED_IMAGE if self._encodes else kind
            definition, type_hash = self._types.describe(recorded_kind)
            topics.message_class(kind)
        except (DatasetError, ImportError, AttributeError) as error:
            self.problem = f"{name} cannot be recorded: {error}"
            return
        profiles = tuple(offered(info.qos_profile) for info in publishers)
        self.facts = TopicFacts(name + COMPRESSED * self._encodes, recorded_kind, definition, type_hash, profiles)
        self.problem = ""
        self._listen(name, kind, publishers)

    def _listen(self, name: str, kind: str, publishers: Sequence) -> None:
        self._heard_name, self._subscribed_kind, self._profile = name, kind, listening(publishers)
        # The type hints of rclpy know no callback that also takes the times.
        callback: Any = self._on_message
        self._subscription = self._node.create_subscription(
            topics.message_class(kind), name, callback, self._profile, raw=True
        )

    def _on_message(self, data: bytes, info: dict) -> None:
        now_ns = info.get("received_timestamp") or time.time_ns()
        sent_ns = info.get("source_timestamp") or now_ns
        if self._encodes:
            try:
                image = deserialize_message(data, topics.Image)
                data = serialize_message(conversions.jpeg_message(image, self._quality))
                self.problem = ""
            except ImageError as error:
                self.problem = f"{self.name} cannot be encoded: {error}"
                return
        if self.count:
            self.longest_gap_s = max(self.longest_gap_s, (now_ns - self.newest_ns) * 1e-9)
        else:
            self.first_ns = now_ns
        self.count += 1
        self.newest_ns, self.heard_s = now_ns, time.monotonic()
        self.last = (sent_ns, data)
        self._deliver(self, now_ns, data, sent_ns)


def listening(publishers: Sequence) -> QoSProfile:
    """A quality of service that every one of these publishers can serve, as reliable and latched as they all are."""
    reliable = all(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in publishers)
    latched = all(info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in publishers)
    return QoSProfile(
        depth=QUEUE_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def offered(profile: QoSProfile) -> dict:
    """A publisher's quality of service as a bag spells it."""
    return qos_profile(
        reliability=profile.reliability.name.lower(),
        durability=profile.durability.name.lower(),
        history=profile.history.name.lower(),
        depth=profile.depth,
        liveliness=profile.liveliness.name.lower(),
        deadline_ns=profile.deadline.nanoseconds,
        lifespan_ns=profile.lifespan.nanoseconds,
        lease_ns=profile.liveliness_lease_duration.nanoseconds,
    )
