"""SHA256SUMS: damage to any file of a checkpoint is noticed, and the list itself can do no harm."""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from openvla_core import checkpoint_saving, checksums, load_policy
from openvla_core.adapter import attach_adapter
from openvla_core.checkpoint import load_checkpoint, load_model
from openvla_core.checksums import FILE_NAME, parse_checksums, read_checksums, sha256_of, write_checksums
from openvla_core.conversion.weight_source import read_state
from openvla_core.doctor import examine
from openvla_core.errors import CheckpointError, ConfigError
from openvla_core.safetensors_file import read_header
from openvla_core.weights import read_tensors
from openvla_ros import cli

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "checkpoints" / "openvla-tiny-sim"
DIGEST = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def original(word_checkpoint, tmp_path_factory):
    """In shards, so that there is an index, with files of other programs, and with the list that saving wrote."""
    source = shutil.copytree(word_checkpoint, tmp_path_factory.mktemp("checksums") / "source")
    (source / "tokenizer_config.json").write_text('{"padding_side": "right"}')
    return load_checkpoint(source).save(source.parent / "original", max_shard_bytes=50_000)


@pytest.fixture
def directory(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(data)


def text_of(report):
    return " ".join(report.to_text().split())


# What is written ------------------------------------------------------------------------------------------------------


def test_a_saved_checkpoint_lists_all_its_files(original):
    listed = parse_checksums((original / FILE_NAME).read_bytes(), "it")
    assert sorted([*listed, FILE_NAME]) == sorted(path.name for path in original.iterdir())
    assert {"tokenizer_config.json", "model.safetensors.index.json", "training_card.json"} <= set(listed)


@pytest.mark.parametrize("folder", ["saved", "shipped"])
def test_sha256sum_agrees(original, folder):
    folder = original if folder == "saved" else SHIPPED
    names = checksums.checkpoint_files(folder)
    printed = subprocess.run(["sha256sum", *names], cwd=folder, check=True, capture_output=True, text=True).stdout
    assert printed == (folder / FILE_NAME).read_text()
    command = ["sha256sum", "--check", "--strict", "--quiet", FILE_NAME]
    assert subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout == ""


def test_the_shipped_checkpoint_may_be_insisted_on():
    load_checkpoint(SHIPPED, verify=True)


def test_lists_of_others_are_understood(directory):
    """Binary marks, capitals, comments, ./ before names, and the list of `sha256sum * > SHA256SUMS` with itself."""
    lines = (directory / FILE_NAME).read_text().splitlines()
    own = f"{sha256_of(directory / FILE_NAME)}  {FILE_NAME}"
    odd = [f"{line[:64].upper()} *./{line[66:]}" for line in lines]
    (directory / FILE_NAME).write_text("\n".join(["# weights", "", own, *odd]))
    load_checkpoint(directory, verify=True)


def test_a_damaged_write_is_found_by_the_first_load(word_checkpoint, tmp_path, monkeypatch):
    """The digests of weights are of what was to be written, not of what a failing disk made of it."""
    write = checkpoint_saving.write_weights

    def on_a_bad_disk(folder, *arguments):
        digests = write(folder, *arguments)
        flip(folder / "model.safetensors", 8 * (folder / "model.safetensors").stat().st_size - 4)
        return digests

    monkeypatch.setattr(checkpoint_saving, "write_weights", on_a_bad_disk)
    saved = load_checkpoint(word_checkpoint).save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has the sha256"):
        load_checkpoint(saved)


# What is noticed ------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_any_file_is_noticed_and_the_file_named(directory):
    generator = random.Random(1)
    for path in sorted(directory.iterdir()):
        if path.name == FILE_NAME:
            continue
        whole = path.read_bytes()
        bits = [0, 8 * len(whole) - 1, *(generator.randrange(8 * len(whole)) for _ in range(4))]
        for case, bit in enumerate(bits):
            flip(path, bit)
            with pytest.raises(CheckpointError, match=re.escape(path.name)):
                load_checkpoint(directory, dtype=("float32", "bfloat16")[case % 2])
            path.write_bytes(whole)
    load_checkpoint(directory)


def test_a_flipped_bit_in_the_list_is_noticed(directory):
    """It is damaged, or it is about a file that is not there, or it is about a file with other bytes."""
    path = directory / FILE_NAME
    generator = random.Random(2)
    whole = path.read_bytes()
    for case in range(60):
        bit = generator.randrange(8 * len(whole))
        if chr(whole[bit // 8] ^ (1 << (bit % 8))).lower() == chr(whole[bit // 8]).lower():
            continue  # a capital digit says the same
        flip(path, bit)
        # A comment mark in place of a digit leaves a file out, which insisting notices.
        with pytest.raises(CheckpointError):
            load_checkpoint(directory, verify=True)
            pytest.fail(f"case {case}, bit {bit}")
        path.write_bytes(whole)


def test_the_message_says_what_was_found_what_was_expected_and_what_to_do(directory):
    expected = sha256_of(directory / "config.json")
    (directory / "config.json").write_text("{}")
    found = sha256_of(directory / "config.json")
    with pytest.raises(CheckpointError) as error:
        load_policy(directory)
    for part in (f"config.json has the sha256 {found}, expected {expected}", "Copy it again", "--write-checksums"):
        assert part in str(error.value)


def test_every_damaged_small_file_is_named_at_once(directory):
    for name in ("config.json", "tokenizer.json"):
        flip(directory / name, 0)
    with pytest.raises(CheckpointError, match=r"config\.json has .*tokenizer\.json has"):
        load_checkpoint(directory, read_weights=False)


def test_a_listed_file_that_is_missing_is_named(directory):
    (directory / "dataset_statistics.json").unlink()  # without the list, those of config.json would be taken
    with pytest.raises(CheckpointError, match=r"lists dataset_statistics\.json, which the directory lacks"):
        load_checkpoint(directory)
    load_checkpoint(directory, verify=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_are_compared_byte_by_byte_while_they_are_read(tmp_path, dtype):
    """Tensors longer than both buffers, one that is computed instead of read, empty ones; every part counts."""
    tensor = torch.randn(5, (1 << 21) + 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    state = {"a": tensor, "b": torch.zeros(0, 4), "c": torch.tensor(2.0), "z.rotary_emb.inv_freq": torch.ones(9)}
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    write_checksums(tmp_path)
    stored = read_header(path)
    skipped = stored.pop("z.rotary_emb.inv_freq")
    listed = read_checksums(tmp_path)
    assert torch.equal(dict(read_tensors(stored, "cpu", dtype, listed))["a"], tensor.to(dtype))
    first = stored["a"].start
    for byte in (7, 20, first, first + (1 << 23) + 1, first + stored["a"].size - 1, skipped.start + 3):
        whole = path.read_bytes()
        flip(path, 8 * byte)
        with pytest.raises(CheckpointError, match=r"x\.safetensors has the sha256"):
            dict(read_tensors(stored, "cpu", dtype, listed))
        path.write_bytes(whole)


def test_the_computed_frequencies_cannot_hide_a_mountain(tmp_path):
    """Passed over, they are read only for their checksum."""
    save_file({"x.rotary_emb.inv_freq": torch.zeros(250_001)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="inv_freq, which this model does not have"):
        load_model(tmp_path, load_checkpoint(SHIPPED, read_weights=False).config)


def test_weights_of_other_projects_are_compared_too(directory):
    shard = next(directory.glob("*.safetensors"))
    flip(shard, 8 * shard.stat().st_size - 1)
    for read in (read_state, lambda folder: load_model(folder, load_checkpoint(folder, read_weights=False).config)):
        with pytest.raises(CheckpointError, match=re.escape(shard.name)):
            read(directory)


def test_an_adapter_is_compared_with_its_own_list(golden, golden_checkpoint, tmp_path):
    adapter = shutil.copytree(golden / "fused_mini" / "lora_adapter", tmp_path / "adapter")
    write_checksums(adapter)
    model = load_checkpoint(golden_checkpoint).model
    weights = adapter / "adapter_model.safetensors"
    flip(weights, 8 * weights.stat().st_size - 9)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors has the sha256"):
        attach_adapter(model, adapter)
    attach_adapter(model, adapter, verify=False)


# What is asked for ----------------------------------------------------------------------------------------------------


def test_a_directory_without_a_list_loads_unless_one_is_insisted_on(word_checkpoint):
    load_checkpoint(word_checkpoint)
    with pytest.raises(CheckpointError, match="--write-checksums"):
        load_policy(word_checkpoint, verify=True)


def test_a_file_that_is_not_listed_is_a_warning_or_is_refused(directory, caplog):
    lines = (directory / FILE_NAME).read_text().splitlines(keepends=True)
    (directory / FILE_NAME).write_text("".join(line for line in lines if "config.json" not in line))
    load_checkpoint(directory)
    assert "does not list config.json, preprocessor_config.json; not verified" in caplog.text
    with pytest.raises(CheckpointError, match=r"does not list config\.json"):
        load_checkpoint(directory, verify=True)


def test_a_choice_that_is_none_is_refused(directory):
    with pytest.raises(ConfigError, match="'yes'"):
        load_checkpoint(directory, verify="yes")


def test_the_doctor_says_what_was_compared(directory):
    count = len(checksums.checkpoint_files(directory))
    assert f"checksums {count} files compared, all as SHA256SUMS lists them" in text_of(examine(directory))
    (directory / "notes.txt").write_text("mine")
    text = text_of(examine(directory, load=False))
    assert "the weights were not read; not listed: notes.txt" in text


def test_the_doctor_finds_damage_in_files_that_loading_passes_over(directory):
    (directory / "README.md").write_text("old")
    write_checksums(directory)
    (directory / "README.md").write_text("new")
    load_checkpoint(directory, verify=True)
    report = examine(directory, load=False)
    assert not report.good
    assert "checksums NOT USABLE:" in text_of(report)
    assert "README.md has the sha256" in text_of(report)


def test_the_doctor_does_not_wade_through_what_is_huge(directory):
    """The file is sparse: it takes no room on the disk."""
    with (directory / "optimizer.bin").open("wb") as file:
        file.truncate(10**13)
    lines = (directory / FILE_NAME).read_text()
    (directory / FILE_NAME).write_text(f"{lines}{DIGEST}  optimizer.bin\n")
    assert "too large for a look by the way: optimizer.bin" in text_of(examine(directory))


def test_the_doctor_writes_the_list_and_says_what_is_new(directory, capsys):
    (directory / FILE_NAME).unlink()
    assert "none; write them with `openvla doctor" in text_of(examine(directory, load=False))
    assert cli.main(["doctor", str(directory), "--no-load", "--write-checksums"]) == 1  # its card is none
    assert f"written for {len(checksums.checkpoint_files(directory))} files" in capsys.readouterr().out
    load_checkpoint(directory, verify=True)
    (directory / "training_card.json").write_text('{"instructions": []}')
    with pytest.raises(CheckpointError, match="training_card"):
        examine(directory)
    assert "new or changed since the last one: training_card.json" in text_of(
        examine(directory, rewrite_checksums=True)
    )
    load_checkpoint(directory, verify=True)


def test_the_doctor_does_not_bless_what_does_not_load(directory):
    before = (directory / FILE_NAME).read_bytes()
    (directory / "config.json").write_text("{}")
    assert cli.main(["doctor", str(directory), "--write-checksums"]) == cli.EXIT_ERROR
    assert (directory / FILE_NAME).read_bytes() == before


def test_a_damaged_list_can_be_replaced(directory):
    (directory / FILE_NAME).write_text("nonsense")
    with pytest.raises(CheckpointError, match=r"line 1, is no entry.*--write-checksums"):
        load_checkpoint(directory)
    examine(directory, load=False, rewrite_checksums=True)
    load_checkpoint(directory, verify=True)


# Interrupted ----------------------------------------------------------------------------------------------------------


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["sha256_of", "parse_checksums", "os.fsync", "os.replace"])
def test_a_save_that_is_interrupted_leaves_the_old_checkpoint_with_its_list(directory, monkeypatch, place):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    checkpoint = load_checkpoint(directory)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"openvla_core.checksums.{place}", interrupted)
        checkpoint.save(directory, overwrite=True)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    load_checkpoint(directory, verify=True)


@pytest.mark.parametrize("place", ["sha256_of", "os.fsync", "os.replace"])
def test_a_list_that_is_not_finished_is_not_there(directory, monkeypatch, place):
    before = (directory / FILE_NAME).read_bytes()
    (directory / "notes.txt").write_text("mine")
    names = sorted(path.name for path in directory.iterdir())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"openvla_core.checksums.{place}", interrupted)
        write_checksums(directory)
    assert (directory / FILE_NAME).read_bytes() == before
    assert sorted(path.name for path in directory.iterdir()) == names


def test_a_place_where_nobody_may_write_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"SHA256SUMS cannot be written"):
        write_checksums(tmp_path / "nowhere")


# The list is input like any other -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../x", "a/../../x", "/etc/passwd", "..", ".", "a\\..\\x", "a\0b", "a\rb", "config.json\r", "\x1b[2J",
        "x" * 256, "/".join("abcdefghi"), "\u202etxt.exe",
    ],
)  # fmt: skip
def test_names_outside_the_directory_or_not_plain_are_refused(name):
    with pytest.raises(CheckpointError, match="line 1"):
        parse_checksums(f"{DIGEST}  {name}\n".encode(), "it")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "lists 0 files"),
        (b"# nothing\n", "lists 0 files"),
        (f"{DIGEST}  {FILE_NAME}\n".encode(), "lists 0 files"),
        (f"{DIGEST}  a\n{DIGEST}  ./a\n".encode(), "'a' twice"),
        (f"{DIGEST} a\n".encode(), "line 1"),
        (f"{DIGEST[:-1]}  a\n".encode(), "line 1"),
        (f"{DIGEST}0  a\n".encode(), "line 1"),
        (f"SHA256 (a) = {DIGEST}\n".encode(), "line 1"),
        (f"\\{DIGEST}  a\\nb\n".encode(), "line 1"),
        (b"\xff\xfe", "no UTF-8"),
        (b"a" * 1_000_001, "more than 1,000,000 bytes"),
        ("".join(f"{DIGEST}  f{i}\n" for i in range(1001)).encode(), "lists 1001 files"),
    ],
)
def test_anything_but_a_list_is_refused(data, reason):
    with pytest.raises(CheckpointError, match=reason) as error:
        parse_checksums(data, "it")
    assert len(str(error.value)) < 1000


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
lines = st.one_of(
    st.text(st.sampled_from("0123456789abcdefABCDEF *./\\\r\n#\0"), max_size=90),
    st.tuples(
        st.sampled_from([DIGEST, DIGEST.upper(), DIGEST[1:]]), st.sampled_from(["  ", " *", " ", "\t"]), names
    ).map("".join),
)


