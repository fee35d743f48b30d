"""Callbacks that outlive their own errors: the process that brakes the arm must not end by one."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

from openvla_ros import conversions

UNEXPECTED = "An unexpected error in the controller; see its log."


class Owner(Protocol):
    """Whose callbacks are guarded."""

    def on_unexpected(self) -> None:
        """Called in the handler of the exception."""


def guarded(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A method that tells its owner of any exception and goes on; a service, its response given last, answers no."""

    @functools.wraps(callback)
    def call(self: Owner, *arguments: Any) -> Any:
        try:
            return callback(self, *arguments)
        except Exception:  # noqa: BLE001 - whatever it is, the stream of commands must go on
            self.on_unexpected()
            is_service = hasattr(arguments[-1], "success") if arguments else False
            return conversions.reply(arguments[-1], False, UNEXPECTED) if is_service else None

    return call
