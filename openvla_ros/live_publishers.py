"""How many publishers of a topic are alive, without waiting for the graph to forget a process that was killed."""

from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy


class LivePublishers:
    """Counts the publishers of a topic that are there and have not fallen silent.

    The graph keeps a killed process for the 20 s of its DDS lease. A publisher that promises to show that it is alive
    (liveliness lease, see topics.ACTION) is known to be dead once its own lease is over; the others stay counted.
    """

    def __init__(self, node: Node, kind: type, topic: str, lease_s: float) -> None:
        self._node = node
        self._topic = node.resolve_topic_name(topic)
        self._not_alive = 0
        # Asking for a lease makes this subscription deaf to publishers that promise none, so it carries no messages.
        promise = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, liveliness_lease_duration=Duration(seconds=lease_s)
        )
        events = SubscriptionEventCallbacks(liveliness=self._on_liveliness, use_default_callbacks=False)
        node.create_subscription(kind, topic, lambda message: None, promise, event_callbacks=events)

    def count(self) -> int:
        """Publishers in the graph, less those known to be dead."""
        return max(self._node.count_publishers(self._topic) - self._not_alive, 0)

    def _on_liveliness(self, status) -> None:
        self._not_alive = status.not_alive_count
