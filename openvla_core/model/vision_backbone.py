"""Vision transformers with the parameter names of timm, as OpenVLA checkpoints store them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_core.errors import ImageError
from openvla_core.model.config import PATCH_SIZE, OpenVLAConfig, TowerConfig

LAYER_NORM_EPS = 1e-6


RunBlock = Callable[[nn.Module, Tensor], Tensor]


def run_block(block: nn.Module, x: Tensor) -> Tensor:
    """One block of a tower: x (B, N, D) -> (B, N, D)."""
    return block(x)


class VisionBackbone(nn.Module):
    """One tower, `featurizer`, or two with their patch features joined: then SigLIP, `fused_featurizer`, is second."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self._image_shape = (config.channels, config.towers[0].image_size, config.towers[0].image_size)
        self.featurizer = VisionTransformer(config.towers[0])
        if len(config.towers) == 2:
            self.fused_featurizer = VisionTransformer(config.towers[1])

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (B, 3 per tower, S, S), normalised per tower -> patch features (B, P, D_vision).

        Raises ImageError for any other shape: a border would be cut off and a single patch repeated, without a word.
        """
        if tuple(pixel_values.shape[1:]) != self._image_shape:
            raise ImageError(
                f"pixel_values are {tuple(pixel_values.shape)}; this checkpoint takes (B, "
                f"{', '.join(map(str, self._image_shape))}). Make them with its image processor."
            )
        if not hasattr(self, "fused_featurizer"):
            return self.featurizer(pixel_values)
        first, second = pixel_values.split(3, dim=1)
        return torch.cat([self.featurizer(first), self.fused_featurizer(second)], dim=2)


class VisionTransformer(nn.Module):
    """Patch features of the last block but one, without the final norm and without class and register tokens.

    The last block, `norm` and `attn_pool` are part of every published checkpoint. They are kept so that a checkpoint
    loads and saves unchanged, and never executed: nothing downstream reads them.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        if config.prefix_tokens:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.reg_token = nn.Parameter(torch.zeros(1, config.prefix_tokens - 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches, width))
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        if config.attention_pool:
            self.attn_pool = AttentionPool(config)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights for training from nothing; loading a checkpoint replaces them."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.config.prefix_tokens:
            nn.init.normal_(self.cls_token, std=0.02)
            nn.init.normal_(self.reg_token, std=0.02)

    def forward(self, pixels: Tensor, run: RunBlock = run_block) -> Tensor:
        """pixels (B, 3, S, S), normalised -> patch features (B, P, D). run: how a block is called."""
        # The position embedding belongs to the patches alone; the prefix tokens are put in front afterwards.
        x = self.patch_embed(pixels) + self.pos_embed
        if self.config.prefix_tokens:
            prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
            x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks[:-1]:
            x = run(block, x)
        return x[:, self.config.prefix_tokens :]


class PatchEmbed(nn.Module):
    """Cuts an image into 14 x 14 pixel patches, row by row, and projects each to the width of the tower."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, S, S) -> (B, P, D)."""
        return self.proj(pixels).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block; DINOv2 scales both residual branches, SigLIP does not."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, config.num_heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, config.mlp_dim)
        self.ls1 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.ls2 = LayerScale(width) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Multi-head self attention over all tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, D) -> (B, N, D)."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention; q, k, v and the result are (B, heads, N, D_head)."""
    # Written out on the CPU because the backward pass of torch's fused kernel is several times slower there.
    if q.device.type == "cpu":
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return scores.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """Multiplies each feature by a learned factor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class AttentionPool(nn.Module):
    """The weights of SigLIP's pooling head. OpenVLA stores them and never runs them, so there is no forward."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, config.mlp_dim)
