"""tf.train.Example without TensorFlow: names, each with a list of byte strings, of float32 or of int64.

The message is Example{1: Features{1: repeated entry{1: name, 2: Feature}}}, where Feature is one of {1: bytes list,
2: float list, 3: int64 list} and each list has its values in field 1. Numbers may be packed or not.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from openvla_core.errors import DatasetError

Value = list[bytes] | np.ndarray  # byte strings, (n,) float32 or (n,) int64

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
KINDS = _BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_MAX_VARINT = 10


def parse_example(data: bytes) -> dict[str, Value]:
    """The features of a serialized Example. Raises DatasetError for bytes that are none."""
    values: dict[str, Value] = {}
    for features in _messages(data, 1, "Example"):
        for entry in _messages(features, 1, "Features"):
            name = _text(_last(entry, 1))
            values[name] = _feature(_last(entry, 2), name)
    return values


def build_example(values: Mapping[str, Sequence[bytes] | np.ndarray]) -> bytes:
    """A serialized Example. Floats are stored as float32, whole numbers and booleans as int64."""
    entries = []
    for name in sorted(values):
        entry = _delimited(1, name.encode()) + _delimited(2, _built_feature(name, values[name]))
        entries.append(_delimited(1, entry))
    return _delimited(1, b"".join(entries))


def _feature(data: bytes, name: str) -> Value:
    lists = [(kind, content) for kind in KINDS for content in _messages(data, kind, name)]
    if not lists:
        return []  # a feature without values
    if len(lists) > 1:
        raise DatasetError(f"a record is no Example: the feature {name!r} has {len(lists)} lists; expected one.")
    kind, content = lists[0]
    if kind == _BYTES_LIST:
        return list(_messages(content, 1, name))
    parts = [_numbers(kind, wire, value, name) for field, wire, value in _fields(content, name) if field == 1]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32 if kind == _FLOAT_LIST else np.int64)


def _last(entry: bytes, field: int) -> bytes:
    """The last value of a field wins, as everywhere in this wire format; a missing one is empty."""
    return ([b""] + list(_messages(entry, field, "a feature")))[-1]


def _numbers(kind: int, wire: int, value: bytes | int, name: str) -> np.ndarray:
    if kind == _FLOAT_LIST and wire in (_BYTES, _FIXED32) and isinstance(value, bytes) and len(value) % 4 == 0:
        return np.frombuffer(value, "<f4").astype(np.float32)
    if kind == _INT64_LIST and wire == _VARINT and isinstance(value, int):
        return np.array([value], np.uint64).view(np.int64)
    if kind == _INT64_LIST and wire == _BYTES and isinstance(value, bytes):
        return _packed_varints(value, name)
    raise DatasetError(f"a record is no Example: the numbers of {name!r} have wire type {wire} or a wrong length.")


def _packed_varints(data: bytes, name: str) -> np.ndarray:
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if len(raw) and (not len(ends) or ends[-1] != len(raw) - 1):
        raise DatasetError(f"a record is no Example: the whole numbers of {name!r} are cut off.")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    if len(ends) and lengths.max() > _MAX_VARINT:
        raise DatasetError(f"a record is no Example: a whole number of {name!r} has {lengths.max()} bytes.")
    places = np.arange(len(raw)) - np.repeat(starts, lengths)
    parts = (raw & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
    return (np.add.reduceat(parts, starts) if len(ends) else parts).view(np.int64)


def _messages(data: bytes, wanted: int, what: str) -> Iterator[bytes]:
    for field, wire, value in _fields(data, what):
        if field == wanted:
            if wire != _BYTES or not isinstance(value, bytes):
                raise DatasetError(f"a record is no Example: field {field} of {what} has wire type {wire}.")
            yield value


def _fields(data: bytes, what: str) -> Iterator[tuple[int, int, bytes | int]]:
    """Field number, wire type and value: a whole number, or bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position, what)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            number, position = _varint(data, position, what)
            yield field, wire, number
            continue
        if wire == _BYTES:
            length, position = _varint(data, position, what)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise DatasetError(f"a record is no Example: {what} has a field of wire type {wire}.")
        if not field or length > len(data) - position:
            raise DatasetError(f"a record is no Example: field {field} of {what} is cut off after {len(data)} bytes.")
        yield field, wire, data[position : position + length]
        position += length


def _varint(data: bytes, position: int, what: str) -> tuple[int, int]:
    value = 0
    for place in range(_MAX_VARINT):
        if position + place >= len(data):
            break
        byte = data[position + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + place + 1
    raise DatasetError(f"a record is no Example: a number in {what} does not end.")


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise DatasetError(f"a record is no Example: the name {name[:40]!r} is no text.") from error


def _delimited(field: int, data: bytes) -> bytes:
    return _encoded(field << 3 | _BYTES) + _encoded(len(data)) + data


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _built_feature(name: str, values: Sequence[bytes] | np.ndarray) -> bytes:
    if not isinstance(values, np.ndarray):
        return _delimited(_BYTES_LIST, b"".join(_delimited(1, value) for value in values))
    flat = values.reshape(-1)
    if flat.dtype.kind == "f":
        return _delimited(_FLOAT_LIST, _delimited(1, flat.astype("<f4").tobytes()))
    if flat.dtype.kind in "iub":
        packed = b"".join(_encoded(number) for number in flat.astype(np.int64).view(np.uint64).tolist())
        return _delimited(_INT64_LIST, _delimited(1, packed))
    raise DatasetError(f"the feature {name!r} has the type {flat.dtype}; expected numbers or byte strings.")
