"""Damaged checkpoints: whatever a file has become, loading it works or raises one of our errors. It never crashes.

The damage is drawn from fixed seeds, so a failure names a case that can be repeated.
"""

import json
import random
import shutil
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors import safe_open

from openvla_core.action_statistics import statistics_of
from openvla_core.checkpoint import load_checkpoint
from openvla_core.conventions import convention_from_mapping
from openvla_core.errors import OpenVLAError
from openvla_core.policy import Policy
from openvla_core.safetensors_file import read_header
from openvla_core.training.tiny_checkpoint import tiny_convention

SENTENCE = "pick up the red cube"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
JSON_FILES = (
    "config.json", "preprocessor_config.json", "dataset_statistics.json", "tokenizer.json", INDEX,
    "action_convention.json", "training_card.json",
)  # fmt: skip
HANGS_AFTER_S = 60
# Stand-ins for any value. What JSON cannot say is written as a marker and put into the text afterwards.
VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 10**9, 2**31, 2**63 - 1, -(10**18), 10**30, 0.5, -0.5, 1e-30, 1e308,
    "", "abc", "7", "../../x", "a\0b", "é▁\U0001f916", [], {}, [[]], [0], ["a"], {"a": 1}, [1, 2, 3], [None] * 9,
    "@NaN", "@Infinity", "@-Infinity", "@1e999", "@" + "9" * 5000, '@"\\ud800"', "@" + "[" * 50 + "]" * 50,
    "@" + "[" * 90 + "]" * 90, "@" + "[" * 100_000 + "]" * 100_000, '@{"a": 1, "a": 2}', "@[1, 2", "@\ufeff1",
)  # fmt: skip


@pytest.fixture(scope="module")
def original(word_checkpoint, tmp_path_factory):
    """The word checkpoint in shards, so that there is an index to damage, with a complete convention card."""
    checkpoint = load_checkpoint(word_checkpoint)
    checkpoint.convention = tiny_convention()
    return checkpoint.save(tmp_path_factory.mktemp("fuzz") / "original", max_shard_bytes=30_000, checksums=False)


@pytest.fixture
def directory(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


@contextmanager
def no_hang(case):
    """Ends a case that never would; a correct one takes milliseconds."""

    def stop(*_):
        pytest.fail(f"{case} hangs")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def use(directory):
    """Everything a robot would do with this checkpoint once: load, look at a frame, read the cards."""
    policy = Policy(load_checkpoint(directory))
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    policy.check_instruction(SENTENCE)
    for key in policy.statistics:
        statistics_of(policy.statistics, key)
        policy.predict(frame, SENTENCE, key)
    if policy.convention is not None:
        convention_from_mapping(policy.convention)


def verdict(directory, case):
    """None where the checkpoint works, else our error. Anything else that is raised is what these tests look for."""
    try:
        with no_hang(case):
            use(directory)
    except OpenVLAError as error:
        assert len(str(error)) < 4000, f"{case}: the message repeats the file"
        return error
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, pytest.fail.Exception)):
            raise
        pytest.fail(f"{case}: {type(error).__name__}: {error}")
    return None


def test_the_undamaged_checkpoint_works(original):
    assert verdict(original, "undamaged") is None


def test_a_hundred_truncations(directory):
    generator = random.Random(1)
    files = [*sorted(path.name for path in directory.glob("*.safetensors")), *JSON_FILES]
    for case in range(100):
        path = directory / files[case % len(files)]
        whole = path.read_bytes()
        length = generator.choice([0, 1, 7, 8, 9, generator.randrange(len(whole) - 2), len(whole) - 2])
        path.write_bytes(whole[:length])
        assert verdict(directory, f"{path.name} cut to {length} bytes") is not None, f"{path.name} cut to {length}"
        path.write_bytes(whole)


def test_a_hundred_bit_flips_in_headers(directory, original):
    """A flip is found, or it hit what does not matter: then every weight is as before."""
    expected = load_checkpoint(original).model.state_dict()
    generator = random.Random(2)
    shards = sorted(directory.glob("*.safetensors"))
    survivors = 0
    for case in range(100):
        path = shards[case % len(shards)]
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        bit = generator.randrange(64 if case % 5 == 0 else 8 * header)
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        name = f"{path.name}, bit {bit}"
        if verdict(directory, name) is None:
            survivors += 1
            for key, tensor in load_checkpoint(directory).model.state_dict().items():
                assert torch.equal(tensor, expected[key]), f"{name}: {key}"
        path.write_bytes(whole)
    assert survivors < 20


