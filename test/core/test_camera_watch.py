"""Which frames may be acted on; all clocks are played by hand."""

import numpy as np
import pytest

from openvla_core.camera_watch import CameraWatch, picture_warning

PERIOD_S = 0.1
START_NS = 10**12
random = np.random.default_rng(0)


class Bench:
    """A camera at 10 Hz in front of a robot that moves or not."""

    def __init__(self, **options) -> None:
        self.watch = CameraWatch(**{"max_age_s": 0.5, "frame_id": "", "topic": "/camera", **options})
        self.now_s = 0.0
        self.joint = 0.0

    @property
    def ros_ns(self) -> int:
        return START_NS + round(self.now_s * 1e9)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def frame(self, data=None, shift_s=0.0, stamp_ns=None, frame_id="camera", moves=0.0) -> bool:
        self.now_s += PERIOD_S
        self.joint += moves
        self.watch.on_motion("joints", np.array([self.joint, 0.0]))
        data = random.integers(0, 256, 100, dtype=np.uint8) if data is None else data
        stamp_ns = self.ros_ns + round(shift_s * 1e9) if stamp_ns is None else stamp_ns
        return self.watch.on_frame(stamp_ns, frame_id, data, self.ros_ns, self.now_s)

    @property
    def code(self) -> str:
        problem = self.watch.problem(self.now_s)
        return problem.code if problem else ""


def test_fresh_frames_are_good_from_the_first_one():
    bench = Bench()
    assert bench.code == "CAM_STALE"
    assert bench.frame() and bench.frame()
    assert bench.code == ""


def test_after_a_silence_three_frames_must_come():
    bench = Bench()
    bench.frame()
    bench.wait(0.6)
    assert bench.code == "CAM_STALE"
    assert [bench.frame() for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("shift_s", "reason"), [(-1.0, "old"), (10.0, "future"), (0.06, "future"), (-0.2, "backwards")]
)
def test_frames_from_another_time_are_dropped_and_counted(shift_s, reason):
    bench = Bench()
    bench.frame()
    bench.frame()
    assert not bench.frame(shift_s=shift_s)
    assert bench.watch.dropped == {reason: 1}
    assert not bench.frame() and not bench.frame() and bench.frame()


def test_a_frame_that_comes_again_is_no_new_one():
    bench = Bench()
    stamp_ns = bench.ros_ns + 10**8
    assert bench.frame(stamp_ns=stamp_ns)
    assert not any(bench.frame(stamp_ns=stamp_ns) for _ in range(7))
    assert bench.code == "CAM_STALE" and "same stamp" in bench.watch.problem(bench.now_s).sentence


def test_frames_go_on_after_our_own_clock_went_back():
    bench = Bench()
    bench.frame()
    global_start = bench.ros_ns - 3600 * 10**9
    bench.now_s += PERIOD_S
    assert bench.watch.on_frame(global_start, "camera", np.zeros(3, np.uint8), global_start, bench.now_s)


@pytest.mark.parametrize(("moves", "code"), [(0.01, "CAM_FROZEN"), (0.0001, "")])
def test_one_picture_for_a_second_is_frozen_only_if_the_robot_moves(moves, code):
    bench = Bench()
    data = np.arange(100, dtype=np.uint8)
    for _ in range(12):
        good = bench.frame(data.copy(), moves=moves)
    assert bench.code == code
    assert good == (code == "")
    assert [bench.frame() for _ in range(3)][-1]


def test_one_changed_bit_is_another_picture():
    bench = Bench()
    data = np.zeros(100, np.uint8)
    for count in range(30):
        data = data.copy()
        data[50] ^= count % 2
        assert bench.frame(data, moves=0.01)


def test_only_the_camera_that_is_named_counts():
    bench = Bench(frame_id="wrist")
    assert not bench.frame(frame_id="front")
    assert bench.code == "CAM_FRAME"
    assert not bench.frame(frame_id="")
    assert "no frame" in bench.watch.problem(bench.now_s).sentence


@pytest.mark.parametrize(
    ("picture", "word"),
    [(np.zeros, "black"), (lambda shape: np.full(shape, 255), "white"), (lambda shape: np.full(shape, 100), "colour")],
)
def test_a_picture_that_shows_nothing_is_named(picture, word):
    assert word in picture_warning(picture((64, 64, 3)).astype(np.uint8))


def test_a_picture_that_shows_something_is_fine():
    assert picture_warning(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) == ""
