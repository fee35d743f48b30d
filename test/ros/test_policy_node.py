"""The policy node with a real, untrained tiny OpenVLA, in this process."""

import numpy as np
import pytest
from camera_bench import Camera
from policy_bench import KNOWN, OTHER, UNTRAINED, Gate, Policy
from rclpy.parameter import Parameter

from openvla_ros import topics
from openvla_ros.policy_figures import STRETCHES
from openvla_ros.topics import State


@pytest.fixture
def policy(world, tiny_checkpoint):
    return Policy(world, tiny_checkpoint).ready()


def test_a_chunk_tells_where_its_action_comes_from(policy, camera):
    policy.say(KNOWN)
    first, second = policy.wait_for_chunks(2)
    assert first.stamp_ns in camera.stamps
    assert first.actions.shape == (1, 7)
    assert np.isfinite(first.actions).all()
    assert ((first.token_ids >= 256) & (first.token_ids < 512)).all()
    assert (first.instruction, first.convention, first.frame) == (KNOWN, "sim_tabletop", "base")
    assert (first.session_id, first.sequence + 1) == (second.session_id, second.sequence)
    assert second.stamp_ns > first.stamp_ns
    assert policy.wait_for_code("OK").instruction == KNOWN
    assert policy.active[-1] == KNOWN


def test_the_published_action_is_the_policys_own(policy, camera):
    """The node adds nothing and changes nothing between the model and the message."""
    seen = []
    predict = policy.node.model.policy.predict

    def remembered(image, instruction):
        seen.append(predict(image, instruction))
        return seen[-1]

    policy.node.model.policy.predict = remembered
    policy.say(KNOWN)
    (chunk,) = policy.wait_for_chunks(1)[:1]
    assert any(np.array_equal(chunk.actions[0], prediction.action) for prediction in seen)


def test_the_way_of_a_frame_is_told_in_stretches_that_add_up_to_it(policy, camera):
    ways, note = [], policy.node.figures.add_journey
    policy.node.figures.add_journey = lambda way: (ways.append(way), note(way))
    heard = policy.world.listen(topics.DiagnosticArray, topics.DIAGNOSTICS, 10)
    policy.say(KNOWN)
    policy.wait_for_chunks(2)
    for way in ways:
        assert tuple(way.stretches) == STRETCHES
        assert min(way.stretches.values()) >= 0.0
        assert sum(way.stretches.values()) == pytest.approx(way.total_s, abs=1e-9)
    count = len(heard)
    policy.world.wait_for(lambda: len(heard) > count + 1, "diagnostics")
    told = {pair.key: float(pair.value) for pair in heard[-1].status[0].values if pair.key.startswith("path_")}
    assert set(told) == {f"path_{name}_{kind}_ms" for name in (*STRETCHES, "total") for kind in ("p50", "p95")}
    assert told["path_total_p50_ms"] > told["path_inference_p50_ms"] > 0.0


def test_nothing_is_published_without_an_instruction(policy, camera):
    policy.wait_for_frames(15)
    assert not policy.chunks
    assert policy.node.figures.counts["chunks"] == 0


def test_a_new_instruction_takes_over_and_the_result_under_way_is_discarded(policy, camera):
    gate = Gate(policy.node)
    policy.say(KNOWN)
    policy.world.wait_for(gate.entered.is_set, "an inference")
    policy.say(OTHER)
    policy.world.wait_for(lambda: policy.active and policy.active[-1] == OTHER, "the new instruction")
    gate.opened.set()
    chunks = policy.wait_for_chunks(2)
    assert {chunk.instruction for chunk in chunks} == {OTHER}
    assert gate.sentences[0] == KNOWN
    assert policy.node.figures.counts["discarded"] == 1


def test_stop_forgets_the_instruction_and_the_result_under_way(policy, camera):
    gate = Gate(policy.node)
    policy.say(KNOWN)
    policy.world.wait_for(gate.entered.is_set, "an inference")
    assert policy.trigger("stop")[0]
    gate.opened.set()
    policy.world.wait_for(lambda: policy.node.figures.counts["discarded"] == 1, "the discarded result")
    policy.wait_for_frames(10)
    assert not policy.chunks
    assert policy.active[-1] == ""
    assert policy.statuses[-1].code == "READY"


def test_the_frame_from_before_an_instruction_is_never_used(policy, camera):
    """After a scene reset the last frame still shows the old scene."""
    policy.wait_for_frames(3)
    camera.on = False
    policy.trigger("stop")
    policy.say(KNOWN)
    policy.wait_for_code("CAM_STALE")
    assert not policy.chunks


