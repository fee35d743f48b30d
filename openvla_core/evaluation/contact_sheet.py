"""One picture of a whole evaluation: a row per episode, frames from start to end, the instruction and how it ended."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from openvla_core.evaluation.video import INK, PAPER, Clip, fit_text, font

FRAME_SIZE = (200, 150)
HEADER_HEIGHT = 34
GAP = 4


def contact_sheet(clips: Sequence[Clip], columns: int = 6) -> np.ndarray:
    """Draws the sheet, (rows x 188, columns x 204, 3) uint8 RGB. Clips without frames are left out."""
    clips = [clip for clip in clips if clip.frames]
    width = columns * (FRAME_SIZE[0] + GAP) + GAP
    row_height = HEADER_HEIGHT + FRAME_SIZE[1] + GAP
    image = Image.new("RGB", (width, max(1, len(clips)) * row_height), PAPER)
    draw = ImageDraw.Draw(image)
    if not clips:
        draw.text((10, 10), "no frames were recorded", fill=INK, font=font(18))
    for row, clip in enumerate(clips):
        _draw_row(image, draw, clip, row * row_height, columns)
    return np.asarray(image)


def save_contact_sheet(path: Path, clips: Sequence[Clip]) -> None:
    """Writes the sheet as PNG."""
    Image.fromarray(contact_sheet(clips)).save(path, optimize=True)


def _draw_row(image: Image.Image, draw: ImageDraw.ImageDraw, clip: Clip, top: int, columns: int) -> None:
    outcome_width = font(18).getlength(clip.outcome)
    draw.ellipse((10, top + 11, 22, top + 23), fill=clip.outcome_color)
    draw.text((32, top + 6), clip.outcome, fill=clip.outcome_color, font=font(18))
    text = fit_text(f'"{clip.instruction}"   {clip.title}', 18, int(image.width - 60 - outcome_width))
    draw.text((48 + outcome_width, top + 6), text, fill=INK, font=font(18))
    chosen = np.linspace(0, len(clip.frames) - 1, columns).round().astype(int)
    for column, index in enumerate(chosen):
        frame = cv2.resize(clip.frames[index][0], FRAME_SIZE, interpolation=cv2.INTER_AREA)
        image.paste(Image.fromarray(frame), (GAP + column * (FRAME_SIZE[0] + GAP), top + HEADER_HEIGHT))
