"""What can be asked of the simulated arm, in which words, and how success is judged from the true state."""

import re
from dataclasses import dataclass

import numpy as np

from openvla_core.sim.scene import CUBE_COLORS

COLORS = tuple(CUBE_COLORS)
TASK_KINDS = ("reach", "pick")  # what the shipped tiny model was trained on
TAUGHT_KINDS = ("point",)  # what the expert can show, and a model can be taught
KNOWN_KINDS = TASK_KINDS + TAUGHT_KINDS
PHRASINGS = {
    "reach": (
        "move to the {color} cube",
        "go to the {color} cube",
        "move above the {color} block",
        "reach the {color} block",
    ),
    "pick": (
        "pick up the {color} cube",
        "lift the {color} cube",
        "grasp the {color} block",
        "take the {color} block",
    ),
    "point": (
        "point at the {color} cube",
        "point at the {color} block",
        "point to the {color} cube",
        "point to the {color} block",
    ),
}
REACH_HEIGHT = 0.10  # metres from the cube's centre to the tool when hovering over it
REACH_RADIUS = 0.03  # metres, horizontal
REACH_BAND = (0.05, 0.16)  # metres above the cube's centre
POINT_HEIGHT = 0.045  # metres from the cube's centre to the tool when the closed fingers point at it from above
POINT_RADIUS = 0.03  # metres, horizontal
POINT_BAND = (0.025, 0.065)  # metres above the cube's centre
POINT_OPENING = 0.2  # opening below which the fingers are closed on nothing
LIFT_HEIGHT = 0.10  # metres of the cube's centre above the table
HELD_RADIUS = 0.03  # metres from the tool to the centre of a held cube
HOLD_TIME = 0.4  # seconds a success must last


@dataclass(frozen=True)
class Task:
    """One thing to do with the cube of a colour: `reach` (hover over), `pick` (grasp and lift) or `point` (at it)."""

    kind: str
    color: str

    @property
    def object_name(self) -> str:
        return f"{self.color} cube"

    def sentence(self, phrasing: int = 0) -> str:
        """The instruction in words; `phrasing` selects one of several wordings."""
        wordings = PHRASINGS[self.kind]
        return wordings[phrasing % len(wordings)].format(color=self.color)


ALL_TASKS = tuple(Task(kind, color) for kind in TASK_KINDS for color in COLORS)


def all_sentences() -> tuple[str, ...]:
    """Every sentence the trained tasks can be asked with."""
    return tuple(task.sentence(i) for task in ALL_TASKS for i in range(len(PHRASINGS[task.kind])))


def parse_instruction(text: str) -> Task | None:
    """The task a sentence asks for, or None when it is not one of the known wordings."""
    cleaned = re.sub(r"\s+", " ", text.strip().lower().rstrip(".!"))
    for task in (Task(kind, color) for kind in KNOWN_KINDS for color in COLORS):
        if any(cleaned == task.sentence(i) for i in range(len(PHRASINGS[task.kind]))):
            return task
    return None


class Judge:
    """Watches the true state during one episode. Success must last `HOLD_TIME` seconds in a row."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.success = False
        self.lifted: str | None = None
        self._since: float | None = None

    @property
    def wrong_object(self) -> bool:
        """True when a cube other than the named one was lifted."""
        return self.lifted is not None and self.lifted != self.task.object_name

    def update(self, tcp_position: np.ndarray, gripper_opening: float, object_positions: dict, time_s: float) -> bool:
        """Takes one sample of the state: metres in the base frame, opening 0..1, seconds. Returns `success`."""
        for name, position in object_positions.items():
            if is_lifted(tcp_position, np.asarray(position)):
                self.lifted = name
        target = np.asarray(object_positions[self.task.object_name])
        if not self._is_fulfilled(tcp_position, gripper_opening, target):
            self._since = None
        elif self._since is None:
            self._since = time_s
        elif time_s - self._since >= HOLD_TIME:
            self.success = True
        return self.success

    def _is_fulfilled(self, tool: np.ndarray, opening: float, cube: np.ndarray) -> bool:
        if self.task.kind == "point":
            return is_pointed_at(tool, opening, cube)
        return is_reached(tool, cube) if self.task.kind == "reach" else is_lifted(tool, cube)


def is_reached(tool: np.ndarray, cube: np.ndarray) -> bool:
    """True when the tool (3,) hovers over the cube centre (3,)."""
    above = float(tool[2] - cube[2])
    return float(np.linalg.norm(tool[:2] - cube[:2])) < REACH_RADIUS and REACH_BAND[0] < above < REACH_BAND[1]


def is_pointed_at(tool: np.ndarray, opening: float, cube: np.ndarray) -> bool:
    """True when the closed fingers stand just above the cube centre (3,)."""
    above = float(tool[2] - cube[2])
    beside = float(np.linalg.norm(tool[:2] - cube[:2]))
    return opening < POINT_OPENING and beside < POINT_RADIUS and POINT_BAND[0] < above < POINT_BAND[1]


def is_lifted(tool: np.ndarray, cube: np.ndarray) -> bool:
    """True when the cube centre (3,) is high above the table and still between the fingers."""
    return float(cube[2]) > LIFT_HEIGHT and float(np.linalg.norm(tool - cube)) < HELD_RADIUS
