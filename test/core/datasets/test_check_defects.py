"""Every kind of defect that is planted in a clean set is found, under its own code; a clean set has no finding."""

import copy
import re
import shutil
from dataclasses import replace
from pathlib import Path

import bag_tools as tools
import cv2
import numpy as np
import pytest
from bag_tools import CAMERA, GRIPPER, INSTRUCTION, JOINTS, MS, POSE, TARGET, Note, S, Tape

from openvla_core import rotations
from openvla_core.datasets.bags.reader import ReadingSettings
from openvla_core.datasets.check.evidence import Evidence, from_bag
from openvla_core.datasets.check.findings import KINDS
from openvla_core.datasets.check.run import check_bags, check_episode, check_evidence, check_set
from openvla_core.datasets.check.settings import CheckSettings
from openvla_core.training.tiny_checkpoint import tiny_convention

LIMITS = CheckSettings()
NOISE = 8.0  # grey levels of flicker
SIZE = 3  # episodes of the clean set; the defect goes into the last one


@pytest.fixture(scope="module")
def scribe():
    return tools.Scribe()


@pytest.fixture(scope="module")
def tapes() -> list[Tape]:
    tapes = [tools.demonstration(seed) for seed in range(SIZE)]
    for tape in tapes:
        del tape.notes[TARGET]  # nothing is checked about it, and it takes its time
    return tapes


