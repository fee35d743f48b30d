"""Describes the tabletop scene to MuJoCo: a Panda made of primitives, a table, four cubes, two cameras.

Kinematics, joint limits and speeds are those Franka publishes for the Panda (FER); shapes and masses are plain
primitives. The world frame equals the robot base frame `panda_link0`: x forward, y left, z up, table top at z = 0.
"""

import numpy as np

ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("panda_finger_joint1", "panda_finger_joint2")
BASE_FRAME = "panda_link0"
TOOL_LINK = "panda_hand_tcp"

# Lower limit, upper limit (rad) and speed (rad/s) of each arm joint.
JOINT_LOWER = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_UPPER = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
JOINT_SPEED = np.array([2.1750, 2.1750, 2.1750, 2.1750, 2.6100, 2.6100, 2.6100])
HOME_JOINTS = np.array([0.0, -0.16, 0.0, -2.36, 0.0, 2.2, np.pi / 4])

FINGER_TRAVEL = 0.04  # metres each finger slides; the gap is twice this
CUBE_HALF = 0.02
CUBE_COLORS = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.05, 0.55, 0.10),
    "blue": (0.08, 0.18, 0.85),
    "yellow": (0.95, 0.80, 0.05),
}

# Each link: joint axis offset from its parent, rotation (wxyz), and the primitives that stand for its shell.
_LINKS = (
    ("0 0 0.333", "1 0 0 0", '<geom type="capsule" fromto="0 0 -.19 0 0 0" size=".06"/>'),
    ("0 0 0", "1 -1 0 0", '<geom type="capsule" fromto="0 0 -.06 0 0 .06" size=".06"/>'),
    ("0 -0.316 0", "1 1 0 0", '<geom type="capsule" fromto="0 0 -.20 0 0 -.03" size=".055"/>'),
    ("0.0825 0 0", "1 1 0 0", '<geom type="capsule" fromto="0 0 -.05 0 0 .05" size=".055"/>'),
    ("-0.0825 0.384 0", "1 -1 0 0", '<geom type="capsule" fromto="0 .06 -.26 0 .03 -.06" size=".05"/>'),
    ("0 0 0", "1 1 0 0", '<geom type="capsule" fromto="0 0 -.03 0 0 .03" size=".048"/>'),
    ("0.088 0 0", "1 1 0 0", '<geom type="cylinder" fromto="0 0 .02 0 0 .10" size=".042"/>'),
)


def _finger(name: str, side: int) -> str:
    joint = FINGER_JOINTS[0 if side > 0 else 1]
    return f"""
    <body name="{name}" pos="0 0 0.0584" gravcomp="1">
      <joint name="{joint}" type="slide" axis="0 {side} 0" range="0 {FINGER_TRAVEL}" damping="20" armature=".1"/>
      <geom class="finger" type="box" pos="0 {side * 0.009} .026" size=".011 .009 .030" mass=".04"/>
    </body>"""


def _hand() -> str:
    return f"""
    <body name="panda_hand" pos="0 0 0.107" quat="0.9238795 0 0 -0.3826834" gravcomp="1">
      <geom type="box" pos="0 0 .032" size=".028 .095 .028" mass=".7" rgba=".93 .93 .95 1"/>
      <site name="{TOOL_LINK}" pos="0 0 .1034" size=".003" rgba="0 0 0 0"/>
      {_finger("panda_leftfinger", 1)}{_finger("panda_rightfinger", -1)}
    </body>"""


def _arm() -> str:
    xml = _hand()
    for index in range(6, -1, -1):
        position, rotation, shell = _LINKS[index]
        joint = ARM_JOINTS[index]
        xml = f"""
    <body name="panda_link{index + 1}" pos="{position}" quat="{rotation}" gravcomp="1">
      <joint name="{joint}" axis="0 0 1" range="{JOINT_LOWER[index]} {JOINT_UPPER[index]}" damping="8" armature=".3"/>
      {shell}{xml}
    </body>"""
    return xml


def _cube(color: str) -> str:
    rgb = " ".join(str(value) for value in CUBE_COLORS[color])
    return f"""
    <body name="{color} cube" pos="0.5 0 {CUBE_HALF}">
      <freejoint name="{color} cube"/>
      <geom class="cube" type="box" size="{CUBE_HALF} {CUBE_HALF} {CUBE_HALF}" rgba="{rgb} 1"/>
    </body>"""


def scene_xml() -> str:
    """The whole scene as MJCF text."""
    actuators = "".join(
        f'<position joint="{joint}" kp="{kp}" kv="{kv}" ctrlrange="{low} {high}"/>'
        for joint, kp, kv, low, high in zip(
            ARM_JOINTS, [3000] * 4 + [1200] * 3, [250] * 4 + [100] * 3, JOINT_LOWER, JOINT_UPPER, strict=True
        )
    ) + "".join(
        f'<position joint="{joint}" kp="1200" kv="60" forcerange="-30 30" ctrlrange="0 {FINGER_TRAVEL}"/>'
        for joint in FINGER_JOINTS
    )
    return f"""
<mujoco model="openvla_tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="0.004" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <statistic center="0.5 0 0.15" extent="0.8"/>
  <visual>
    <global offwidth="320" offheight="240"/>
    <quality shadowsize="256" offsamples="0" numslices="12" numstacks="6"/>
    <headlight ambient=".34 .34 .34" diffuse=".28 .28 .28" specular="0 0 0"/>
    <map znear=".05" zfar="10" shadowclip=".7"/>
  </visual>
  <default>
    <geom rgba=".93 .93 .95 1" contype="0" conaffinity="0" density="1500"/>
    <default class="finger">
      <geom rgba=".90 .05 .75 1" contype="1" conaffinity="1" friction="2 .05 .001" condim="4"/>
    </default>
    <default class="cube"><geom contype="1" conaffinity="1" friction="1.5 .02 .001" condim="4" density="900"/></default>
  </default>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".78 .84 .90" rgb2=".55 .60 .66" width="64" height="384"/>
  </asset>
  <worldbody>
    <light name="lamp" type="directional" pos="0.5 0 1.6" dir="0 0 -1" diffuse=".55 .55 .55" specular="0 0 0"
           castshadow="true"/>
    <geom name="floor" type="plane" pos="0 0 -.4" size="3 3 .1" rgba=".30 .32 .35 1"/>
    <geom name="table" type="box" pos=".5 0 -.02" size=".42 .5 .02" rgba=".82 .72 .58 1" contype="1" conaffinity="1"
          friction="1 .02 .001"/>
    <camera name="policy" pos="1.12 0 0.58" xyaxes="0 1 0 -.59 0 .81" fovy="34"/>
    <camera name="overview" pos="1.12 -.80 0.72" xyaxes=".75 .66 0 -.33 .37 .87" fovy="40"/>
    <body name="{BASE_FRAME}" gravcomp="1">
      <geom type="cylinder" pos="0 0 .06" size=".08 .08"/>
      {_arm()}
    </body>
    {"".join(_cube(color) for color in CUBE_COLORS)}
  </worldbody>
  <actuator>{actuators}</actuator>
</mujoco>"""
