"""Several sequences at once, each as if it were alone."""

import torch
from tiny_models import COUNT, REFERENCE, inputs, published, tiny_model

from openvla_core.decoding import Decoder
from openvla_core.engine.engine import Engine, Generated

LENGTHS = (5, 18, 11, 12, 30, 6, 25)


def together(engine: Engine, members: list, count: int = COUNT, decoder: Decoder = REFERENCE) -> list[Generated]:
    pixels = torch.cat([pixels for _, pixels in members])
    return engine.generate_batch(decoder, [ids for ids, _ in members], pixels, count)


def test_every_member_gets_the_answer_it_would_get_alone():
    """Token for token; logits to 1e-4, since a product of more rows may add up in another order."""
    for kv_heads in (4, 2):
        model = tiny_model(kv_heads)
        for most in (1, 3, 8):
            engine = Engine(model, most=most)
            members = [inputs(words, seed) for seed, words in enumerate(LENGTHS)]
            for given, found in zip(members, together(engine, members), strict=True):
                ids, logits = published(model, *given)
                assert found.ids.tolist() == ids.tolist()
                assert (found.logits - logits).abs().max() <= 1e-4
                assert found.passes == COUNT - 1


def test_in_bfloat16_members_agree_with_themselves_alone_to_roundings():
    """Not to the bit: a product of other shapes rounds elsewhere. A batch repeated is the same to the bit."""
    model = tiny_model(dtype=torch.bfloat16)
    engine = Engine(model, most=8)
    members = [inputs(12, seed) for seed in range(4)]
    first, second = together(engine, members), together(engine, members)
    for given, found, again in zip(members, first, second, strict=True):
        assert torch.equal(found.logits, again.logits)
        alone = engine.generate(REFERENCE, *given, 1)
        scale = float(alone.logits.abs().max())
        torch.testing.assert_close(found.logits[:1], alone.logits, rtol=0.05, atol=0.02 * scale)


def test_a_member_whose_output_is_not_finite_harms_no_other():
    model = tiny_model()
    members = [inputs(words, seed) for seed, words in enumerate(LENGTHS)]
    expected = together(Engine(model, most=8), members)
    members[2][0][0, 4] = 251  # a word that no other sentence has
    with torch.no_grad():
        model.language_model.model.embed_tokens.weight[251] = float("nan")
    found = together(Engine(model, most=8), members)
    assert found[2].logits.isnan().all()
    for i in (0, 1, 3, 4, 5, 6):
        assert torch.equal(found[i].logits, expected[i].logits)


def test_a_cache_is_made_once_for_each_size_of_a_batch():
    engine = Engine(tiny_model(), most=4, buckets=(64,))
    members = [inputs(words, seed) for seed, words in enumerate(LENGTHS)]
    together(engine, members)
    places = {key: place.cache.tensor.data_ptr() for key, place in engine._places.items()}
    assert set(places) == {(4, 64), (3, 64)}
    together(engine, members[::-1])
    assert {key: place.cache.tensor.data_ptr() for key, place in engine._places.items()} == places


def test_nobody_asks_for_nothing():
    engine = Engine(tiny_model())
    assert engine.generate_batch(REFERENCE, [], torch.zeros(0, 6, 56, 56), COUNT) == []