@pytest.fixture(scope="module")
def written(tapes, scribe, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    for tape in tapes:
        scribe.write(tape, root)
    return root


@pytest.fixture(scope="module")
def clean(tapes, written) -> list[Evidence]:
    return [from_bag(written / tape.name, ReadingSettings()) for tape in tapes]


@pytest.fixture(scope="module")
def simulated(scribe, tmp_path_factory) -> tuple[list[Tape], list[Evidence]]:
    root = tmp_path_factory.mktemp("simulated")
    tapes = [tools.simulated(seed) for seed in range(SIZE)]
    return tapes, [from_bag(scribe.write(tape, root), ReadingSettings()) for tape in tapes]


# Changes of a tape: each plants one kind of defect -------------------------------------------------------------------


def middle(notes: list[Note], share: float = 0.5) -> int:
    return int(len(notes) * share)


def camera_slow(tape):
    tape.notes[CAMERA] = tape.notes[CAMERA][::5]


def camera_gaps(tape):
    at = middle(tape.notes[CAMERA])
    del tape.notes[CAMERA][at : at + 6]


def pose_gaps(tape):
    at = middle(tape.notes[POSE])
    del tape.notes[POSE][at : at + 15]


def stamp_duplicate(tape):
    for i in (20, 30):
        tape.notes[CAMERA][i].stamp_ns = tape.notes[CAMERA][i - 1].stamp_ns


def stamp_backwards(tape):
    notes = tape.notes[CAMERA]
    notes[20].stamp_ns, notes[21].stamp_ns = notes[21].stamp_ns, notes[20].stamp_ns


def stamp_missing(tape):
    for note in tape.notes[POSE]:
        note.stamp_ns = 0


def clock_jump(tape):
    for notes in (tape.notes[CAMERA], tape.notes[POSE]):
        for note in notes[middle(notes) :]:
            note.stamp_ns += 3 * S


def clock_offset(tape):
    for note in tape.notes[CAMERA]:
        note.stamp_ns -= 700 * MS


def too_short(tape):
    for topic, notes in tape.notes.items():
        tape.notes[topic] = [note for note in notes if note.arrival_ns < tape.notes[CAMERA][6].arrival_ns]


def too_long(tape):
    """Two minutes at rest after the task: a recorder that nobody stopped."""
    for topic in (POSE, CAMERA, GRIPPER, JOINTS):
        last = tape.notes[topic][-1]
        every = 190 * MS if topic == CAMERA else 100 * MS
        for k in range(1, 125 * S // every):
            late = k * every
            tape.notes[topic].append(Note(last.arrival_ns + late, last.stamp_ns + late, last.value, last.frame))


def steps_dropped(tape):
    notes = tape.notes[POSE]
    tape.notes[POSE] = notes[: middle(notes, 0.4)] + notes[middle(notes, 0.7) :]


def instruction_missing(tape):
    del tape.facts["instruction"], tape.notes[INSTRUCTION]


def instruction_invalid(tape):
    tape.facts["instruction"] = "pick up the\x07 cube"


def instruction_late(tape):
    del tape.facts["instruction"]
    tape.notes[INSTRUCTION][0].arrival_ns = tape.notes[CAMERA][15].arrival_ns


def instruction_changed(tape):
    tape.notes[INSTRUCTION].append(Note(tape.notes[CAMERA][40].arrival_ns, 0, "put it down"))


def outcome_missing(tape):
    del tape.facts["outcome"]


def failure_included(tape):
    tape.facts["outcome"] = "failure"


def card_missing(tape):
    del tape.facts["convention"]


def card_invalid(tape):
    tape.facts["convention"] = {**tiny_convention(), "frame": "camera", "rate_hz": -5}


def card_mixed(tape):
    tape.facts["convention"] = {**tiny_convention(), "translation_scale": 0.05}


def episode_cut(tape):
    tape.facts["interrupted"] = True


def messages_dropped(tape):
    tape.facts["dropped"] = 12


def robot_mixed(tape):
    tape.facts["robot"] = "franka"


def pose_not_finite(tape):
    tape.notes[POSE][40].value = np.full(7, np.nan)


def quaternion_norm(tape):
    for note in tape.notes[POSE]:
        note.value = np.array([*note.value[:3], 3.1, 0.0, 0.1, 0.0])


def units_millimetres(tape):
    for note in tape.notes[POSE]:
        note.value = note.value * [1000, 1000, 1000, 1, 1, 1, 1]


def joints_degrees(tape):
    for note in tape.notes[JOINTS]:
        note.value = (["panda_joint1", *note.value[0]], np.array([35.0, *note.value[1]]))


def teleport(tape):
    tape.notes[POSE][100].value = tape.notes[POSE][100].value + [0.15, 0, 0, 0, 0, 0, 0]


def flipped_orientation(tape):
    for note in tape.notes[POSE][100:]:
        note.value = np.array([*note.value[:3], *rotations.multiply(np.array([0, 0, 1.0, 0]), note.value[3:])])


def out_of_workspace(tape):
    for note in tape.notes[POSE]:
        note.value = note.value - [0, 0, 0.08, 0, 0, 0, 0]


def unreachable(tape):
    for note in tape.notes[POSE]:
        note.value = note.value + [0.28, 0.45, 0, 0, 0, 0, 0]


def frame_wrong(tape):
    for note in tape.notes[POSE]:
        note.frame = "camera_link"


def idle(tape):
    """The arm waits before, between and after, each time for less than a pause on the way."""
    stretch(tape, at=0.25, seconds=1.7)
    stretch(tape, at=0.6, seconds=1.7)
    stretch(tape, at=0.98, seconds=5.0)


def pause(tape):
    stretch(tape, at=0.25, seconds=3.0)


def stretch(tape, at: float, seconds: float) -> None:
    """Everything stands still for a while; sensors and camera go on, with their noise."""
    begin = tape.notes[POSE][0].arrival_ns
    cut = begin + int((tape.notes[POSE][-1].arrival_ns - begin) * at)
    length = int(seconds * S)
    rng = np.random.default_rng(0)
    for topic, notes in tape.notes.items():
        if topic == INSTRUCTION:
            continue
        before, after = [n for n in notes if n.arrival_ns <= cut], [n for n in notes if n.arrival_ns > cut]
        last = before[-1]
        every = (notes[-1].stamp_ns - notes[0].stamp_ns) // (len(notes) - 1)
        fill = []
        for k in range(1, (length + (after[0].stamp_ns if after else last.stamp_ns) - last.stamp_ns) // every):
            value = last.value
            if topic == CAMERA:
                value = np.clip(value + rng.normal(0, 1, value.shape), 0, 255).astype(np.uint8)
            fill.append(Note(last.arrival_ns + k * every, last.stamp_ns + k * every, value, last.frame))
        for note in after:
            note.arrival_ns += length
            note.stamp_ns += length
        tape.notes[topic] = before + fill + after


def euler_at_wrap(tape):
    """Roll is 180 degrees where this gripper points down, unless the card says where to measure from."""
    card = {**tiny_convention(), "rotation": "euler_difference_xyz", "default_rotation": [0.0, 0.0, 0.0, 1.0]}
    tape.facts["convention"] = card


def gripper_range(tape):
    for note in tape.notes[GRIPPER]:
        note.value *= 255.0


def gripper_chatter(tape):
    for i in range(150, 162):
        tape.notes[GRIPPER][i].value = float(i // 2 % 2)


def gripper_inverted(tape):
    for note in tape.notes[GRIPPER]:
        note.value = 1.0 - note.value


def gripper_stuck(tape):
    for note in tape.notes[JOINTS]:
        note.value = (note.value[0], np.full(2, 0.04))


def topic_missing(tape):
    del tape.notes[POSE]


def camera_missing(tape):
    del tape.notes[CAMERA]


def gripper_missing(tape):
    del tape.notes[GRIPPER], tape.notes[JOINTS]


def topic_ambiguous(tape):
    for side in ("left", "right"):
        tape.notes[f"/{side}{POSE}"], tape.kinds[f"/{side}{POSE}"] = tape.notes[POSE], tape.kinds[POSE]
    del tape.notes[POSE]


def type_wrong(tape):
    tape.notes[POSE] = [replace(note, value="here") for note in tape.notes[POSE]]
    tape.kinds[POSE] = "std_msgs/msg/String"


def empty(tape):
    tape.notes = {topic: [] for topic in tape.notes}


def image_damaged(tape):
    tape.notes[CAMERA][20].value = tools.jpeg(tape.notes[CAMERA][20].value)[:300]


def image_black(tape):
    for note in tape.notes[CAMERA][20:24]:
        note.value = np.zeros_like(note.value)


def image_overexposed(tape):
    for note in tape.notes[CAMERA]:
        note.value = np.clip(note.value.astype(float) * 1.3 + 180, 0, 255).astype(np.uint8)


def image_blurred(tape):
    for note in tape.notes[CAMERA]:
        note.value = cv2.GaussianBlur(note.value, (0, 0), 3)


def image_frozen(tape):
    for note in tape.notes[CAMERA][15:35]:
        note.value = tape.notes[CAMERA][15].value


def image_size_changed(tape):
    for note in tape.notes[CAMERA][30:]:
        note.value = cv2.resize(note.value, (64, 48))


def image_size_mixed(tape):
    for note in tape.notes[CAMERA]:
        note.value = cv2.resize(note.value, (128, 96))


def colors_swapped(tape):
    for note in tape.notes[CAMERA]:
        note.value = note.value[..., ::-1].copy()


def camera_rate_mixed(tape):
    tape.notes[CAMERA] = tape.notes[CAMERA][::2]


def depth_for_color(tape):
    del tape.notes[CAMERA]
    first = tape.notes[POSE][0].stamp_ns
    for k in range(60):
        tape.add(tools.RAW, first + k * 66 * MS, ("32FC1", np.ones((12, 16), np.float32)), 10 * MS, "camera")


def outlier(tape):
    """A quick pull on the arm: fifteen centimetres within a fifth of a second, slower than a jump."""
    begin = 100
    for i, note in enumerate(tape.notes[POSE][begin:]):
        note.value = note.value + [0.16 * min(1.0, i / 10), 0, 0, 0, 0, 0, 0]


PLANTED = [
    (camera_slow, "CAMERA_SLOW"), (episode_cut, "EPISODE_CUT"), (messages_dropped, "MESSAGES_DROPPED"),
    (camera_gaps, "CAMERA_GAPS"), (pose_gaps, "POSE_GAPS"),
    (stamp_duplicate, "STAMP_DUPLICATE"), (stamp_backwards, "STAMP_BACKWARDS"), (stamp_missing, "STAMP_MISSING"),
    (clock_jump, "CLOCK_JUMP"), (clock_offset, "CLOCK_OFFSET"), (too_short, "TOO_SHORT"), (too_long, "TOO_LONG"),
    (steps_dropped, "STEPS_DROPPED"), (instruction_missing, "INSTRUCTION_MISSING"),
    (instruction_invalid, "INSTRUCTION_INVALID"), (instruction_late, "INSTRUCTION_LATE"),
    (instruction_changed, "INSTRUCTION_CHANGED"), (outcome_missing, "OUTCOME_MISSING"),
    (failure_included, "FAILURE_INCLUDED"), (card_missing, "CARD_MISSING"), (card_invalid, "CARD_INVALID"),
    (card_mixed, "CARD_MIXED"), (robot_mixed, "ROBOT_MIXED"), (pose_not_finite, "POSE_NOT_FINITE"),
    (quaternion_norm, "QUATERNION_NORM"), (units_millimetres, "UNITS_MILLIMETRES"),
    (joints_degrees, "JOINTS_DEGREES"), (teleport, "TELEPORT"), (flipped_orientation, "TELEPORT"),
    (out_of_workspace, "OUT_OF_WORKSPACE"), (unreachable, "UNREACHABLE"), (frame_wrong, "FRAME_WRONG"),
    (frame_wrong, "FRAME_MIXED"), (idle, "IDLE"), (pause, "PAUSE"), (euler_at_wrap, "EULER_AT_WRAP"),
    (gripper_range, "GRIPPER_RANGE"), (gripper_chatter, "GRIPPER_CHATTER"), (gripper_inverted, "GRIPPER_INVERTED"),
    (gripper_stuck, "GRIPPER_STUCK"), (topic_missing, "TOPIC_MISSING"), (camera_missing, "TOPIC_MISSING"),
    (gripper_missing, "TOPIC_MISSING"), (topic_ambiguous, "TOPIC_AMBIGUOUS"), (type_wrong, "TYPE_WRONG"),
    (empty, "BAG_EMPTY"), (image_damaged, "IMAGE_DAMAGED"), (depth_for_color, "IMAGE_DAMAGED"),
    (image_black, "IMAGE_BLACK"), (image_overexposed, "IMAGE_OVEREXPOSED"), (image_blurred, "IMAGE_BLURRED"),
    (image_frozen, "IMAGE_FROZEN"), (image_size_changed, "IMAGE_SIZE_CHANGED"),
    (image_size_mixed, "IMAGE_SIZE_MIXED"), (colors_swapped, "COLORS_SWAPPED"),
    (camera_rate_mixed, "CAMERA_RATE_MIXED"), (outlier, "OUTLIER"),
]  # fmt: skip


@pytest.mark.parametrize("plant, code", PLANTED, ids=[f"{code}-{plant.__name__}" for plant, code in PLANTED])
def test_a_planted_defect_is_found(plant, code, tapes, clean, scribe, tmp_path):
    tape = copy.deepcopy(tapes[-1])
    plant(tape)
    evidence = from_bag(scribe.write(tape, tmp_path), ReadingSettings())
    # What is wrong with the others by themselves does not depend on this one: the clean set as a whole says it.
    findings = check_episode(evidence, LIMITS) + check_set([*clean[:-1], evidence], LIMITS)
    found = {finding.code for finding in findings if finding.episode in (tape.name, "")}
    assert code in found, f"found {found or 'nothing'} instead"
    assert not [f for f in findings if f.episode in {e.name for e in clean[:-1]}]


def test_a_clean_set_has_no_finding(clean):
    assert [f"{f.code}: {f.sentence}" for f in check_evidence("clean", clean).findings] == []


@pytest.mark.parametrize("first", [10, 20])
def test_other_clean_sets_have_none_either(first, scribe, tmp_path):
    for seed in range(first, first + SIZE):
        scribe.write(tools.demonstration(seed), tmp_path)
    assert [f"{f.code}: {f.sentence}" for f in check_bags(tmp_path).findings] == []


def test_what_the_simulator_and_its_expert_make_is_clean(simulated):
    _, evidences = simulated
    assert [f"{f.code}: {f.sentence}" for f in check_evidence("simulated", evidences).findings] == []


@pytest.fixture(scope="module")
def late(simulated, scribe, tmp_path_factory) -> list[Evidence]:
    """The same episodes by a camera whose frames flicker and are three tenths of a second old."""
    root = tmp_path_factory.mktemp("late")
    return [from_bag(scribe.write(faint(delayed(tape, 3)), root), ReadingSettings()) for tape in simulated[0]]


def delayed(tape: Tape, frames: int) -> Tape:
    """The tape with each picture so many frames late."""
    tape = copy.deepcopy(tape)
    values = [note.value for note in tape.notes[CAMERA]]
    for i, note in enumerate(tape.notes[CAMERA]):
        note.value = values[min(max(i - frames, 0), len(values) - 1)]
    return tape


def faint(tape: Tape, strength: float = NOISE) -> Tape:
    """The tape with flicker in its pictures, which drowns part of the motion."""
    rng = np.random.default_rng(7)
    for note in tape.notes[CAMERA]:
        shift = rng.normal(0, strength)
        note.value = np.clip(note.value.astype(float) + shift, 0, 255).astype(np.uint8)
    return tape


def test_an_offset_too_faint_in_every_episode_adds_up_in_the_set(late):
    """Each episode alone is not sure enough; together they are."""
    own = [finding.code for evidence in late for finding in check_episode(evidence, LIMITS)]
    assert "IMAGE_ACTION_OFFSET" not in own
    (finding,) = [f for f in check_set(late, LIMITS) if f.code == "IMAGE_ACTION_OFFSET"]
    assert finding.episode == ""
    assert 0.2 < float(re.search(r"trail the tool by ([\d.]+) s", finding.sentence)[1]) < 0.45


def test_the_same_flicker_without_an_offset_is_none(simulated, scribe, tmp_path):
    tapes = [faint(copy.deepcopy(tape)) for tape in simulated[0]]
    evidences = [from_bag(scribe.write(tape, tmp_path), ReadingSettings()) for tape in tapes]
    assert "IMAGE_ACTION_OFFSET" not in set_codes(evidences)


@pytest.mark.parametrize("frames", [-4, 4])
def test_pictures_that_lag_or_lead_by_four_tenths_of_a_second_are_found(frames, simulated, scribe, tmp_path):
    tapes, evidences = simulated
    tape = delayed(tapes[-1], frames)
    evidence = from_bag(scribe.write(tape, tmp_path), ReadingSettings())
    report = check_evidence("planted", [*evidences[:-1], evidence])
    (finding,) = [f for f in report.findings if f.code == "IMAGE_ACTION_OFFSET" and f.episode == tape.name]
    assert ("trail" if frames > 0 else "lead") + " the tool by 0.4" in finding.sentence.replace("0.38", "0.40")


def test_a_pose_of_another_link_contradicts_the_joints(simulated, scribe, tmp_path):
    tapes, evidences = simulated
    tape = copy.deepcopy(tapes[-1])
    for note in tape.notes[POSE]:
        note.value = note.value + [0, 0, 0.1034, 0, 0, 0, 0]  # the hand instead of its tool centre point
    evidence = from_bag(scribe.write(tape, tmp_path), ReadingSettings())
    found = {f.code for f in check_evidence("planted", [*evidences[:-1], evidence]).findings}
    assert found == {"POSE_JOINTS_DISAGREE"}


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "set")


def codes(root) -> dict[str, str]:
    return {finding.code: finding.episode for finding in check_bags(root).findings}


def test_a_cut_file_is_found(folder):
    (file,) = (folder / "episode_0002").glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert codes(folder) == {"BAG_DAMAGED": "episode_0002"}


def test_flipped_bytes_are_found(folder):
    (file,) = (folder / "episode_0002").glob("*.mcap")
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 4000] = bytes(4000)
    file.write_bytes(data)
    assert set(codes(folder).values()) == {"episode_0002"}


def test_a_recording_that_does_not_become_an_episode_is_found(folder):
    """Labels from what a controller applied, and no controller was there."""
    found = {finding.code for finding in check_bags(folder, ReadingSettings(actions="applied")).findings}
    assert found == {"EPISODE_UNUSABLE"}


def test_an_unfinished_bag_is_found(folder):
    (folder / "episode_0002" / "metadata.yaml").unlink()
    assert codes(folder) == {"BAG_UNFINISHED": "episode_0002"}


def test_an_open_episode_is_found(folder):
    shutil.move(folder / "episode_0002", folder / ".open" / "episode_0002")
    assert codes(folder) == {"EPISODE_OPEN": "episode_0002"}


def test_a_copied_episode_is_found(folder, tapes, scribe):
    twin = copy.deepcopy(tapes[0])
    twin.name = "episode_0099"
    scribe.write(twin, folder)
    assert codes(folder) == {"EPISODE_DUPLICATE": "episode_0099"}


# The set -------------------------------------------------------------------------------------------------------------


def with_instruction(evidence: Evidence, text: str, name: str) -> Evidence:
    """The same episode, said and moved a little differently, so that it is no twin."""
    jitter = np.random.default_rng(abs(hash(name)) % 2**32).normal(0, 1e-4, evidence.episode.actions.shape)
    actions = (evidence.episode.actions + jitter * [1, 1, 1, 1, 1, 1, 0]).astype(np.float32)
    return replace(evidence, name=name, episode=replace(evidence.episode, name=name, instruction=text, actions=actions))


def set_codes(evidences) -> set[str]:
    return {finding.code for finding in check_evidence("set", evidences).findings}


@pytest.mark.parametrize("slip", ["pick up the yelow cube", "Pick up the yellow cube.", "pick up  the yellow cube"])
def test_a_slip_in_a_sentence_is_found(clean, slip):
    evidences = [with_instruction(clean[0], "pick up the yellow cube", f"e{i}") for i in range(3)]
    assert set_codes([*evidences, with_instruction(clean[1], slip, "slip")]) == {"INSTRUCTION_TWIN"}


@pytest.mark.parametrize("other", ["pick up the red cube", "lift the yellow cube", "pick up the yellow cube slowly"])
def test_another_task_is_no_slip(clean, other):
    evidences = [with_instruction(clean[0], "pick up the yellow cube", f"e{i}") for i in range(3)]
    assert set_codes([*evidences, with_instruction(clean[1], other, "other")]) == set()


def test_a_rare_task_is_found(clean):
    common = [with_instruction(clean[i % 3], f"take the {c} one", f"{c}{i}") for c in ("red", "blue") for i in range(6)]
    assert set_codes([*common, with_instruction(clean[0], "open the drawer", "rare")]) == {"INSTRUCTION_RARE"}


def changed(evidence: Evidence, change) -> Evidence:
    """The evidence with other labels, as imported data would have them."""
    actions = evidence.episode.actions.copy()
    change(actions)
    return replace(evidence, episode=replace(evidence.episode, actions=actions))


def spin(actions):
    actions[7, 5] += 2 * np.pi


def scaled(columns, factor):
    def change(actions):
        actions[:, columns] *= factor

    return change


def ignore_gripper(actions):
    actions[:, 6] = 1.0


def constant(actions):
    actions[:, 4] = 0.0


def not_finite(actions):
    actions[3, 2] = np.inf


@pytest.mark.parametrize(
    "change, code",
    [
        (spin, "ANGLE_WRAP"),
        (scaled([0, 1, 2], 1000.0), "LABELS_MILLIMETRES"),
        (scaled([3, 4, 5], 3000.0), "LABELS_DEGREES"),
        (scaled([0, 1, 2], 4.0), "OUTLIER_BRIDGE"),
        (ignore_gripper, "GRIPPER_UNUSED"),
        (constant, "STATISTICS_CONSTANT"),
        (not_finite, "NOT_FINITE"),
    ],
)
def test_labels_that_cannot_be_are_found(clean, change, code):
    many = [with_instruction(clean[i % 3], "take it", f"e{i}") for i in range(9)]
    assert code in set_codes([changed(evidence, change) for evidence in many])


def test_a_dimension_that_hardly_ever_changes_is_found(clean):
    """One step in two hundred: both quantiles are 0, and normalization would divide by nothing."""
    many = [with_instruction(clean[i % 3], "take it", f"e{i}") for i in range(9)]
    still = [changed(evidence, constant) for evidence in many]
    still[0].episode.actions[3, 4] = 0.02
    assert set_codes(still) == {"STATISTICS_DEGENERATE"}


def test_every_kind_of_finding_has_a_test():
    """A code that nothing plants would be a promise nobody keeps."""
    elsewhere = {
        "BAG_DAMAGED", "BAG_UNFINISHED", "EPISODE_OPEN", "EPISODE_DUPLICATE", "IMAGE_ACTION_OFFSET",
        "POSE_JOINTS_DISAGREE", "INSTRUCTION_TWIN", "INSTRUCTION_RARE", "ANGLE_WRAP", "LABELS_MILLIMETRES",
        "LABELS_DEGREES", "OUTLIER_BRIDGE", "GRIPPER_UNUSED", "STATISTICS_CONSTANT", "STATISTICS_DEGENERATE",
        "NOT_FINITE", "EPISODE_UNUSABLE",
    }  # fmt: skip
    assert set(KINDS) == {code for _, code in PLANTED} | elsewhere