@given(st.lists(lines, max_size=6).map("\n".join).map(str.encode) | st.binary(max_size=200))
@example(f"{DIGEST}  a\n".encode())
def test_whatever_the_text_every_name_that_is_read_lies_inside(data):
    try:
        listed = parse_checksums(data, "it")
    except CheckpointError as error:
        assert len(str(error)) < 1000
        return
    root = Path("/root of everything")
    for name, digest in listed.items():
        assert re.fullmatch("[0-9a-f]{64}", digest)
        assert Path(os.path.normpath(root / name)).is_relative_to(root)
        assert (root / name).parts != root.parts
    again = "".join(f"{digest}  {name}\n" for name, digest in listed.items())
    assert parse_checksums(again.encode(), "it") == listed


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "device"])
def test_a_list_that_is_no_file_is_not_waited_for(directory, kind):
    path = directory / FILE_NAME
    path.unlink()
    make = {
        "pipe": os.mkfifo,
        "folder": os.mkdir,
        "dangling link": lambda link: os.symlink("nowhere", link),
        "device": lambda link: os.symlink("/dev/zero", link),
    }
    make[kind](path)
    with pytest.raises(CheckpointError, match="missing or no file"):
        load_checkpoint(directory)
    load_checkpoint(directory, verify=False)


def test_a_listed_pipe_is_not_waited_for(directory):
    os.mkfifo(directory / "notes.txt")
    with (directory / FILE_NAME).open("a") as file:
        file.write(f"{DIGEST}  notes.txt\n")
    with pytest.raises(CheckpointError, match=r"lists notes\.txt, which the directory lacks"):
        load_checkpoint(directory)


def test_links_are_followed_as_in_a_download_cache(directory, tmp_path):
    """There the names of a checkpoint are links to files elsewhere; writing the list replaces only the list."""
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for path in directory.iterdir():
        (cache / path.name).symlink_to(path)
    load_checkpoint(cache, verify=True)
    before = (directory / FILE_NAME).read_bytes()
    (directory / "config.json").write_bytes((directory / "config.json").read_bytes() + b"\n")
    write_checksums(cache)
    assert (directory / FILE_NAME).read_bytes() == before
    load_checkpoint(cache, verify=True)


def test_names_that_cannot_be_listed_are_an_error(tmp_path):
    for name in (b"a\nb", b"\xff"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_text("x")
        with pytest.raises(CheckpointError, match="as it would be written"):
            write_checksums(tmp_path)
        path.unlink()
    assert not (tmp_path / FILE_NAME).exists()
