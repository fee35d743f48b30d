"""A checkpoint made to do harm: it ends in a clear error or a valid result, soon, with nothing executed."""

import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from test_checkpoint_fuzz import no_hang, use, verdict

from openvla_core.adapter import attach_adapter
from openvla_core.checkpoint import load_checkpoint
from openvla_core.conventions import convention_from_mapping
from openvla_core.doctor import examine
from openvla_core.errors import CheckpointError, ConventionError, OpenVLAError, StatisticsError
from openvla_core.json_file import parse_object
from openvla_core.training.tiny_checkpoint import tiny_convention
from openvla_ros import cli

NAMES = (
    "config.json", "preprocessor_config.json", "dataset_statistics.json", "tokenizer.json", "action_convention.json",
    "training_card.json", "model.safetensors", "model.safetensors.index.json", "SHA256SUMS",
)  # fmt: skip


@pytest.fixture
def directory(word_checkpoint, tmp_path):
    copy = shutil.copytree(word_checkpoint, tmp_path / "copy")
    (copy / "action_convention.json").write_text(json.dumps(tiny_convention()))
    return copy


def edit(directory, name, **changes):
    path = directory / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "endless", "elsewhere", "socket name"])
def test_what_is_no_file_of_a_checkpoint_is_named_and_not_waited_for(directory, name, kind):
    path = directory / name
    path.unlink(missing_ok=True)
    secret = directory.parent / "secret"
    secret.write_text("the password of somebody")
    make = {
        "pipe": os.mkfifo,
        "folder": os.mkdir,
        "loop": lambda link: os.symlink(link, link),
        "endless": lambda link: os.symlink("/dev/zero", link),
        "elsewhere": lambda link: os.symlink(secret, link),
        "socket name": lambda link: os.symlink("/dev/log\n", link),
    }
    make[kind](path)
    error = verdict(directory, f"{name} as {kind}")
    if error is None:  # a dangling link is as good as no file, where a file may be absent
        assert kind in ("loop", "socket name")
        return
    assert re.search(re.escape(name.split(".")[0]), str(error))
    assert "password" not in str(error), "what lies elsewhere is not repeated"


def test_nothing_of_a_checkpoint_is_executed(directory, tmp_path):
    canary = tmp_path / "executed"
    code = f"open({str(canary)!r}, 'w')"
    for name in ("modeling_prismatic.py", "configuration.py", "__init__.py", "sitecustomize.py", "conftest.py"):
        (directory / name).write_text(code)
    wish = {"auto_map": {"AutoModel": "modeling_prismatic.X"}, "trust_remote_code": True}
    edit(directory, "config.json", **wish)
    edit(directory, "preprocessor_config.json", auto_map={"AutoProcessor": "modeling_prismatic.X"})
    use(directory)
    examine(directory)
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        "{" + ",".join(f'"{i}":0' for i in range(300_000)) + ',"299999":1}',
        '{"a":[' + ",".join(["[]"] * 300_000) + "]}",
        '{"a":0.' + "1" * 5_000_000 + "}",
        '{"a":' + "1" * 5_000_000 + "e-5000000}",
        '{"a":' + "1" * 5_000_000 + "}",
        '{"a":"' + "\\u0000" * 500_000 + '"}',
    ],
    ids=["names, one twice", "lists", "digits", "digits and exponent", "whole number", "zeros"],
)
def test_a_large_json_object_is_read_or_refused_soon(text):
    """To find the name that is there twice once took the square of their number: hours."""
    with no_hang("a large JSON object"):
        try:
            parse_object(text.encode(), "it")
        except OpenVLAError as error:
            assert len(str(error)) < 1000


def replace(count, content):
    return {
        "type": "Sequence",
        "normalizers": [{"type": "Replace", "pattern": {"String": "o"}, "content": content}] * count,
    }


def template(count):
    return [{"Sequence": {"id": "A", "type_id": 0}}] * count


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": replace(60, "oo")},
        {"normalizer": replace(2, "o" * 100_000)},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 3000}] * 3}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}] * 60}},
        {"post_processor": {"type": "TemplateProcessing", "single": template(30_000), "pair": template(2),
                            "special_tokens": {}}},
    ],
    ids=["doubled 60 times", "replaced by much", "much put before", "bytes of bytes", "repeated 30,000 times"],
)  # fmt: skip
def test_a_tokenizer_that_would_fill_the_memory_is_refused(directory, part):
    edit(directory, "tokenizer.json", **part)
    with no_hang("the tokenizer"), pytest.raises(CheckpointError, match="10,000 characters or tokens of one"):
        load_checkpoint(directory)


def test_a_tokenizer_with_a_pattern_that_never_ends_is_refused(directory):
    pattern = {"type": "Split", "pattern": {"Regex": "(\\w+\\w+)+□"}, "behavior": "Isolated", "invert": False}
    edit(directory, "tokenizer.json", pre_tokenizer=pattern)
    assert verdict(directory, "a pattern that never ends") is not None


def token(number, content):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content, **flags}


@pytest.mark.parametrize(
    "tokens",
    [
        [token(100 + i, f"w{i}") for i in range(50_000)],
        [token(3, f"w{i}") for i in range(50_000)],
        [token(100, "")],
        [token(100 + i, chr(97 + i)) for i in range(26)],
        [token(2**32 - 1, "x")],
        [token(100, "x" * 1_000_000)],
        [token(1, "pick"), token(1, "up")],
    ],
    ids=["many", "many of one id", "empty", "letters", "highest id", "long", "as the beginning"],
)
def test_absurd_added_tokens_end_in_an_error_or_a_policy(directory, tokens):
    edit(directory, "tokenizer.json", added_tokens=tokens)
    verdict(directory, "added tokens")


