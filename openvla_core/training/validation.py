"""How well the model does on episodes that it is not trained on, under teacher forcing."""

from typing import TYPE_CHECKING, Any

import torch

from openvla_core.action_statistics import statistics_of
from openvla_core.datasets.streaming.sources import Step
from openvla_core.training.loss import row_loss
from openvla_core.training.metrics import Metrics

if TYPE_CHECKING:
    from openvla_core.training.trainer import Trainer

SAMPLES = 8


@torch.no_grad()
def validate(trainer: "Trainer") -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Figures over all validation steps, and some samples; see Watcher. Every process must call it."""
    device, collate = trainer.ranks.device, trainer.data.collate
    metrics = Metrics(trainer.base.config, collate.dimensions, device)
    samples: list[dict[str, Any]] = []
    seen, apart = 0, max(1, len(trainer.data.validation.steps) // trainer.ranks.world // SAMPLES)
    trainer.module.eval()
    for steps, batch in trainer.data.validation.batches(trainer.recipe.batch_size, trainer.ranks):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, trainer.dtype, enabled=trainer.dtype != torch.float32):
            logits = trainer.module(batch["input_ids"], trainer.pixels(batch), batch["places"])
        predicted = metrics.add(row_loss(logits, batch["targets"]), logits, batch)
        if trainer.ranks.first:
            is_action = batch["dimensions"] < collate.dimensions
            values = metrics.values(predicted[is_action]).cpu().split([step.actions.size for step in steps])
            # From all over the episodes: neighbouring frames show the same.
            for place, (step, numbers) in enumerate(zip(steps, values, strict=True), start=seen):
                if place % apart == 0 and len(samples) < SAMPLES:
                    samples.append(_sample(trainer, step, numbers.numpy()))
            seen += len(steps)
    trainer.module.train()
    return metrics.read(trainer.ranks.all_sum), samples


def _sample(trainer: "Trainer", step: Step, numbers: Any) -> dict[str, Any]:
    """Of a step with several actions, the first."""
    statistics = statistics_of(trainer.data.statistics, step.dataset)
    actions = step.actions.reshape(-1, statistics.dimensions)
    predicted = statistics.unnormalize(numbers.reshape(actions.shape))
    return {
        "dataset": step.dataset,
        "episode": step.episode,
        "index": step.index,
        "instruction": step.instruction,
        "image": step.pixels(),
        "predicted": predicted[0].tolist(),
        "true": actions[0].astype(float).tolist(),
    }
