"""A training example shows the model what serving shows it: same prompt, same picture, same tokens."""

import numpy as np
import pytest
import torch
from made_episodes import made, picture

from openvla_core.action_statistics import ActionStatistics
from openvla_core.action_tokenizer import ActionTokenizer
from openvla_core.datasets.examples import ExampleBuilder, PixelNormalizer, collate, training_preparation
from openvla_core.datasets.streaming.loader import StreamingLoader, padding_collate, sample_rng
from openvla_core.datasets.streaming.sources import EpisodeSteps, Step
from openvla_core.errors import ConfigError, DatasetError
from openvla_core.image_preparation import PRESETS, ImagePreparation
from openvla_core.processor import Processor
from openvla_core.prompt import IGNORE_INDEX
from openvla_core.training.augmentation import Augmentation

STATISTICS = ActionStatistics.from_dict(
    {"q01": [-0.05] * 6 + [0.0], "q99": [0.05] * 6 + [1.0], "mask": [True] * 6 + [False]}
)
ANY = {"": STATISTICS}


@pytest.fixture(scope="module")
def policy(word_checkpoint):
    from openvla_core import load_policy

    return load_policy(word_checkpoint)


def processor_with(policy, preset: str) -> Processor:
    served = policy.processor
    size = served.image_processor.towers[0].crop[0]
    preparation = ImagePreparation.from_card(preset, size)
    return Processor(served.tokenizer, served.image_processor, served.config, preparation)


@pytest.fixture
def step() -> Step:
    return EpisodeSteps(made("cubes", [4], side=200))[2]


@pytest.mark.parametrize("preset", PRESETS)
def test_without_augmentation_pixels_are_those_of_serving_to_the_last_bit(policy, step, preset):
    processor = processor_with(policy, preset)
    served = processor(step.pixels(), step.instruction)
    example = ExampleBuilder(processor, ANY)(step, sample_rng(0, 0))
    assert torch.equal(example["pixel_values"][None], served["pixel_values"])


def test_tokens_begin_with_those_the_policy_generates_from(policy, step):
    example = ExampleBuilder(policy.processor, ANY)(step, sample_rng(0, 0))
    prompt = policy.processor.generation_ids(step.instruction)
    ids = example["input_ids"].tolist()
    assert ids[: len(prompt)] == prompt
    assert len(ids) == len(prompt) + 7 + 1
    assert ids[-1] == policy.config.language.eos_token_id
    assert example["labels"].tolist() == [IGNORE_INDEX] * len(prompt) + ids[len(prompt) :]


def test_what_the_policy_would_answer_is_the_action_that_was_done(policy, step):
    """Served back, the labels are the recorded action within half a bin: 1/255 of the range, above the clipped ends."""
    labels = ExampleBuilder(policy.processor, ANY)(step, sample_rng(0, 0))["labels"]
    ids = labels[labels != IGNORE_INDEX][:-1].numpy()
    decoded = STATISTICS.unnormalize(ActionTokenizer(policy.config.action_vocab_size).decode(ids))
    expected = np.clip(step.actions[0], STATISTICS.q01, STATISTICS.q99)
    expected[6] = np.clip(step.actions[0, 6], -1, 1)
    np.testing.assert_allclose(decoded[:6], expected[:6], atol=0.1 / 255 + 1e-9)
    assert decoded[6] == pytest.approx(expected[6], abs=1 / 255 + 1e-9)


def test_chunks_become_one_row_of_tokens_after_the_other(policy):
    steps = EpisodeSteps(made("cubes", [4]), future=2)
    builder = ExampleBuilder(policy.processor, ANY)
    labels = builder(steps[0], sample_rng(0, 0))["labels"]
    rows = labels[labels != IGNORE_INDEX][:-1].reshape(3, 7)
    for following in range(3):
        alone = builder(steps[following], sample_rng(0, 0))["labels"]
        assert torch.equal(rows[following], alone[alone != IGNORE_INDEX][:7])


