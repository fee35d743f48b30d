"""What has to be true before the policy node may act: parameters, a checkpoint that sees, a convention card."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openvla_core.config import setting
from openvla_core.conventions import ActionConvention, convention_from_mapping, load_convention
from openvla_core.errors import ActionTokenError, ConfigError, ConventionError, InstructionError

if TYPE_CHECKING:
    from openvla_core.checksums import Verify
    from openvla_core.policy import Policy

logger = logging.getLogger(__name__)

VERIFY: dict[str, "Verify"] = {"auto": "auto", "always": True, "never": False}


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Parameters of policy_node; they can be changed while the node is unconfigured."""

    checkpoint: str = setting("", "Directory of the checkpoint: config.json, safetensors, tokenizer, statistics")
    device: str = setting("cpu", "Where the model runs: cpu, cuda or cuda:N")
    dtype: str = setting("float32", "Number format of the weights", choices=("float32", "bfloat16", "float16"))
    unnorm_key: str = setting("", "Which data set's statistics scale the actions; empty when the checkpoint has one")
    adapter: str = setting("", "Directory of a LoRA adapter in PEFT format; empty for none")
    quantization: str = setting(
        "none", "Weights of the language model, bfloat16 advised", choices=("none", "int8", "int4", "nf4")
    )
    verify_checkpoint: str = setting(
        "auto",
        "Compare files with SHA256SUMS: auto where the checkpoint has one",
        choices=("auto", "always", "never"),
    )
    prompt_style: str = setting(
        "", "Sentence around the instruction; empty takes the checkpoint's", choices=("", "openvla", "openvla-v01")
    )
    decoding: str = setting(
        "constrained", "Pick among the action tokens only, or as published", choices=("constrained", "reference")
    )
    temperature: float = setting(0.0, "0 takes the likeliest token, above 0 draws one", minimum=0.0, maximum=2.0)
    seed: int = setting(0, "Seed of the draws when temperature is above 0", minimum=0)
    engine: str = setting(
        "auto", "auto: the engine with fixed shapes; eager: the loop it is compared with", choices=("auto", "eager")
    )
    drafts: bool = setting(False, "Guess that an action is the one before; saves passes, changes no bit of the answer")
    convention: str = setting("", "Path of the convention card; empty takes the one of the checkpoint")
    rate_hz: float = setting(
        0.0, "Actions per second; 0 takes the rate of the convention card", unit="Hz", minimum=0.0, maximum=100.0
    )
    max_observation_age_s: float = setting(
        0.5, "An image older than this is never acted on", unit="s", minimum=0.02, maximum=10.0
    )
    image_transport: str = setting("raw", "Type of the camera topic", choices=("raw", "compressed"))
    camera_frame_id: str = setting("", "The only frame_id that images may have; empty for any")
    one_instructor: bool = setting(True, "Refuse instructions while more than one process publishes them")
    torch_threads: int = setting(1, "CPU threads of the model; 0 lets torch choose", minimum=0, maximum=256)
    autostart: bool = setting(True, "Configure and activate without being asked")


def set_up_policy(
    settings: PolicySettings, progress: Callable[[str], None] = logger.info
) -> tuple["Policy", ActionConvention, float]:
    """Loads the checkpoint, checks that it looks at the image and warms it up.

    Args:
        progress: told in sentences what is being prepared, which takes minutes for some devices.

    Returns:
        The policy, the card that gives its actions their meaning, and the time of one inference in seconds.

    Raises:
        OpenVLAError: the checkpoint, its statistics, its card or a parameter cannot be used.
    """
    if not settings.checkpoint:
        raise ConfigError("the parameter checkpoint is empty. Set it to the directory of an OpenVLA checkpoint.")
    policy = load_policy(settings)
    card = convention_card(settings, policy)
    policy.prepare_images(card.image.preprocessing)
    policy.check_vision()
    policy.warm_up(progress=progress)
    return policy, card, warm_up(policy, card)


def load_policy(settings: PolicySettings) -> "Policy":
    """The policy of the checkpoint, with the choices of the parameters."""
    import torch  # takes seconds, which a wrong parameter should not have to wait for

    import openvla_core

    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    return openvla_core.load_policy(
        settings.checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        unnorm_key=settings.unnorm_key or None,
        decoding=settings.decoding,
        temperature=settings.temperature,
        seed=settings.seed,
        adapter=settings.adapter or None,
        quantization=settings.quantization,
        prompt_style=settings.prompt_style or None,
        verify=VERIFY[settings.verify_checkpoint],
        engine=settings.engine,
        drafts=settings.drafts,
    )


def convention_card(settings: PolicySettings, policy: "Policy") -> ActionConvention:
    """The card named by the parameter, else the checkpoint's own."""
    if settings.convention:
        return load_convention(settings.convention)
    if not policy.convention:
        raise ConventionError(
            f"{settings.checkpoint} has no action_convention.json, so its numbers mean nothing to a robot. "
            "Set the parameter convention to a card, see config/conventions."
        )
    return convention_from_mapping(policy.convention, f"the card of {settings.checkpoint}")


def warm_up(policy: "Policy", card: ActionConvention) -> float:
    """Predicts twice and returns how long the second took, seconds; the first pays for lazy set-up."""
    picture = np.full((card.image.height, card.image.width, 3), 128, np.uint8)
    instruction = (*policy.training_instructions, "pick up the object")[0]
    started = time.monotonic()
    for _ in range(2):
        started = time.monotonic()
        # What comes out does not matter here; a checkpoint may also not know these words.
        with suppress(ActionTokenError, InstructionError):
            policy.predict(picture, instruction)
    return time.monotonic() - started
