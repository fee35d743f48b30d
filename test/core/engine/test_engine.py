"""The engine says what transformers says, token for token, wherever a prompt ends within a bucket."""

import gc

import pytest
import torch
from tiny_models import COUNT, PATCHES, REFERENCE, inputs, partly_right, published, tiny_model

from openvla_core.decoding import Decoder, generate
from openvla_core.engine.engine import Engine
from openvla_core.errors import ConfigError, InstructionError

BUCKETS = (32, 40, 48, 56, 64, 72)
# Words of the prompts whose image, words and answer fill a bucket less one, exactly, and by one too many.
AT_THE_EDGES = [bucket + offset - COUNT - PATCHES for bucket in BUCKETS[:-1] for offset in (-1, 0, 1)]


@pytest.mark.parametrize("kv_heads", [4, 2], ids=["multi-head", "grouped"])
def test_tokens_are_those_of_transformers_at_every_edge_of_a_bucket(kv_heads):
    """105 inputs each; without drafts, and with drafts of which all, half and none are right."""
    model = tiny_model(kv_heads)
    plain, drafted = Engine(model, buckets=BUCKETS), Engine(model, buckets=BUCKETS, drafts=True)
    cases = [(words, seed) for words in AT_THE_EDGES for seed in range(7)]
    assert len(cases) > 100
    answers = set()
    for number, (words, seed) in enumerate(cases):
        given = inputs(words, 1000 * words + seed)
        ids, logits = published(model, *given)
        answers.add(tuple(ids.tolist()))
        found = [plain.generate(REFERENCE, *given, COUNT)]
        wrong = [[], [0, 1, 3, 5], list(range(COUNT))][number % 3]
        found.append(drafted.generate(REFERENCE, *given, COUNT, partly_right(ids, wrong)))
        for generated in found:
            assert generated.ids.tolist() == ids.tolist()
            assert (generated.logits - logits).abs().max() <= 1e-4
            assert generated.logits.dtype == torch.float32
        assert found[0].passes == COUNT - 1
        assert found[1].passes == 1 + len([i for i in wrong if 0 < i < COUNT - 1])
    assert len(answers) > 50, "the model would answer everything alike"


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("drafts", [False, True])
def test_logits_are_those_of_the_plain_loop_in_bfloat16_too(kv_heads, drafts):
    """To some roundings: bfloat16 keeps 8 bits, and products of other shapes add up in another order."""
    model = tiny_model(kv_heads, torch.bfloat16)
    engine = Engine(model, buckets=BUCKETS, drafts=drafts)
    for seed in range(5):
        given = inputs(12, seed)
        _, logits = generate(model, REFERENCE, *given, 1)
        found = engine.generate(REFERENCE, *given, 1)
        torch.testing.assert_close(found.logits, logits, rtol=0.05, atol=0.02 * logits.abs().max().item())
        assert found.passes == 0


def test_constrained_decoding_stays_among_the_action_tokens():
    model = tiny_model()
    engine, decoder = Engine(model), Decoder("constrained", 256, 512)
    for seed in range(5):
        given = inputs(12, seed)
        ids, logits = generate(model, decoder, *given, COUNT)
        found = engine.generate(decoder, *given, COUNT)
        assert found.ids.tolist() == ids.tolist()
        assert ((found.ids >= 256) & (found.ids < 512)).all()
        assert (found.logits - logits).abs().max() <= 1e-4


@pytest.mark.parametrize("drafts", [False, True])
def test_random_draws_are_those_of_the_plain_loop(drafts):
    """For the same state of the generator; a draft is not looked at, since it would change what is drawn."""
    model = tiny_model()
    engine = Engine(model, drafts=drafts)
    decoders = [Decoder("constrained", 256, 512, 1.0, torch.Generator().manual_seed(5)) for _ in range(2)]
    drawn = []
    for seed in range(5):
        given = inputs(12, seed)
        drawn.append(generate(model, decoders[0], *given, COUNT)[0])
        engine.warm_up(decoders[1], COUNT)  # draws nothing
        found = engine.generate(decoders[1], *given, COUNT, drawn[-1])
        assert found.ids.tolist() == drawn[-1].tolist()
        assert (found.passes, found.proposed) == (COUNT - 1, 0)
    assert len({tuple(ids.tolist()) for ids in drawn}) == 5


