"""One block of facts about a checkpoint, and whether it can drive an arm."""

from pathlib import Path

import torch

from openvla_core.action_statistics import statistics_of
from openvla_core.checkpoint import Checkpoint, load_checkpoint
from openvla_core.checksums import Verify
from openvla_core.conventions import convention_from_mapping
from openvla_core.doctor_checksums import compared, rewritten
from openvla_core.doctor_report import (
    MAX_SENTENCES,
    DataSet,
    DataSetDimension,
    Finding,
    Language,
    Memory,
    Report,
    StoredFile,
    Tower,
)
from openvla_core.errors import CheckpointError, ConventionError, OpenVLAError
from openvla_core.image_processor import ImageProcessor
from openvla_core.memory import estimate_modes, weight_bytes
from openvla_core.model import OpenVLA
from openvla_core.policy import Policy, load_policy
from openvla_core.processor import Processor
from openvla_core.prompt import build_prompt
from openvla_core.quantization import check_quantization, stored_bytes
from openvla_core.vision_check import ANY_SENTENCE
from openvla_core.weights import parse_dtype, stored_tensors

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
UNITS = ("m", "m", "m", "rad", "rad", "rad", "")


def examine(
    path: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    quantization: str = "none",
    adapter: str | Path | None = None,
    load: bool = True,
    rewrite_checksums: bool = False,
) -> Report:
    """Describes a checkpoint.

    Args:
        path, device, dtype, quantization, adapter: as in `load_policy`.
        load: False reads JSON, tokenizer and the headers of the weight files only: seconds, whatever the size.
        rewrite_checksums: writes SHA256SUMS after everything else has gone well, instead of comparing files with it.

    Returns:
        The facts, and findings about what a robot needs: a convention card that is understood, statistics that are
        usable and, when the weights are loaded, a model that looks at its image.

    Raises:
        OpenVLAError: the checkpoint cannot be loaded at all.
    """
    check_quantization(quantization)
    verify: Verify = False if rewrite_checksums else "auto"
    checkpoint = load_checkpoint(path, dtype=dtype, read_weights=False, verify=verify)
    policy = (
        load_policy(path, device, dtype, adapter=adapter, quantization=quantization, verify=verify) if load else None
    )
    findings = [_convention(checkpoint), _statistics_finding(checkpoint)]
    if policy is not None:
        findings.append(_vision(policy))
    weights = [file.name for file in _files(checkpoint)]
    findings.append(
        rewritten(checkpoint.directory) if rewrite_checksums else compared(checkpoint.directory, weights, load)
    )
    return Report(
        checkpoint=str(path),
        towers=_towers(checkpoint),
        projector=_projector(checkpoint.model),
        language=_language(checkpoint.model),
        parameters=_parameters(checkpoint.model),
        files=_files(checkpoint),
        prompt=build_prompt("<instruction>", checkpoint.config.prompt_style).replace("\n", "\\n"),
        prompt_style=checkpoint.config.prompt_style,
        tokens=checkpoint.tokenizer.get_vocab_size(with_added_tokens=True),
        action_ids=(checkpoint.config.action_vocab_size - 256, checkpoint.config.action_vocab_size - 1),
        images=_images(checkpoint),
        adapter=_adapter(adapter),
        instructions=list(policy.training_instructions) if policy else _instructions(checkpoint),
        data_sets=_data_sets(checkpoint),
        memory=_memory(checkpoint, policy, device, dtype, quantization, adapter is not None),
        findings=findings,
    )


def _towers(checkpoint: Checkpoint) -> list[Tower]:
    backbone = checkpoint.model.vision_backbone
    modules = [backbone.featurizer, *([backbone.fused_featurizer] if len(checkpoint.config.towers) == 2 else [])]
    return [
        Tower(
            name=tower.timm_id,
            pixels=tower.image_size,
            patches=tower.patches,
            depth=tower.depth,
            width=tower.embed_dim,
            heads=tower.num_heads,
            parameters=_count(module),
        )
        for tower, module in zip(checkpoint.config.towers, modules, strict=True)
    ]