@pytest.mark.parametrize(
    "changes",
    [
        {"q01": [0.0] * 1001, "q99": [1.0] * 1001},
        {"q01": [0.0] * 100_000, "q99": [1.0] * 100_000},
        {"q01": [-1e308] * 7, "q99": [1e308] * 7},
        {"q01": [1.0] * 7, "q99": [-1.0] * 7},
        {"q01": [], "q99": []},
        {"q01": [[]], "q99": [[]]},
        {"q01": 0.0, "q99": 1.0},
        {"q01": ["1e5"] * 7, "q99": ["nan"] * 7},
        {"q01": ["-inf"] * 7, "q99": ["inf"] * 7},
    ],
)
def test_statistics_that_no_robot_has_are_refused(directory, changes):
    """Only numbers of this size keep an action finite, and only so many of them let it end."""
    (directory / "dataset_statistics.json").write_text(json.dumps({"table": {"action": changes}}))
    assert isinstance(verdict(directory, "statistics"), StatisticsError)
    assert not examine(directory, load=False).good


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("name", NAMES[:6])
def test_numbers_that_are_none_are_refused_in_every_file(directory, name, literal):
    text = (directory / name).read_text().rstrip()
    (directory / name).write_text(f'{text[:-1].rstrip()}, "extra": {literal}}}')
    if name == "tokenizer.json":  # read by a library that refuses some and passes over the others
        verdict(directory, literal)
    else:
        assert re.search(re.escape(name), str(verdict(directory, literal)))


@pytest.mark.parametrize(
    "changes",
    [{"rate_hz": 1e300}, {"image": {"width": 10**9}}, {"image": {"height": 10**9}}, {"image": {"width": 0.5}}],
)
def test_a_card_that_would_fill_the_memory_is_refused(changes):
    """The warm-up makes a picture of the card's size."""
    card = tiny_convention()
    merged = {key: {**card[key], **value} if isinstance(value, dict) else value for key, value in changes.items()}
    with pytest.raises(ConventionError, match="expected a number from"):
        convention_from_mapping({**card, **merged})


def test_what_the_doctor_prints_steers_no_terminal(directory, capsys):
    evil = "\x1b[2J\x1b]0;owned\x07\u202e"
    edit(directory, "training_card.json", instructions=[f"pick{evil}"] + ["up"] * 20_000)
    statistics = json.loads((directory / "dataset_statistics.json").read_text())
    (directory / "dataset_statistics.json").write_text(json.dumps({f"table{evil}": statistics["table"]}))
    assert cli.main(["doctor", str(directory), "--no-load"]) == 0
    edit(directory, "config.json", vision_backbone_id=evil)
    assert cli.main(["doctor", str(directory), "--no-load"]) == cli.EXIT_ERROR
    output = capsys.readouterr()
    assert not set(evil) & set("\x1b\x07\u202e") & set(output.out + output.err)
    assert "and 19,901 more" in output.out
    assert len(output.out) < 50_000


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "(.*.*)*x"},
        {"target_modules": "(a|a)+$"},
        {"target_modules": ".*.*.*.*.*.*.*.*x"},
        {"target_modules": "a?" * 30 + "a" * 30},
        {"exclude_modules": "(.*)*x"},
        {"rank_pattern": {"(.*)*x": 4}},
        {"alpha_pattern": {"(.+)+x": 4}},
        {"layers_pattern": ["(.*)*x"]},
        {"target_modules": "x" * 501},
    ],
)
def test_an_adapter_with_a_pattern_that_never_ends_is_refused(golden, golden_checkpoint, tmp_path, changes):
    adapter = shutil.copytree(golden / "fused_mini" / "lora_adapter", tmp_path / "adapter")
    edit(adapter, "adapter_config.json", **changes)
    model = load_checkpoint(golden_checkpoint, read_weights=False).model
    with no_hang("the adapter"), pytest.raises(CheckpointError, match="could take for ever"):
        attach_adapter(model, adapter)


def test_an_adapter_may_name_its_modules_by_a_plain_pattern(golden, golden_checkpoint, tmp_path):
    adapter = shutil.copytree(golden / "fused_mini" / "lora_adapter", tmp_path / "adapter")
    names = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    edit(adapter, "adapter_config.json", target_modules=rf".*\.({'|'.join(map(re.escape, names))})")
    attach_adapter(load_checkpoint(golden_checkpoint).model, adapter)


def test_weights_that_are_only_promised_take_no_room(directory):
    """A sparse file of a terabyte with a true header: shapes are compared with the model before anything is made."""
    header = {"projector.fc2.bias": {"dtype": "F32", "shape": [250_000_000_000], "data_offsets": [0, 10**12]}}
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 10**12)
    with no_hang("promised weights"), pytest.raises(CheckpointError, match="shape"):
        load_checkpoint(directory)


def test_a_name_that_is_too_long_for_a_path_is_an_error(directory):
    for path in ("x" * 5000, "a\0b", "/".join("x" * 5000)):
        with pytest.raises(OpenVLAError):
            load_checkpoint(path)


def test_a_weight_of_nothing_is_named(directory):
    save_file({"projector.fc2.bias": torch.zeros(0)}, directory / "model.safetensors")
    assert "projector.fc2.bias" in str(verdict(directory, "nothing"))
