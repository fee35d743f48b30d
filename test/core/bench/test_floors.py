"""The formulas give the published model's parameters and the figures of its stages."""

import pytest
import torch

from openvla_core.bench.floors import Peaks, Work, parameters, projector_sizes, stage_work, tower_work
from openvla_core.bench.subject import FULL_SIZE
from openvla_core.checkpoint import expected_shapes
from openvla_core.model import OpenVLAConfig

TOKENS = 280  # 256 patches, 23 words and the space


@pytest.fixture(scope="module")
def full_size() -> OpenVLAConfig:
    return OpenVLAConfig.from_dict(FULL_SIZE)


def test_parameters_are_those_of_the_released_checkpoint(full_size):
    assert parameters(full_size) == {
        "tower 1": 303_230_976,
        "tower 2": 412_442_352,
        "attention pool": 15_238_352,
        "projector": 71_385_600,
        "language": 6_738_939_904,
        "total": 7_541_237_184,
    }


def test_parameters_agree_with_the_model_of_any_size(full_size, golden_config):
    for config in (full_size, golden_config):
        assert parameters(config)["total"] == sum(shape.numel() for shape in expected_shapes(config).values())


def test_operations_of_the_full_size_stages(full_size):
    work = stage_work(full_size, TOKENS, torch.bfloat16)
    towers = [tower_work(tower, tower.depth - 1, torch.bfloat16).flop / 1e9 for tower in full_size.towers]
    assert towers == pytest.approx([157.8, 210.9], abs=0.05)
    assert work["vision"].flop / 1e9 == pytest.approx(sum(towers))
    assert work["projector"].flop / 1e9 == pytest.approx(36.5, abs=0.05)
    assert work["prefill"].flop / 1e9 == pytest.approx(3647, abs=0.5)
    assert work["decode"].flop / 1e9 == pytest.approx(13.4, abs=0.05)


def test_bytes_of_the_full_size_stages(full_size):
    work = stage_work(full_size, TOKENS, torch.bfloat16)
    towers = [tower_work(tower, tower.depth - 1, torch.bfloat16).bytes / 1e9 for tower in full_size.towers]
    assert towers == pytest.approx([0.58, 0.79], abs=0.005)
    assert work["projector"].bytes / 1e9 == pytest.approx(0.14, abs=0.005)
    assert work["prefill"].bytes / 1e9 == pytest.approx(13.2, abs=0.05)
    assert work["decode"].bytes / 1e9 == pytest.approx(13.36, abs=0.005)


def test_four_bits_leave_the_bytes_of_a_pass_that_were_worked_out(full_size):
    assert stage_work(full_size, TOKENS, torch.bfloat16, "int4")["decode"].bytes / 1e9 == pytest.approx(3.85, abs=0.005)


def test_a_floor_is_the_longer_of_computing_and_reading():
    peaks = Peaks(bytes_per_s=10.0, flop_per_s=100.0)
    assert Work(flop=100.0, bytes=1.0).floor_s(peaks) == 1.0
    assert Work(flop=1.0, bytes=100.0).floor_s(peaks) == 10.0


def test_the_projector_is_the_models_own(full_size):
    assert projector_sizes(full_size) == [(2176, 8704), (8704, 4096), (4096, 4096)]
