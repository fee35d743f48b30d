"""Keys of a terminal, one by one and without waiting."""

import os
import select
import sys
import termios
import tty

from openvla_core.errors import ConfigError

ESCAPES = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left"}
NAMES = {"\r": "enter", "\n": "enter", " ": "space", "\x7f": "backspace", "\b": "backspace", "\x1b": "escape"}


class Keyboard:
    """The keys pressed since the last look; as a context, the terminal hands them over at once and is put back."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Raises ConfigError when there is no terminal, as under a launch file."""
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        if not os.isatty(self._descriptor):
            raise ConfigError(
                "teleoperation needs the keys of a terminal. Run it there by itself: ros2 run openvla_ros teleop "
                "--ros-args -r __node:=policy_node"
            )

    def __enter__(self) -> "Keyboard":
        self._settings = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor, termios.TCSANOW)
        return self

    def __exit__(self, *error: object) -> None:
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._settings)

    def read(self) -> list[str]:
        """Characters, or "up", "down", "left", "right", "enter", "space", "backspace", "escape"; empty when none."""
        data = b""
        while select.select([self._descriptor], [], [], 0.0)[0]:
            more = os.read(self._descriptor, 1024)
            if not more:
                break
            data += more
        return parse_keys(data)


def parse_keys(data: bytes) -> list[str]:
    """The keys in what a terminal sent; sequences of keys that have no name here are left out."""
    keys: list[str] = []
    while data:
        if data[:2] == b"\x1b[":
            end = next((i for i in range(2, len(data)) if 0x40 <= data[i] <= 0x7E), len(data) - 1) + 1
            keys += [ESCAPES[data[:end]]] if data[:end] in ESCAPES else []
            data = data[end:]
            continue
        character, data = data[:1].decode("ascii", "replace"), data[1:]
        if character in NAMES or character.isprintable():
            keys.append(NAMES.get(character, character))
    return keys
