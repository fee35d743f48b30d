"""Runs episodes through the ROS graph: resets the scene, gives the instruction, watches what the arm does.

It only talks to topics and services, as any other client would; the ground truth it judges by never reaches the policy.
"""

import time
from collections import deque
from collections.abc import Callable

import numpy as np
from rclpy.subscription import Subscription

from openvla_core.evaluation.episodes import PlannedEpisode
from openvla_core.evaluation.results import FREE, EpisodeRow
from openvla_core.evaluation.video import Clip, at_even_times
from openvla_core.sim.tasks import Judge, is_reached
from openvla_ros import conversions, topics
from openvla_ros.conversions import Applied, Chunk
from openvla_ros.graph_client import GraphClient, GraphError, of
from openvla_ros.topics import State

VIDEO_FPS = 8.0
REFUSED = "INSTRUCTION_REFUSED"


class EpisodeRunner(GraphClient):
    """Plays the person at the robot, one episode after the other, and keeps what the graph says meanwhile."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._camera: np.ndarray | None = None
        self._chunks: list[tuple[float, Chunk]] = []
        self._applied: list[Applied] = []
        self._films: list[tuple[float, np.ndarray, np.ndarray]] = []
        self._tools: deque[np.ndarray] = deque(maxlen=5)
        self._judge: Judge | None = None
        self._start_ns = 0
        self._overview_subscription: Subscription | None = None
        super().__init__(check)
        subscribe = self.node.create_subscription
        subscribe(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, self._on_chunk, topics.COMMAND)
        subscribe(topics.AppliedAction, of("controller_node", topics.APPLIED_ACTION), self._on_applied, topics.RECORD)

    # -- what the graph says --------------------------------------------------------------------------------------

    def on_scene(self, message: topics.SceneState) -> None:
        """Keeps the newest ground truth and shows it to the judge."""
        super().on_scene(message)
        assert self.scene is not None
        self._tools.append(self.scene.tcp.position)
        if self._judge is not None and self.scene.stamp_ns >= self._start_ns:
            scene = self.scene
            self._judge.update(scene.tcp.position, scene.gripper_opening, scene.objects, scene.stamp_ns * 1e-9)

    def _on_chunk(self, message: topics.ActionChunk) -> None:
        self._chunks.append((time.monotonic(), conversions.to_chunk(message)))

    def _on_applied(self, message: topics.AppliedAction) -> None:
        self._applied.append(conversions.to_applied(message))

    def on_camera(self, message: topics.Image) -> None:
        """Keeps the policy's newest frame."""
        super().on_camera(message)
        self._camera = conversions.to_rgb(message)

    def _on_overview(self, message: topics.Image) -> None:
        if self._camera is not None:
            stamp_s = conversions.stamp_ns(message) * 1e-9
            self._films.append((stamp_s, conversions.to_rgb(message), self._camera))

    # -- episodes -------------------------------------------------------------------------------------------------

    def prepare(self, scene_seed: int) -> None:
        """Stops the policy, lays out the scene and lets the controller hold the arm where it now is."""
        self._judge = None
        # A stopped controller sends nothing: otherwise its last target would pull the arm out of the new scene.
        self.trigger(self.stop_policy)
        self.trigger(self.stop_controller)
        self.require(lambda: self._is_controller("STOPPED") and self._stands_still(), 20.0, "arm at rest")
        self.set_sim_parameters(scene_seed=scene_seed)
        self.trigger(self.reset_scene)
        reset_ns = self.now_ns()
        self.require(
            lambda: self.scene is not None and self.scene.seed == scene_seed and self.scene.stamp_ns >= reset_ns,
            20.0,
            f"scene {scene_seed}",
        )
        self.trigger(self.reset_controller)
        self.trigger(self.start_controller)
        self.require(lambda: self._is_controller("WAITING"), 20.0, "controller waiting for actions")

    def _is_controller(self, code: str) -> bool:
        return self.controller is not None and self.controller.code == code

    def _stands_still(self) -> bool:
        """True when the tool has moved less than a millimetre between each two of the last five scenes (0.2 s)."""
        steps = np.linalg.norm(np.diff(np.array(self._tools), axis=0), axis=1) if len(self._tools) == 5 else [1.0]
        return bool(np.max(steps) < 0.001)

    def film(self, on: bool) -> None:
        """Subscribes to the overview camera, which renders only for subscribers, or lets go of it."""
        if on and self._overview_subscription is None:
            self._overview_subscription = self.node.create_subscription(
                topics.Image, topics.OVERVIEW_IMAGE, self._on_overview, topics.SENSOR
            )
        if not on and self._overview_subscription is not None:
            self.node.destroy_subscription(self._overview_subscription)
            self._overview_subscription = None

    def run(self, planned: PlannedEpisode, title: str, *, record: bool) -> tuple[EpisodeRow, Clip, str]:
        """Runs one episode to success, refusal or time-out.

        Returns:
            The row for the results, the film (without frames unless `record`), and the policy's own words on refusal.
        """
        self.prepare(planned.scene_seed)
        self.film(record)
        self._films.clear()
        if record:
            self.require(lambda: bool(self._films), 20.0, "frames of the overview camera")
            del self._films[:-1]
        self._chunks.clear()
        self._applied.clear()
        self.policy = None
        self._start_ns = self.now_ns()
        self._judge = Judge(planned.task) if planned.task else None
        self.instruct(planned.instruction)

        self.spin_until(self._is_over, planned.timeout_s)
        duration_s = (self.now_ns() - self._start_ns) * 1e-9
        refusal = self.policy.sentence if self._is_refused() and self.policy else ""
        row = self._row(planned, duration_s)
        self._judge = None
        return row, self._clip(planned, title, row), refusal

    def _is_over(self) -> bool:
        if self.policy is not None and self.policy.state == State.FAULT:
            raise GraphError(f"policy_node stopped: {self.policy.code}: {self.policy.sentence}")
        return self._is_refused() or (self._judge is not None and self._judge.success)

    def _is_refused(self) -> bool:
        return self.policy is not None and self.policy.code == REFUSED

    def _row(self, planned: PlannedEpisode, duration_s: float) -> EpisodeRow:
        judge, task = self._judge, planned.task
        wrong = judge is not None and (judge.wrong_object or (not judge.success and self._hovers_elsewhere(planned)))
        success = judge is not None and judge.success
        outcome = "success" if success else "wrong object" if wrong else "time-out" if judge else "shown"
        arrivals = [arrival for arrival, _ in self._chunks]
        span_s = arrivals[-1] - arrivals[0] if len(arrivals) > 1 else 0.0
        return EpisodeRow(
            index=planned.index,
            scene_seed=planned.scene_seed,
            task=task.kind if task else FREE,
            color=task.color if task else "",
            instruction=planned.instruction,
            outcome="refused" if self._is_refused() else outcome,
            success=success,
            duration_s=round(duration_s, 3),
            lifted_object=judge.lifted if judge else None,
            wrong_object=wrong,
            actions=len(self._applied),
            clipped=sum(bool(applied.reasons) for applied in self._applied),
            policy_hz=round((len(arrivals) - 1) / span_s, 3) if span_s > 0 else None,
            pair=planned.pair,
            photon_to_command_ms=[round(applied.photon_to_command_s * 1e3, 2) for applied in self._applied],
            inference_ms=[round(chunk.inference_s * 1e3, 2) for _, chunk in self._chunks],
        )

    def _hovers_elsewhere(self, planned: PlannedEpisode) -> bool:
        """A reach that ends over another cube than the named one went to the wrong object."""
        if self.scene is None or planned.task is None or planned.task.kind != "reach":
            return False
        others = (place for name, place in self.scene.objects.items() if name != planned.task.object_name)
        return any(is_reached(self.scene.tcp.position, place) for place in others)

    def _clip(self, planned: PlannedEpisode, title: str, row: EpisodeRow) -> Clip:
        shown = at_even_times([stamp for stamp, _, _ in self._films], VIDEO_FPS)
        frames = [self._films[index][1:] for index in shown]
        success = None if row.outcome in ("shown", "refused") else row.success
        text = {"success": f"success, {row.duration_s:.1f} s", "shown": "not judged"}.get(row.outcome, row.outcome)
        return Clip(planned.instruction, title, frames, text, success)
