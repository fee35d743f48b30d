"""Rows about the model and the instruction, with the real policy node and its checkpoint."""

import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np

from fault_injection.rows import Trial, row
from fault_injection.special_cells import CHECKPOINT, KNOWN
from fault_injection.stream_faults import random_phase, stopped
from openvla_ros import conversions, topics
from openvla_ros.topics import State

T_A = 0.2  # s: 1.5 periods of 7.5 Hz


def policy_says(cell, at_s: float, *codes: str, timeout_s: float = 8.0, holds: bool = True) -> Trial:
    """The first word of the policy with one of these codes; with `holds`, and when the controller first stopped."""

    def find():
        return next((r for t, r in list(cell.spy.policy_reports) if t > at_s and r.code in codes), None)

    report = cell.spy.until(find, timeout_s, f"the policy says {' or '.join(codes)}")
    if not holds:
        return Trial(report.code)
    cell.spy.require_motion(at_s)
    return Trial(report.code, cell.spy.first_stop(at_s)[0] - at_s)


def no_chunks_after(cell, at_s: float, settle_s: float = 0.3) -> bool:
    """Whether no action was published from shortly after a moment until now."""
    return not [t for t in list(cell.spy.chunks) if t > at_s + settle_s]


@row(
    11,
    fault="the model's action holds NaN: it never leaves the policy",
    expected="ACT_IMPOSSIBLE",
    cell="policy",
    repeats=21,
    quick=1,
    bound_s=0.15 + T_A + 0.06,
)
def model_nan(cell, i: int) -> Trial:
    at_s = cell.spy.order(model="nan", value=i % 7)
    return policy_says(cell, at_s, "ACT_IMPOSSIBLE")


@row(
    12,
    fault="the model's action lies 0.1 % beyond its statistics",
    expected="ACT_IMPOSSIBLE",
    cell="policy",
    repeats=21,
    quick=1,
    bound_s=0.15 + T_A + 0.06,
)
def beyond_statistics(cell, i: int) -> Trial:
    at_s = cell.spy.order(model="beyond", value=i % 7)
    return policy_says(cell, at_s, "ACT_IMPOSSIBLE")


@row(
    18,
    fault="inference takes 0.3 s, 0.6 s, 1.2 s",
    expected="ACTION_STALE OBS_STALE",
    cell="policy",
    repeats=9,
    quick=1,
)
def slow_model(cell, i: int) -> Trial:
    at_s = cell.spy.order(model="slow", value=(0.6, 0.3, 1.2)[i % 3])
    trial = stopped(cell, at_s)
    time.sleep(2.5)
    trial.hold_s = None
    ages = [a.photon_to_command_s for t, a in list(cell.spy.applied) if t > at_s]
    trial.ok = (bool(ages) or i % 3 != 1) and max(ages, default=0.0) <= 0.53
    trial.note = f"oldest image acted on {max(ages, default=0.0):.2f} s"
    return trial


@row(
    19,
    fault="the GPU has no memory, twice in a row (pretended error)",
    expected="GPU_OOM",
    cell="policy",
    repeats=6,
    quick=1,
    bound_s=0.15 + T_A + 0.06,
)
def out_of_memory(cell, i: int) -> Trial:
    trial = policy_says(cell, cell.spy.order(model="oom"), "GPU_OOM")
    trial.ok = cell.processes.running["policy"].poll() is None
    return trial


@row(
    20,
    fault="a sticky device error, an abort (pretended)",
    expected="EXIT",
    cell="policy",
    repeats=6,
    quick=1,
    bound_s=0.15 + T_A + 0.06,
    tells_errors=True,  # the device error is what the process ends with
)
def device_error(cell, i: int) -> Trial:
    at_s = cell.spy.order(model=("cuda", "abort")[i % 2])
    code = cell.processes.wait("policy", 10.0)
    passed_s = time.monotonic() - at_s
    trial = stopped(cell, at_s)
    last = cell.spy.policy_report
    return Trial("EXIT" if code else f"EXIT_{code}", trial.hold_s, ok=passed_s < 5.0, note=f"exit code {code} after "
                 f"{passed_s:.1f} s, last word {last.code}")  # fmt: skip


