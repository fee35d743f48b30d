#!/usr/bin/env python3
"""A process that makes a nuisance of itself until SIGTERM.

nuisance.py participants|poses|instructions|large COUNT NAMESPACE
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import rclpy

from openvla_core.types import Pose
from openvla_ros import conversions, preflight, topics


def main() -> int:
    what, count, namespace = sys.argv[1:4]
    preflight.enter([])
    if what == "participants":
        for _ in range(int(count)):
            context = rclpy.Context()
            rclpy.init(context=context)
            rclpy.create_node("crowd", namespace=namespace, context=context)
        time.sleep(60.0)
        return 0
    rclpy.init()
    node = rclpy.create_node("nuisance", namespace=namespace)
    if what == "poses":
        publisher = node.create_publisher(topics.PoseStamped, topics.CURRENT_POSE, topics.COMMAND)
        # In another frame, so that none of them counts; each has to be read all the same.
        message = conversions.pose_message(Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0])), 0, "nowhere")
    elif what == "instructions":
        publisher = node.create_publisher(topics.String, topics.POLICY_INSTRUCTION, topics.LATCHED)
        message = topics.String(data="move back and forth")  # as it is: no new task
    else:
        publisher = node.create_publisher(topics.String, topics.POLICY_INSTRUCTION + "_copy", topics.COMMAND)
        message = topics.String(data="x" * 1_000_000)
    pause_s = 0.01 if what == "large" else 0.0001
    while rclpy.ok():
        publisher.publish(message)
        time.sleep(pause_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
