"""One process of benchmarks/isolation.py: the robot's side that counts what reaches it, or somebody who sends to it.

The robot's side enters its network mode exactly as every node of this project does (OPENVLA_NETWORK and preflight.py).
"""

import argparse
import json
import sys
import time

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy

from openvla_core.errors import OpenVLAError
from openvla_ros import network, preflight, topics

# What an attacker would want to send, and what tells its sender.
TOPICS = {
    "action": (topics.ActionChunk, topics.POLICY_ACTION_CHUNK),
    "instruction": (topics.String, topics.INSTRUCTION),
    "target pose": (topics.PoseStamped, topics.TARGET_POSE),
}
# Deep, so that what arrives is also counted while this machine is busy.
COUNTED = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
IMAGE_SHAPE = (480, 640, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("listen", "send", "watch", "film"))
    parser.add_argument("--count", type=int, default=1000, help="messages per topic, or images")
    parser.add_argument("--rate-hz", type=float, default=100.0)
    parser.add_argument("--patience-s", type=float, default=8.0, help="how long a sender waits for a listener")
    parser.add_argument("--ours", action="store_true", help="enter the network mode as the nodes of this project do")
    arguments = parser.parse_args()
    try:
        if arguments.ours:
            preflight.enter([])
        rclpy.init()
        node = rclpy.create_node(f"isolation_{arguments.role}")
        if arguments.ours:
            preflight.verify(node)
    except OpenVLAError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    roles = {"listen": listen, "send": send, "watch": watch, "film": film}
    print(json.dumps(roles[arguments.role](node, arguments)), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()


def listen(node, arguments) -> dict:
    """Counts what arrives on every topic until the standard input is closed."""
    counts = dict.fromkeys(TOPICS, 0)
    for name, (kind, topic) in TOPICS.items():
        node.create_subscription(kind, topic, lambda _, name=name: counts.update({name: counts[name] + 1}), COUNTED)
    tell_ready()
    spin_until_told(node)
    return {"received": counts}


def send(node, arguments) -> dict:
    """Waits for a listener on every topic, or until patience ends, and sends `count` messages to each all the same."""
    publishers = [(node.create_publisher(kind, topic, COUNTED), kind()) for kind, topic in TOPICS.values()]
    matched = wait_for_listeners(node, [publisher for publisher, _ in publishers], arguments.patience_s)
    for _ in paced(node, arguments.count, arguments.rate_hz):
        for publisher, message in publishers:
            publisher.publish(message)
    spin_for(node, 1.0)
    return {"matched": matched, "sent": arguments.count}


def watch(node, arguments) -> dict:
    """Receives images as the policy does; counts them and how old they are."""
    ages_ms = []

    def on_image(message) -> None:
        stamp = message.header.stamp
        ages_ms.append((time.time() - stamp.sec - stamp.nanosec * 1e-9) * 1e3)

    node.create_subscription(topics.Image, topics.CAMERA_IMAGE, on_image, topics.SENSOR)
    tell_ready()
    spin_until_told(node)
    median, p99 = np.percentile(ages_ms, (50, 99)).round(2) if ages_ms else (None, None)
    return {"received": len(ages_ms), "age_median_ms": median, "age_p99_ms": p99}


def film(node, arguments) -> dict:
    """Publishes images of 640 x 480 as a camera does."""
    publisher = node.create_publisher(topics.Image, topics.CAMERA_IMAGE, topics.SENSOR)
    height, width, channels = IMAGE_SHAPE
    message = topics.Image(height=height, width=width, step=width * channels, encoding="rgb8")
    pixels = np.random.default_rng(0).integers(0, 256, IMAGE_SHAPE, dtype=np.uint8)
    message.data.frombytes(memoryview(pixels).cast("B"))
    matched = wait_for_listeners(node, [publisher], arguments.patience_s)
    for _ in paced(node, arguments.count, arguments.rate_hz):
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    spin_for(node, 1.0)
    return {"matched": matched, "sent": arguments.count}


def tell_ready() -> None:
    """One line for whoever started this process, with the ports others could send to."""
    print(json.dumps({"reachable": network.reachable_ports()}), flush=True)


def spin_until_told(node) -> None:
    """Handles messages until the standard input is closed, then for one second more."""
    import threading

    closed = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    while not closed.is_set():
        rclpy.spin_once(node, timeout_sec=0.1)
    spin_for(node, 1.0)


def spin_for(node, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        rclpy.spin_once(node, timeout_sec=left)


def wait_for_listeners(node, publishers, patience_s: float) -> bool:
    """Whether every publisher found a subscription in time."""
    deadline = time.monotonic() + patience_s
    while not (found := all(publisher.get_subscription_count() for publisher in publishers)):
        if time.monotonic() > deadline:
            break
        rclpy.spin_once(node, timeout_sec=0.05)
    return found


def paced(node, count: int, rate_hz: float):
    """Counts to `count` at this rate, handling messages meanwhile."""
    start = time.monotonic()
    for number in range(count):
        spin_for(node, max(start + number / rate_hz - time.monotonic(), 0.0))
        yield number


if __name__ == "__main__":
    main()
