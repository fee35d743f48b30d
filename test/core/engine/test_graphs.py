"""Stages do what plain calls do. A CPU replays by calling again over the fixed buffers that a CUDA graph would use."""

import pytest
import torch
from tiny_models import COUNT, REFERENCE, inputs, partly_right, tiny_model

from openvla_core.engine.engine import Engine
from openvla_core.engine.graphs import Stages


def double(x):
    return 2 * x


@pytest.mark.parametrize("capture", [None, False, True])
def test_the_result_is_that_of_the_function(capture):
    stages = Stages("cpu", capture)
    for value in range(3):
        assert stages.run("double", double, torch.tensor([value])).tolist() == [2 * value]


def test_a_cpu_records_only_when_told_to():
    assert not Stages("cpu").capturing
    assert Stages("cpu", capture=True).capturing


@pytest.mark.parametrize("capture", [False, True])
def test_a_new_name_shape_or_type_is_a_new_capture_and_nothing_else_is(capture):
    stages = Stages("cpu", capture)
    x = torch.zeros(2, 3)
    for _ in range(3):
        for name, given in (("a", x), ("b", x), ("a", x[:1]), ("a", x.half()), ("a", x.T), ("a", x.T.contiguous())):
            stages.run(name, double, given)
        assert stages.captures == 5
    assert stages.names == ("a", "a", "a", "a", "b")


def test_results_stay_in_one_place_and_inputs_are_copied():
    stages = Stages("cpu", capture=True)
    given = torch.tensor([1.0])
    first = stages.run("double", double, given)
    assert stages.run("double", double, torch.tensor([4.0])).data_ptr() == first.data_ptr()
    assert first.item() == 8
    assert given.item() == 1


def test_the_first_function_of_a_name_is_the_one_that_stays():
    """As in a graph: what a later function closes over is not looked at."""
    stages = Stages("cpu", capture=True)
    stages.run("work", double, torch.ones(1))
    assert stages.run("work", lambda x: x / 0, torch.ones(1)).item() == 2


def test_tensors_that_stay_where_they_are_carry_state():
    stages, cache = Stages("cpu", capture=True), torch.zeros(4)

    def write(position, value):
        cache.index_copy_(0, position, value)

    for i in range(4):
        assert stages.run("write", write, torch.tensor([i]), torch.tensor([i + 0.5])) is None
    assert cache.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert stages.captures == 1


def test_several_results_are_a_tuple():
    stages = Stages("cpu", capture=True)
    for value in (1, 2):
        found = stages.run("both", lambda x: (x + 1, x.double() / 2), torch.tensor([value]))
        assert [float(tensor) for tensor in found] == [value + 1, value / 2]


class Unrecordable(Stages):
    """On which no recording succeeds."""

    error: type[RuntimeError] = RuntimeError

    def __init__(self, capture):
        super().__init__("cpu", capture)
        self.capturing = True

    def _record(self, function, inputs):
        raise self.error("operation not permitted when stream is capturing")


def test_what_cannot_be_recorded_is_called_and_said_once(caplog):
    stages = Unrecordable(None)
    for value in (1, 2):
        assert stages.run("double", double, torch.tensor([value])).tolist() == [2 * value]
    assert caplog.text.count("stage 'double' cannot be recorded as a CUDA graph") == 1


def test_who_insists_on_graphs_is_told():
    with pytest.raises(RuntimeError, match="not permitted"):
        Unrecordable(True).run("double", double, torch.ones(1))


def test_want_of_memory_is_never_hidden(monkeypatch):
    monkeypatch.setattr(Unrecordable, "error", torch.OutOfMemoryError)
    with pytest.raises(torch.OutOfMemoryError):
        Unrecordable(None).run("double", double, torch.ones(1))


@pytest.mark.parametrize("drafts", [False, True])
def test_the_engine_gives_the_same_bits_through_fixed_buffers_and_records_once(drafts):
    """Sentences of other lengths, drafts, right or wrong, and batches: nothing is recorded anew after the first."""
    model = tiny_model()
    plain = Engine(model, drafts=drafts, buckets=(48,), graphs=False)
    fixed = Engine(model, drafts=drafts, buckets=(48,), graphs=True)
    fixed.warm_up(REFERENCE, COUNT)
    recorded = fixed._stages.captures
    assert recorded >= 2
    kept = []
    for seed in range(8):
        given = inputs(6 + seed, seed)
        expected = plain.generate(REFERENCE, *given, COUNT)
        draft = partly_right(expected.ids, [seed % COUNT])
        found = fixed.generate(REFERENCE, *given, COUNT, draft)
        assert found.ids.tolist() == expected.ids.tolist()
        assert torch.equal(found.logits, expected.logits)
        kept.append((found, expected))
    assert fixed._stages.captures == recorded
    for found, expected in kept:
        assert torch.equal(found.logits, expected.logits), "an answer was overwritten by a later one"
