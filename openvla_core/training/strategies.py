"""What is trained: the published ways of fine-tuning, from their name to the parameters they change."""

from torch import nn

from openvla_core.errors import ConfigError
from openvla_core.model import OpenVLA
from openvla_core.training.lora import LoraSettings, add_adapters, is_adapter
from openvla_core.training.recipe import ADAPTERS, STRATEGIES

VISION, PROJECTOR, LANGUAGE = "vision_backbone.", "projector.", "language_model."


def choose_trainable(model: OpenVLA, strategy: str, lora: LoraSettings | None = None) -> dict[str, nn.Parameter]:
    """Freezes everything else and returns what is trained, by name. Adapters are added to the model, on "meta".

    "full": every parameter, also those that are never run: the last block of each tower, its norm, the attention pool.
    "last-layer": embedding, last decoder layer and head. "frozen-vision": projector and language model. "sandwich":
    towers, projector and what "last-layer" trains. "lora", "qlora": adapters only.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"strategy is {strategy!r}; choose one of {', '.join(STRATEGIES)}.")
    if strategy in ADAPTERS:
        add_adapters(model, lora or LoraSettings())
    prefixes = trained_prefixes(strategy, len(model.language_model.model.layers))
    for name, parameter in model.named_parameters():
        # Quantized weights are whole numbers, which cannot even be told to need no gradient.
        trained = is_adapter(name) if strategy in ADAPTERS else name.startswith(prefixes)
        if parameter.requires_grad != trained:
            parameter.requires_grad_(trained)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_prefixes(strategy: str, decoder_layers: int) -> tuple[str, ...]:
    """How the names of the trained parameters begin; of the strategies without adapters."""
    # The final norm lies after the last layer and is not part of the two ends.
    layers = f"{LANGUAGE}model.layers.{decoder_layers - 1}."
    ends = (f"{LANGUAGE}model.embed_tokens.", layers, f"{LANGUAGE}lm_head.")
    return {
        "full": (VISION, PROJECTOR, LANGUAGE),
        "last-layer": ends,
        "frozen-vision": (PROJECTOR, LANGUAGE),
        "sandwich": (VISION, PROJECTOR, *ends),
    }.get(strategy, ())
