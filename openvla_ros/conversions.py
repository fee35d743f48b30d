"""Between ROS messages and our types. The only module that reads or writes message fields.

Units follow the messages: metres, radians, seconds; stamps are int nanoseconds of the ROS clock.
"""

import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openvla_core import images
from openvla_core.errors import ActionError
from openvla_core.types import Pose
from openvla_ros import topics
from openvla_ros.topics import State


@dataclass(frozen=True)
class Chunk:
    """One ActionChunk: N steps of D numbers predicted from one image.

    stamp_ns: capture time of the image. session_id: one run of the policy process; sequence counts up within it.
    actions (N, D) float64 in the units of the convention; token_ids (N, D) int64; token_probabilities (N, D) in [0, 1].
    """

    stamp_ns: int
    frame: str
    session_id: str
    sequence: int
    instruction: str
    convention: str
    rate_hz: float
    actions: np.ndarray
    token_ids: np.ndarray
    token_probabilities: np.ndarray
    inference_s: float = 0.0


@dataclass(frozen=True)
class Applied:
    """One AppliedAction: what was sent to the robot for one action, after the limits.

    stamp_ns: when the first command made from it was published; translation (3,) metres and rotation (3,) rotation
    vector in radians, both in `frame`; gripper 0 closed to 1 open; reasons name the limits that changed it.
    """

    stamp_ns: int
    frame: str
    session_id: str
    sequence: int
    image_stamp_ns: int
    translation: np.ndarray
    rotation: np.ndarray
    gripper: float
    reasons: tuple[str, ...] = ()

    @property
    def photon_to_command_s(self) -> float:
        """Seconds from the capture of the image to the first command made from it."""
        return (self.stamp_ns - self.image_stamp_ns) * 1e-9


@dataclass(frozen=True)
class StatusReport:
    """One Status: state, stable code, a sentence for a person, and the node's own measurements."""

    state: State
    code: str
    sentence: str
    instruction: str = ""
    rate_hz: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    clip_rate: float = 0.0
    stamp_ns: int = 0


@dataclass(frozen=True)
class Scene:
    """One SceneState: ground truth of the simulation. Object positions (3,) float64 and TCP pose in the base frame."""

    stamp_ns: int
    frame: str
    seed: int
    objects: dict[str, np.ndarray]
    tcp: Pose
    gripper_opening: float


# Time -----------------------------------------------------------------------------------------------------------


