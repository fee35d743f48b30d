"""Frames in the mp4 files of a LeRobot data set: written episode after episode, read frame by frame, through PyAV."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from openvla_core.datasets.episode import Frames
from openvla_core.datasets.lerobot.table import PIXEL_FORMAT
from openvla_core.errors import DatasetError

CODEC = "libx264"
# A key frame at every second frame makes every frame quick to reach. crf 18: 0 is lossless, 51 the worst.
CODEC_OPTIONS = {"crf": "18", "g": "2", "preset": "medium"}
FORWARD_FRAMES = 8  # decode on instead of seeking when the wanted frame is this close
FFmpegError = av.error.FFmpegError


class VideoWriter:
    """One mp4 file that grows by the frames it is given; frame i is shown at i / rate seconds."""

    def __init__(self, path: Path, shape: tuple[int, int, int], rate_hz: float) -> None:
        height, width, _ = shape
        if height % 2 or width % 2:
            raise DatasetError(
                f"frames of {width} x {height} cannot be stored as video with {PIXEL_FORMAT}, which needs even sizes. "
                "Store pictures instead of video."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.frames, self.rate_hz = path, 0, rate_hz
        exact = Fraction(rate_hz).limit_denominator(1001)
        self._frame_s = 1 / exact  # the frame number is the time stamp; the container turns it into its own units
        self._container: Any = av.open(str(path), "w")
        stream: Any = self._container.add_stream(CODEC, rate=exact, options=CODEC_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, PIXEL_FORMAT
        self._stream = stream

    def add(self, frames: Frames) -> tuple[float, float]:
        """Appends the frames of an episode; returns where they begin and end, in seconds."""
        start = self.frames
        for index in range(len(frames)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[index]), format="rgb24")
            frame.pts, frame.time_base = self.frames, self._frame_s
            self._container.mux(self._stream.encode(frame))
            self.frames += 1
        return start / self.rate_hz, self.frames / self.rate_hz

    def bytes_written(self) -> int:
        """About the size of the file so far; the encoder holds the newest frames back."""
        return self.path.stat().st_size

    def close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            with container:
                container.mux(self._stream.encode(None))


class VideoFrames:
    """The frames of an episode in a video: each within half a frame of start + times seconds. Picklable."""

    def __init__(self, path: Path, start_s: float, times_s: np.ndarray, rate_hz: float) -> None:
        self._path, self._times, self._half = path, start_s + np.asarray(times_s, np.float64), 0.5 / rate_hz
        self._close: Callable[[], None] = _nothing
        self._decoded: Iterator[Any] | None = None
        self._next = -1

    def __len__(self) -> int:
        return len(self._times)

    def encoded(self, index: int) -> bytes | None:
        return None

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises DatasetError when the video is damaged or has no frame at this time."""
        index = range(len(self))[index]
        wanted = float(self._times[index])
        try:
            return self._frame_at(wanted, index)
        except (FFmpegError, OSError, ValueError) as error:
            raise DatasetError(f"{self._path} cannot be decoded at {wanted:.3f} s: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_times": self._times, "_half": self._half}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _close=_nothing, _decoded=None, _next=-1)

    def __del__(self) -> None:
        self._close()

    def _frame_at(self, wanted: float, index: int) -> np.ndarray:
        if self._decoded is None or not 0 <= index - self._next < FORWARD_FRAMES:
            self._decoded = self._decode_from(wanted)
        for frame in self._decoded:
            if frame.time is not None and frame.time >= wanted - self._half:
                if frame.time > wanted + self._half:
                    break
                self._next = index + 1
                return frame.to_ndarray(format="rgb24")
        self._decoded = None
        raise DatasetError(f"{self._path} has no frame at {wanted:.3f} s; copy the data set again.")

    def _decode_from(self, seconds: float) -> Iterator[Any]:
        self._close()
        if not self._path.is_file():
            raise DatasetError(f"{self._path} is missing; copy the whole data set, with its folder videos.")
        container: Any = av.open(str(self._path))
        self._close = container.close
        if not container.streams.video:
            raise DatasetError(f"{self._path} has no video stream.")
        stream = container.streams.video[0]
        container.seek(max(0, int((seconds - self._half) / stream.time_base)), stream=stream)
        return container.decode(stream)


def _nothing() -> None:
    pass
