"""One robot cell: the real controller, a pretend robot, a policy or a stub of one, and the spy."""

import itertools
import signal
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import yaml

from fault_injection.processes import FAKES, HERE, ROOT, Processes
from fault_injection.spy import Spy, Timeout
from openvla_core.supervisor import SupervisorSettings
from openvla_ros import conversions, topics
from openvla_ros.topics import State

CARD = ROOT / "config" / "conventions" / "metres_rotation_vector.yaml"
COUNT = itertools.count(1)
STEADY_S = 0.2
# The pretend robot says its mode only where the message package is installed.
HAS_ROBOT_STATE = find_spec("franka_msgs") is not None


def robot_settings(robot: str) -> dict:
    """The controller's parameters of config/robots/<robot>.yaml."""
    values = yaml.safe_load((ROOT / "config" / "robots" / f"{robot}.yaml").read_text())
    return values["/**/controller_node"]["ros__parameters"]


def limits_of(robot: str) -> SupervisorSettings:
    """The limits a controller of that robot keeps."""
    known = SupervisorSettings.__dataclass_fields__
    values = {name: value for name, value in robot_settings(robot).items() if name in known}
    return SupervisorSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


class Cell:
    """Subclasses say which processes there are. Every cell has a namespace of its own."""

    robot = "franka"
    command_topic = "target_pose"
    fake = "crisp"
    fake_node = "crisp"
    fake_arguments: tuple[str, ...] = ("-r", "current_pose:=robot/current_pose", "-p", "filter:=0.5")
    controller_arguments: tuple[str, ...] = ("-p", f"convention:={CARD}", "-p", "crisp.gripper:=none")
    policy_program = "stub_policy.py"
    policy_arguments: tuple[str, ...] = ()
    sim_time = False
    shows_poses = True  # False where the robot publishes joint angles only

    def __init__(self) -> None:
        self.namespace = f"/cell{next(COUNT)}"
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.processes = Processes(self.folder, self.namespace)
        self.spy = Spy(self.namespace, limits_of(self.robot), self.command_topic, self.sim_time)
        self.closed = False
        self._unmet = False  # whether the pretend robot is new and has not answered yet

    def open(self) -> "Cell":
        """Starts the processes and returns once the arm moves."""
        self.start_robot()
        self.meet_robot()
        self.start_controller()
        self.start_policy()
        self.recover(300.0)  # a busy machine loads a model for minutes
        return self

    def meet_robot(self) -> None:
        """The spy hears the arm before the controller does: else it cannot tell whether the stream begins there."""
        deadline_s = time.monotonic() + 60.0
        while self.shows_poses and len(self.spy.measured) < 2:
            if time.monotonic() > deadline_s:
                raise Timeout("the pretend robot showed no pose")
            time.sleep(0.02)

    def start_robot(self, *more: str) -> None:
        """The pretend robot, where the arm was last seen: an arm does not move because its driver starts anew."""
        self._unmet = True
        seen = list(self.spy.measured)[-1:]
        place = [word for _, pose in seen for word in _place(pose)]
        self.processes.start(
            "robot", [str(FAKES / f"{self.fake}.py")], *self.fake_arguments, *self._clock(), *place, *more
        )

    def start_controller(self, *more: str) -> None:
        """The real controller_node, not in a dry run."""
        self.spy.stream.forget()
        parameters = ["--params-file", str(ROOT / "config" / "robots" / f"{self.robot}.yaml"), "-p", "dry_run:=false"]
        if not HAS_ROBOT_STATE:
            parameters += ["-p", "crisp.robot_state:=''"]
        module = ["-m", "openvla_ros.controller_node"]
        self.processes.start("controller", module, *parameters, *self.controller_arguments, *self._clock(), *more)

    def start_policy(self, *more: str) -> None:
        """The policy, or what stands in for it."""
        program = [str(HERE / self.policy_program)]
        self.processes.start("policy", program, *self.policy_arguments, *self._clock(), *more)

    def _clock(self) -> tuple[str, ...]:
        return ("-p", "use_sim_time:=true") if self.sim_time else ()

    def close(self) -> None:
        """Ends everything."""
        if not self.closed:
            self.closed = True
            self.processes.stop()
            self.spy.close()

    # Between two faults -----------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Takes every fault away that may be in force, and starts again what has ended."""
        for name, start in (
            ("robot", self.start_robot),
            ("controller", self.start_controller),
            ("policy", self.start_policy),
        ):
            process = self.processes.running.get(name)
            if process is None or process.poll() is not None:
                start()
            else:
                self.processes.signal(name, signal.SIGCONT)

    def calm(self) -> None:
        """Orders and faults of the pretend robot and the stub are over."""
        self.spy.order()

    def recover(self, timeout_s: float = 40.0) -> None:
        """Returns once the controller follows actions again and the arm moves."""
        self.heal()
        self.calm()
        deadline_s = time.monotonic() + timeout_s
        self._wait_until_well(deadline_s)
        if self._unmet:  # its first answer may take long, and must not when a fault is switched on
            self.spy.set_parameter(self.fake_node, "fault", "")
            self._unmet = False
            self._wait_until_well(deadline_s)

    def _wait_until_well(self, deadline_s: float) -> None:
        ordered_s = time.monotonic()
        while not self.is_well():
            if time.monotonic() > deadline_s:
                raise Timeout(f"the cell did not recover: {self.spy.report}")
            if time.monotonic() - ordered_s > 1.0:  # a process that just started has not heard it
                self.calm()
                ordered_s = time.monotonic()
            self.nudge()
            time.sleep(0.02)

    def is_well(self) -> bool:
        """Whether the arm has followed the policy for a moment."""
        if not self.spy.reports:
            return False
        since_s, report = self.spy.reports[-1]
        steady = report.state == State.ACTIVE and time.monotonic() - since_s > STEADY_S
        return steady and self.spy.speed(0.1) > 0.05

    def nudge(self) -> None:
        """One step on the way from a fault to motion, as a person would take it."""
        report = self.spy.report
        if report is None:
            return
        try:
            if report.state in (State.FAULT, State.ESTOP):
                self.spy.call(topics.SetBool, "controller_node/estop", topics.SetBool.Request(data=False), 2.0)
                self.spy.trigger("reset")
                self.spy.trigger("start")
            elif report.code == "GRIPPER_FAULT":
                self.spy.trigger("reset")
            elif report.state == State.STANDBY:
                self.spy.trigger("start")
        except Timeout:
            return  # the controller is still starting

    def set_fault(self, fault: str) -> float:
        """Switches a fault of the pretend robot on ("" off); returns the time just before."""
        now_s = time.monotonic()
        done, reason = self.spy.set_parameter(self.fake_node, "fault", fault)
        assert done, reason
        return now_s

    def lifecycle(self, transition: int, timeout_s: float = 10.0) -> bool:
        """A lifecycle transition of the controller: 1 configure, 3 activate."""
        request = topics.ChangeState.Request()
        request.transition.id = transition
        return self.spy.call(topics.ChangeState, "controller_node/change_state", request, timeout_s).success