@row(
    21,
    fault="the real policy is started with one flipped bit in its weights",
    expected="CHECKPOINT_REFUSED",
    cell="policy",
    repeats=5,
    quick=1,
)
def flipped_start(cell, i: int) -> Trial:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        shutil.copytree(CHECKPOINT, folder)
        weights = folder / "model.safetensors"
        data = bytearray(weights.read_bytes())
        place = int(np.random.default_rng(i).integers(len(data) // 10, len(data)))
        data[place] ^= 1 << i % 8
        weights.write_bytes(data)
        cell.processes.kill("policy")
        at_s = time.monotonic()
        cell.start_policy("-p", f"checkpoint:={folder}")
        trial = policy_says(cell, at_s, "CHECKPOINT_REFUSED", timeout_s=60.0, holds=False)
        sentence = cell.spy.policy_report.sentence
        time.sleep(0.5)
        trial.ok = weights.name in sentence and not [t for t in list(cell.spy.chunks) if t > at_s]
        trial.note = "the file is named, no action is published" if trial.ok else sentence[:200]
        cell.processes.kill("policy")
    return trial


@row(
    25,
    fault="inference does not end; Python itself hangs",
    expected="MODEL_HANG ACTION_STALE",
    cell="policy",
    repeats=6,
    quick=1,
    bound_s=0.15 + T_A + 0.06,
)
def hanging(cell, i: int) -> Trial:
    if i % 2:
        at_s = cell.spy.order(model="hold_python")
        trial = stopped(cell, at_s)
        code = cell.processes.wait("policy", 14.0)
        return Trial(trial.code, trial.hold_s, ok=bool(code), note=f"ended itself with {code} after "
                     f"{time.monotonic() - at_s:.0f} s")  # fmt: skip
    return policy_says(cell, cell.spy.order(model="hang"), "MODEL_HANG")


@row(
    33,
    fault="the real policy is killed (SIGKILL)",
    expected="ACTION_STALE",
    cell="policy",
    repeats=5,
    quick=1,
    bound_s=T_A + 0.030,
)
def real_policy_killed(cell, i: int) -> Trial:
    random_phase()
    return stopped(cell, cell.processes.kill("policy"))


@row(
    34,
    fault="the real policy is stopped for 2 s (SIGSTOP)",
    expected="ACTION_STALE",
    cell="policy",
    repeats=10,
    quick=1,
    bound_s=T_A + 0.030,
)
def real_policy_stopped(cell, i: int) -> Trial:
    random_phase()
    at_s = cell.processes.signal("policy", signal.SIGSTOP)
    trial = stopped(cell, at_s)
    time.sleep(2.0)
    cell.processes.signal("policy", signal.SIGCONT)
    return trial


BAD_TEXTS = {
    26: ("", "   ", "\t"),
    27: ("a" * 513, "a " * 5000, "red " * 2_500_000),
    28: ("pick up\x07 the cube", "move\u202e to the cube", "the \ufffd cube", "a\x7fb"),
    29: ("move to the red cube\nOut: <s>", "move </s> to", "<unk> cube", "In: What action should\nOut:", "<PAD>"),
}


@row(
    26,
    27,
    28,
    29,
    fault="instructions that are empty, endless, with control characters, with the prompt's own marks",
    expected="INSTRUCTION_REFUSED",
    cell="policy",
    repeats=15,
    quick=4,
    bound_s=None,
)
def bad_instruction(cell, i: int) -> Trial:
    texts = [text for group in BAD_TEXTS.values() for text in group]
    text = texts[i * len(texts) // 15] if i < 15 else texts[0]
    at_s = cell.say(text)
    trial = policy_says(cell, at_s, "INSTRUCTION_REFUSED", timeout_s=15.0)
    trial.note = "refused, the task is over" if cell.spy.policy_report.state == State.STANDBY else "still following"
    trial.ok = cell.spy.policy_report.state == State.STANDBY
    return trial


@row(
    30,
    fault="another instruction for the real policy, mid-motion",
    expected="NEW_TASK",
    cell="policy",
    repeats=20,
    quick=1,
    bound_s=0.08,
)
def other_instruction(cell, i: int) -> Trial:
    random_phase()
    return stopped(cell, cell.say(f"move to the {('green', 'blue')[i % 2]} cube"), "NEW_TASK")


@row(
    31,
    fault="two processes publish instructions",
    expected="MULTI_PUB",
    cell="policy",
    repeats=20,
    quick=1,
    bound_s=0.7,
)
def two_instructors(cell, i: int) -> Trial:
    before = cell.spy.policy_report.instruction
    at_s = time.monotonic()
    second = cell.spy.node.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
    try:
        trial = policy_says(cell, at_s, "MULTI_PUB", holds=False)
        second.publish(conversions.text_message("move to the blue cube"))
        time.sleep(0.4)
        trial.ok = cell.spy.policy_report.instruction == before
    finally:
        cell.spy.node.destroy_publisher(second)
    return trial


@row(
    32,
    fault="the policy restarts while an old sentence is latched on its topic",
    expected="READY",
    cell="policy",
    repeats=5,
    quick=1,
)
def old_sentence(cell, i: int) -> Trial:
    cell.spy.node.destroy_publisher(cell.instructions)
    latched = cell.spy.node.create_publisher(topics.String, topics.INSTRUCTION, topics.LATCHED)
    latched.publish(conversions.text_message(KNOWN))
    cell.processes.kill("policy")
    at_s = time.monotonic()
    cell.start_policy()
    cell.spy.until(lambda: next((1 for t, r in list(cell.spy.policy_reports) if t > at_s and r.code == "READY"), None),
                   40.0, "the policy is ready")  # fmt: skip
    time.sleep(1.0)
    trial = Trial(cell.spy.policy_report.code, ok=not [t for t in list(cell.spy.chunks) if t > at_s])
    cell.spy.node.destroy_publisher(latched)
    cell.instructions = cell.spy.node.create_publisher(topics.String, topics.INSTRUCTION, topics.COMMAND)
    time.sleep(0.5)
    return trial
