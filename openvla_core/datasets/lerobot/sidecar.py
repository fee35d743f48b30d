"""What LeRobot has no place for, in two files that it ignores: meta/openvla.json and a line for each episode.

Names, outcomes, convention cards, operators, exact rates, and which part of observation.state is which.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvla_core.datasets.episode import Episode
from openvla_core.datasets.lerobot.files import LineWriter, read_lines, read_object, write_object
from openvla_core.errors import DatasetError

ABOUT = "meta/openvla.json"
EPISODES = "meta/openvla_episodes.jsonl"
VERSION = 1


class SidecarWriter:
    """Writes both files; a card that many episodes share is written once."""

    def __init__(self, root: Path) -> None:
        self._root, self._lines = root, LineWriter(root / EPISODES)
        self._cards: list[dict[str, Any]] = []

    def add(self, episode: Episode) -> None:
        self._lines.add(
            {
                "name": episode.name,
                "success": episode.success,
                "rate_hz": episode.rate_hz,
                "convention": self._card_number(episode.convention),
                "metadata": dict(episode.metadata),
            }
        )

    def finish(self, state: Mapping[str, tuple[int, int]]) -> None:
        self._lines.close()
        layout = {name: list(part) for name, part in state.items()}
        write_object(self._root / ABOUT, {"version": VERSION, "state": layout, "conventions": self._cards})

    def close(self) -> None:
        self._lines.close()

    def _card_number(self, card: Mapping[str, Any] | None) -> int | None:
        if card is None:
            return None
        if dict(card) not in self._cards:
            self._cards.append(dict(card))
        return self._cards.index(dict(card))


class Sidecar:
    """Both files read back; empty for a data set of others."""

    def __init__(self, root: Path) -> None:
        self.state: dict[str, tuple[int, int]] = {}
        self._cards: list[Any] = []
        self._episodes: list[dict[str, Any]] = []
        self.present = (root / ABOUT).is_file()
        if self.present:
            self._read(root)

    def _read(self, root: Path) -> None:
        about = read_object(root / ABOUT)
        if about.get("version") != VERSION:
            raise DatasetError(f"{root / ABOUT} has version {about.get('version')!r}; this release reads {VERSION}.")
        try:
            self.state = {str(name): (int(first), int(last)) for name, (first, last) in about["state"].items()}
            self._cards = list(about["conventions"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{root / ABOUT} is damaged ({error!r}). Copy the data set again.") from error
        self._episodes = list(read_lines(root / EPISODES))

    def facts(self, index: int) -> dict[str, Any]:
        """Fields of the episode; empty when nothing is known. Raises DatasetError for a card that is not there."""
        if index >= len(self._episodes):
            return {}
        facts = {key: self._episodes[index].get(key) for key in ("name", "success", "rate_hz", "metadata")}
        number = self._episodes[index].get("convention")
        try:
            card = None if number is None else self._cards[number]
        except (IndexError, TypeError) as error:
            raise DatasetError(f"{ABOUT} has no convention card {number!r}.") from error
        return facts | {"convention": card}
