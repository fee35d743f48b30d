"""Reads what is whole in an MCAP file that was cut off or damaged."""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO

import yaml

from openvla_core.datasets.bags.metadata import TopicFacts

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
LARGEST_RECORD = 1 << 30


def read_messages(source: BinaryIO) -> Iterator[tuple[TopicFacts, int, int, bytes]]:
    """Every whole message of an MCAP file that may be cut off or damaged: topic, log time, publish time (ns), data.

    A chunk whose checksum is wrong is left out; in a chunk that is cut off, the messages before the cut are kept.
    """
    schemas: dict[int, Any] = {}
    topics: dict[int, TopicFacts] = {}
    for opcode, content in _flat_records(source):
        if opcode in (SCHEMA, CHANNEL):
            _define(opcode, content, schemas, topics)
        elif opcode == MESSAGE and len(content) >= 22:
            identity = int.from_bytes(content[:2], "little")
            if identity in topics:
                log_ns, publish_ns = int.from_bytes(content[6:14], "little"), int.from_bytes(content[14:22], "little")
                yield topics[identity], log_ns, publish_ns, content[22:]


def _define(opcode: int, content: bytes, schemas: dict[int, Any], topics: dict[int, TopicFacts]) -> None:
    """Takes up a schema or channel record; one that is damaged is left out."""
    from mcap.exceptions import McapError
    from mcap.records import Channel, Schema

    with contextlib.suppress(McapError, struct.error, ValueError, TypeError, AttributeError, yaml.YAMLError):
        if opcode == SCHEMA:
            schema = Schema.read(_stream(content))
            schemas[schema.id] = schema
        else:
            channel = Channel.read(_stream(content))
            if channel.schema_id in schemas:
                topics[channel.id] = _topic(channel, schemas[channel.schema_id])


def _topic(channel: Any, schema: Any) -> TopicFacts:
    profiles = yaml.safe_load(channel.metadata.get("offered_qos_profiles") or "[]")
    return TopicFacts(
        name=channel.topic,
        type=schema.name,
        definition=schema.data.decode(),
        type_hash=channel.metadata.get("topic_type_hash", ""),
        qos=tuple(profiles),
    )


def _flat_records(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Opcode and content of the records of a file, those inside chunks included, as far as they are whole."""
    source.seek(0)
    if source.read(len(MAGIC)) != MAGIC:
        return
    while True:
        opcode, length = _head(source.read(9))
        if opcode == 0 or length > LARGEST_RECORD:
            return
        content = source.read(length)
        if opcode == CHUNK:
            yield from _chunk_records(content)
        elif len(content) == length and opcode in (SCHEMA, CHANNEL, MESSAGE):
            yield opcode, content
        if len(content) < length or opcode == FOOTER:
            return


def _head(data: bytes) -> tuple[int, int]:
    """Opcode and length of a record; 0, 0 when it is cut off."""
    return (data[0], int.from_bytes(data[1:9], "little")) if len(data) == 9 else (0, 0)


def _chunk_records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The records in the content of a chunk of ours (not compressed), the last of which may be cut off."""
    if len(content) < 32:
        return
    checksum = int.from_bytes(content[24:28], "little")
    name_length = int.from_bytes(content[28:32], "little")
    start = 32 + name_length + 8
    if name_length or len(content) < start:
        return  # compressed by another program, or cut off in the head
    size = int.from_bytes(content[start - 8 : start], "little")
    records = content[start:]
    if len(records) == size and checksum and zlib.crc32(records) != checksum:
        return
    position = 0
    while position + 9 <= len(records):
        opcode, length = _head(records[position : position + 9])
        record = records[position + 9 : position + 9 + length]
        if opcode == 0 or len(record) < length:
            return
        yield opcode, record
        position += 9 + length


def _stream(content: bytes) -> Any:
    from mcap.data_stream import ReadDataStream

    return ReadDataStream(BytesIO(content))