def test_augmentation_follows_resizing_and_takes_the_place_of_the_centre_crop(policy, step):
    processor, augmentation = processor_with(policy, "center_crop"), Augmentation(crop_area=0.9)
    example = ExampleBuilder(processor, ANY, augmentation, frames="prepared")(step, sample_rng(3, 4))
    resized = ImagePreparation(resize=112)(step.pixels())
    expected = processor.image_processor(augmentation(resized, sample_rng(3, 4)))
    np.testing.assert_array_equal(example["pixel_values"].numpy(), expected)


def test_frames_of_published_data_are_not_turned_and_compressed_again():
    libero = ImagePreparation.from_card("libero", 224)
    assert training_preparation(libero, None, "camera") == libero
    assert training_preparation(libero, None, "prepared") == ImagePreparation(resize=224, center_crop_area=0.9)
    augmented = training_preparation(libero, Augmentation(), "prepared")
    assert augmented == ImagePreparation(resize=224)


@pytest.mark.parametrize("preset", ["none", "center_crop"])
def test_pixels_may_be_normalised_on_the_device_later_to_the_last_bit(policy, preset):
    processor = processor_with(policy, preset)
    source = EpisodeSteps(made("cubes", [3], side=200))
    batches = []
    for normalized in (True, False):
        builder = ExampleBuilder(processor, ANY, normalized=normalized)
        batches.append(collate([builder(source[i], sample_rng(0, 0)) for i in range(3)], pad_id=512))
    assert batches[1]["pixels"].dtype == torch.uint8
    assert torch.equal(PixelNormalizer(processor.image_processor)(batches[1]["pixels"]), batches[0]["pixel_values"])
    assert torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])


@pytest.mark.parametrize(("preset", "area"), [("none", 0.9), ("bridge", 0.9), ("center_crop", 1.0), ("libero", 0.8)])
def test_random_and_centre_crop_belong_together(policy, preset, area):
    """Trained with one and served without the other, everything looks five per cent too large."""
    with pytest.raises(ConfigError, match="crop_area"):
        ExampleBuilder(processor_with(policy, preset), ANY, Augmentation(crop_area=area))


def test_frames_are_of_a_known_kind(policy):
    with pytest.raises(ConfigError, match="camera, prepared"):
        ExampleBuilder(policy.processor, ANY, frames="raw")


def test_errors_name_the_step(policy, step):
    with pytest.raises(DatasetError, match="cubes, episode 0, step 2: no action statistics; there are those of other"):
        ExampleBuilder(policy.processor, {"other": STATISTICS})(step, sample_rng(0, 0))
    broken = Step("cubes", 0, 2, b"\xff\xd8 cut off", step.instruction, step.actions)
    with pytest.raises(DatasetError, match="cubes, episode 0, step 2: compressed image"):
        ExampleBuilder(policy.processor, ANY)(broken, sample_rng(0, 0))


def test_batches_are_padded_on_the_right(policy):
    builder = ExampleBuilder(policy.processor, ANY)
    image, actions = picture(np.random.default_rng(0), 32), np.zeros((1, 7), dtype=np.float32)
    sentences = ("pick up the red cube", "pick up")
    examples = [builder(Step("cubes", 0, 0, image, text, actions), sample_rng(0, 0)) for text in sentences]
    batch = collate(examples, pad_id=512)
    lengths = [len(example["input_ids"]) for example in examples]
    assert lengths[0] == lengths[1] + 3
    assert batch["input_ids"].shape == batch["labels"].shape == (2, lengths[0])
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert batch["input_ids"][1, lengths[1] :].tolist() == [512] * 3
    assert batch["labels"][1, lengths[1] :].tolist() == [IGNORE_INDEX] * 3
    assert batch["pixel_values"].shape == (2, 6, 112, 112)
    assert batch["datasets"] == ["cubes", "cubes"]
    with pytest.raises(DatasetError):
        collate([], 512)


def test_the_model_learns_from_a_batch_of_the_loader(policy):
    """End to end: episodes, loader with a worker, batch, loss."""
    source = EpisodeSteps(made("table", [5, 6]))
    builder = ExampleBuilder(policy.processor, ANY)
    stream = StreamingLoader([source], builder, padding_collate(512), batch_size=3, workers=1)
    batch = next(iter(stream))
    names = ("input_ids", "attention_mask", "pixel_values", "labels")
    loss = policy.model(**{name: batch[name] for name in names}).loss
    assert torch.isfinite(loss)
    loss.backward()
