"""The policies of many robots in one process, on one model: a policy node for each, in the namespace of its robot.

Each node is what policy_node is: camera, instruction, status, session, watchdogs and lifecycle of its own. What
computes is shared, so that the answers of all robots that wait at a moment cost little more than that of one.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rclpy.node import Node

from openvla_core.config import setting
from openvla_core.errors import ConfigError, OpenVLAError
from openvla_ros.node_support import EXIT_CONFIG, EXIT_FAULT, run
from openvla_ros.parameters import declare_settings
from openvla_ros.policy_node import PolicyNode
from openvla_ros.shared_model import Share, SharedModel, made_of, refuse_differences
from openvla_ros.status_board import StatusBoard
from openvla_ros.topics import State

# As ROS wants the parts of a namespace.
NAME = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """Parameters of policy_fleet. Those of policy_node count for every robot, see docs/many-robots.md."""

    robots: str = setting("", "Namespaces of the robots, with commas between them")
    max_batch: int = setting(8, "Most robots answered in one pass of the model", minimum=1, maximum=64)
    gather_s: float = setting(
        0.0, "How long an idle model waits for more robots before it begins", unit="s", minimum=0.0, maximum=0.5
    )


class PolicyFleet(Node):
    """One model and a policy node per robot.

    Args:
        arguments: ROS arguments for this node and for every robot's, besides those of the process.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        super().__init__("policy_fleet", cli_args=list(arguments) or None)
        settings = declare_settings(self, FleetSettings)
        self.model = SharedModel(settings.max_batch, settings.gather_s)
        self.members: dict[str, PolicyNode] = {}
        try:
            for robot in robot_names(settings.robots):
                self.members[robot] = self._member(robot, arguments)
            (first, node), *others = self.members.items()
            for robot, other in others:
                refuse_differences(robot, made_of(other.settings), first, made_of(node.settings))
        except BaseException:
            self.close()
            self.destroy_node()
            raise
        self.board = StatusBoard(self, details=self.details)
        names = ", ".join(self.members)
        self.board.set(State.ACTIVE, "OK", f"{len(self.members)} robots share one model: {names}.")

    def _member(self, robot: str, arguments: Sequence[str]) -> PolicyNode:
        namespace = robot if robot.startswith("/") else f"{self.get_namespace().rstrip('/')}/{robot}"
        # Its own arguments come before those of the process, which name the fleet.
        own = ["-r", "__node:=policy_node", "-r", f"__ns:={namespace}"]
        given = list(arguments) if arguments else ["--ros-args"]
        try:
            return PolicyNode(Share(self.model, robot), cli_args=[*given, *own])
        except OpenVLAError as error:
            raise type(error)(f"{robot}: {error}") from error

    @property
    def nodes_beside(self) -> list[Node]:
        """The nodes that spin in the same executor."""
        return list(self.members.values())

    @property
    def exit_code(self) -> int:
        """Not 0 when a setting was refused, when the model answers nobody any more, or when no robot is left.

        A failure that only one robot's frames cause ends only that robot's policy.
        """
        codes = [node.exit_code for node in self.members.values()]
        if EXIT_CONFIG in codes:
            return EXIT_CONFIG
        hangs = any(node.exit_code and node.fault == "MODEL_HANG" for node in self.members.values())
        everybody = codes.count(EXIT_FAULT) == len(codes)
        return EXIT_FAULT if everybody or hangs or (any(codes) and self.model.broken) else 0

    @property
    def hang_s(self) -> float:
        """As PolicyNode.hang_s; while one robot acts, the others load nothing."""
        return max(node.hang_s for node in self.members.values())

    def details(self) -> dict[str, str]:
        """What /diagnostics tells about the model that is shared."""
        return self.model.figures()

    def close(self) -> None:
        """Ends the nodes of the robots, and with the last one the thread of the model."""
        for node in self.members.values():
            node.close()
            node.destroy_node()


def robot_names(text: str) -> list[str]:
    """The names in "a, b, c". Raises ConfigError when there is none, one twice, or one that ROS does not take."""
    names = [name.strip().rstrip("/") for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("the parameter robots is empty. Set it to the namespaces of the robots, such as left,right.")
    for name in names:
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"robots has {name!r}, which is no ROS namespace: letters, digits and _, no digit first. "
                "Give names such as left,right or cell1/left."
            )
        if names.count(name) > 1:
            raise ConfigError(f"robots has {name!r} twice. Give every robot a namespace of its own.")
    return names


def main(args: list[str] | None = None) -> int:
    """Entry point of the process that serves many robots."""
    return run(PolicyFleet, args)


if __name__ == "__main__":
    sys.exit(main())
