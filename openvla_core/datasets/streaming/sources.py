"""Single steps of a data set by their number, which is all that a shuffled order needs."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from openvla_core.datasets.chunking import chunk_actions, relative_mask
from openvla_core.datasets.episode import PRIMARY, Episode, EpisodeSource
from openvla_core.datasets.oxe.curation import trained_steps
from openvla_core.datasets.per_process import PerProcess
from openvla_core.datasets.streaming.left_out import LeftOut
from openvla_core.errors import DatasetError
from openvla_core.images import decode_compressed
from openvla_core.prompt import clean_instruction


@dataclass(frozen=True)
class Step:
    """One frame, what was asked for, and what was done.

    image: a JPEG or PNG file, or (H, W, 3) uint8 RGB. actions (1 + future, D) float32: of this step and the following
    ones, in the units of the data set. state: name -> (n,) float32. episode_name: unique in the data set, empty when
    nobody told one.
    """

    dataset: str
    episode: int
    index: int
    image: bytes | np.ndarray
    instruction: str
    actions: np.ndarray
    state: dict[str, np.ndarray] = field(default_factory=dict)
    episode_name: str = ""

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, by the accurate cosine transform: OpenCV and Pillow give the same pixels."""
        return decode_compressed(self.image) if isinstance(self.image, bytes) else self.image


class StepSource(Protocol):
    """N steps of one data set. block_ends (B,) int64: where each shard ends, in steps; steps of one shard lie together.

    Fetching a step must not depend on what was fetched before, and must be possible in any process.
    """

    name: str

    @property
    def block_ends(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Step: ...


class EpisodeSteps:
    """The steps of episodes that can be opened by number, such as a folder of bags or a LeRobot data set.

    Every step of a shuffled order lies in another episode, so opening one should be cheap. Where it is not (bags,
    video), write shards first: openvla_core.datasets.streaming.shard_writer.
    """

    def __init__(
        self,
        source: EpisodeSource,
        future: int = 0,
        relative: np.ndarray | None = None,
        camera: str = PRIMARY,
        lengths: Sequence[int] | None = None,
        keep_open: int = 4,
        check: Callable[[str], object] = clean_instruction,
    ) -> None:
        """future: following actions per step. relative (D,) bool: by default all numbers but the last, the gripper.

        lengths: trained steps per episode, 0 for one that is left out; None counts them by opening every episode once,
        and leaves out those whose instruction `check` refuses (see LeftOut), telling how many. keep_open: episodes held
        in memory, per process.
        """
        self.name = source.name
        self._source, self._future, self._relative, self._camera = source, future, relative, camera
        counted = usable_lengths(source, future, relative, check) if lengths is None else lengths
        self._ends = np.cumsum(np.asarray(counted, dtype=np.int64))
        self._open: PerProcess[OrderedDict[int, _Opened]] = PerProcess(OrderedDict, OrderedDict.clear)
        self._keep_open = keep_open
        if len(self._ends) != len(source):
            raise DatasetError(f"{self.name}: {len(self._ends)} lengths for {len(source)} episodes; give one for each.")

    @property
    def block_ends(self) -> np.ndarray:
        return self._ends

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Step:
        number = int(np.searchsorted(self._ends, index, side="right"))
        place = index - (int(self._ends[number - 1]) if number else 0)
        episode, chunks, trained = self._opened(number)
        if place >= len(trained):
            raise DatasetError(f"{self.name}: episode {number} has {len(trained)} trained steps; lengths told more.")
        step = int(trained[place])
        frames = episode.images[self._camera]
        encoded = frames.encoded(step)
        return Step(
            dataset=self.name,
            episode=number,
            index=step,
            image=frames[step] if encoded is None else encoded,
            instruction=episode.instruction.strip(),
            actions=chunks[step],
            state={name: values[step] for name, values in episode.state.items()},
            episode_name=episode.name,
        )

    def _opened(self, number: int) -> "_Opened":
        held = self._open()
        if number not in held:
            episode = self._source[number]
            chunks = chunks_of(episode, self._future, self._relative)
            held[number] = episode, chunks, np.flatnonzero(trained_steps(episode.metadata, chunks))
            if len(held) > self._keep_open:
                held.popitem(last=False)
        held.move_to_end(number)
        return held[number]


_Opened = tuple[Episode, np.ndarray, np.ndarray]  # with the chunks of its actions, and the numbers of the trained steps


def chunks_of(episode: Episode, future: int, relative: np.ndarray | None) -> np.ndarray:
    """(T, 1 + future, D) float32: the action of every step and the following ones, none from beyond a hole."""
    mask = relative_mask(episode.actions.shape[1]) if relative is None else relative
    return chunk_actions(episode.actions, mask, future=future, segment=episode.segment)


def usable_lengths(
    episodes: Iterable[Episode],
    future: int = 0,
    relative: np.ndarray | None = None,
    check: Callable[[str], object] = clean_instruction,
) -> list[int]:
    """Trained steps per episode; 0 for what LeftOut(check) takes, of which a warning tells the number."""
    left_out, lengths = LeftOut(check), []
    for episode in episodes:
        if left_out.takes(episode):
            lengths.append(0)
        else:
            lengths.append(int(trained_steps(episode.metadata, chunks_of(episode, future, relative)).sum()))
    left_out.tell(str(getattr(episodes, "name", "the data set")))
    return lengths


class MadeSteps:
    """Steps that a function makes from their number: for benchmarks and for tests of what comes after."""

    def __init__(self, name: str, ends: np.ndarray, make: Callable[[int], Step]) -> None:
        """ends (B,): where each episode ends, in steps."""
        self.name = name
        self._ends, self._make = np.asarray(ends, dtype=np.int64), make

    @property
    def block_ends(self) -> np.ndarray:
        return self._ends

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Step:
        return self._make(index)
