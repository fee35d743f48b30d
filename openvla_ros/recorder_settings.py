"""What is recorded, where to and about whom: the parameters of recorder_node."""

from dataclasses import dataclass

from openvla_core.config import setting
from openvla_core.errors import ConfigError
from openvla_ros import topics

REQUIRED = (f"{topics.CAMERA_IMAGE}@5", f"{topics.CURRENT_POSE}@10")
OPTIONAL = (
    topics.INSTRUCTION,
    topics.POLICY_INSTRUCTION,
    topics.POLICY_ACTION_CHUNK,
    topics.JOINT_STATES,
    topics.TARGET_POSE,
    topics.GRIPPER_COMMAND,
    "controller_node/applied_action",
    "controller_node/status",
)


@dataclass(frozen=True, kw_only=True)
class RecorderSettings:
    """Parameters of recorder_node. Entries of topics are a name, or a name@Hz with the least rate it should have."""

    root: str = setting("recordings", "Folder for the episodes, one bag each")
    topics: tuple[str, ...] = setting(REQUIRED, "Topics that every episode must have")
    optional_topics: tuple[str, ...] = setting(OPTIONAL, "Topics recorded whenever somebody publishes them")
    require_topics: bool = setting(True, "Refuse to start an episode while one of `topics` is silent")
    missing_after_s: float = setting(
        1.0, "Silence after which a topic counts as missing", unit="s", minimum=0.2, maximum=60.0
    )
    images: str = setting(
        "auto",
        "Which form of an image topic: auto takes <topic>/compressed where it is published, raw never does, jpeg also "
        "encodes what is only published raw",
        choices=("auto", "raw", "jpeg"),
    )
    jpeg_quality: int = setting(95, "Quality of pictures encoded here", minimum=50, maximum=100)
    min_free_gb: float = setting(2.0, "Free disk space needed to start an episode", unit="GB", minimum=0.0)
    instruction: str = setting("", "Instruction of episodes that nobody gives one on the topic")
    operator: str = setting("", "Who operates the robot; written into every episode")
    robot: str = setting("", "Which robot it is; written into every episode")
    convention: str = setting("", "Path of the action convention card; empty asks controller_node for its own")


@dataclass(frozen=True)
class WantedTopic:
    """A topic to record. rate_hz: the least rate it should have, 0 when that does not matter."""

    name: str
    required: bool
    rate_hz: float = 0.0


def wanted_topics(settings: RecorderSettings) -> list[WantedTopic]:
    """The topics of the settings; raises ConfigError for an entry that is not name or name@Hz, or comes twice."""
    wanted = [_wanted(entry, True) for entry in settings.topics]
    wanted += [_wanted(entry, False) for entry in settings.optional_topics]
    names = [topic.name for topic in wanted]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"topics and optional_topics name {', '.join(twice)} twice. Name each topic once.")
    return wanted


def _wanted(entry: str, required: bool) -> WantedTopic:
    name, at, rate = entry.strip().partition("@")
    try:
        rate_hz = float(rate) if at else 0.0
    except ValueError:
        rate_hz = -1.0
    if not name or not 0.0 <= rate_hz < 10_000.0:
        raise ConfigError(
            f"the topic entry {entry!r} is not understood; write a name, or a name@Hz such as 'joints@50'."
        )
    return WantedTopic(name, required, rate_hz)