@pytest.mark.parametrize(
    ("sentence", "part"),
    [
        ("open the fridge", "fridge"),
        ("", "empty"),
        ("   ", "empty"),
        ("x" * 100_000, "512"),
        ("move to the\nred cube", "control"),
        ("move to the \u202ered cube", "control"),
    ],
)
def test_a_refused_sentence_leaves_the_policy_idle_and_says_why(policy, camera, sentence, part):
    policy.say(KNOWN)
    policy.wait_for_chunks(1)
    policy.say(sentence)
    status = policy.wait_for_code("INSTRUCTION_REFUSED")
    assert status.state == State.STANDBY
    assert part in status.sentence
    assert status.instruction == ""
    before = policy.node.figures.counts["chunks"]
    policy.wait_for_frames(10)
    assert policy.node.figures.counts["chunks"] == before
    policy.say(OTHER)
    assert policy.wait_for_chunks(1)[-1].instruction == OTHER


def test_an_untrained_sentence_of_known_words_is_followed_with_a_warning(policy, camera):
    policy.say(UNTRAINED)
    status = policy.wait_for_code("INSTRUCTION_UNTRAINED")
    assert status.state == State.ACTIVE
    assert "training" in status.sentence
    policy.wait_for_chunks(1)


def test_a_silent_camera_is_named_and_resumes(world, tiny_checkpoint, camera):
    policy = Policy(world, tiny_checkpoint, max_observation_age_s=0.5).ready()
    policy.say(KNOWN)
    policy.wait_for_chunks(1)
    camera.on = False
    status = policy.wait_for_code("CAM_STALE")
    assert status.state == State.HOLD
    assert "/camera/image_raw" in status.sentence
    count = policy.node.figures.counts["chunks"]
    camera.on = True
    policy.wait_for_code("OK")
    assert policy.node.figures.counts["chunks"] > count


@pytest.mark.parametrize("offset_s", [-5.0, 5.0])
def test_frames_whose_stamp_is_far_from_now_are_not_acted_on(policy, camera, offset_s):
    camera.offset_s = offset_s
    policy.wait_for_frames(2)
    policy.say(KNOWN)
    policy.wait_for_code("CAM_STALE")
    assert not policy.chunks


def test_one_frame_is_used_once(policy, camera):
    """A driver that repeats its last picture must not make the arm repeat its last step."""
    camera.frozen_stamp_ns = world_now_ns(policy)
    policy.say(KNOWN)
    policy.wait_for_chunks(1)
    policy.wait_for_frames(10)
    assert len(policy.chunks) == 1


def world_now_ns(policy) -> int:
    return policy.node.get_clock().now().nanoseconds


def test_an_encoding_that_is_no_picture_stops_the_chunks(policy, camera):
    camera.break_encoding = True
    policy.say(KNOWN)
    status = policy.wait_for_code("CAM_IMAGE")
    assert "32FC1" in status.sentence
    assert not policy.chunks


def test_compressed_pictures_work_too(world, tiny_checkpoint):
    policy = Policy(world, tiny_checkpoint, image_transport="compressed").ready()
    Camera(world, compressed=True)
    policy.say(KNOWN)
    policy.wait_for_chunks(1)


def test_a_model_that_turns_nan_gives_no_motion_and_one_clear_status(policy, camera):
    policy.say(KNOWN)
    policy.wait_for_chunks(1)
    policy.node.model.policy.model.language_model.lm_head.weight.data.fill_(float("nan"))
    status = policy.wait_for_code("ACT_TOKEN")
    assert status.state == State.HOLD
    count = len(policy.chunks)
    errors = policy.node.figures.counts["errors"]
    policy.world.wait_for(lambda: policy.node.figures.counts["errors"] >= errors + 5, "more errors")
    assert len(policy.chunks) <= count + 1
    assert len([s for s in policy.statuses if s.code == "OK"]) >= 1
    assert policy.statuses[-1].code == "ACT_TOKEN"


def test_a_text_token_is_no_motion(world, tiny_checkpoint, camera):
    policy = Policy(world, tiny_checkpoint, decoding="reference").ready()
    # Every logit equal: token 0 wins, which is text.
    policy.node.model.policy.model.language_model.lm_head.weight.data.zero_()
    policy.say(KNOWN)
    assert policy.wait_for_code("ACT_TOKEN").state == State.HOLD
    assert not policy.chunks


def test_an_unexpected_error_is_a_fault_and_ends_the_process(policy, camera):
    def broken(image, instruction):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    policy.node.model.policy.predict = broken
    policy.say(KNOWN)
    status = policy.wait_for_code("FAULT")
    assert status.state == State.FAULT
    assert "illegal memory access" in status.sentence
    assert policy.node.exit_code == 1
    assert not policy.chunks


def test_pause_holds_back_and_start_goes_on(policy, camera):
    policy.say(KNOWN)
    policy.wait_for_chunks(1)
    assert policy.trigger("pause")[0]
    policy.wait_for_code("PAUSED")
    count = policy.node.figures.counts["chunks"]
    policy.wait_for_frames(10)
    assert policy.node.figures.counts["chunks"] == count
    assert policy.trigger("start")[0]
    assert policy.wait_for_chunks(1)[-1].instruction == KNOWN


