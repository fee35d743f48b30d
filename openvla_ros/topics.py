"""Names, message types and QoS of the ROS graph. The only module that imports generated messages.

Names are relative, so a namespace moves the whole system; `~/` names belong to the node that offers them.
"""

from enum import IntEnum
from importlib import import_module

from builtin_interfaces.msg import Duration, Time  # noqa: F401
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # noqa: F401
from geometry_msgs.msg import Point, PoseStamped, TwistStamped  # noqa: F401
from geometry_msgs.msg import Pose as PoseMessage  # noqa: F401
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: F401
from rcl_interfaces.msg import (  # noqa: F401
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rcl_interfaces.srv import GetParameters, SetParameters  # noqa: F401
from rclpy.duration import Duration as Lease
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: F401
from std_msgs.msg import Bool, Float64, Int8, String  # noqa: F401
from std_srvs.srv import SetBool, Trigger  # noqa: F401
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint  # noqa: F401

from openvla_ros.msg import ActionChunk, AppliedAction, SceneState, Status  # noqa: F401

CAMERA_IMAGE = "camera/image_raw"
OVERVIEW_IMAGE = "overview_camera/image_raw"
INSTRUCTION = "instruction"
JOINT_STATES = "joint_states"
CURRENT_POSE = "robot/current_pose"
TARGET_POSE = "robot/target_pose"
GRIPPER_COMMAND = "robot/gripper_command"
ESTOP = "estop"
POLICY_ACTION_CHUNK = "policy_node/action_chunk"
POLICY_INSTRUCTION = "policy_node/active_instruction"
DIAGNOSTICS = "/diagnostics"

ACTION_CHUNK = "~/action_chunk"
APPLIED_ACTION = "~/applied_action"
COMMANDED_POSE = "~/commanded_pose"
ACTIVE_INSTRUCTION = "~/active_instruction"
STATUS = "~/status"
SCENE_STATE = "~/scene_state"

START = "~/start"
STOP = "~/stop"
PAUSE = "~/pause"
RESET = "~/reset"
SET_DRY_RUN = "~/set_dry_run"
PRESS_ESTOP = "~/estop"
START_EPISODE = "~/start_episode"
END_EPISODE = "~/end_episode"
DISCARD_EPISODE = "~/discard_episode"

# The newest camera frame is the only one of interest, and a lost one is replaced by the next.
SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
# What a robot measures about itself is read at every tick: as far back as a fast driver reaches between two of them.
MEASURED = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
# A command that arrives late is worse than none: never queue more than the newest.
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
# Actions come with a promise: a policy that has not shown for this long that it is alive is dead.
ACTION_LEASE_S = 1.0
ACTION = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    liveliness=LivelinessPolicy.AUTOMATIC,
    liveliness_lease_duration=Lease(seconds=ACTION_LEASE_S),
)
# Readers that join late must still learn the present state.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Every message counts: one per applied action, one per step of the scene.
RECORD = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)


class State(IntEnum):
    """What a node is doing; the numbers of the constants in Status.msg."""

    STANDBY = 0
    ACTIVE = 1
    HOLD = 2
    FAULT = 3
    ESTOP = 4


def message_class(name: str) -> type:
    """The class of a message type such as "std_msgs/msg/String". Raises ImportError when its package is missing."""
    package, _, message = name.partition("/msg/")
    return getattr(import_module(f"{package}.msg"), message)
