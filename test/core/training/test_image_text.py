"""Pairs of pictures and texts beside actions: only the answer is learned, and at weight 0 nothing is different."""

import json

import cv2
import numpy as np
import pytest

from openvla_core.checkpoint import load_checkpoint
from openvla_core.errors import DatasetError
from openvla_core.processor import Processor
from openvla_core.training.image_text import DESCRIBE, ImageTextSteps, TextExampleBuilder, image_text_source


@pytest.fixture(scope="module")
def base(golden_checkpoint):
    """The vocabulary of Llama."""
    return load_checkpoint(golden_checkpoint, read_weights=False)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.jpg"):
        picture = np.random.default_rng(len(name)).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / name), picture)
    write(
        tmp_path,
        {"image": "a.png", "question": "What is on the table?", "answer": "a red cup"},
        {"image": "b.jpg", "prompt": "Caption.", "answer": "Zwei Äpfel, one green."},
        {"image": "a.png", "answer": "a table"},
    )
    return tmp_path


def write(folder, *lines):
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "pairs.jsonl").write_text("\n".join(texts) + "\n\n", encoding="utf-8")


def test_the_loss_is_on_the_answer_and_the_end_alone(base, folder):
    steps = ImageTextSteps(folder)
    builder = TextExampleBuilder(Processor(base.tokenizer, base.image_processor, base.config))
    for step, answer in zip(
        (steps[i] for i in range(3)), ("a red cup", "Zwei Äpfel, one green.", "a table"), strict=True
    ):
        example = builder(step, np.random.default_rng(0))
        ids, labels = example["input_ids"].tolist(), example["labels"].tolist()
        spoken = base.tokenizer.encode(answer, add_special_tokens=False).ids
        assert labels == [-100] * (len(ids) - len(spoken) - 1) + [*spoken, 2]
        assert ids[-len(spoken) - 1 :] == [*spoken, 2]
        prompt = base.tokenizer.decode(ids[: -len(spoken) - 1])
        assert prompt == f"In: {step.instruction}\nOut:"
        assert ids[0] == 1 and ids.count(1) == 1
        assert example["pixels"].shape == (*base.image_processor.resized(step.pixels()).shape,)
        assert example["dataset"] == "image_text"


def test_questions_are_optional(folder):
    assert [pair.question for pair in ImageTextSteps(folder).pairs] == ["What is on the table?", "Caption.", DESCRIBE]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ({"image": "a.png"}, "line 2 is not understood"),
        ({"image": "a.png", "answer": "  "}, "line 2 is not understood"),
        ({"image": "a.png", "reply": "a cup"}, "line 2 is not understood"),
        ({"image": "a.png", "answer": 3}, "line 2 is not understood"),
        ({"image": "c.png", "answer": "a cup"}, "line 2: the image .*c.png does not exist"),
        ({"image": "../secret.png", "answer": "a cup"}, "lies outside"),
        ({"image": "a.png", "answer": "a" * 5000}, "may have"),
        (["a.png", "a cup"], "line 2 is not understood"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(folder, line, message):
    write(folder, {"image": "a.png", "answer": "fine"}, line)
    with pytest.raises(DatasetError, match=message):
        ImageTextSteps(folder)


def test_a_folder_without_pairs_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"no \.jsonl files"):
        ImageTextSteps(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("\n")
    with pytest.raises(DatasetError, match="empty"):
        ImageTextSteps(tmp_path)


@pytest.mark.parametrize("key", ["question", "answer"])
@pytest.mark.parametrize("text", ["</s>", "<s> begin"])
def test_text_that_is_more_than_text_is_found_before_the_training(base, folder, key, text):
    write(folder, {"image": "a.png", "question": "What?", "answer": "a cup", key: text})
    with pytest.raises(DatasetError, match="line 1: .*special word"):
        image_text_source(folder, base, 0.1)


def test_an_answer_cannot_stand_for_an_action(base, folder):
    """The last 256 tokens of the vocabulary are characters that may well turn up in a text."""
    character = base.tokenizer.decode([31_900])
    write(folder, {"image": "a.png", "answer": character})
    with pytest.raises(DatasetError, match="stands for an action"):
        image_text_source(folder, base, 0.1)


def test_words_a_small_model_does_not_know_are_told(word_checkpoint, folder):
    with pytest.raises(DatasetError, match="line 1: .*does not know"):
        image_text_source(folder, load_checkpoint(word_checkpoint, read_weights=False), 0.1)


def test_too_long_an_answer_is_told(base, folder):
    write(folder, {"image": "a.png", "answer": "table " * 600})
    small = load_checkpoint(base.directory, read_weights=False)
    room = small.config.language.max_position_embeddings - small.config.patches
    if room > 700:
        small.config.language.__dict__["max_position_embeddings"] = small.config.patches + 100
    with pytest.raises(DatasetError, match="tokens"):
        image_text_source(folder, small, 0.1)


def test_a_picture_that_goes_missing_later_is_named(folder):
    steps = ImageTextSteps(folder)
    (folder / "b.jpg").unlink()
    with pytest.raises(DatasetError, match="line 2: .*b.jpg cannot be read"):
        steps[1]