def to_ns(stamp: topics.Time) -> int:
    """The time in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_time(stamp_ns: int) -> topics.Time:
    """The time message of a count of nanoseconds."""
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    return topics.Time(sec=seconds, nanosec=nanoseconds)


def stamp_ns(message) -> int:
    """The header stamp of any stamped message, in nanoseconds."""
    return to_ns(message.header.stamp)


def frame_of(message) -> str:
    """The header frame of any stamped message."""
    return message.header.frame_id


def _set_header(message, stamp_ns: int, frame: str = ""):
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame
    return message


# Plain values ---------------------------------------------------------------------------------------------------


def to_text(message: topics.String) -> str:
    """The text of a String message."""
    return message.data


def text_message(text: str) -> topics.String:
    """A String message of the text."""
    return topics.String(data=text)


def to_flag(message: topics.Bool) -> bool:
    """The value of a Bool message."""
    return message.data


def to_number(message: topics.Float64) -> float:
    """The number of a Float64 message."""
    return message.data


def number_message(value: float) -> topics.Float64:
    """A Float64 message of the number."""
    return topics.Float64(data=float(value))


def is_set_to(request: topics.SetBool.Request) -> bool:
    """The value a SetBool request asks for."""
    return request.data


def reply(response, success: bool, sentence: str):
    """Fills the response of a Trigger or SetBool service and returns it."""
    response.success = success
    response.message = sentence
    return response


def replied(response) -> tuple[bool, str]:
    """Success and sentence of a Trigger or SetBool response."""
    return response.success, response.message


# Images ---------------------------------------------------------------------------------------------------------


def to_rgb(message: topics.Image | topics.CompressedImage) -> np.ndarray:
    """The picture of an Image or CompressedImage: a new (H, W, 3) uint8 RGB array. Raises ImageError."""
    return images.to_rgb(message)


def image_message(rgb: np.ndarray, stamp_ns: int, frame: str) -> topics.Image:
    """An rgb8 Image of a (H, W, 3) uint8 array."""
    height, width, _ = rgb.shape
    message = topics.Image(height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width)
    # Filling an array.array from memory is 30 times faster than assigning bytes (the setter copies item by item).
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(rgb).data.cast("B"))
    message.data = data
    return _set_header(message, stamp_ns, frame)


# Robot state and commands ---------------------------------------------------------------------------------------


def to_pose(message: topics.PoseStamped) -> Pose:
    """The pose in the frame of its header. Raises ActionError unless it is finite with a unit quaternion (1 %)."""
    pose = _read_pose(message.pose)
    norm = np.linalg.norm(pose.quaternion)
    if not (np.isfinite(pose.position).all() and abs(norm - 1.0) < 0.01):
        raise ActionError(
            f"pose in frame {message.header.frame_id!r} has position {pose.position.tolist()} and quaternion "
            f"{pose.quaternion.tolist()}; expected finite metres and a unit quaternion (x, y, z, w). "
            "Check the publisher of this pose."
        )
    return Pose(pose.position, pose.quaternion / norm)


def pose_message(pose: Pose, stamp_ns: int, frame: str) -> topics.PoseStamped:
    """A PoseStamped of a pose given in `frame`."""
    message = topics.PoseStamped()
    _write_pose(message.pose, pose)
    return _set_header(message, stamp_ns, frame)


def _read_pose(message: topics.PoseMessage) -> Pose:
    position, orientation = message.position, message.orientation
    return Pose(
        np.array([position.x, position.y, position.z]),
        np.array([orientation.x, orientation.y, orientation.z, orientation.w]),
    )


def _write_pose(message: topics.PoseMessage, pose: Pose) -> None:
    position, orientation = message.position, message.orientation
    position.x, position.y, position.z = (float(value) for value in pose.position)
    orientation.x, orientation.y, orientation.z, orientation.w = (float(value) for value in pose.quaternion)


def joint_state_message(
    names: Sequence[str], positions: np.ndarray, velocities: np.ndarray, stamp_ns: int
) -> topics.JointState:
    """A JointState; positions (J,) in rad or m, velocities (J,) in rad/s or m/s."""
    message = topics.JointState(name=list(names))
    message.position = [float(value) for value in positions]
    message.velocity = [float(value) for value in velocities]
    return _set_header(message, stamp_ns)


def names_joints(message: topics.JointState, names: Sequence[str]) -> bool:
    """Whether the message is about all of these joints, each with a position."""
    return set(names) <= set(message.name) and len(message.position) == len(message.name)


def to_joint_positions(message: topics.JointState, names: Sequence[str]) -> np.ndarray | None:
    """The positions (n,) float64 of the named joints, rad or m; None when one is missing or not finite."""
    known = dict(zip(message.name, message.position, strict=False))
    positions = np.array([known.get(name, np.nan) for name in names], dtype=np.float64)
    return positions if np.isfinite(positions).all() else None


def twist_message(velocity: np.ndarray, angular_velocity: np.ndarray, stamp_ns: int, frame: str) -> topics.TwistStamped:
    """A TwistStamped of a velocity (3,) m/s and an angular velocity (3,) rad/s, both along the axes of `frame`."""
    message = topics.TwistStamped()
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z = (float(value) for value in velocity)
    angular.x, angular.y, angular.z = (float(value) for value in angular_velocity)
    return _set_header(message, stamp_ns, frame)


def trajectory_message(names: Sequence[str], positions: np.ndarray, duration_ns: int) -> topics.JointTrajectory:
    """A JointTrajectory of one point: positions (n,) rad, to be reached `duration_ns` after it arrives.

    The stamp is 0, which means at once: with a time of ours, a robot whose clock is ahead would refuse it as past.
    """
    seconds, nanoseconds = divmod(int(duration_ns), 1_000_000_000)
    point = topics.JointTrajectoryPoint(time_from_start=topics.Duration(sec=seconds, nanosec=nanoseconds))
    point.positions = [float(value) for value in positions]
    return topics.JointTrajectory(joint_names=list(names), points=[point])


# Our own messages -----------------------------------------------------------------------------------------------


def chunk_message(chunk: Chunk) -> topics.ActionChunk:
    """The ActionChunk message of a chunk."""
    message = topics.ActionChunk(
        session_id=chunk.session_id,
        sequence=chunk.sequence,
        instruction=chunk.instruction,
        convention=chunk.convention,
        rate_hz=float(chunk.rate_hz),
        action_dim=int(chunk.actions.shape[1]),
    )
    message.actions = [float(value) for value in chunk.actions.ravel()]
    message.token_ids = [int(value) for value in chunk.token_ids.ravel()]
    message.token_probabilities = [float(value) for value in chunk.token_probabilities.ravel()]
    seconds, nanoseconds = divmod(round(chunk.inference_s * 1e9), 1_000_000_000)
    message.inference_time = topics.Duration(sec=seconds, nanosec=nanoseconds)
    return _set_header(message, chunk.stamp_ns, chunk.frame)


def to_chunk(message: topics.ActionChunk) -> Chunk:
    """The chunk of a message. Raises ActionError when its arrays do not form whole steps.

    Whether the numbers are finite and within limits is for the controller's checks, not decided here.
    """
    dim, count = message.action_dim, len(message.actions)
    if dim < 1 or count < 1 or count % dim:
        raise ActionError(
            f"action chunk {message.sequence} has {count} numbers for steps of {dim}; "
            "expected a positive multiple. Check the policy node's version."
        )
    # A publisher may leave the tokens out (a replayed or scripted action has none).
    tokens = np.array(message.token_ids if len(message.token_ids) == count else np.full(count, -1), dtype=np.int64)
    given = message.token_probabilities
    probabilities = np.array(given if len(given) == count else np.zeros(count), dtype=np.float64)
    duration = message.inference_time
    return Chunk(
        stamp_ns=stamp_ns(message),
        frame=message.header.frame_id,
        session_id=message.session_id,
        sequence=message.sequence,
        instruction=message.instruction,
        convention=message.convention,
        rate_hz=message.rate_hz,
        actions=np.array(message.actions, dtype=np.float64).reshape(-1, dim),
        token_ids=tokens.reshape(-1, dim),
        token_probabilities=probabilities.reshape(-1, dim),
        inference_s=duration.sec + duration.nanosec * 1e-9,
    )


def applied_message(applied: Applied) -> topics.AppliedAction:
    """The AppliedAction message of an applied action."""
    message = topics.AppliedAction(
        session_id=applied.session_id,
        sequence=applied.sequence,
        image_stamp=to_time(applied.image_stamp_ns),
        photon_to_command_s=float(applied.photon_to_command_s),
        gripper=float(applied.gripper),
        clipped=bool(applied.reasons),
        reasons=list(applied.reasons),
    )
    message.translation = np.asarray(applied.translation, dtype=np.float64)
    message.rotation = np.asarray(applied.rotation, dtype=np.float64)
    return _set_header(message, applied.stamp_ns, applied.frame)


def to_applied(message: topics.AppliedAction) -> Applied:
    """The applied action of a message."""
    return Applied(
        stamp_ns=stamp_ns(message),
        frame=message.header.frame_id,
        session_id=message.session_id,
        sequence=message.sequence,
        image_stamp_ns=to_ns(message.image_stamp),
        translation=np.array(message.translation, dtype=np.float64),
        rotation=np.array(message.rotation, dtype=np.float64),
        gripper=message.gripper,
        reasons=tuple(message.reasons),
    )


def status_message(report: StatusReport) -> topics.Status:
    """The Status message of a report."""
    message = topics.Status(
        state=int(report.state),
        state_name=report.state.name,
        code=report.code,
        sentence=report.sentence,
        instruction=report.instruction,
        rate_hz=float(report.rate_hz),
        latency_p50_ms=float(report.latency_p50_ms),
        latency_p95_ms=float(report.latency_p95_ms),
        clip_rate=float(report.clip_rate),
    )
    return _set_header(message, report.stamp_ns)


def to_status(message: topics.Status) -> StatusReport:
    """The report of a Status message."""
    return StatusReport(
        state=State(message.state),
        code=message.code,
        sentence=message.sentence,
        instruction=message.instruction,
        rate_hz=message.rate_hz,
        latency_p50_ms=message.latency_p50_ms,
        latency_p95_ms=message.latency_p95_ms,
        clip_rate=message.clip_rate,
        stamp_ns=stamp_ns(message),
    )


def scene_message(scene: Scene) -> topics.SceneState:
    """The SceneState message of a scene."""
    message = topics.SceneState(scene_seed=scene.seed, object_names=list(scene.objects))
    message.object_positions = [topics.Point(x=float(x), y=float(y), z=float(z)) for x, y, z in scene.objects.values()]
    message.gripper_opening = float(scene.gripper_opening)
    _write_pose(message.tcp_pose, scene.tcp)
    return _set_header(message, scene.stamp_ns, scene.frame)


def to_scene(message: topics.SceneState) -> Scene:
    """The scene of a SceneState message."""
    positions = [np.array([point.x, point.y, point.z]) for point in message.object_positions]
    return Scene(
        stamp_ns=stamp_ns(message),
        frame=message.header.frame_id,
        seed=message.scene_seed,
        objects=dict(zip(message.object_names, positions, strict=True)),
        tcp=_read_pose(message.tcp_pose),
        gripper_opening=message.gripper_opening,
    )


# Diagnostics and parameters -------------------------------------------------------------------------------------


def diagnostics_message(name: str, report: StatusReport, values: dict[str, str]) -> topics.DiagnosticArray:
    """A DiagnosticArray with one entry: OK, WARN while holding, ERROR after a fault."""
    level = topics.DiagnosticStatus.OK
    if report.state == State.HOLD:
        level = topics.DiagnosticStatus.WARN
    if report.state in (State.FAULT, State.ESTOP):
        level = topics.DiagnosticStatus.ERROR
    pairs = [topics.KeyValue(key=key, value=value) for key, value in values.items()]
    entry = topics.DiagnosticStatus(level=level, name=name, message=f"{report.code}: {report.sentence}", values=pairs)
    return _set_header(topics.DiagnosticArray(status=[entry]), report.stamp_ns)


def parameter_descriptor(
    description: str, constraints: str = "", read_only: bool = False, number_range=None, dynamic_typing: bool = False
) -> topics.ParameterDescriptor:
    """A descriptor; number_range is (minimum, maximum) of ints or floats, or None."""
    descriptor = topics.ParameterDescriptor(
        description=description,
        additional_constraints=constraints,
        read_only=read_only,
        dynamic_typing=dynamic_typing,
    )
    if number_range is not None:
        low, high = number_range
        if isinstance(low, int):
            descriptor.integer_range = [topics.IntegerRange(from_value=low, to_value=high, step=0)]
        else:
            descriptor.floating_point_range = [topics.FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    return descriptor


def parameters_result(successful: bool, reason: str = "") -> topics.SetParametersResult:
    """The answer to a request to set parameters."""
    return topics.SetParametersResult(successful=successful, reason=reason)
