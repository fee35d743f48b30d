"""Rows about the camera, with the real policy node and its checkpoint."""

import time

import numpy as np

from fault_injection.policy_faults import T_A, no_chunks_after, policy_says
from fault_injection.rows import Trial, row
from fault_injection.stream_faults import random_phase
from openvla_ros import conversions, topics


@row(1, fault="the camera stops", expected="CAM_STALE", cell="policy", repeats=20, quick=1, bound_s=0.07 + T_A + 0.06)
def camera_stops(cell, i: int) -> Trial:
    random_phase()
    at_s = time.monotonic()
    cell.camera.on = False
    trial = policy_says(cell, at_s, "CAM_STALE")
    trial.ok = no_chunks_after(cell, at_s)
    return trial


@row(
    2,
    fault="the same picture with new stamps while the arm moves",
    expected="CAM_FROZEN",
    cell="policy",
    repeats=6,
    quick=1,
)
def picture_frozen(cell, i: int) -> Trial:
    at_s = time.monotonic()
    cell.camera.frozen = True
    stop = wobble(cell)
    try:
        trial = policy_says(cell, at_s, "CAM_FROZEN", timeout_s=15.0)
    finally:
        stop()
    return trial


def wobble(cell):
    """Joints that move, so that the picture should; returns what ends it."""
    from fault_injection.special_cells import Beating

    publisher = cell.spy.node.create_publisher(topics.JointState, topics.JOINT_STATES, topics.RECORD)
    joints = np.zeros(6)

    def publish() -> None:
        joints[0] += 0.003
        names = [f"joint{i}" for i in range(6)]
        now_ns = cell.spy.node.get_clock().now().nanoseconds
        publisher.publish(conversions.joint_state_message(names, joints, np.zeros(6), now_ns))

    beat = Beating(0.03, publish)

    def end() -> None:
        beat.ended.set()
        beat.join()
        cell.spy.node.destroy_publisher(publisher)

    return end


@row(
    3,
    fault="frames with the stamp of the first",
    expected="CAM_STALE",
    cell="policy",
    repeats=20,
    quick=1,
    bound_s=0.07 + T_A + 0.06,
)
def same_stamp(cell, i: int) -> Trial:
    at_s = time.monotonic()
    cell.camera.same_stamp = True
    return policy_says(cell, at_s, "CAM_STALE")


@row(
    4,
    fault="stamps 1 s back, 10 s or 0.1 s ahead",
    expected="CAM_STALE",
    cell="policy",
    repeats=21,
    quick=1,
    bound_s=0.07 + T_A + 0.06,
)
def wrong_stamps(cell, i: int) -> Trial:
    at_s = time.monotonic()
    cell.camera.offset_s = (-1.0, 10.0, 0.1)[i % 3]
    trial = policy_says(cell, at_s, "CAM_STALE")
    trial.ok = no_chunks_after(cell, at_s)
    return trial


@row(
    5,
    6,
    fault="encodings that are no picture, rows that do not add up",
    expected="CAM_IMAGE",
    cell="policy",
    repeats=20,
    quick=2,
)
def wrong_encoding(cell, i: int) -> Trial:
    at_s = time.monotonic()
    if i % 4 == 3:
        cell.camera.cut = 100
    else:
        cell.camera.encoding = ("32FC1", "16UC1", "jpeg", "")[i % 4]
    trial = policy_says(cell, at_s, "CAM_IMAGE")
    trial.ok = no_chunks_after(cell, at_s)
    return trial


@row(
    9,
    fault="black, white, one-coloured pictures: a warning, no claim",
    expected="CAM_QUALITY",
    cell="policy",
    repeats=6,
    quick=1,
)
def poor_picture(cell, i: int) -> Trial:
    at_s = time.monotonic()
    cell.camera.picture = np.full((112, 112, 3), (0, 255, 120)[i % 3], np.uint8)
    trial = policy_says(cell, at_s, "CAM_QUALITY", holds=False)
    return trial


@row(
    10,
    fault="the picture of another camera (frame_id)",
    expected="CAM_FRAME",
    cell="policy",
    repeats=20,
    quick=1,
    bound_s=0.07 + T_A + 0.06,
)
def other_camera(cell, i: int) -> Trial:
    at_s = time.monotonic()
    cell.camera.frame = "wrist"
    return policy_says(cell, at_s, "CAM_FRAME")