def _projector(model: OpenVLA) -> list[int]:
    """Widths from the features of the towers to the language model."""
    layers = [module for module in model.projector.children() if isinstance(module, torch.nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


def _language(model: OpenVLA) -> Language:
    sizes = model.config.language
    return Language(
        layers=sizes.num_hidden_layers,
        hidden=sizes.hidden_size,
        intermediate=sizes.intermediate_size,
        heads=sizes.num_attention_heads,
        kv_heads=sizes.num_key_value_heads,
        vocabulary=sizes.vocab_size,
        positions=sizes.max_position_embeddings,
        rms_norm_eps=sizes.rms_norm_eps,
    )


def _parameters(model: OpenVLA) -> dict[str, int]:
    parts = {"vision": model.vision_backbone, "projector": model.projector, "language": model.language_model}
    counts = {name: _count(part) for name, part in parts.items()}
    return {**counts, "total": sum(counts.values())}


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _files(checkpoint: Checkpoint) -> list[StoredFile]:
    stored = stored_tensors(checkpoint.directory).values()
    return [
        StoredFile(
            name=path.name,
            tensors=sum(tensor.path == path for tensor in stored),
            bytes=sum(tensor.size for tensor in stored if tensor.path == path),
            dtypes=sorted({tensor.dtype for tensor in stored if tensor.path == path}),
        )
        for path in sorted({tensor.path for tensor in stored})
    ]


def _images(checkpoint: Checkpoint) -> list[str]:
    """The resize strategy, then how each tower's pixels are normalised."""
    strategy = checkpoint.config.image_resize_strategy
    preparation = "none"
    if checkpoint.convention is not None and isinstance(checkpoint.convention.get("image"), dict):
        preparation = str(checkpoint.convention["image"].get("preprocessing", "none"))
    return [f"{strategy}, prepared by: {preparation}", *_normalisations(checkpoint.image_processor)]


def _normalisations(processor: ImageProcessor) -> list[str]:
    lines = []
    for tower in processor.towers:
        black, white = tower.table[:, 0].astype(float), tower.table[:, -1].astype(float)
        deviations = 1.0 / (white - black)
        means = -black * deviations
        numbers = (" ".join(f"{value:.6g}" for value in values) for values in (means.round(6), deviations.round(6)))
        lines.append("{} x {} px, mean {}, std {}".format(*tower.crop, *numbers))
    return lines


def _adapter(adapter: str | Path | None) -> str:
    if adapter is None:
        return ""
    from openvla_core.adapter import describe_adapter

    facts = describe_adapter(adapter)
    return (
        f"{adapter}: LoRA, rank {facts.rank}, alpha {facts.alpha:g}, {facts.parameters:,} parameters, "
        f"on {', '.join(facts.targets)}"
    )


def _instructions(checkpoint: Checkpoint) -> list[str]:
    values = (checkpoint.training_card or {}).get("instructions", [])
    return [str(value) for value in values] if isinstance(values, list) else []


def _data_sets(checkpoint: Checkpoint) -> list[DataSet]:
    return [_data_set(checkpoint, key) for key in sorted(checkpoint.statistics)]


def _data_set(checkpoint: Checkpoint, key: str) -> DataSet:
    entry = checkpoint.statistics[key]
    counts = {name: entry.get(name) for name in ("num_trajectories", "num_transitions")}
    trajectories, transitions = (value if isinstance(value, int) else None for value in counts.values())
    try:
        statistics = statistics_of(checkpoint.statistics, key)
    except OpenVLAError as error:
        return DataSet(key, [], trajectories, transitions, str(error))
    seven = statistics.dimensions == len(NAMES)
    names = NAMES if seven else tuple(str(i) for i in range(statistics.dimensions))
    units = UNITS if seven else ("",) * statistics.dimensions
    rows = zip(names, units, statistics.q01, statistics.q99, statistics.mask, strict=True)
    dimensions = [
        DataSetDimension(name, unit, float(low), float(high), bool(scaled)) for name, unit, low, high, scaled in rows
    ]
    return DataSet(key, dimensions, trajectories, transitions)


def _memory(
    checkpoint: Checkpoint, policy: Policy | None, device: str, dtype: str, quantization: str, adapted: bool
) -> Memory:
    processor = Processor(checkpoint.tokenizer, checkpoint.image_processor, checkpoint.config)
    sentences = [
        text
        for text in (*_instructions(checkpoint)[:MAX_SENTENCES], *ANY_SENTENCE)
        if not processor.unknown_words(text)
    ]
    prompt = max((len(processor.generation_ids(text)) for text in sentences), default=64)
    answer = max((len(data_set.dimensions) for data_set in _data_sets(checkpoint)), default=7) or 7
    tokens = checkpoint.config.patches + prompt + answer
    on_cuda = device.startswith("cuda")
    predicted = measured = None
    if policy is not None:
        measured = stored_bytes(policy.model)
        if not adapted or quantization != "none":
            predicted = weight_bytes(checkpoint.model, parse_dtype(dtype), quantization, on_cuda)
    loaded = dtype if quantization == "none" else f"{quantization} and {dtype}"
    estimates = estimate_modes(checkpoint.model, tokens, answer, on_cuda)
    return Memory(tokens, checkpoint.config.patches, estimates, loaded if policy else "", measured, predicted)


def _convention(checkpoint: Checkpoint) -> Finding:
    if checkpoint.convention is None:
        return Finding("convention", True, "none in this checkpoint: name a card with the argument convention")
    try:
        card = convention_from_mapping(checkpoint.convention, "its card")
    except ConventionError as error:
        return Finding("convention", False, str(error))
    return Finding(
        "convention",
        True,
        f"{card.name}: {card.frame}, {card.composition}, {card.rotation}, {card.reference} reference, "
        f"{card.rate_hz:g} Hz, {card.tool_link}, image {card.image.width} x {card.image.height}",
    )


def _statistics_finding(checkpoint: Checkpoint) -> Finding:
    broken = [data_set.key for data_set in _data_sets(checkpoint) if data_set.problem]
    if broken:
        return Finding("statistics", False, f"{', '.join(broken)} cannot be used, see above")
    if not checkpoint.statistics:
        return Finding("statistics", False, "none; put the dataset_statistics.json of the training data beside it")
    count = len(checkpoint.statistics)
    return Finding("statistics", True, "one data set" if count == 1 else f"{count} data sets: set unnorm_key to one")


def _vision(policy: Policy) -> Finding:
    try:
        change = policy.check_vision()
    except CheckpointError as error:
        return Finding("vision", False, str(error))
    answers = "black, white and noise lead to different answers"
    return Finding("vision", True, f"self-test passed: {answers} (logits change by {change:.3g} or more)")
