"""Small bags for tests: text and noise on two topics, written by the real writer."""

from pathlib import Path

from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from openvla_core.datasets.bags.message_types import MessageTypes
from openvla_core.datasets.bags.metadata import TopicFacts, qos_profile
from openvla_core.datasets.bags.store import EpisodeStore, OpenEpisode

MESSAGES = Path(__file__).resolve().parents[3] / "msg"
START_NS = 1_700_000_000_000_000_000
STEP_NS = 20_000_000
STATUS, TEXT = "/controller_node/status", "/instruction"


def find_definition(name: str) -> str | None:
    """Our own messages, from the source tree."""
    path = MESSAGES / f"{name.rpartition('/')[2]}.msg"
    return path.read_text() if name.startswith("openvla_ros/") and path.is_file() else None


def typestore():
    """Common types and ours, for reading back."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in MESSAGES.glob("*.msg"):
        store.register(get_types_from_msg(path.read_text(), f"openvla_ros/msg/{path.stem}"))
    return store


STORE = typestore()
TYPES = MessageTypes(find_definition)


def text_topic(name: str = TEXT) -> TopicFacts:
    definition, digest = TYPES.describe("std_msgs/msg/String")
    return TopicFacts(
        name,
        "std_msgs/msg/String",
        definition,
        digest,
        (qos_profile(reliability="reliable", durability="transient_local"),),
    )


def status_topic() -> TopicFacts:
    definition, digest = TYPES.describe("openvla_ros/msg/Status")
    return TopicFacts(STATUS, "openvla_ros/msg/Status", definition, digest)


def text(value: str) -> bytes:
    """A serialized String."""
    return bytes(STORE.serialize_cdr(STORE.types["std_msgs/msg/String"](data=value), "std_msgs/msg/String"))


def status(sentence: str) -> bytes:
    """A serialized Status, with that sentence."""
    types = STORE.types
    header = types["std_msgs/msg/Header"](stamp=types["builtin_interfaces/msg/Time"](sec=1, nanosec=2), frame_id="")
    message = types["openvla_ros/msg/Status"](
        header=header, state=1, state_name="ACTIVE", code="OK", sentence=sentence, instruction="",
        rate_hz=1.0, latency_p50_ms=0.0, latency_p95_ms=0.0, clip_rate=0.0,
    )  # fmt: skip
    return bytes(STORE.serialize_cdr(message, "openvla_ros/msg/Status"))


def begin(root: Path, **facts) -> OpenEpisode:
    """An open episode with both topics announced."""
    episode = EpisodeStore(root).begin({"instruction": "pick up the red cube", **facts})
    episode.writer.add_topic(text_topic())
    episode.writer.add_topic(status_topic())
    return episode


def fill(episode: OpenEpisode, count: int) -> None:
    """Writes `count` messages on each topic, 20 ms apart."""
    for number in range(count):
        now_ns = START_NS + number * STEP_NS
        episode.writer.write(TEXT, now_ns, text(f"message {number}"), now_ns - 1000)
        episode.writer.write(STATUS, now_ns, status(f"sentence {number}"))


def record(root: Path, count: int = 20, **facts) -> Path:
    """A committed episode."""
    episode = begin(root)
    fill(episode, count)
    return episode.commit({"outcome": "success", **facts})


def read(folder: Path) -> dict[str, list]:
    """Topic -> messages of a bag, as an independent library reads them."""
    heard: dict[str, list] = {}
    with Reader(folder) as reader:
        for connection, _, data in reader.messages():
            heard.setdefault(connection.topic, []).append(STORE.deserialize_cdr(data, connection.msgtype))
    return heard


def custom_data(folder: Path) -> dict[str, str]:
    """What the bag says about itself."""
    from openvla_core.datasets.bags.metadata import read_metadata

    return read_metadata(folder)["custom_data"]
