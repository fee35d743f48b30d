"""What can be wrong with demonstrations, under which code, how bad it is and what to do about it."""

from dataclasses import dataclass

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Kind:
    """One kind of finding. An error makes the data unfit for training; a warning asks for a look."""

    severity: str
    title: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. sentence: the number found against the one expected. episode: "" for the whole set.

    time_s: seconds from the first frame of the episode, None when it holds for all of it.
    """

    code: str
    sentence: str
    episode: str = ""
    time_s: float | None = None

    @property
    def kind(self) -> Kind:
        """Severity, title and advice of the code."""
        return KINDS[self.code]


_REPAIR = "Run `openvla record repair` on it; if that fails, move it out of the data set."
_RERECORD = "Leave the episode out, or record it again."
_STAMPS = "Correct the driver: every message needs the time of its measurement. Leave these episodes out."

KINDS: dict[str, Kind] = {
    # files
    "BAG_UNFINISHED": Kind(ERROR, "the recording was never finished", _REPAIR),
    "BAG_DAMAGED": Kind(ERROR, "the file is damaged or cut off", _REPAIR),
    "BAG_EMPTY": Kind(ERROR, "there are no messages", "Remove the bag and check that the recorder saw its topics."),
    "TOPIC_MISSING": Kind(
        ERROR, "a stream that training needs is not there", "Name the topic in the settings, or record again."
    ),
    "TOPIC_AMBIGUOUS": Kind(ERROR, "a stream could come from several topics", "Name the topic in the settings."),
    "TYPE_WRONG": Kind(ERROR, "a topic has a type that cannot play its role", "Name another topic in the settings."),
    "EPISODE_OPEN": Kind(
        WARNING, "episodes were left open", "Run `openvla record repair` to get them back, or delete them."
    ),
    "EPISODE_CUT": Kind(
        WARNING,
        "the end of the recording was cut off",
        "Look at its last seconds; leave it out if the task is not done.",
    ),
    "MESSAGES_DROPPED": Kind(WARNING, "the recorder could not keep up", "Record to a faster disk, or fewer topics."),
    "EPISODE_UNUSABLE": Kind(ERROR, "the recording does not become an episode", _RERECORD),
    # time
    "CAMERA_SLOW": Kind(
        ERROR, "the camera is slower than the policy's rate", "Raise the camera's rate, or train at a lower rate."
    ),
    "CAMERA_GAPS": Kind(
        WARNING, "frames are missing", "Check cable, USB bandwidth and disk; steps at the holes are left out."
    ),
    "POSE_GAPS": Kind(WARNING, "poses are missing", "Check the robot driver; steps without a fresh pose are left out."),
    "STAMP_DUPLICATE": Kind(ERROR, "two frames have the same stamp", _STAMPS),
    "STAMP_BACKWARDS": Kind(ERROR, "stamps go back in time", _STAMPS),
    "STAMP_MISSING": Kind(
        WARNING, "header stamps are not set", "Set them in the driver; arrival times stand in, with their delays."
    ),
    "CLOCK_JUMP": Kind(
        ERROR,
        "a clock was set during the recording",
        "Let the clocks settle (chrony, PTP) before recording. Leave it out.",
    ),
    "CLOCK_OFFSET": Kind(
        ERROR, "the clocks of two streams disagree", "Synchronise the machines (chrony, PTP) and record again."
    ),
    "TOO_SHORT": Kind(ERROR, "the episode is too short to teach anything", _RERECORD),
    "TOO_LONG": Kind(
        WARNING, "the episode is very long", "Split it by task, or check that the recorder was stopped in time."
    ),
    "STEPS_DROPPED": Kind(
        ERROR, "many steps cannot be used", "See the reasons; correct the stream they name and record again."
    ),
    # facts
    "INSTRUCTION_MISSING": Kind(
        ERROR, "there is no instruction", "Add it to the metadata; without one the episode is not trained on."
    ),
    "INSTRUCTION_INVALID": Kind(ERROR, "the instruction cannot be used", "Write it as one line of plain text."),
    "INSTRUCTION_LATE": Kind(
        WARNING, "the instruction came after the beginning", "Publish it before recording starts."
    ),
    "INSTRUCTION_CHANGED": Kind(
        WARNING,
        "the instruction changed on the way",
        "Record one task per episode; only the steps of the sentence told longest stay.",
    ),
    "OUTCOME_MISSING": Kind(WARNING, "nobody said whether it succeeded", "End episodes with success or failure."),
    "FAILURE_INCLUDED": Kind(
        WARNING, "a failure is among the demonstrations", "Leave failures out of the training data."
    ),
    "CARD_MISSING": Kind(ERROR, "there is no convention card", "Record with a card, or name one in the settings."),
    "CARD_INVALID": Kind(ERROR, "the convention card is not understood", "Correct the card; see config/conventions."),
    # poses
    "POSE_NOT_FINITE": Kind(ERROR, "poses are not finite", _RERECORD),
    "QUATERNION_NORM": Kind(
        ERROR, "orientations are no rotations", "Publish unit quaternions x, y, z, w (not Euler angles)."
    ),
    "UNITS_MILLIMETRES": Kind(ERROR, "positions look like millimetres", "Publish metres (REP 103)."),
    "JOINTS_DEGREES": Kind(ERROR, "joint angles look like degrees", "Publish radians (REP 103)."),
    "TELEPORT": Kind(ERROR, "the tool jumps", "Check the pose source, its frames and its rate. Leave the episode out."),
    "OUT_OF_WORKSPACE": Kind(
        ERROR, "the tool leaves the workspace", "Check frame and units of the pose, or widen the workspace setting."
    ),
    "UNREACHABLE": Kind(ERROR, "the arm cannot reach a pose", "Check the tool link and the base frame of the pose."),
    "FRAME_WRONG": Kind(
        ERROR,
        "poses are in another frame than the card's",
        "Publish the pose of the tool in the base frame of the arm.",
    ),
    "POSE_JOINTS_DISAGREE": Kind(
        ERROR, "pose and joint angles contradict each other", "Check the tool link and the base frame."
    ),
    # motion
    "IDLE": Kind(
        WARNING,
        "the arm stands still for much of the episode",
        "Trim idle steps: a policy learns to stand still from them.",
    ),
    "PAUSE": Kind(WARNING, "the arm pauses on the way", "Demonstrate without pauses, or filter steps without motion."),
    "NOT_FINITE": Kind(ERROR, "actions are not finite", _RERECORD),
    "ANGLE_WRAP": Kind(ERROR, "rotations jump by a whole turn", "Wrap the differences, or use rotation vectors."),
    "EULER_AT_WRAP": Kind(
        WARNING,
        "Euler angles are next to their jump",
        "Give the card the default_rotation of this tool, or rotation vectors.",
    ),
    "LABELS_MILLIMETRES": Kind(
        ERROR, "translations look like millimetres", "Divide by 1000, or correct translation_scale in the card."
    ),
    "LABELS_DEGREES": Kind(
        ERROR, "rotations look like degrees", "Convert to radians, or correct rotation_scale in the card."
    ),
    # gripper
    "GRIPPER_RANGE": Kind(
        ERROR, "gripper numbers are outside 0 to 1", "Set gripper_open and gripper_closed in the settings."
    ),
    "GRIPPER_CHATTER": Kind(
        WARNING, "the gripper command flutters", "Check the button or the threshold; leave the episode out."
    ),
    "GRIPPER_INVERTED": Kind(ERROR, "the gripper moves against its command", "Swap gripper_open and gripper_closed."),
    "GRIPPER_STUCK": Kind(ERROR, "the gripper does not follow its command", "Check the gripper and its state topic."),
    # pictures
    "IMAGE_DAMAGED": Kind(ERROR, "pictures do not decode", "Check encoding and transport of the camera."),
    "IMAGE_BLACK": Kind(ERROR, "pictures are black", "Check lens cap, exposure and light."),
    "IMAGE_OVEREXPOSED": Kind(
        WARNING, "pictures are overexposed", "Lower the exposure; switch automatic exposure off."
    ),
    "IMAGE_BLURRED": Kind(WARNING, "pictures are less sharp than the others", "Clean and focus the lens."),
    "IMAGE_FROZEN": Kind(
        ERROR, "the picture stands still while the arm moves", "Restart the camera driver; leave the episode out."
    ),
    "IMAGE_SIZE_CHANGED": Kind(ERROR, "the pictures change their size", "Fix the camera's mode before recording."),
    "IMAGE_SIZE_MIXED": Kind(WARNING, "episodes have pictures of different sizes", "Record all with one camera mode."),
    "COLORS_SWAPPED": Kind(
        ERROR, "red and blue are exchanged", "Correct the encoding (rgb8 or bgr8) the camera driver states."
    ),
    "IMAGE_ACTION_OFFSET": Kind(
        ERROR, "pictures and motion are apart in time", "Stamp frames when they are taken; check the clocks."
    ),
    # the set
    "EPISODE_DUPLICATE": Kind(ERROR, "two episodes are the same", "Remove one of them: it could be in both splits."),
    "CARD_MIXED": Kind(
        ERROR,
        "episodes follow different convention cards",
        "Split the set by card: their numbers do not mean the same.",
    ),
    "ROBOT_MIXED": Kind(
        WARNING, "episodes come from different robots", "Make one data set per robot, each with its statistics."
    ),
    "FRAME_MIXED": Kind(ERROR, "poses are in different frames", "Publish the pose in one base frame."),
    "CAMERA_RATE_MIXED": Kind(WARNING, "cameras ran at different rates", "Record all with one camera mode."),
    "INSTRUCTION_TWIN": Kind(
        WARNING, "two instructions differ by a slip only", "Write them the same way, unless both are meant."
    ),
    "INSTRUCTION_RARE": Kind(WARNING, "an instruction has very few episodes", "Record more of it, or leave it out."),
    "OUTLIER": Kind(WARNING, "a step is far from all others of the set", "Look at the episode at this time."),
    "OUTLIER_BRIDGE": Kind(
        WARNING,
        "steps are far from those of bridge_orig",
        "Check units and rate, if openvla-7b is to be fine-tuned on it.",
    ),
    "GRIPPER_UNUSED": Kind(WARNING, "the gripper never changes", "Check its topic; a policy will not learn to use it."),
    "STATISTICS_DEGENERATE": Kind(
        ERROR, "a dimension changes so rarely that it cannot be scaled", "Set its mask to false, or drop the steps."
    ),
    "STATISTICS_CONSTANT": Kind(
        WARNING, "a dimension never changes", "Check that it was recorded; the policy will always answer 0."
    ),
}