def test_nothing_is_made_anew_within_a_bucket():
    """200 calls with sentences of changing lengths: the caches stay where they are and no tensor is left over."""
    engine = Engine(tiny_model(), buckets=BUCKETS)
    lengths = (5, 6, 9)  # 28, 29 and 32 positions: one bucket
    for words in lengths:
        engine.generate(REFERENCE, *inputs(words, 0), COUNT)
    place = engine._places[1, 32]
    lies_at = place.cache.tensor.data_ptr()
    before = living_tensors()
    prepared = engine.prepared
    for i in range(200):
        engine.generate(REFERENCE, *inputs(lengths[i % 3], i), COUNT)
    assert living_tensors() == before
    assert engine._places[1, 32] is place
    assert place.cache.tensor.data_ptr() == lies_at
    assert engine.prepared == prepared


def living_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_what_a_broken_answer_left_behind_does_not_reach_the_next():
    """Masked positions are multiplied by zero, and zero times NaN is NaN."""
    model = tiny_model()
    engine = Engine(model, buckets=(64,), drafts=True)
    given, other = inputs(12, 0), inputs(30, 1)
    expected = engine.generate(REFERENCE, *given, COUNT)
    weight = model.language_model.model.layers[0].self_attn.v_proj.weight
    with torch.no_grad():
        healthy = weight.clone()
        weight.fill_(float("nan"))
        assert engine.generate(REFERENCE, *other, COUNT).logits.isnan().any()
        weight.copy_(healthy)
    found = engine.generate(REFERENCE, *given, COUNT)
    assert torch.equal(found.logits, expected.logits)


def test_stages_that_keep_their_buffers_give_the_same():
    """How a GPU runs it, as far as a CPU can: inputs are copied in, outputs overwritten, functions not called anew."""
    model = tiny_model()
    for drafts in (False, True):
        plain, recorded = Engine(model, drafts=drafts), Engine(model, drafts=drafts, graphs=True, most=4)
        for seed in range(6):
            given = inputs(10 + seed, seed)
            expected = plain.generate(REFERENCE, *given, COUNT)
            found = recorded.generate(REFERENCE, *given, COUNT, partly_right(expected.ids, [2]))
            assert found.ids.tolist() == expected.ids.tolist()
            assert torch.equal(found.logits, expected.logits)
        batch = [inputs(8 + seed, seed) for seed in range(3)]
        pixels = torch.cat([pixels for _, pixels in batch])
        for (ids, own), member in zip(
            batch, recorded.generate_batch(REFERENCE, [i for i, _ in batch], pixels, COUNT), strict=True
        ):
            assert member.ids.tolist() == plain.generate(REFERENCE, ids, own, COUNT).ids.tolist()


def test_compiled_layers_share_their_code_and_have_no_gaps(monkeypatch):
    """Compiled for real it takes minutes on a small machine; what would break or be compiled twice shows like this."""
    monkeypatch.setattr("openvla_core.engine.decoder.compile_layer", eagerly)
    monkeypatch.setattr("openvla_core.engine.engine.compile_layer", eagerly)
    torch._dynamo.reset()
    model = tiny_model(layers=4)
    engine = Engine(model, buckets=(48,), compile_layers=True)
    given = inputs(20, 0)
    torch._dynamo.utils.counters.clear()
    found = engine.generate(REFERENCE, *given, COUNT)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.compiler.set_stance("fail_on_recompile"):
        engine.generate(REFERENCE, *inputs(12, 1), COUNT)
    assert found.ids.tolist() == published(model, *given)[0].tolist()
    # Blocks of two towers, a layer of the prompt, a layer of rows: for one sequence, a few kinds and not one per layer.
    assert compiled <= 5


def eagerly(function, device):
    return torch.compile(function, dynamic=False, fullgraph=True, backend="eager")


def test_a_sentence_that_fits_no_bucket_is_refused():
    engine = Engine(tiny_model(), buckets=(32, 40))
    with pytest.raises(InstructionError, match="41 positions and 40 fit"):
        engine.generate(REFERENCE, *inputs(18, 0), COUNT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most": 0}, "most is 0"),
        ({"buckets": ()}, "buckets are"),
        ({"buckets": (18,)}, "from 19"),
        ({"buckets": (64, 100_000)}, "to 2048"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Engine(tiny_model(), **options)


def test_a_warm_up_says_what_it_does_and_prepares_what_is_used():
    engine = Engine(tiny_model(), drafts=True, graphs=True)
    sentences: list[str] = []
    engine.warm_up(REFERENCE, COUNT, sentences.append)
    assert sentences and "positions" in sentences[0]
    prepared = engine.prepared
    words = int(next(word for word in sentences[0].split() if word.isdigit())) - PATCHES - COUNT
    first = engine.generate(REFERENCE, *inputs(words, 0), COUNT)
    engine.generate(REFERENCE, *inputs(words, 0), COUNT, first.ids)
    assert engine.prepared == prepared
