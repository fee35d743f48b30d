"""A data set of Open X-Embodiment in its published form, as standardised episodes."""

import logging
from collections.abc import Iterator
from pathlib import Path

from openvla_core.datasets.episode import Episode
from openvla_core.datasets.oxe.catalog import card_of, to_episode
from openvla_core.datasets.rlds.reader import RldsTrajectories

log = logging.getLogger(__name__)


class OxeEpisodes:
    """The episodes of an RLDS folder, one in memory at a time; what training leaves out is passed over.

    left_out: how many that were in the last pass; a warning tells it.
    """

    def __init__(self, path: Path, dataset: str, split: str = "train", seed: int = 0) -> None:
        """dataset: its name in openvla_core.datasets.oxe.catalog. seed: see to_episode.

        Raises DatasetError for an unknown name and a folder without RLDS files.
        """
        self._card = card_of(dataset)
        self.name, self._seed = dataset, seed
        self.trajectories = RldsTrajectories(path, split)
        self.left_out = 0

    def __iter__(self) -> Iterator[Episode]:
        self.left_out = 0
        for number, trajectory in enumerate(self.trajectories):
            episode = to_episode(self.name, trajectory, f"episode_{number:06d}", self._card, self._seed)
            if episode is None:
                self.left_out += 1
            else:
                yield episode
        if self.left_out:
            log.warning("%s: episodes left out for want of an instruction or steps: %d", self.name, self.left_out)
