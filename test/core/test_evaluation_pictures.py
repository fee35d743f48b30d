from contextlib import closing

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from openvla_core.evaluation.contact_sheet import contact_sheet, save_contact_sheet
from openvla_core.evaluation.video import GOOD, Clip, Mp4Writer, at_even_times, compose, fit_text, font, write_gif


def make_clip(frames=12, success: bool | None = True, seed=0, noise=False):
    rng = np.random.default_rng(seed)
    overview = [np.full((240, 320, 3), 20 * index % 255, np.uint8) for index in range(frames)]
    if noise:
        overview = [rng.integers(0, 255, (240, 320, 3), dtype=np.uint8) for _ in range(frames)]
    policy = np.full((112, 112, 3), (200, 30, 30), np.uint8)
    return Clip(
        "pick up the red cube", "pick, scene 900000", [(frame, policy) for frame in overview], "success", success
    )


def count_color(picture, color):
    return int((np.abs(picture.astype(int) - color) <= 2).all(axis=-1).sum())


def test_video_is_h264_with_every_frame_and_the_held_outcome(tmp_path):
    with closing(Mp4Writer(tmp_path / "demo.mp4", fps=8)) as writer:
        writer.add(make_clip())
        writer.add(make_clip(success=False))
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "demo.mp4"))
    header = next(reader)
    assert header["codec"] == "h264"
    assert header["size"] == (640, 544)
    assert sum(1 for _ in reader) == 2 * (12 + 8)


def test_film_without_pictures_leaves_no_broken_file(tmp_path):
    with closing(Mp4Writer(tmp_path / "demo.mp4", fps=8)) as writer:
        writer.add(make_clip(frames=0))
    assert not (tmp_path / "demo.mp4").exists()


def test_irregular_frames_keep_their_true_speed():
    assert at_even_times([0.0, 0.1, 0.9, 1.0], fps=4) == [0, 1, 1, 1, 3]
    assert at_even_times([5.0], fps=8) == [0]
    assert at_even_times([], fps=8) == []


def test_inset_shows_the_policy_camera():
    picture = compose(make_clip(), 0)
    assert picture.shape == (544, 640, 3)
    assert count_color(picture, (200, 30, 30)) > 150 * 150


def test_outcome_is_only_on_the_last_picture():
    clip = make_clip()
    assert count_color(compose(clip, 11), GOOD) == 0
    assert count_color(compose(clip, 11, show_outcome=True), GOOD) > 500


def test_different_instructions_look_different():
    first, second = make_clip(), make_clip()
    second.instruction = "pick up the blue cube"
    assert (compose(first, 0)[480:] != compose(second, 0)[480:]).any()
    assert (compose(first, 0)[:480] == compose(second, 0)[:480]).all()


def test_gif_stays_below_its_limit_even_for_noise(tmp_path):
    write_gif(tmp_path / "demo.gif", [make_clip(seed=seed, frames=4, noise=True) for seed in range(3)], fps=4)
    assert 0 < (tmp_path / "demo.gif").stat().st_size <= 1_000_000
    with Image.open(tmp_path / "demo.gif") as image:
        assert image.n_frames > 3


def test_small_coloured_things_keep_their_colour_in_the_gif(tmp_path):
    """A palette of the most frequent colours once made a yellow cube beige and a red one crimson."""
    clip = make_clip(frames=4)
    colors = [(240, 200, 20), (215, 20, 20), (20, 40, 215), (10, 140, 30)]
    for overview, _ in clip.frames:
        overview[:] = np.linspace(150, 220, 320, dtype=np.uint8)[None, :, None]
        for index, color in enumerate(colors):
            overview[200:214, 40 + 30 * index : 54 + 30 * index] = color
    write_gif(tmp_path / "demo.gif", [clip], fps=8)
    picture = np.asarray(Image.open(tmp_path / "demo.gif").convert("RGB")).astype(int)
    scale = picture.shape[1] / 320
    for index, color in enumerate(colors):
        seen = picture[round(207 * scale), round((47 + 30 * index) * scale)]
        assert np.abs(seen - color).max() < 25, (color, seen)


def test_contact_sheet_has_a_row_per_episode_with_frames_in_order(tmp_path):
    save_contact_sheet(tmp_path / "sheet.png", [make_clip(), make_clip(success=None), make_clip(frames=0)])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 188, 6 * 204 + 4, 3)
    middles = [int(sheet[34 + 75, 4 + column * 204 + 100, 0]) for column in range(6)]
    assert middles == [0, 40, 80, 140, 180, 220]


@pytest.mark.parametrize("frames", [1, 3, 100])
def test_contact_sheet_takes_any_length(frames):
    assert contact_sheet([make_clip(frames)]).shape[0] == 188


def test_empty_sheet_is_still_a_picture():
    assert contact_sheet([]).shape[1] == 6 * 204 + 4


def test_long_sentences_are_shortened_to_fit():
    text = fit_text("pick up " * 100, 24, 600)
    assert text.endswith("...")
    assert font(24).getlength(text) <= 600
