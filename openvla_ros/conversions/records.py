"""Our own messages and the types that carry the same facts."""

from dataclasses import dataclass

import numpy as np

from openvla_core.errors import ActionError
from openvla_core.types import Pose
from openvla_ros import topics
from openvla_ros.conversions.headers import set_header, stamp_ns, to_ns, to_time
from openvla_ros.conversions.robot import read_pose, write_pose
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
    return set_header(message, chunk.stamp_ns, chunk.frame)


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
    return set_header(message, applied.stamp_ns, applied.frame)


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
    return set_header(message, report.stamp_ns)


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
    write_pose(message.tcp_pose, scene.tcp)
    return set_header(message, scene.stamp_ns, scene.frame)


def to_scene(message: topics.SceneState) -> Scene:
    """The scene of a SceneState message."""
    positions = [np.array([point.x, point.y, point.z]) for point in message.object_positions]
    return Scene(
        stamp_ns=stamp_ns(message),
        frame=message.header.frame_id,
        seed=message.scene_seed,
        objects=dict(zip(message.object_names, positions, strict=True)),
        tcp=read_pose(message.tcp_pose),
        gripper_opening=message.gripper_opening,
    )
