"""The tiny OpenVLA while it learns: a random start that suits small models, and the loss of one packed batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_core.action_tokenizer import BINS
from openvla_core.model.openvla import OpenVLA
from openvla_core.training.batches import MOTION, Batch
from openvla_core.training.grounding import GroundingHeads, attention_loss
from openvla_core.training.packing import ACTION_DIM, Packing

SUPERVISED_LAYERS = (1, 2)
SOFT_LABEL_BINS = 1.5  # standard deviation of the soft labels of the motion tokens
PATCH_WEIGHT, STATE_WEIGHT, ATTENTION_WEIGHT = 0.5, 2.0, 0.3


def initialize(model: OpenVLA) -> None:
    """Starts the towers with two-dimensional sine positions; with small random ones they learn very slowly."""
    for tower in (model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer):
        _, patches, width = tower.pos_embed.shape
        with torch.no_grad():
            tower.pos_embed.copy_(sine_positions(int(patches**0.5), width)[None])
    with torch.no_grad():
        nn.init.normal_(model.language_model.model.embed_tokens.weight, std=0.1)


def sine_positions(grid: int, width: int) -> Tensor:
    """(grid * grid, width): a quarter each of sin and cos of the row and of the column."""
    rate = 100.0 ** -torch.linspace(0, 1, width // 4)
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [axis.flatten()[:, None] * rate for axis in (row, column)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


def action_loss(logits: Tensor, targets: Tensor, first_id: int) -> Tensor:
    """Cross entropy of (B, K, 8, V) logits: soft labels around the bin for motion, one hot for everything else.

    Args:
        logits: at the rows that predict the seven action tokens and the end of sequence.
        targets: (B, K, 8) int64 token ids.
        first_id: lowest action id.
    """
    hard = F.cross_entropy(logits[:, :, MOTION:].flatten(0, 2), targets[:, :, MOTION:].flatten(), reduction="none")
    bins = torch.arange(BINS, device=logits.device)
    distance = (bins - (targets[:, :, :MOTION, None] - first_id)) / SOFT_LABEL_BINS
    soft_targets = torch.softmax(-0.5 * distance**2, dim=-1)
    log = torch.log_softmax(logits[:, :, :MOTION], dim=-1)[..., first_id : first_id + BINS]
    soft = -(soft_targets * log).sum(-1)
    return (soft.sum() + hard.sum()) / targets.numel()


class TinyTrainingModel(nn.Module):
    """Model and training-only heads together. `vision_loss` needs no language model, `loss` runs everything."""

    def __init__(self, model: OpenVLA, packing: Packing, color_ids: Tensor, eos_id: int) -> None:
        super().__init__()
        self.model = model
        self.heads = GroundingHeads(model.config.language.hidden_size, color_ids)
        self.packing = packing
        self.eos_id = eos_id
        self.first_id = model.config.action_vocab_size - BINS

    def vision_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        patches = self.model.encode_image(batch.pixels)
        loss = self.heads.patch_loss(patches, self._words(), batch.truth)
        return loss, {"patch": loss.item()}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        model, packing = self.model, self.packing
        patches = model.encode_image(batch.pixels)
        ids, rows = packing.fill(batch.sentence, batch.read_actions)
        embed = model.language_model.model.embed_tokens
        embeddings = torch.cat([prefix_embeddings(model, packing, patches), embed(ids)], dim=1)
        output = model.language_model.model(
            inputs_embeds=embeddings,
            attention_mask=packing.mask,
            position_ids=packing.position_ids.expand(len(ids), -1),
            use_cache=False,
            output_attentions=True,
        )
        hidden = output.last_hidden_state
        targets = torch.cat([batch.actions, torch.full_like(batch.actions[..., :1], self.eos_id)], dim=-1)
        action = action_loss(model.language_model.lm_head(take(hidden, rows)), targets, self.first_id)

        color_rows = packing.color_rows(batch.sentence)
        state_rows = torch.stack([color_rows, packing.color_rows(batch.sentence, ahead=1), rows[..., 0]], dim=-1)
        state, errors = self.heads.state_loss(take(hidden, state_rows), batch.truth)
        named = batch.truth.patches[:, 2:].gather(1, batch.truth.colors)
        attentions = [output.attentions[layer] for layer in SUPERVISED_LAYERS]
        attention = attention_loss(attentions, color_rows, named, 1, patches.shape[1])
        patch = self.heads.patch_loss(patches, self._words(), batch.truth)
        total = action + PATCH_WEIGHT * patch + STATE_WEIGHT * state + ATTENTION_WEIGHT * attention
        parts = {"action": action, "patch": patch, "state": state, "attention": attention}
        values = {name: value.item() for name, value in parts.items()}
        values |= dict(zip(("tool_mm", "target_mm", "step_mm"), (errors[:3] * 1000).tolist(), strict=True))
        return total, values | {"opening": errors[3].item()}

    def _words(self) -> Tensor:
        return self.model.language_model.model.embed_tokens.weight


def prefix_embeddings(model: OpenVLA, packing: Packing, patches: Tensor) -> Tensor:
    """patches (B, P, D) -> what all instructions of an image share (B, 1 + P + C, D): BOS, patches, prompt words."""
    shared = model.language_model.model.embed_tokens(packing.sentences.shared)[None].expand(len(patches), -1, -1)
    return torch.cat([shared[:, :1], patches, shared[:, 1:]], dim=1)


def take(hidden: Tensor, rows: Tensor) -> Tensor:
    """hidden (B, L, D) at rows (B, K, R) -> (B, K, R, D)."""
    flat = rows.flatten(1)[..., None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, flat).view(*rows.shape, hidden.shape[-1])


@torch.inference_mode()
def choose_actions(
    model: OpenVLA,
    packing: Packing,
    pixels: Tensor,
    sentence: Tensor,
    temperature: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Action ids (B, 7) for one instruction per image, chosen token by token among the action ids.

    Args:
        pixels: (B, 6, S, S).
        sentence: (B,) sentence indices.
        temperature: 0 takes the most probable token.
        generator: torch.Generator for sampling.
    """
    first_id = model.config.action_vocab_size - BINS
    blank = torch.full((len(pixels), 1, ACTION_DIM), first_id)
    embed, llama = model.language_model.model.embed_tokens, model.language_model
    prefix = prefix_embeddings(model, packing, model.encode_image(pixels))
    chosen = blank.clone()
    for step in range(ACTION_DIM):
        ids, rows = packing.fill(sentence[:, None], chosen)
        length = int(rows[:, 0, step].max()) + 1
        embeddings = torch.cat([prefix, embed(ids)], dim=1)[:, :length]
        hidden = llama.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        logits = llama.lm_head(take(hidden, rows[:, :, step : step + 1])[:, 0, 0])[:, first_id : first_id + BINS]
        if temperature > 0:
            picked = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]
        else:
            picked = logits.argmax(-1)
        chosen[:, 0, step] = first_id + picked
    return chosen[:, 0]