def test_an_inactive_node_ignores_instructions(policy, camera):
    policy.node.trigger_deactivate()
    policy.say(KNOWN)
    policy.wait_for_frames(10)
    assert not policy.chunks
    assert policy.statuses[-1].code == "INACTIVE"
    policy.node.trigger_activate()
    policy.wait_for_frames(10)
    assert not policy.chunks, "an instruction from before the activation must not start a motion"
    policy.say(KNOWN)
    policy.wait_for_chunks(1)


def test_parameters_are_fixed_while_a_checkpoint_is_loaded(policy):
    result = policy.node.set_parameters([Parameter("temperature", value=0.5)])[0]
    assert not result.successful
    assert "clean" in result.reason
    policy.node.trigger_deactivate()
    policy.node.trigger_cleanup()
    assert policy.node.set_parameters([Parameter("temperature", value=0.5)])[0].successful
    policy.node.trigger_configure()
    policy.node.trigger_activate()
    assert policy.node.model.policy.decoder.temperature == 0.5


def test_a_missing_checkpoint_ends_the_process_with_a_sentence(world, tmp_path):
    policy = Policy(world, tmp_path / "nowhere")
    status = policy.wait_for_code("CHECKPOINT_REFUSED")
    assert status.state == State.FAULT
    assert "nowhere" in status.sentence
    world.wait_for(lambda: policy.node.exit_code == 3, "exit code 3")


def test_a_checkpoint_without_a_card_is_refused(world, tmp_path):
    import tiny_checkpoint

    policy = Policy(world, tiny_checkpoint.write(tmp_path / "bare", with_card=False))
    assert "action_convention.json" in policy.wait_for_code("CONVENTION_REFUSED").sentence


def test_a_blind_checkpoint_is_refused(world, tmp_path):
    import tiny_checkpoint

    policy = Policy(world, tiny_checkpoint.write(tmp_path / "damaged", nan=True))
    world.wait_for(lambda: policy.node.exit_code == 3, "exit code 3")
    assert policy.node.board.report.state == State.FAULT


def test_status_and_diagnostics_repeat_with_measurements(policy, camera):
    diagnostics = policy.world.listen(topics.DiagnosticArray, topics.DIAGNOSTICS, 10)
    policy.say(KNOWN)
    policy.world.wait_for(lambda: policy.statuses[-1].rate_hz > 0, "a measured rate")
    assert policy.statuses[-1].latency_p95_ms >= policy.statuses[-1].latency_p50_ms > 0
    policy.world.wait_for(lambda: len(diagnostics) >= 2, "diagnostics")
    values = {pair.key: pair.value for pair in diagnostics[-1].status[0].values}
    assert diagnostics[-1].status[0].name == "policy_node"
    assert int(values["frames"]) > 0


def test_guesses_that_were_right_are_told_in_the_diagnostics(world, tiny_checkpoint, camera):
    """A picture that stays the same has the same action, so the action before is the right guess."""
    camera.picture = np.full((112, 112, 3), 90, np.uint8)
    policy = Policy(world, tiny_checkpoint, drafts=True).ready()
    policy.say(KNOWN)
    chunks = policy.wait_for_chunks(3)
    assert len({tuple(chunk.token_ids[0]) for chunk in chunks}) == 1
    details = policy.node.details()
    assert 0 < int(details["drafts accepted"]) <= int(details["drafts proposed"])


def test_a_checkpoint_with_a_flipped_bit_ends_the_process_with_a_sentence(world, tmp_path):
    import tiny_checkpoint

    weights = tiny_checkpoint.write(tmp_path / "flipped") / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    policy = Policy(world, weights.parent)
    sentence = policy.wait_for_code("CHECKPOINT_REFUSED").sentence
    assert "model.safetensors has the sha256" in sentence
    assert "Copy it again" in sentence
    world.wait_for(lambda: policy.node.exit_code == 3, "exit code 3")


def test_a_checkpoint_is_not_compared_where_nobody_wants_it(world, tmp_path):
    import tiny_checkpoint

    directory = tiny_checkpoint.write(tmp_path / "changed")
    card = directory / "training_card.json"
    card.write_text(card.read_text() + "\n")
    Policy(world, directory, verify_checkpoint="never").ready()


def test_a_checkpoint_without_checksums_is_refused_where_they_are_wanted(world, tmp_path):
    import tiny_checkpoint

    directory = tiny_checkpoint.write(tmp_path / "bare")
    (directory / "SHA256SUMS").unlink()
    policy = Policy(world, directory, verify_checkpoint="always")
    assert "--write-checksums" in policy.wait_for_code("CHECKPOINT_REFUSED").sentence
