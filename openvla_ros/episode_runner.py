"""Runs episodes through the ROS graph: resets the scene, gives the instruction, watches what the arm does.

It only talks to topics and services, as any other client would; the ground truth it judges by never reaches the policy.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from openvla_core.errors import OpenVLAError
from openvla_core.evaluation.episodes import PlannedEpisode
from openvla_core.evaluation.results import EpisodeRow
from openvla_core.evaluation.video import Clip, at_even_times
from openvla_core.sim.tasks import Judge, is_reached
from openvla_ros import conversions, topics
from openvla_ros.conversions import Applied, Chunk, Scene, StatusReport
from openvla_ros.topics import State

VIDEO_FPS = 8.0
REFUSED = "INSTRUCTION_REFUSED"


class GraphError(OpenVLAError):
    """A process of the graph ended, did not get ready or does not answer."""


class EpisodeRunner:
    """A node that plays the person at the robot. `check` is called while waiting and raises when a process has died."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self.node = Node("demo")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.scene: Scene | None = None
        self.policy: StatusReport | None = None
        self.controller: StatusReport | None = None
        self._camera: np.ndarray | None = None
        self._chunks: list[tuple[float, Chunk]] = []
        self._applied: list[Applied] = []
        self._films: list[tuple[float, np.ndarray, np.ndarray]] = []
        self._tools: deque[np.ndarray] = deque(maxlen=5)
        self._judge: Judge | None = None
        self._start_ns = 0
        self._overview_subscription = None
        self._subscribe()
        self._instruction = self.node.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
        client = self.node.create_client
        self._stop = client(topics.Trigger, of("policy_node", topics.STOP))
        self._stop_controller = client(topics.Trigger, of("controller_node", topics.STOP))
        self._reset_controller = client(topics.Trigger, of("controller_node", topics.RESET))
        self._start_controller = client(topics.Trigger, of("controller_node", topics.START))
        self._reset_scene = client(topics.Trigger, of("sim_node", topics.RESET))
        self._set_parameters = client(topics.SetParameters, "sim_node/set_parameters")

    def _subscribe(self) -> None:
        subscribe = self.node.create_subscription
        subscribe(topics.SceneState, of("sim_node", topics.SCENE_STATE), self._on_scene, topics.RECORD)
        subscribe(topics.Status, of("policy_node", topics.STATUS), self._on_policy_status, topics.LATCHED)
        subscribe(topics.Status, of("controller_node", topics.STATUS), self._on_controller_status, topics.LATCHED)
        subscribe(topics.ActionChunk, topics.POLICY_ACTION_CHUNK, self._on_chunk, topics.COMMAND)
        subscribe(topics.AppliedAction, of("controller_node", topics.APPLIED_ACTION), self._on_applied, topics.RECORD)
        subscribe(topics.Image, topics.CAMERA_IMAGE, self._on_camera, topics.SENSOR)

    # -- what the graph says --------------------------------------------------------------------------------------

    def _on_scene(self, message: topics.SceneState) -> None:
        self.scene = conversions.to_scene(message)
        self._tools.append(self.scene.tcp.position)
        if self._judge is not None and self.scene.stamp_ns >= self._start_ns:
            scene = self.scene
            self._judge.update(scene.tcp.position, scene.gripper_opening, scene.objects, scene.stamp_ns * 1e-9)

    def _on_policy_status(self, message: topics.Status) -> None:
        self.policy = conversions.to_status(message)

    def _on_controller_status(self, message: topics.Status) -> None:
        self.controller = conversions.to_status(message)

    def _on_chunk(self, message: topics.ActionChunk) -> None:
        self._chunks.append((time.monotonic(), conversions.to_chunk(message)))

    def _on_applied(self, message: topics.AppliedAction) -> None:
        self._applied.append(conversions.to_applied(message))

    def _on_camera(self, message: topics.Image) -> None:
        self._camera = conversions.to_rgb(message)

    def _on_overview(self, message: topics.Image) -> None:
        if self._camera is not None:
            stamp_s = conversions.stamp_ns(message) * 1e-9
            self._films.append((stamp_s, conversions.to_rgb(message), self._camera))

    # -- waiting and asking ---------------------------------------------------------------------------------------

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Handles messages until the condition holds; False after timeout_s seconds without it."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._check()
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def require(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Like spin_until, but raises GraphError naming what was missing and what the nodes last said."""
        if not self.spin_until(condition, timeout_s):
            raise GraphError(f"{what}: not within {timeout_s:.0f} s. {self._last_words()}")

    def _last_words(self) -> str:
        said = [
            f"{name} says {report.state.name} {report.code}: {report.sentence}" if report else f"{name} says nothing"
            for name, report in (("policy_node", self.policy), ("controller_node", self.controller))
        ]
        return " ".join(said) + ("" if self.scene else " sim_node publishes no scene.")

    def _call(self, client: rclpy.client.Client, request: Any, timeout_s: float = 20.0) -> Any:
        self.require(client.service_is_ready, timeout_s, f"service {client.srv_name}")
        future = client.call_async(request)
        self.require(future.done, timeout_s, f"answer of {client.srv_name}")
        return future.result()

    def _trigger(self, client: rclpy.client.Client) -> None:
        success, sentence = conversions.replied(self._call(client, topics.Trigger.Request()))
        if not success:
            raise GraphError(f"{client.srv_name} answered: {sentence}")

    def set_sim_parameters(self, **values: bool | int | float | str) -> None:
        """Sets parameters of sim_node; raises GraphError when it refuses one."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        response = self._call(self._set_parameters, topics.SetParameters.Request(parameters=parameters))
        for result in response.results:
            if not result.successful:
                raise GraphError(f"sim_node refused {values}: {result.reason}")

    def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once every process of the graph is up: state known, frames flowing, the instruction has a reader."""

        def ready() -> bool:
            for name, report in (("policy_node", self.policy), ("controller_node", self.controller)):
                if report is not None and report.state == State.FAULT:
                    raise GraphError(f"{name} did not start: {report.code}: {report.sentence}")
            return (
                self.scene is not None
                and self._camera is not None
                and all(report is not None and report.code != "STARTING" for report in (self.policy, self.controller))
                and self._instruction.get_subscription_count() > 0
                and self.node.count_subscribers(topics.TARGET_POSE) > 0
                and self.node.count_subscribers(topics.POLICY_ACTION_CHUNK) > 1
                and all(client.service_is_ready() for client in self._clients())
            )

        self.require(ready, timeout_s, "The nodes did not get ready")

    def _clients(self) -> tuple:
        return (
            self._stop,
            self._stop_controller,
            self._reset_controller,
            self._start_controller,
            self._reset_scene,
            self._set_parameters,
        )

    # -- episodes -------------------------------------------------------------------------------------------------

    def prepare(self, scene_seed: int) -> None:
        """Stops the policy, lays out the scene and lets the controller hold the arm where it now is."""
        self._judge = None
        # A stopped controller sends nothing: otherwise its last target would pull the arm out of the new scene.
        self._trigger(self._stop)
        self._trigger(self._stop_controller)
        self.require(lambda: self._is_controller("STOPPED") and self._stands_still(), 20.0, "arm at rest")
        self.set_sim_parameters(scene_seed=scene_seed)
        self._trigger(self._reset_scene)
        reset_ns = self.now_ns()
        self.require(
            lambda: self.scene is not None and self.scene.seed == scene_seed and self.scene.stamp_ns >= reset_ns,
            20.0,
            f"scene {scene_seed}",
        )
        self._trigger(self._reset_controller)
        self._trigger(self._start_controller)
        self.require(lambda: self._is_controller("WAITING"), 20.0, "controller waiting for actions")

    def _is_controller(self, code: str) -> bool:
        return self.controller is not None and self.controller.code == code

    def _stands_still(self) -> bool:
        """True when the tool has moved less than a millimetre between each two of the last five scenes (0.2 s)."""
        steps = np.linalg.norm(np.diff(np.array(self._tools), axis=0), axis=1) if len(self._tools) == 5 else [1.0]
        return bool(np.max(steps) < 0.001)

    def now_ns(self) -> int:
        """The ROS time in nanoseconds."""
        return self.node.get_clock().now().nanoseconds

    def instruct(self, sentence: str) -> None:
        """Publishes the instruction, as `ros2 topic pub` would."""
        self._instruction.publish(conversions.text_message(sentence))

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
            task=task.kind if task else "free",
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

    def close(self) -> None:
        """Leaves the graph."""
        self._executor.shutdown()
        self.node.destroy_node()


def of(node: str, name: str) -> str:
    """The name a node's own `~/` topic or service has for others."""
    return name.replace("~", node, 1)
