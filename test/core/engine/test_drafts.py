"""A guess saves passes and changes nothing, not a bit of a logit."""

import itertools

import pytest
import torch
from tiny_models import COUNT, REFERENCE, inputs, partly_right, tiny_model

from openvla_core.engine.drafts import DraftFigures, PreviousAction
from openvla_core.engine.engine import Engine
from openvla_core.errors import ConfigError


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize(("hidden", "kv_heads"), [(32, 4), (128, 2)])
def test_with_and_without_a_guess_the_bits_are_the_same(dtype, hidden, kv_heads):
    """Every pass has eight rows, so that the same kernels run; what stands in other rows does not reach this one."""
    engine = Engine(tiny_model(kv_heads, dtype, hidden, layers=3), drafts=True)
    for seed in range(8):
        given = inputs(10 + seed % 9, seed)
        alone = engine.generate(REFERENCE, *given, COUNT)
        for wrong in ([], [seed % COUNT], [1, 3, 5], list(range(COUNT))):
            found = engine.generate(REFERENCE, *given, COUNT, partly_right(alone.ids, wrong))
            assert torch.equal(found.ids, alone.ids)
            assert torch.equal(found.logits, alone.logits)


def test_a_pass_is_needed_for_every_wrong_guess_and_one_more():
    """Of the guesses 2 to 6; the first token comes from the prompt, and nothing follows the last."""
    engine = Engine(tiny_model(), drafts=True)
    given = inputs(12, 0)
    ids = engine.generate(REFERENCE, *given, COUNT).ids
    most = 0
    for wrong in itertools.chain.from_iterable(itertools.combinations(range(COUNT), n) for n in range(COUNT + 1)):
        found = engine.generate(REFERENCE, *given, COUNT, partly_right(ids, list(wrong)))
        mistakes = sum(0 < i < COUNT - 1 for i in wrong)
        assert found.passes == 1 + mistakes
        assert (found.proposed, found.accepted) == (COUNT - 2, COUNT - 2 - mistakes)
        most = max(most, found.passes)
    assert most == COUNT - 1, "never more than without"


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 10, 20])
def test_answers_of_any_length_take_guesses(count):
    engine = Engine(tiny_model(), drafts=True)
    given = inputs(12, 0)
    alone = engine.generate(REFERENCE, *given, count)
    assert alone.passes == count - 1
    for wrong in ([], [count // 2], list(range(count))):
        found = engine.generate(REFERENCE, *given, count, partly_right(alone.ids, wrong))
        assert torch.equal(found.logits, alone.logits)
        assert found.passes <= alone.passes
    right = engine.generate(REFERENCE, *given, count, alone.ids)
    assert right.passes == -(-(count - 1) // 8)


def test_guesses_that_are_no_tokens_are_only_wrong():
    engine = Engine(tiny_model(), drafts=True)
    given = inputs(12, 0)
    alone = engine.generate(REFERENCE, *given, COUNT)
    found = engine.generate(REFERENCE, *given, COUNT, torch.tensor([-1, 10**12, 576, -(10**12), 575, 0, 1]))
    assert torch.equal(found.logits, alone.logits)
    assert found.accepted == 0


def test_a_guess_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="each of the 7 tokens"):
        Engine(tiny_model(), drafts=True).generate(REFERENCE, *inputs(12, 0), COUNT, torch.zeros(6, dtype=torch.int64))


def test_an_engine_without_drafts_does_not_look_at_them():
    engine = Engine(tiny_model())
    given = inputs(12, 0)
    alone = engine.generate(REFERENCE, *given, COUNT)
    found = engine.generate(REFERENCE, *given, COUNT, alone.ids)
    assert (found.passes, found.proposed) == (COUNT - 1, 0)
    assert torch.equal(found.logits, alone.logits)


def test_an_output_that_is_not_finite_ends_as_it_would_without():
    model = tiny_model()
    with torch.no_grad():
        model.language_model.lm_head.weight[300] = float("nan")
    engine = Engine(model, drafts=True)
    found = engine.generate(REFERENCE, *inputs(12, 0), COUNT, torch.full((COUNT,), 300))
    assert found.logits.isnan().any()
    assert len(found.ids) == COUNT


def test_what_came_of_the_guesses_is_counted():
    engine = Engine(tiny_model(), drafts=True)
    given = inputs(12, 0)
    ids = engine.generate(REFERENCE, *given, COUNT).ids
    engine.generate(REFERENCE, *given, COUNT, partly_right(ids, [2]))
    assert engine.figures == DraftFigures(actions=2, passes=6 + 2, proposed=5, accepted=4)


def test_the_action_before_is_proposed_when_it_has_as_many_tokens():
    proposer = PreviousAction()
    assert proposer.propose(7) is None
    proposer.observe(torch.arange(7))
    assert torch.equal(proposer.propose(7), torch.arange(7))
    assert proposer.propose(6) is None
