"""Definitions and hashes of ROS message types, as a bag carries them, without ROS."""

from collections.abc import Callable, Iterator
from typing import Any

from openvla_core.errors import DatasetError


class MessageTypes:
    """Looks types up: the common ones are known, others are found as .msg text.

    Args:
        find: given a full name such as "franka_msgs/msg/FrankaState", returns the text of its .msg file or None.
    """

    def __init__(self, find: Callable[[str], str | None]) -> None:
        from rosbags.typesys import Stores, get_typestore

        self._find = find
        self._store = get_typestore(Stores.ROS2_JAZZY)

    def describe(self, name: str) -> tuple[str, str]:
        """The definition of a type with those it is made of, and its RIHS01 hash. Raises DatasetError when unknown."""
        self._register(name)
        definition, _ = self._store.generate_msgdef(name, ros_version=2)
        return definition, self._store.hash_rihs01(name)

    def _register(self, name: str) -> None:
        from rosbags.typesys import TypesysError, get_types_from_msg

        if name in self._store.fielddefs:
            return
        text = self._find(name)
        if text is None:
            raise DatasetError(
                f"the message type {name} is not known here. Install and source the package that defines it, "
                "or take its topic off the list."
            )
        try:
            found = get_types_from_msg(text, name)
        except TypesysError as error:
            raise DatasetError(f"the definition of {name} cannot be read: {error}.") from error
        for part in sorted(set(_parts(found[name][1]))):
            self._register(part)
        self._store.register(found)


def _parts(fields: Any) -> Iterator[str]:
    """Names of the message types among nested field descriptions."""
    from rosbags.interfaces import Nodetype

    for _, (kind, details) in fields:
        while kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            kind, details = details[0]
        if kind == Nodetype.NAME:
            yield details
