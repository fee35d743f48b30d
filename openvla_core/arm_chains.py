"""The arms whose geometry is known: where each joint sits, how far and how fast it turns. Numbers, no library.

Sources: Franka's published joint limits and Denavit-Hartenberg table (FR3 and Panda share the geometry); the wx250s
description of Interbotix. Quaternions here are w, x, y, z and need not have unit norm.
"""

import math
from dataclasses import dataclass

Offset = tuple[tuple[float, float, float], tuple[float, float, float, float]]


@dataclass(frozen=True)
class Chain:
    """One arm from its base to its tool; a row of `joints` per joint, in the order robots and messages use.

    joints: name, lower limit (rad), upper limit (rad), largest speed (rad/s).
    offsets: from the frame of the joint before to this joint's frame: metres, and a rotation.
    axes: the axis each joint turns about, in its own frame.
    tool: from the frame of the last joint to the tool link.
    rest: the posture (rad) that the spare joint of a seven-joint arm returns to while the tool moves; empty for none.
    """

    name: str
    base_link: str
    tool_link: str
    joints: tuple[tuple[str, float, float, float], ...]
    offsets: tuple[Offset, ...]
    axes: tuple[tuple[float, float, float], ...]
    tool: Offset
    rest: tuple[float, ...] = ()


STRAIGHT = (1.0, 0.0, 0.0, 0.0)
_BACK, _FORTH = (1.0, -1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)  # a quarter turn about x, either way
_FRANKA_OFFSETS: tuple[Offset, ...] = (
    ((0.0, 0.0, 0.333), STRAIGHT),
    ((0.0, 0.0, 0.0), _BACK),
    ((0.0, -0.316, 0.0), _FORTH),
    ((0.0825, 0.0, 0.0), _FORTH),
    ((-0.0825, 0.384, 0.0), _BACK),
    ((0.0, 0.0, 0.0), _FORTH),
    ((0.088, 0.0, 0.0), _FORTH),
)
# 0.107 m to the flange; the hand is turned by -45 degrees about z, and its tool centre point is 0.1034 m further.
_FRANKA_TOOL: Offset = ((0.0, 0.0, 0.107 + 0.1034), (math.cos(math.pi / 8), 0.0, 0.0, -math.sin(math.pi / 8)))
# The usual ready posture: hand pointing down in front of the base, elbow up.
_FRANKA_REST = (0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4)
_ABOUT_X, _ABOUT_Y, _ABOUT_Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)

FR3 = Chain(
    name="fr3",
    base_link="fr3_link0",
    tool_link="fr3_hand_tcp",
    joints=(
        ("fr3_joint1", -2.7437, 2.7437, 2.62),
        ("fr3_joint2", -1.7837, 1.7837, 2.62),
        ("fr3_joint3", -2.9007, 2.9007, 2.62),
        ("fr3_joint4", -3.0421, -0.1518, 2.62),
        ("fr3_joint5", -2.8065, 2.8065, 5.26),
        ("fr3_joint6", 0.5445, 4.5169, 4.18),
        ("fr3_joint7", -3.0159, 3.0159, 5.26),
    ),
    offsets=_FRANKA_OFFSETS,
    axes=(_ABOUT_Z,) * 7,
    tool=_FRANKA_TOOL,
    rest=_FRANKA_REST,
)

PANDA = Chain(
    name="panda",
    base_link="panda_link0",
    tool_link="panda_hand_tcp",
    joints=(
        ("panda_joint1", -2.8973, 2.8973, 2.1750),
        ("panda_joint2", -1.7628, 1.7628, 2.1750),
        ("panda_joint3", -2.8973, 2.8973, 2.1750),
        ("panda_joint4", -3.0718, -0.0698, 2.1750),
        ("panda_joint5", -2.8973, 2.8973, 2.6100),
        ("panda_joint6", -0.0175, 3.7525, 2.6100),
        ("panda_joint7", -2.8973, 2.8973, 2.6100),
    ),
    offsets=_FRANKA_OFFSETS,
    axes=(_ABOUT_Z,) * 7,
    tool=_FRANKA_TOOL,
    rest=_FRANKA_REST,
)

_TURN = math.pi - 1e-5  # the description stops this short of half a turn
WX250S = Chain(
    name="wx250s",
    base_link="wx250s/base_link",
    tool_link="wx250s/ee_gripper_link",
    joints=(
        ("waist", -_TURN, _TURN, math.pi),
        ("shoulder", math.radians(-108), math.radians(114), math.pi),
        ("elbow", math.radians(-123), math.radians(92), math.pi),
        ("forearm_roll", -_TURN, _TURN, math.pi),
        ("wrist_angle", math.radians(-100), math.radians(123), math.pi),
        ("wrist_rotate", -_TURN, _TURN, math.pi),
    ),
    offsets=(
        ((0.0, 0.0, 0.072), STRAIGHT),
        ((0.0, 0.0, 0.03865), STRAIGHT),
        ((0.04975, 0.0, 0.25), STRAIGHT),
        ((0.175, 0.0, 0.0), STRAIGHT),
        ((0.075, 0.0, 0.0), STRAIGHT),
        ((0.065, 0.0, 0.0), STRAIGHT),
    ),
    axes=(_ABOUT_Z, _ABOUT_Y, _ABOUT_Y, _ABOUT_X, _ABOUT_Y, _ABOUT_X),
    tool=((0.043 + 0.023 + 0.027575, 0.0, 0.0), STRAIGHT),
)

CHAINS = {chain.name: chain for chain in (FR3, PANDA, WX250S)}
