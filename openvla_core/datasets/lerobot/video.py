"""Frames in the mp4 files of a LeRobot data set: written episode after episode, read frame by frame, through PyAV."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from openvla_core.datasets.episode import Frames
from openvla_core.datasets.lerobot.table import PIXEL_FORMAT
from openvla_core.datasets.per_process import PerProcess
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
    """The frames of an episode in a video: each within half a frame of start + times seconds. Picklable.

    Each process has a decoder of its own.
    """

    def __init__(self, path: Path, start_s: float, times_s: np.ndarray, rate_hz: float) -> None:
        self._path, self._times, self._half = path, start_s + np.asarray(times_s, np.float64), 0.5 / rate_hz
        self._decoder = PerProcess(_Decoder, _Decoder.close)

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

    def _frame_at(self, wanted: float, index: int) -> np.ndarray:
        decoder = self._decoder()
        if decoder.frames is None or not 0 <= index - decoder.next < FORWARD_FRAMES:
            decoder.start(self._path, wanted - self._half)
        for frame in decoder.frames or ():
            if frame.time is not None and frame.time >= wanted - self._half:
                if frame.time > wanted + self._half:
                    break
                decoder.next = index + 1
                return frame.to_ndarray(format="rgb24")
        decoder.frames = None
        raise DatasetError(f"{self._path} has no frame at {wanted:.3f} s; copy the data set again.")


class _Decoder:
    """An open video. frames: those that are decoded next; next: the number of the first of them."""

    def __init__(self) -> None:
        self.frames: Iterator[Any] | None = None
        self.next = -1
        self._container: Any = None

    def start(self, path: Path, seconds: float) -> None:
        """Decodes from a key frame before this time on."""
        self.close()
        if not path.is_file():
            raise DatasetError(f"{path} is missing; copy the whole data set, with its folder videos.")
        self._container = av.open(str(path))
        if not self._container.streams.video:
            raise DatasetError(f"{path} has no video stream.")
        stream = self._container.streams.video[0]
        self._container.seek(max(0, int(seconds / stream.time_base)), stream=stream)
        self.frames = self._container.decode(stream)

    def close(self) -> None:
        self.frames = None
        if self._container is not None:
            self._container.close()
            self._container = None