def test_the_reference_library_accepts_every_header_that_we_accept(original, tmp_path):
    """Ours is the stricter judge: no file loads here that would not load elsewhere."""
    whole = next(original.glob("*.safetensors")).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    generator = random.Random(3)
    path = tmp_path / WEIGHTS
    accepted = 0
    for _ in range(800):
        damaged = bytearray(whole)
        damaged[generator.randrange(header)] = generator.choice(b'0123456789"{}[],:. FB\x00\xff')
        path.write_bytes(damaged)
        try:
            names = set(read_header(path))
        except OpenVLAError:
            continue
        accepted += 1
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == names
    assert accepted > 5


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_thousand_damaged_json_files(directory, name):
    """143 of each of the seven files."""
    path = directory / name
    text = path.read_text(encoding="utf-8")
    for case in range(143):
        generator = random.Random(f"{name} {case}")
        data = flip_bytes(text.encode(), generator) if case % 5 == 4 else mutate(text, generator).encode()
        path.write_bytes(data)
        verdict(directory, f"{name}, case {case}")


def mutate(text, generator):
    """The same JSON with one to three values deleted, replaced, moved or repeated."""
    values = json.loads(text)
    raw = {}
    for _ in range(generator.randint(1, 3)):
        places = list(walk(values))
        if places:
            change(*generator.choice(places), values, raw, generator)
    result = json.dumps(values, ensure_ascii=False)
    for marker, literal in raw.items():
        result = result.replace(json.dumps(marker), literal)
    return result


def walk(values):
    """(container, key) of every value; each level is as likely as the next to be drawn from a long list."""
    items = list(values.items() if isinstance(values, dict) else enumerate(values))
    if len(items) > 40:
        items = items[:20] + items[-20:]
    for key, value in items:
        yield values, key
        if isinstance(value, (dict, list)):
            yield from walk(value)


def change(container, key, root, raw, generator):
    kind = generator.randrange(10)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[str(key) + "x"] = container.pop(key)
    elif kind == 2:
        other, other_key = generator.choice(list(walk(root)))
        container[key] = json.loads(json.dumps(other[other_key]))
    elif kind == 3 and isinstance(container[key], list):
        container[key] = container[key] * generator.choice([2, 50])
    elif kind == 4 and isinstance(container[key], (int, float)):
        container[key] = container[key] * generator.choice([-1, 2, 0.5, 1000, 10**12])
    elif kind == 5:
        container[key] = generator.choice([str, lambda v: [v], lambda v: {"a": v}])(container[key])
    else:
        value = generator.choice(VALUES)
        if isinstance(value, str) and value.startswith("@"):
            raw[marker := f"marker {len(raw)}"] = value[1:]
            value = marker
        container[key] = value


def flip_bytes(data, generator):
    damaged = bytearray(data)
    for _ in range(generator.choice([1, 1, 3, 30])):
        damaged[generator.randrange(len(damaged))] = generator.randrange(256)
    return bytes(damaged)


def test_a_header_longer_than_the_file_is_refused_without_room_for_it(directory):
    path = next(directory.glob("*.safetensors"))
    for length in (2**63, 2**40, 100_000_001, path.stat().st_size):
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
        with pytest.raises(OpenVLAError, match="header should have"):
            load_checkpoint(directory)


def test_a_huge_header_in_a_huge_file_is_refused_before_it_is_read(directory):
    """The file is sparse: it takes no room on the disk."""
    path = next(directory.glob("*.safetensors"))
    with path.open("wb") as file:
        file.write((2 * 10**9).to_bytes(8, "little"))
        file.truncate(3 * 10**9)
    with pytest.raises(OpenVLAError, match=r"2,000,000,000 bytes; expected"):
        load_checkpoint(directory)


def test_our_files_are_read_by_the_reference_library_and_the_other_way_round(original):
    for path in original.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == {  # noqa: SIM118
                name: stored.shape for name, stored in read_header(path).items()
            }
