"""Each step is one frame and what was known when it was taken: never more."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_core.datasets.alignment import Series, align, choose_frames
from openvla_core.datasets.bags.stream import Stream
from openvla_core.errors import DatasetError

MS = 1_000_000
S = 1_000_000_000


def stream(stamps, values=None) -> Stream:
    stamps = np.asarray(stamps, dtype=np.int64)
    values = np.arange(len(stamps), dtype=np.float64)[:, None] if values is None else np.asarray(values)
    return Stream("/t", "std_msgs/msg/Float64", stamps, stamps, values)


def regular(rate_hz: float, seconds: float, offset_ns: int = 0) -> np.ndarray:
    return (np.arange(int(seconds * rate_hz)) * (S / rate_hz)).astype(np.int64) + offset_ns


def test_as_of_is_the_newest_message_not_after_the_time():
    series = Series.of(stream([10, 20, 30]))
    assert series.as_of(np.array([5, 10, 19, 20, 99])).tolist() == [-1, 0, 0, 1, 2]


def test_messages_out_of_order_are_put_in_order_and_of_twins_the_first_stays():
    series = Series.of(stream([30, 10, 20, 20]))
    assert series.stamps_ns.tolist() == [10, 20, 30]
    assert series.order.tolist() == [1, 2, 0]


@pytest.mark.parametrize("camera_hz, rate_hz", [(30, 5), (30, 10), (15, 5), (10, 10), (5, 5), (60, 7.5), (29.97, 5)])
def test_steps_come_at_the_rate(camera_hz, rate_hz):
    stamps = regular(camera_hz, 20)
    chosen, missed = choose_frames(stamps, rate_hz)
    assert missed == 0
    times = stamps[chosen] / S
    # Nearest to the grid: no frame is further from it than half the time between two frames.
    np.testing.assert_allclose(times, np.arange(len(times)) / rate_hz, atol=0.5 / camera_hz + 1e-6)
    assert abs(len(chosen) - 20 * rate_hz) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_a_jittery_camera_at_the_very_rate_loses_nothing(seed):
    jitter = np.random.default_rng(seed).integers(-40 * MS, 40 * MS, 100)
    chosen, missed = choose_frames(regular(5, 20) + jitter, 5.0)
    assert (len(chosen), missed) == (100, 0)


def test_a_pause_of_the_camera_is_counted_and_the_grid_begins_again():
    stamps = np.concatenate([regular(30, 2), regular(30, 2, offset_ns=int(3.07 * S))])
    chosen, missed = choose_frames(stamps, 5.0)
    after = stamps[chosen][stamps[chosen] > 2.5 * S]
    assert missed == 5
    assert after[0] == stamps[60]
    np.testing.assert_allclose(np.diff(after) / S, 0.2, atol=0.002)


def test_a_label_never_spans_a_hole():
    camera = np.concatenate([regular(5, 2), regular(5, 2, offset_ns=4 * S)])
    steps = align(stream(camera), {"pose": stream(regular(50, 7))}, {}, 5.0)
    spans = steps.following["pose"] - steps.latest["pose"]
    assert spans.max() <= 15
    assert np.bincount(steps.segment).tolist() == [9, 9]
    assert steps.counts == {"frames missing": 10, "without a next step": 2}


def test_stale_values_drop_their_steps_and_are_counted():
    pose = regular(50, 8)
    pose = pose[(pose < 3 * S) | (pose > 5 * S)]
    steps = align(stream(regular(10, 8)), {"pose": stream(pose)}, {}, 5.0)
    ages = steps.stamps_ns - pose[steps.latest["pose"]]
    assert ages.max() <= 0.1 * S
    assert steps.counts["pose older than 0.1 s"] == 10
    assert not ((steps.stamps_ns > 3.1 * S) & (steps.stamps_ns < 5 * S)).any()


def test_a_latched_value_stays_in_force():
    steps = align(stream(regular(10, 4)), {}, {"gripper_command": stream([S])}, 5.0)
    assert steps.latest["gripper_command"].tolist() == [-1] * 5 + [0] * (len(steps.stamps_ns) - 5)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(DatasetError, match="above 0"):
        choose_frames(regular(10, 1), 0.0)


times = st.lists(st.integers(0, 4000), min_size=2, max_size=60).map(lambda ms: [m * MS for m in ms])


@given(
    camera=times,
    pose=times,
    later_camera=times,
    later_pose=times,
    cut=st.integers(0, 4000),
    rate=st.sampled_from([5.0, 10.0]),
)
def test_nothing_later_than_a_step_changes_it(camera, pose, later_camera, later_pose, cut, rate):
    """Replaces everything after a time: the steps whose next frame came before it stay exactly as they were."""
    cut *= MS

    def steps(frames, poses):
        kept = align(stream(frames), {"pose": stream(poses)}, {}, rate)
        values = {int(s): (int(f), int(frames[f]), int(poses[p])) for s, f, p in zip(
            kept.stamps_ns, kept.frames, kept.latest["pose"], strict=True)}  # fmt: skip
        ends = {int(s): int(poses[p]) for s, p in zip(kept.stamps_ns, kept.following["pose"], strict=True)}
        return kept, values, ends

    early_frames, early_poses = [c for c in camera if c <= cut], [p for p in pose if p <= cut]
    first = steps(early_frames + [c for c in camera if c > cut], early_poses + [p for p in pose if p > cut])
    second = steps(
        early_frames + [c for c in later_camera if c > cut], early_poses + [p for p in later_pose if p > cut]
    )
    # Whether a step has a label depends on the next one, so the last step before the cut is left out here.
    chosen = [t for t in sorted(set(first[1]) | set(second[1])) if t <= cut]
    complete = chosen[:-1] if chosen else []
    for t in complete:
        assert first[1].get(t) == second[1].get(t)
    for t in complete[:-1]:
        assert first[2].get(t) == second[2].get(t)
