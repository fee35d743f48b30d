"""Turns the frames of episodes into an H.264 video and a small GIF."""

import functools
import io
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import cv2
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

OVERVIEW_SIZE = (640, 480)  # width, height of the enlarged overview picture
INSET_SIZE = (168, 168)
CAPTION_HEIGHT = 64  # 480 + 64 = 544, a multiple of 16, as H.264 encoders like it
GOOD, BAD, NEUTRAL, INK, PAPER = (63, 185, 80), (248, 81, 73), (210, 153, 34), (240, 243, 246), (13, 17, 23)


@dataclass
class Clip:
    """One episode to show: pairs of overview (H, W, 3) and policy camera (h, w, 3) frames, uint8 RGB."""

    instruction: str
    title: str
    frames: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    outcome: str = ""
    success: bool | None = None

    @property
    def outcome_color(self) -> tuple[int, int, int]:
        """Green for success, red for failure, amber where nobody judged."""
        return NEUTRAL if self.success is None else GOOD if self.success else BAD


def at_even_times(stamps_s: Sequence[float], fps: float) -> list[int]:
    """Indices of the frames to show at a steady rate: the newest one at each moment, so the film keeps its true speed.

    stamps_s: capture times in seconds, ascending; may be irregular.
    """
    if not len(stamps_s):
        return []
    moments = np.arange(stamps_s[0], stamps_s[-1] + 0.5 / fps, 1.0 / fps)
    return list(np.searchsorted(stamps_s, moments + 1e-6, side="right") - 1)


def compose(clip: Clip, index: int, *, show_outcome: bool = False) -> np.ndarray:
    """One picture of the video, (544, 640, 3) uint8: overview, policy camera inset, instruction and outcome."""
    overview, policy = clip.frames[index]
    width, height = OVERVIEW_SIZE
    canvas = np.full((height + CAPTION_HEIGHT, width, 3), PAPER, dtype=np.uint8)
    canvas[:height] = cv2.resize(overview, OVERVIEW_SIZE, interpolation=cv2.INTER_CUBIC)
    left, top, border = width - INSET_SIZE[0] - 14, 14, 3
    canvas[top - border : top + INSET_SIZE[1] + border, left - border : left + INSET_SIZE[0] + border] = INK
    canvas[top : top + INSET_SIZE[1], left : left + INSET_SIZE[0]] = cv2.resize(
        policy, INSET_SIZE, interpolation=cv2.INTER_NEAREST
    )

    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    label_text(draw, (left, top + INSET_SIZE[1] + 6), "what the policy sees", size=14)
    draw.text((18, height + 9), fit_text(f'"{clip.instruction}"', 24, width - 36), fill=INK, font=font(24))
    draw.text((18, height + 40), clip.title, fill=(139, 148, 158), font=font(15))
    if show_outcome:
        text = clip.outcome.upper()
        text_width = font(22).getlength(text)
        draw.rounded_rectangle((14, 14, 38 + text_width, 52), radius=8, fill=clip.outcome_color)
        draw.text((26, 20), text, fill=PAPER, font=font(22))
    return np.asarray(image)


def clip_pictures(clip: Clip, hold: int) -> Iterable[np.ndarray]:
    """All pictures of one clip; the last one is repeated `hold` times with the outcome on it."""
    for index in range(len(clip.frames)):
        yield compose(clip, index)
    if clip.frames:
        last = compose(clip, len(clip.frames) - 1, show_outcome=True)
        for _ in range(hold):
            yield last


class Mp4Writer:
    """Writes (544, 640, 3) uint8 pictures to an H.264 file; close() it, or use contextlib.closing.

    The file appears with the first episode: a film without pictures would not open.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.fps = fps
        size = f"{OVERVIEW_SIZE[0]}x{OVERVIEW_SIZE[1] + CAPTION_HEIGHT}"
        pictures = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
        output = ["-c:v", "libx264", "-crf", "23", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)]
        self._command = ["-y", "-loglevel", "error", *pictures, *output]
        self._encoder: subprocess.Popen | None = None

    def add(self, clip: Clip) -> None:
        """Appends one episode, its last picture held for a second with the outcome."""
        for picture in clip_pictures(clip, hold=round(self.fps)):
            self._pipe().write(np.ascontiguousarray(picture).data)

    def _pipe(self) -> IO[bytes]:
        if self._encoder is None:
            # In a session of its own, because Ctrl-C would end the encoder before the file is whole.
            command = [imageio_ffmpeg.get_ffmpeg_exe(), *self._command]
            self._encoder = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        assert self._encoder.stdin is not None
        return self._encoder.stdin

    def close(self) -> None:
        """Finishes the file; without it players cannot open it."""
        if self._encoder is not None:
            self._pipe().close()
            self._encoder.wait()


def write_gif(path: Path, clips: Sequence[Clip], fps: float, max_bytes: int = 1_000_000) -> None:
    """Writes an animated GIF of at most `max_bytes`; pictures get smaller, then clips fewer, until it fits."""
    clips = [clip for clip in clips if clip.frames]
    while clips:
        for width in (400, 360, 320, 280, 240):
            content = _gif_bytes(clips, width, fps)
            if len(content) <= max_bytes:
                path.write_bytes(content)
                return
        clips = clips[:-1]


def _gif_bytes(clips: Sequence[Clip], width: int, fps: float) -> bytes:
    pictures = []
    for clip in clips:
        # Every second picture is shown, twice as long: the motion keeps its true speed.
        for picture in list(clip_pictures(clip, hold=round(fps)))[::2]:
            height = round(picture.shape[0] * width / picture.shape[1])
            pictures.append(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
    palette = _palette(pictures)
    frames = [Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=round(2000 / fps), loop=0)
    return buffer.getvalue()


def _palette(pictures: Sequence[np.ndarray]) -> Image.Image:
    """255 colours for all pictures. Half of the say goes to strong colours: small cubes would turn grey otherwise."""
    pixels = np.concatenate([picture[::2, ::2].reshape(-1, 3) for picture in pictures])
    strong = pixels[np.ptp(pixels, axis=1) > 90]
    rng = np.random.default_rng(0)
    samples = [rng.choice(group, 40_000) for group in (pixels, strong) if len(group)]
    return Image.fromarray(np.concatenate(samples)[None]).quantize(255)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that ships inside Pillow: no system fonts needed."""
    return ImageFont.load_default(size)


def fit_text(text: str, size: int, width: int) -> str:
    """The text, shortened with dots until it is at most `width` pixels wide."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def label_text(draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, size: int) -> None:
    """Light text with a dark outline, readable on any picture."""
    draw.text(corner, text, fill=INK, font=font(size), stroke_width=2, stroke_fill=PAPER)
