"""Weights, epochs and the shuffled order, which no table holds."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_core.datasets.oxe.mixture import apportion, mixture_of
from openvla_core.datasets.streaming.order import MixedOrder, StepOrder, rounds
from openvla_core.datasets.streaming.shuffle import mixed, permuted
from openvla_core.errors import DatasetError

mixtures = st.lists(
    st.tuples(st.integers(1, 60), st.sampled_from([1.0, 2.0, 0.1, 0.06, 3.0, 0.54087122203])), min_size=1, max_size=9
)


def of(members: list[tuple[int, float]]):
    return mixture_of([str(i) for i in range(len(members))], *zip(*members, strict=True))


@given(st.integers(1, 150), st.integers(0, 2**64 - 1))
def test_every_number_comes_exactly_once(count, key):
    assert sorted(permuted(place, count, key) for place in range(count)) == list(range(count))


def test_shuffled_neighbours_are_unrelated():
    drawn = np.array([permuted(place, 20_000, 3) for place in range(20_000)])
    # For unrelated numbers the spread of a correlation is 1 / sqrt(20,000) = 0.007.
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn, np.arange(20_000))[0, 1]) < 0.03


def test_every_order_of_four_comes_up_equally_often():
    orders = Counter(tuple(permuted(place, 4, mixed(key)) for place in range(4)) for key in range(6_000))
    assert len(orders) == 24
    # 250 each, spread 16.
    assert min(orders.values()) > 180
    assert max(orders.values()) < 320


def test_orders_are_the_same_on_every_machine():
    """A training resumed under another version of Python or numpy must go on with the same samples."""
    assert [permuted(place, 10, 42) for place in range(10)] == [1, 9, 0, 4, 2, 6, 3, 8, 7, 5]
    assert mixed(1, 2, 3) == 15205877802699428709


@given(mixtures, st.integers(1, 100))
def test_rounds_add_up_and_stay_near_the_shares(members, length):
    counts = of(members).counts()
    table = rounds(counts, length)
    assert (np.diff(table, axis=0) >= 0).all()
    assert (table[-1] == counts).all()
    due = counts * (table.sum(axis=1) / counts.sum())[:, None]
    assert np.abs(table - due).max() < 2.0


@settings(max_examples=30)
@given(mixtures, st.integers(0, 3), st.integers(0, 1000))
def test_an_epoch_draws_each_step_equally_often_within_its_data_set(members, window, seed):
    mixture = of(members)
    ends = [np.unique([max(1, size // 3), max(1, size // 2), size]) for size in mixture.sizes]
    order = MixedOrder(mixture, seed, ends, window, round_length=64)
    drawn = Counter(order(number) for number in range(mixture.epoch_length))
    for i, (size, count) in enumerate(zip(mixture.sizes, mixture.counts(), strict=True)):
        times = [drawn[i, step] for step in range(size)]
        assert sum(times) == count
        assert max(times) - min(times) <= 1


def test_the_second_epoch_goes_on_where_a_pass_was_cut():
    """Steps that an epoch had no room for come first in the next."""
    mixture = mixture_of("ab", [30, 100], [1.0, 0.5])
    order = MixedOrder(mixture, 0)
    drawn = Counter(order(number) for number in range(2 * mixture.epoch_length))
    assert all(drawn[1, step] == 1 for step in range(100))


def test_a_window_reads_few_shards_at_a_time():
    ends = np.arange(10, 1010, 10)
    order = StepOrder(ends, key=5, window=4)
    steps = np.array([order(place) for place in range(1000)])
    shards = np.searchsorted(ends, steps, side="right").reshape(-1, 40)
    assert [len(set(window)) for window in shards] == [4] * 25
    assert len({tuple(sorted(set(window))) for window in shards}) == 25
    assert sorted(steps) == list(range(1000))
    again = [order(place) for place in range(1000, 2000)]
    assert sorted(again) == list(range(1000))
    assert again != steps.tolist()


def test_shares_become_whole_numbers():
    np.testing.assert_array_equal(apportion(np.array([0.5, 0.3, 0.2]), 11), [6, 3, 2])


@pytest.mark.parametrize(
    ("names", "sizes", "weights"),
    [("", [], []), ("a", [0], [1.0]), ("a", [5], [0.0]), ("a", [5], [float("inf")]), ("a", [5], [1.0, 2.0])],
)
def test_empty_and_endless_data_sets_are_refused(names, sizes, weights):
    with pytest.raises(DatasetError):
        mixture_of(names, sizes, weights)


def test_without_a_primary_data_set_an_epoch_sees_everything():
    mixture = mixture_of("ab", [100, 50], [0.5, 2.0])
    assert mixture.epoch_length == 300  # the first is drawn in a third of the samples
    np.testing.assert_array_equal(mixture.counts(), [100, 200])
