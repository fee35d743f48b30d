"""One step of a LoRA fine-tuning, as the published script takes it and as the trainer of this project does.

Both run on the same weights and adapters, in turn, on batches that are ready in main memory. The published way computes
the head for every row, asks the GPU for its figures after every step and uses an optimizer that is not fused.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_core.action_tokenizer import BINS
from openvla_core.bench.floors import Peaks, training_flop
from openvla_core.bench.memory import peak_bytes, restart_peak
from openvla_core.bench.peaks import wait_for
from openvla_core.bench.subject import Subject
from openvla_core.datasets.examples import collate
from openvla_core.model import OpenVLA
from openvla_core.model.openvla import insert_after_first
from openvla_core.prompt import IGNORE_INDEX, training_sequence
from openvla_core.quantization import quantize_language_model
from openvla_core.training.layers import compile_layers
from openvla_core.training.lora import LoraSettings, initial_value, is_adapter
from openvla_core.training.loss import Pixels, RowModel, row_loss
from openvla_core.training.optimizer import clip_gradients, make_optimizer
from openvla_core.training.recipe import Recipe, resolved
from openvla_core.training.rows import RowCollate
from openvla_core.training.strategies import choose_trainable

LEARNING_RATE = 5e-4
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Way:
    """collate: examples to a batch in main memory, outside the clock. forward: a batch to loss and logits.
    finish: these to everything that is left of the step.
    """

    collate: Callable[[Sequence[dict[str, Any]]], Batch]
    forward: Callable[[Batch], tuple[Tensor, Tensor]]
    finish: Callable[[Batch, Tensor, Tensor], None]

    def step(self, batch: Batch) -> Tensor:
        """One step; its loss."""
        loss, logits = self.forward(batch)
        self.finish(batch, loss, logits)
        return loss.detach()


def lora_steps(subject: Subject, peaks: Peaks, batch_size: int, steps: int, compiled: bool = False) -> dict[str, Any]:
    """Samples per second, share of the measured products and peak memory of both ways; the model keeps its adapters.

    compiled: afterwards also the trainer's way with compiled layers.
    """
    adapters = add_adapters(subject.model, "lora")
    both = {"reference": _reference(subject, adapters), "trainer": _trainer(subject, adapters)}
    first = _losses(subject, both, batch_size)
    figures = _in_turn(subject, both, batch_size, steps)
    if compiled:
        again = {"trainer_compiled": _trainer(subject, adapters, compiled=True)}
        figures |= _in_turn(subject, again, batch_size, steps)
    count = sum(parameter.numel() for parameter in adapters.values())
    flop = training_flop(subject.config, subject.tokens + subject.count + 1, count)
    for one in figures.values():
        one["share_of_products"] = one["samples_per_s"] * flop / peaks.flop_per_s
    facts = {"batch_size": batch_size, "adapter_parameters": count, "gflop_per_sample": flop / 1e9}
    return {**facts, "losses_before": first, "ways": figures}


def qlora_memory(subject: Subject, batch_size: int) -> dict[str, Any]:
    """Memory of one step of the trainer over NF4 weights. Raises ConfigError where there is no GPU."""
    quantize_language_model(subject.model, "nf4", subject.device)
    adapters = add_adapters(subject.model, "qlora")
    restart_peak(subject.device)
    way = _trainer(subject, adapters)
    loss = float(way.step(way.collate(_examples(subject, batch_size, 0))))
    return {"batch_size": batch_size, "peak_gb": peak_bytes(subject.device) / 1e9, "loss": loss}


def add_adapters(model: OpenVLA, strategy: str) -> dict[str, nn.Parameter]:
    """Rank 32 on every linear layer, with values; trained are they alone, in float32."""
    settings, device = LoraSettings(), model.projector.fc1.weight.device
    trained = choose_trainable(model, strategy, settings)
    for name in [name for name in trained if is_adapter(name)]:
        parent, _, attribute = name.rpartition(".")
        first = initial_value(name, trained[name].shape, settings, seed=0)
        values = torch.zeros(trained[name].shape) if first is None else first
        module = model.get_submodule(parent)
        setattr(module, attribute, nn.Parameter(values.to(device, torch.float32)))
    return {name: model.get_parameter(name) for name in trained}


@torch.no_grad()
def _losses(subject: Subject, ways: Mapping[str, Way], batch_size: int) -> dict[str, float]:
    """Of each way on the same samples with the same weights: the same number, however it is computed."""
    examples = _examples(subject, batch_size, 0)
    return {name: float(way.forward(way.collate(examples))[0]) for name, way in ways.items()}


def _in_turn(subject: Subject, ways: Mapping[str, Way], batch_size: int, steps: int) -> dict[str, Any]:
    """A first step of each that is not counted, then one after the other on the same samples."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 0)
    for number in range(steps + 1):
        examples = _examples(subject, batch_size, number)
        for name, way in ways.items():
            batch = way.collate(examples)
            restart_peak(subject.device)
            wait_for(subject.device)
            started = time.perf_counter()
            loss = way.step(batch)
            wait_for(subject.device)
            times[name].append(time.perf_counter() - started)
            losses[name].append(float(loss))
            peaks[name] = max(peaks[name], peak_bytes(subject.device))
    return {
        name: {
            "step_s": statistics.median(times[name][1:]),
            "samples_per_s": batch_size / statistics.median(times[name][1:]),
            "peak_gb": peaks[name] / 1e9,
            "losses": losses[name],
            "seconds": times[name],
        }
        for name in ways
    }


