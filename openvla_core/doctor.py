"""One block of facts about a checkpoint, read by loading it the way the policy does."""

from pathlib import Path

from openvla_core.action_statistics import statistics_of
from openvla_core.conventions import convention_from_mapping
from openvla_core.errors import OpenVLAError
from openvla_core.policy import Policy, load_policy

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def examine(path: str | Path, device: str = "cpu", dtype: str = "float32") -> tuple[str, bool]:
    """Loads a checkpoint and describes it.

    Returns:
        The text, and whether the checkpoint can drive an arm: a convention card it is understood by, statistics that
        are usable, and a model that looks at the image.

    Raises:
        OpenVLAError: the checkpoint cannot be loaded at all.
    """
    policy = load_policy(path, device=device, dtype=dtype)
    lines = [f"checkpoint    {path}", *_architecture(policy), *_statistics(policy)]
    if policy.training_instructions:
        lines.append(f"instructions  {len(policy.training_instructions)} known sentences:")
        lines += [f"              {sentence}" for sentence in policy.training_instructions]
    good = True
    for heading, check in (("convention", _convention), ("vision", _vision)):
        try:
            lines.append(f"{heading:13s} {check(policy)}")
        except OpenVLAError as error:
            lines.append(f"{heading:13s} NOT USABLE: {error}")
            good = False
    return "\n".join(lines), good


def _architecture(policy: Policy) -> list[str]:
    config = policy.config
    towers = " + ".join(f"{tower.image_size} px" for tower in config.towers)
    lines = [f"architecture  OpenVLA, {len(config.towers)} vision tower(s) ({towers}), {config.patches} patches"]
    model = policy.model
    parts = {"vision": model.vision_backbone, "projector": model.projector, "language": model.language_model}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    total = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    megabytes = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    lines.append(f"parameters    {sum(counts.values()):,} ({total}); {megabytes:.1f} MB as loaded")
    return lines


def _statistics(policy: Policy) -> list[str]:
    lines = []
    for key in sorted(policy.statistics):
        statistics = statistics_of(policy.statistics, key)
        lines.append(f"unnorm_key    {key}: {statistics.dimensions} numbers")
        names = NAMES if statistics.dimensions == len(NAMES) else [str(i) for i in range(statistics.dimensions)]
        rows = zip(names, statistics.q01, statistics.q99, statistics.mask, strict=True)
        lines += [
            f"              {name:8s} {low:+.4f} to {high:+.4f}" + ("" if scaled else " (passed through unscaled)")
            for name, low, high, scaled in rows
        ]
    return lines


def _convention(policy: Policy) -> str:
    if policy.convention is None:
        return "none in this checkpoint: name a card with the argument convention"
    card = convention_from_mapping(policy.convention, "its card")
    return (
        f"{card.name}: {card.frame}, {card.composition}, {card.rotation}, {card.reference} reference, "
        f"{card.rate_hz:g} Hz, {card.tool_link}, image {card.image.width} x {card.image.height}"
    )


def _vision(policy: Policy) -> str:
    policy.check_vision()
    return "self-test passed: black, white and noise pictures lead to different answers"