class RobotCell(Cell):
    """Franka profile, CRISP interface, a stub in place of the policy."""

    broken = ""

    def set_fault(self, fault: str) -> float:
        self.broken = fault
        return super().set_fault(fault)

    def calm(self) -> None:
        super().calm()
        if self.broken:
            self.set_fault("")


class UnheardCell(RobotCell):
    """The spy listens to what is published beside the command topic, so that only the robot listens to that one."""

    command_topic = "controller_node/commanded_pose"


class SimCell(RobotCell):
    """The interface of the simulated arm, which also shows the gripper as a plain number."""

    command_topic = topics.TARGET_POSE
    fake_arguments = (*RobotCell.fake_arguments, "-r", "target_pose:=robot/target_pose")
    controller_arguments = ("-p", f"convention:={CARD}", "-p", "backend:=sim")


class GripperCell(RobotCell):
    """With the Franka hand and its actions."""

    hand_broken = ""

    controller_arguments = ("-p", f"convention:={CARD}", "-p", "franka_gripper.name:=franka_gripper")

    def open(self) -> "GripperCell":
        self.processes.start("gripper", [str(FAKES / "franka_gripper.py")])
        super().open()
        return self

    def calm(self) -> None:
        super().calm()
        if self.hand_broken:
            self.set_gripper_fault("")

    def set_gripper_fault(self, fault: str) -> float:
        """As set_fault, of the hand."""
        self.hand_broken = fault
        now_s = time.monotonic()
        done, reason = self.spy.set_parameter("franka_gripper", "fault", fault)
        assert done, reason
        return now_s


class JointCell(RobotCell):
    """Joint angles by inverse kinematics: a trajectory controller of the FR3."""

    fake = "joint_trajectory"
    fake_node = "fr3_arm_controller"
    shows_poses = False
    command_topic = "controller_node/commanded_pose"
    fake_arguments = ()
    controller_arguments = (
        "-p", f"convention:={CARD}", "-p", "backend:=joint_trajectory", "-p", "pose_source:=joints",
        "-p", "joint_trajectory.gripper:=none", "-p", "joint_trajectory.robot_state:=''",
    )  # fmt: skip


def _place(pose) -> tuple[str, ...]:
    """Parameters of a pretend robot that stands at a pose."""
    values = {"start_position": pose.position, "start_quaternion": pose.quaternion}
    return tuple(word for name, row in values.items() for word in ("-p", f"{name}:={[float(x) for x in row]}"))


def instruction_message(text: str):
    """A sentence for the policy."""
    return conversions.text_message(text)
