"""TFRecord and tf.train.Example without TensorFlow."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_core.datasets.rlds.tf_example import build_example, parse_example
from openvla_core.datasets.rlds.tfrecord import RecordWriter, masked_crc, read_record, read_records, record_offsets
from openvla_core.errors import DatasetError

# {"a": [b"x"], "f": [1.5, -2.0], "i": [1, -1, 300]} as TensorFlow 2.19.1 serializes it, with sorted names.
EXAMPLE = bytes.fromhex(
    "0a370a0a0a016112050a030a01780a110a0166120c120a0a080000c03f000000c00a160a016912111a0f0a0d01ffffffffffffffffff01ac02"
)
# The records b"first record" and EXAMPLE in a file that TensorFlow wrote.
FILE = bytes.fromhex("0c00000000000000f4c8fe0a6669727374207265636f7264b8b0ee1539000000000000008b0737f1") + (
    EXAMPLE + bytes.fromhex("732359b7")
)


def test_check_sums_are_masked_crc32c():
    """123456789 is the check value of the CRC catalogue: e3069283."""
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc(b"") == 0xA282EAD8


def write(path, records):
    writer = RecordWriter(path)
    for record in records:
        writer.add(record)
    writer.close()
    return path


def test_records_come_back_in_order_and_by_their_place(tmp_path):
    records = [b"", b"one", bytes(100_000), b"\x00\xff"]
    path = write(tmp_path / "a.tfrecord", records)
    assert list(read_records(path)) == records
    assert [read_record(path, int(offset)) for offset in record_offsets(path)] == records
    assert path.stat().st_size == sum(16 + len(record) for record in records)


def test_files_are_those_of_tensorflow_byte_by_byte(tmp_path):
    assert write(tmp_path / "ours", [b"first record", EXAMPLE]).read_bytes() == FILE
    (tmp_path / "theirs").write_bytes(FILE)
    assert list(read_records(tmp_path / "theirs")) == [b"first record", EXAMPLE]


def test_every_flipped_byte_and_every_cut_is_found(tmp_path):
    whole = write(tmp_path / "whole", [b"first record", b"second"]).read_bytes()
    damaged = tmp_path / "damaged"
    for place in range(len(whole)):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        with pytest.raises(DatasetError):
            list(read_records(damaged))
    for length in set(range(1, len(whole))) - {28}:
        damaged.write_bytes(whole[:length])
        with pytest.raises(DatasetError):
            list(read_records(damaged))


def test_absurd_length_allocates_nothing(tmp_path):
    length = struct.pack("<Q", 2**60)
    (tmp_path / "absurd").write_bytes(length + struct.pack("<I", masked_crc(length)) + b"data")
    for read in (lambda path: list(read_records(path)), record_offsets):
        with pytest.raises(DatasetError, match="cut off"):
            read(tmp_path / "absurd")
    with pytest.raises(DatasetError, match="cannot be opened"):
        list(read_records(tmp_path / "missing"))


def test_bytes_of_protobuf_are_read_and_written():
    values = parse_example(EXAMPLE)
    assert list(values) == ["a", "f", "i"]
    assert values["a"] == [b"x"]
    np.testing.assert_array_equal(values["f"], np.array([1.5, -2.0], np.float32))
    np.testing.assert_array_equal(values["i"], np.array([1, -1, 300]))
    again = build_example({"i": np.array([1, -1, 300]), "a": [b"x"], "f": np.array([1.5, -2.0])})
    assert again == EXAMPLE


def test_numbers_that_are_not_packed_are_read():
    one_by_one = b"".join(b"\x0d" + struct.pack("<f", value) for value in (1, 2, 3))
    feature = b"\x12" + bytes([len(one_by_one)]) + one_by_one
    entry = b"\x0a\x01f\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    np.testing.assert_array_equal(parse_example(b"\x0a" + bytes([len(features)]) + features)["f"], [1, 2, 3])


names = st.text(min_size=1, max_size=8)
lists = st.one_of(
    st.lists(st.binary(max_size=20), min_size=1, max_size=5),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5).map(lambda v: np.array(v, np.float32)),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5).map(lambda v: np.array(v, np.int64)),
)


@given(st.dictionaries(names, lists, max_size=4))
def test_what_is_built_is_parsed(values):
    parsed = parse_example(build_example(values))
    assert set(parsed) == set(values)
    for name, value in values.items():
        np.testing.assert_array_equal(parsed[name], value)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_a_dataset_error(data):
    try:
        parse_example(data)
    except DatasetError:
        pass


@given(st.integers(0, len(EXAMPLE) - 1), st.integers(0, 255))
def test_any_damage_of_an_example_is_an_example_or_a_dataset_error(place, value):
    try:
        parse_example(EXAMPLE[:place] + bytes([value]) + EXAMPLE[place + 1 :])
    except DatasetError:
        pass


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "wire type 0"),
        (b"\x0a\xff\xff\xff\xff\x0f", "cut off"),
        (b"\x0a" + b"\x80" * 12, "does not end"),
    ],
)
def test_what_is_wrong_is_told(data, message):
    with pytest.raises(DatasetError, match=message):
        parse_example(data)
