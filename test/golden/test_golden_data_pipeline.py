"""Normalization, grippers, standardisation, chunks and mixtures are those of the published data pipeline.

The published figures are float32; ours are computed in float64 where that costs nothing. One rounding of float32 at 1
is 6e-8, and normalizing magnifies what it is given by at most 20 here: 1e-5 for "normal", which is not clipped and
reaches values of 4, and 2e-6 for the rest. What only copies, picks or subtracts numbers is equal to the last bit.
"""

import json

import numpy as np
import pytest

from openvla_core.action_statistics import compute_statistics
from openvla_core.datasets import gripper
from openvla_core.datasets.chunking import chunk_actions, relative_mask, window_indices
from openvla_core.datasets.normalize import KINDS, normalize_actions
from openvla_core.datasets.oxe.mixture import mixture_of
from openvla_core.datasets.oxe.standardize import standardize
from openvla_core.image_preparation import lanczos_resize
from openvla_core.images import decode_compressed

TOLERANCE = {"bounds_q99": 2e-6, "bounds": 2e-6, "normal": 1e-5}
MASKS = {"mask": [True] * 6 + [False], "nomask": [True] * 7}


@pytest.fixture(scope="module")
def arrays(golden):
    return np.load(golden / "data_pipeline" / "golden.npz")


@pytest.fixture(scope="module")
def answers(golden):
    return json.loads((golden / "data_pipeline" / "golden.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_normalized_actions(arrays, answers, kind, mask):
    expected = arrays[f"normalized.{kind}.{mask}"]
    statistics = {**answers["stats"], "mask": MASKS[mask]}
    computed = normalize_actions(arrays["stats.actions"][: len(expected)], statistics, kind)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=TOLERANCE[kind])


def test_statistics(arrays, answers):
    """Quantiles and bounds are picked from the data; mean and std are sums of 500 float32 numbers."""
    computed = compute_statistics(arrays["stats.actions"])
    for key in ("min", "max", "q01", "q99"):
        np.testing.assert_allclose(computed[key], answers["stats"][key], rtol=1e-6, atol=1e-7, err_msg=key)
    for key in ("mean", "std"):
        np.testing.assert_allclose(computed[key], answers["stats"][key], rtol=1e-5, atol=1e-6, err_msg=key)


def test_binarized_grippers(answers):
    assert len(answers["binarize_gripper"]) == 4
    for case in answers["binarize_gripper"]:
        computed = gripper.binarize(np.array(case["in"], dtype=np.float32))
        np.testing.assert_array_equal(computed, np.array(case["out"], dtype=np.float32))


def test_absolute_grippers(answers):
    assert len(answers["rel2abs_gripper"]) == 5
    for case in answers["rel2abs_gripper"]:
        computed = gripper.absolute_from_relative(np.array(case["in"], dtype=np.float32))
        np.testing.assert_array_equal(computed, np.array(case["out"], dtype=np.float32))


def test_inverted_gripper(answers):
    case = answers["invert_gripper"]
    np.testing.assert_array_equal(gripper.invert(np.array(case["in"])), case["out"])


def test_bridge_is_relabelled_from_its_states(arrays, answers):
    result = standardize(
        "bridge_orig",
        {
            "observation": {"state": arrays["bridge.in_state"], "image_0": [f"x{i}" for i in range(12)]},
            "action": arrays["bridge.in_action"],
            "language_instruction": "put the spoon down",
        },
    )
    np.testing.assert_array_equal(result["action"], arrays["bridge.out_action"])
    np.testing.assert_array_equal(result["observation"]["EEF_state"], arrays["bridge.out_EEF_state"])
    np.testing.assert_array_equal(result["observation"]["gripper_state"], arrays["bridge.out_gripper_state"])
    assert result["observation"]["image_0"] == answers["bridge_image_order_out"]


def test_libero(arrays):
    observation = {"state": arrays["libero.in_state"]}
    result = standardize("libero", {"observation": observation, "action": arrays["libero.in_action"]})
    np.testing.assert_array_equal(result["action"], arrays["libero.out_action"])
    np.testing.assert_array_equal(result["observation"]["EEF_state"], arrays["libero.out_EEF_state"])
    np.testing.assert_array_equal(result["observation"]["gripper_state"], arrays["libero.out_gripper_state"])


def test_rt1(arrays):
    action = {
        "world_vector": arrays["rt1.world_vector"],
        "rotation_delta": arrays["rt1.rotation_delta"],
        "gripper_closedness_action": arrays["rt1.gripper_closedness"],
    }
    result = standardize("rt1", {"observation": {}, "action": action})
    np.testing.assert_array_equal(result["action"], arrays["rt1.out_action"])


@pytest.mark.parametrize(("window", "future", "absolute"), [(1, 0, 1), (1, 7, 1), (2, 3, 0)])
def test_chunks(arrays, window, future, absolute):
    """The last were made without saying which dimensions are absolute: then all are taken to be relative."""
    actions = arrays["chunk.in_action"]
    relative = relative_mask(3, absolute)
    expected = f"chunk.w{window}.f{future}"
    computed = chunk_actions(actions, relative, window, future)
    np.testing.assert_array_equal(computed, arrays[f"{expected}.action"])
    indices, real = window_indices(len(actions), window)
    np.testing.assert_array_equal(real, arrays[f"{expected}.pad_mask"])
    np.testing.assert_array_equal(indices, arrays[f"{expected}.obs_timestep"])


def test_mixture(answers):
    case = answers["mixture"]
    mixture = mixture_of("abcde", case["sizes"], case["weights"])
    np.testing.assert_allclose(mixture.probabilities, case["sampling_probs"], rtol=1e-15)
    assert mixture.epoch_length == case["dataset_len"]
    assert mixture.counts().sum() == case["dataset_len"]


@pytest.mark.parametrize("name", ["cam_640x480", "sq_256x256"])
def test_decoded_frames_are_near_those_of_tensorflow(golden, arrays, name):
    """TensorFlow decodes JPEG with the fast integer cosine transform, OpenCV and Pillow with the accurate one.

    Resizing is equal to the last bit elsewhere, so what remains is the decoder: at most 12 grey levels on hard edges
    and 1.3 on average (measured 7 and 0.91, 12 and 1.30). JPEG itself at quality 95 changes these images by more.
    """
    encoded = (golden / "data_pipeline" / f"{name}.tf_q95.jpg").read_bytes()
    resized = lanczos_resize(decode_compressed(encoded), 224, 224).astype(int)
    distance = np.abs(resized - arrays[f"{name}.jpeg_then_lanczos224"])
    assert distance.max() <= 12
    assert distance.mean() <= 1.3
    lost = np.abs(resized - arrays[f"{name}.lanczos224_nojpeg"]).mean()
    assert distance.mean() < 2 * lost  # no more than the file itself has changed, in either direction
