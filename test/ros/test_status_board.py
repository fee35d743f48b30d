"""What a node says of itself, and how often."""

from openvla_ros.status_board import REPEAT_S, RecentWords
from openvla_ros.timing import Histogram


def test_a_state_that_comes_and_goes_fills_no_log():
    words = RecentWords()
    said = [words.worth_saying(text, 0.3 * i) for i in range(20) for text in ("HOLD", "ACTIVE")]
    repeats = [f"{word} (16 times more in 5 s)" for word in ("HOLD", "ACTIVE")]
    assert [text for text in said if text] == ["HOLD", "ACTIVE", *repeats]


def test_a_fault_is_always_said():
    words = RecentWords()
    assert [words.worth_saying("FAULT", 0.1 * i, always=True) for i in range(3)] == ["FAULT"] * 3


def test_sentences_with_numbers_are_forgotten():
    words = RecentWords()
    for i in range(1000):
        words.worth_saying(f"within {i} s", i * REPEAT_S / 10)
    assert len(words._said) <= 21


def test_a_histogram_counts_each_time_once():
    histogram = Histogram((50, 100))
    for seconds in (0.01, 0.05, 0.0501, 3.0):
        histogram.add(seconds)
    assert histogram.values("x") == {"x_le_50_ms": "2", "x_le_100_ms": "1", "x_gt_100_ms": "1"}
