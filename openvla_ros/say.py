"""Says one sentence to the running policy, as soon as it listens, and reports what the policy answers."""

import sys
from dataclasses import dataclass

from rclpy.node import Node

from openvla_core.config import setting
from openvla_core.errors import ConfigError
from openvla_ros import conversions, topics
from openvla_ros.node_support import run, steady_timer
from openvla_ros.parameters import declare_settings
from openvla_ros.topics import State

EXIT_REFUSED = 2
NOT_READY = ("STARTING", "UNCONFIGURED", "INACTIVE")


@dataclass(frozen=True, kw_only=True)
class SaySettings:
    """Parameters of say."""

    instruction: str = setting("", "Sentence for the policy")


class SayNode(Node):
    """Waits for the policy's status, publishes the sentence once and ends when the policy has answered."""

    def __init__(self, **node_arguments) -> None:
        super().__init__("say", **node_arguments)
        self.exit_code = 0
        self.done = False
        self.said_ns = 0
        self.settings = declare_settings(self, SaySettings)
        if not self.settings.instruction:
            raise ConfigError(
                'there is nothing to say. Set the parameter instruction, or: openvla say "your sentence".'
            )
        self.instructions = self.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
        self.create_subscription(topics.Status, "policy_node/status", self.on_status, topics.LATCHED)
        steady_timer(self, 5.0, self.on_wait)

    def on_status(self, message: topics.Status) -> None:
        report = conversions.to_status(message)
        if report.code in NOT_READY or not self.instructions.get_subscription_count():
            return
        if not self.said_ns:
            self.said_ns = self.get_clock().now().nanoseconds
            self.get_logger().info(f"saying {self.settings.instruction!r}")
            self.instructions.publish(conversions.text_message(self.settings.instruction))
        elif report.stamp_ns < self.said_ns:
            return  # not yet about this sentence
        elif report.instruction:
            self.get_logger().info(f"{report.state.name} {report.code}: {report.sentence}")
            self.done = True
        elif report.code == "INSTRUCTION_REFUSED" or report.state == State.FAULT:
            self.get_logger().error(f"{report.code}: {report.sentence}")
            self.exit_code = EXIT_REFUSED
            self.done = True

    def on_wait(self) -> None:
        self.get_logger().info("waiting for policy_node to listen" if not self.said_ns else "waiting for an answer")


def main(args: list[str] | None = None) -> int:
    """Entry point of the process."""
    return run(SayNode, args)


if __name__ == "__main__":
    sys.exit(main())