def _examples(subject: Subject, count: int, seed: int) -> list[dict[str, Any]]:
    """Random pictures, as bytes, with random actions."""
    rng, processor = np.random.default_rng([seed, 7]), subject.policy.processor
    prompt = processor.prompt_ids(subject.instruction)
    end, size = subject.config.action_vocab_size, subject.config.towers[0].image_size
    examples = []
    for _ in range(count):
        actions = rng.integers(end - BINS, end, subject.count)
        ids, labels = training_sequence(prompt, processor.space_id, actions, subject.config.language.eos_token_id)
        pixels = torch.from_numpy(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        tokens = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        examples.append({"pixels": pixels, "dataset": subject.unnorm_key, **tokens})
    return examples


def _reference(subject: Subject, adapters: Mapping[str, nn.Parameter]) -> Way:
    """All rows through the head and in float32, the figures read after every step, AdamW that is not fused."""
    optimizer = torch.optim.AdamW(adapters.values(), lr=LEARNING_RATE)
    device, model, patches = subject.device, subject.model, subject.config.patches
    images = subject.policy.processor.image_processor

    def ready(examples: Sequence[dict[str, Any]]) -> Batch:
        floats = [{"pixel_values": torch.from_numpy(images(one["pixels"].numpy()))} for one in examples]
        rows = [{name: one[name] for name in one if name != "pixels"} for one in examples]
        return collate([{**row, **one} for row, one in zip(rows, floats, strict=True)], subject.config.pad_token_id)

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, subject.dtype, enabled=subject.dtype != torch.float32):
            inputs = (batch[name].to(device) for name in ("input_ids", "attention_mask", "pixel_values"))
            logits = model(*inputs).logits.float()
        targets = insert_after_first(batch["labels"].to(device), patches, IGNORE_INDEX)
        wanted = targets[:, 1:].flatten()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted, ignore_index=IGNORE_INDEX), logits

    def finish(batch: Batch, loss: Tensor, logits: Tensor) -> None:
        loss.backward()
        predicted, wanted = logits[:, patches:-1].argmax(dim=2), batch["labels"].to(device)[:, 1:]
        is_action = wanted >= subject.decoder.first_id
        right = (predicted == wanted)[is_action].float().mean()
        distance = np.abs(predicted[is_action].cpu().numpy() - wanted[is_action].cpu().numpy()).mean()
        for figure in (loss, right, torch.tensor(distance)):
            figure.item()
        optimizer.step()
        optimizer.zero_grad()

    return Way(ready, forward, finish)


def _trainer(subject: Subject, adapters: Mapping[str, nn.Parameter], compiled: bool = False) -> Way:
    """What `training.trainer.Trainer` does for a step."""
    module = RowModel(subject.model)
    if compiled:
        compile_layers(module)
    module.train()
    recipe = resolved(Recipe(strategy="lora", learning_rate=LEARNING_RATE))
    optimizer = make_optimizer(adapters, recipe)
    device = subject.device
    pixels = Pixels(subject.policy.processor.image_processor).to(device)
    rows = RowCollate(subject.config, {subject.unnorm_key: subject.statistics})

    def ready(examples: Sequence[dict[str, Any]]) -> Batch:
        batch = rows(examples)
        return {name: tensor.pin_memory() for name, tensor in batch.items()} if device.type == "cuda" else batch

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        there = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast(device.type, subject.dtype, enabled=subject.dtype != torch.float32):
            logits = module(there["input_ids"], pixels(there), there["places"])
        return row_loss(logits, there["targets"]), logits

    def finish(batch: Batch, loss: Tensor, logits: Tensor) -> None:
        loss.backward()
        clip_gradients(adapters.values(), recipe.clip_norm or 0.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Way(ready, forward, finish)
