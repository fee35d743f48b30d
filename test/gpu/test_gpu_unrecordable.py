"""A recording that fails. The last of these files: what CUDA makes of it should not reach the other tests."""

import torch

from openvla_core.engine.graphs import Stages


def test_what_cannot_be_recorded_leaves_the_device_in_order(device, caplog):
    """A wait for the device breaks a recording; the stage is called from then on, on the stream it was on before."""
    stages, stream = Stages(device), torch.cuda.current_stream(device)
    for value in (1.0, 2.0):
        found = stages.run("waits", lambda x: x * x.sum().item(), torch.full((2,), value, device=device))
        assert found.tolist() == [2 * value * value] * 2
    assert "cannot be recorded" in caplog.text
    assert torch.cuda.current_stream(device) == stream
