"""Which lengths are prepared for."""

import pytest

from openvla_core.engine.buckets import bucket_for, checked_buckets, default_buckets
from openvla_core.errors import ConfigError, InstructionError


@pytest.mark.parametrize(("patches", "longest"), [(256, 2048), (64, 256), (256, 300), (16, 2048)])
@pytest.mark.parametrize("on_cuda", [False, True])
def test_everything_that_the_model_can_read_fits_a_bucket(patches, longest, on_cuda):
    buckets = default_buckets(patches, longest, on_cuda)
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == longest
    assert buckets[0] > patches
    for length in range(patches + 9, longest + 1):
        bucket = bucket_for(length, buckets)
        assert length <= bucket
        assert on_cuda or bucket < length + 8, "padding costs time on a CPU"


def test_a_typical_sentence_of_the_published_model_fits_the_first_bucket_of_a_gpu():
    """256 patches, 24 tokens of a sentence, 7 of an action."""
    assert default_buckets(256, 2048, on_cuda=True)[:3] == (288, 320, 384)
    assert bucket_for(256 + 24 + 7, default_buckets(256, 2048, on_cuda=True)) == 288


def test_what_fits_nowhere_is_refused():
    with pytest.raises(InstructionError, match="301 positions and 300 fit"):
        bucket_for(301, (288, 300))


def test_buckets_are_put_in_order():
    assert checked_buckets((320, 288, 320), 256, 2048) == (288, 320)
    with pytest.raises(ConfigError, match="300"):
        checked_buckets((400,), 256, 300)
