"""A camera in a private graph, and what can be wrong with it."""

import cv2
import numpy as np

from openvla_ros import conversions, topics


class Camera:
    """Publishes noise pictures with fresh stamps at 20 Hz while it is on."""

    def __init__(self, world, compressed: bool = False) -> None:
        self.world = world
        self.on = True
        self.offset_s = 0.0  # added to the stamps
        self.frozen_stamp_ns: int | None = None
        self.stamps: list[int] = []
        self.random = np.random.default_rng(0)
        kind = topics.CompressedImage if compressed else topics.Image
        self.publisher = world.peer.create_publisher(kind, topics.CAMERA_IMAGE, topics.SENSOR)
        self.timer = world.peer.create_timer(0.05, self.tick)
        self.compressed = compressed
        self.break_encoding = False
        self.picture: np.ndarray | None = None  # shown instead of noise

    def tick(self) -> None:
        """One frame."""
        if not self.on:
            return
        now_ns = self.world.peer.get_clock().now().nanoseconds + int(self.offset_s * 1e9)
        stamp_ns = self.frozen_stamp_ns or now_ns
        rgb = self.random.integers(0, 256, (112, 112, 3), dtype=np.uint8)
        rgb = rgb if self.picture is None else self.picture
        message = conversions.image_message(rgb, stamp_ns, "camera")
        if self.break_encoding:
            message.encoding = "32FC1"
        if self.compressed:
            message = compressed_message(rgb, message)
        self.stamps.append(stamp_ns)
        self.publisher.publish(message)


def compressed_message(rgb: np.ndarray, image):
    """The same picture as JPEG."""
    data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
    return topics.CompressedImage(header=image.header, format="jpeg", data=data)
