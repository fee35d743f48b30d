"""Training-only heads and losses that teach a small model, from nothing, where things are and which one is meant.

None of this is part of the model that is saved. Points are the two fingertips, then the four cubes in COLORS order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POINTS = 6
CENTER = (0.5, 0.0, 0.1)  # metres; positions are learned relative to this and divided by SPREAD
SPREAD = (0.1, 0.12, 0.1)
STEP_SPREAD = 0.025  # metres, scale of the action on a token's hidden state
GROUNDED = 10  # tool (3), named cube (3), step (3), opening (1)


@dataclass
class Truth:
    """What the frames really show. B images, K instructions per image."""

    patches: Tensor  # (B, 6) int64, the patch each point is in; -1 outside the image
    points: Tensor  # (B, 6, 3) metres
    tools: Tensor  # (B, 3) metres
    openings: Tensor  # (B,)
    colors: Tensor  # (B, K) int64, index of the named cube
    steps: Tensor  # (B, K, 3) metres, translation of the expert


class GroundingHeads(nn.Module):
    """Reads patches ("this cube is here, at x, y, z") and hidden states ("tool, target and step are these")."""

    color_ids: Tensor

    def __init__(self, width: int, color_ids: Tensor) -> None:
        super().__init__()
        self.register_buffer("color_ids", color_ids)
        self.norm = nn.LayerNorm(width)
        self.fingers = nn.Parameter(torch.randn(2, width) * 0.1)
        self.lookup = nn.Linear(width, width, bias=False)
        self.position = nn.Linear(width, 3 * POINTS)
        self.state = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, GROUNDED))

    def patch_loss(self, patches: Tensor, word_embeddings: Tensor, truth: Truth) -> Tensor:
        """Finds each point's patch by its word, and its position from that patch.

        Args:
            patches: (B, P, D) projected patches.
            word_embeddings: (V, D) input embeddings of the language model.
            truth: what is there.
        """
        z = self.norm(patches)
        words = torch.cat([self.fingers, word_embeddings[self.color_ids]])
        scores = torch.einsum("qd,bpd->bqp", self.lookup(words) * 8.0, z) / z.shape[-1] ** 0.5
        where = F.cross_entropy(scores.flatten(0, 1), truth.patches.flatten(), ignore_index=-1)
        seen = truth.patches.clamp(min=0)
        at = z.gather(1, seen[..., None].expand(-1, -1, z.shape[-1]))
        positions = self.position(at).view(*at.shape[:2], POINTS, 3)
        own = positions.diagonal(dim1=1, dim2=2).permute(0, 2, 1)
        error = F.smooth_l1_loss(own, standardize(truth.points), reduction="none", beta=0.1).mean(-1)
        return where + 2.0 * (error * (truth.patches >= 0)).sum() / (truth.patches >= 0).sum()

    def state_loss(self, hidden: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
        """Reads the state from hidden states (B, K, R, D) of R tokens per instruction.

        Returns:
            The loss, and the mean absolute error (4,) of tool, target and step (metres) and opening at the last token.
        """
        _, count, tokens, _ = hidden.shape
        target = truth.points[:, 2:].gather(1, truth.colors[..., None].expand(-1, -1, 3))
        wanted = torch.cat(
            [
                standardize(truth.tools)[:, None].expand(-1, count, -1),
                standardize(target),
                truth.steps / STEP_SPREAD,
                2.0 * truth.openings[:, None, None].expand(-1, count, -1),
            ],
            dim=-1,
        )
        read = self.state(hidden)
        loss = F.smooth_l1_loss(read, wanted[:, :, None].expand(-1, -1, tokens, -1), beta=0.1)
        error = (read[:, :, -1] - wanted).abs().mean((0, 1)).detach()
        scale = error.new_tensor([*SPREAD, *SPREAD, STEP_SPREAD, STEP_SPREAD, STEP_SPREAD, 0.5])
        error = error * scale
        return loss, torch.stack([error[:3].mean(), error[3:6].mean(), error[6:9].mean(), error[9]])


def attention_loss(attentions: list[Tensor], rows: Tensor, patch: Tensor, first_patch: int, patches: int) -> Tensor:
    """Asks two heads of some layers to look, from the colour word, at the patch that shows the named cube.

    Args:
        attentions: attention probabilities (B, H, L, L) of the supervised layers.
        rows: (B, K) positions of the colour words.
        patch: (B, K) patch of the named cube; -1 outside the image.
        first_patch: position of the first patch in the sequence.
        patches: P.
    """
    total = rows.new_zeros((), dtype=torch.float32)
    for probabilities in attentions:
        mean = probabilities[:, :2, :, first_patch : first_patch + patches].mean(1)
        looked = mean.gather(1, rows[..., None].expand(-1, -1, patches))
        log = (looked + 1e-6).log().flatten(0, 1)
        total = total + F.nll_loss(log, patch.flatten(), ignore_index=-1)
    return total / len(attentions)


def standardize(points: Tensor) -> Tensor:
    """Positions (..., 3) in metres to numbers of order one."""
    return (points - points.new_tensor(CENTER)) / points.new_tensor(SPREAD)


def patch_of(pixels: Tensor, image_size: int, patch_size: int = 14) -> Tensor:
    """Pixels (..., 2), column and row -> patch index (...,) int64, -1 outside the image."""
    grid = image_size // patch_size
    cell = torch.floor(pixels / patch_size).long()
    inside = ((cell >= 0) & (cell < grid)).all(-1)
    return torch.where(inside, cell[..., 1] * grid + cell[..., 0], -1)
