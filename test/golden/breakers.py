"""Ways to get the model slightly wrong, one at a time, and how far each moves the answers from the published ones.

Every breaker changes a freshly loaded policy in memory. `benchmarks/sensitivity.py` prints the table of
docs/exactness.md with them, `test_sensitivity.py` shows that the golden comparison sees each.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from golden_tools import row_distances, rows_allowed, to_double
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from openvla_core import load_policy
from openvla_core.decoding import generate
from openvla_core.image_processor import ImageProcessor
from openvla_core.json_file import read_json
from openvla_core.model.vision_backbone import VisionTransformer
from openvla_core.policy import Policy

DATA = Path(__file__).parent / "data"
CHECKPOINT = DATA / "fused_mini" / "checkpoint"
FIRST_ID = 31744
STEPS = 7

Breaker = Callable[[Policy], None]
BREAKERS: dict[str, Breaker] = {}
HARMLESS: dict[str, Breaker] = {}


@dataclass(frozen=True)
class Effect:
    """first_step, every_step: largest change of a logit; tokens: equal ones of `of`; agrees: the comparison passes.

    every_step only looks at steps whose earlier tokens were the published ones: after a wrong token all else differs.
    """

    first_step: float
    every_step: float
    tokens: int
    of: int
    agrees: bool


class Published:
    """The five published samples: pictures, tasks, tokens and logits of ids 31744 to 32063 at each step."""

    def __init__(self) -> None:
        tensors = load_file(DATA / "fused_mini" / "golden.safetensors")
        self.samples = json.loads((DATA / "fused_mini" / "golden.json").read_text(encoding="utf-8"))["samples"]
        self.images = [np.asarray(Image.open(DATA / "images" / s["image"]).convert("RGB")) for s in self.samples]
        self.logits = [tensors[f"s{i}.action_region_logits"] for i in range(len(self.samples))]
        self.allowed = [torch.tensor([])] * len(self.samples)
        exact = broken_policy(lambda policy: to_double(policy.model))
        for i, (image, sample) in enumerate(zip(self.images, self.samples, strict=True)):
            self.allowed[i] = rows_allowed(self.logits[i], self._run(exact, image, sample["task"])[1])

    def compare(self, policy: Policy) -> Effect:
        """Runs the policy on every sample, as the golden test does."""
        first, every, equal, count, agrees = 0.0, 0.0, 0, 0, True
        for image, sample, logits, allowed in zip(self.images, self.samples, self.logits, self.allowed, strict=True):
            ids, computed = self._run(policy, image, sample["task"])
            change = row_distances(computed, logits)
            same = ids == torch.tensor(sample["greedy_new_token_ids"][:STEPS])
            comparable = same.long().cumprod(0).roll(1)
            comparable[0] = 1
            first = max(first, change[0].item())
            every = max(every, change[comparable.bool()].max().item())
            equal, count = equal + int(same.sum()), count + len(same)
            agrees = agrees and bool(same.all()) and bool((change <= allowed).all())
        return Effect(first, every, equal, count, agrees)

    @torch.no_grad()
    def _run(self, policy: Policy, image: np.ndarray, task: str) -> tuple[Tensor, Tensor]:
        prompt = torch.tensor([policy.processor.generation_ids(task)])
        pixels = policy.processor.pixel_values(image)
        ids, computed = generate(policy.model, policy.decoder, prompt, pixels, STEPS)
        return ids, computed[:, FIRST_ID:]


def broken_policy(breaker: Breaker | None = None) -> Policy:
    """The golden checkpoint with reference decoding and one thing wrong with it."""
    policy = load_policy(CHECKPOINT, decoding="reference")
    if breaker is not None:
        breaker(policy)
    return policy


def breaks(name: str, known: dict[str, Breaker] = BREAKERS) -> Callable[[Breaker], Breaker]:
    """Registers a breaker under the words that the table uses."""

    def register(breaker: Breaker) -> Breaker:
        known[name] = breaker
        return breaker

    return register


def towers(policy: Policy) -> tuple[VisionTransformer, VisionTransformer]:
    """DINOv2 and SigLIP."""
    backbone = policy.model.vision_backbone
    return backbone.featurizer, backbone.fused_featurizer


# Language model


@breaks("RMS norm epsilon 1e-5, Llama-2's own, instead of 1e-6")
def rms_epsilon(policy: Policy) -> None:
    for module in policy.model.language_model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-5


@breaks("rope_theta 500000 instead of 10000")
def rope_theta(policy: Policy) -> None:
    frequencies = policy.model.language_model.model.rotary_emb.inv_freq
    frequencies.copy_(500_000.0 ** -(torch.arange(len(frequencies)) / len(frequencies)))


@breaks("rotary halves interleaved, as Meta's files store them")
def rotary_interleaved(policy: Policy) -> None:
    for layer in policy.model.language_model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            weight = projection.weight
            heads = weight.view(-1, layer.self_attn.head_dim // 2, 2, weight.shape[1])
            weight.data = heads.transpose(1, 2).reshape(weight.shape).contiguous()


@breaks("positions that do not count the patches")
def positions_without_patches(policy: Policy) -> None:
    language, patches = policy.model.language_model, policy.config.patches
    forward = language.forward

    def wrong(past_key_values=None, **inputs):
        past = past_key_values.get_seq_length()
        length = (inputs["inputs_embeds"] if "inputs_embeds" in inputs else inputs["input_ids"]).shape[1]
        positions = torch.arange(past, past + length)
        positions = torch.where(positions > patches, positions - patches, positions.clamp(max=1))
        return forward(past_key_values=past_key_values, position_ids=positions[None], **inputs)

    language.forward = wrong


@breaks("image and prompt see each other in both directions")
def bidirectional(policy: Policy) -> None:
    language = policy.model.language_model
    forward = language.forward

    def wrong(**inputs):
        if "inputs_embeds" in inputs:
            length = inputs["inputs_embeds"].shape[1]
            inputs["attention_mask"] = torch.zeros(1, 1, length, length)
        return forward(**inputs)

    language.forward = wrong


# Sequence


def _sequence(policy: Policy, order: Callable[[Tensor, Tensor], list[Tensor]]) -> None:
    model = policy.model

    def embed(input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        text, patches = model.language_model.model.embed_tokens(input_ids), model.encode_image(pixel_values)
        return torch.cat(order(text, patches), dim=1)

    model.embed = embed


@breaks("patches before the first token")
def patches_first(policy: Policy) -> None:
    _sequence(policy, lambda text, patches: [patches, text])


@breaks("patches after the text")
def patches_last(policy: Policy) -> None:
    _sequence(policy, lambda text, patches: [text, patches])


@breaks("no beginning-of-sequence token")
def no_first_token(policy: Policy) -> None:
    _sequence(policy, lambda text, patches: [patches, text[:, 1:]])


@breaks("no token 29871 after the prompt")
def no_space_token(policy: Policy) -> None:
    policy.processor.generation_ids = lambda task: list(policy.processor.prompt_ids(task))


@breaks("instruction not lower-cased")
def case_kept(policy: Policy) -> None:
    tokenizer, space = policy.processor.tokenizer, policy.processor.space_id
    prompt = "In: What action should the robot take to {}?\nOut:"
    policy.processor.generation_ids = lambda task: [*tokenizer.encode(prompt.format(task)).ids, space]


# Projector and the joint of the towers


@breaks("tanh GELU in the projector")
def tanh_projector(policy: Policy) -> None:
    projector = policy.model.projector

    def forward(features: Tensor) -> Tensor:
        x = projector.fc2(F.gelu(projector.fc1(features), approximate="tanh"))
        return projector.fc3(F.gelu(x, approximate="tanh"))

    projector.forward = forward


@breaks("SigLIP's features before DINOv2's")
def swapped_concatenation(policy: Policy) -> None:
    dino, siglip = towers(policy)

    def forward(pixels: Tensor) -> Tensor:
        return torch.cat([siglip(pixels[:, 3:]), dino(pixels[:, :3])], dim=2)

    policy.model.vision_backbone.forward = forward


# Vision towers


def _tanh_gelu(tower: VisionTransformer) -> None:
    for block in tower.blocks:
        mlp = block.mlp
        mlp.forward = lambda x, mlp=mlp: mlp.fc2(F.gelu(mlp.fc1(x), approximate="tanh"))


@breaks("tanh GELU in SigLIP")
def tanh_siglip(policy: Policy) -> None:
    _tanh_gelu(towers(policy)[1])


@breaks("tanh GELU in DINOv2")
def tanh_dino(policy: Policy) -> None:
    _tanh_gelu(towers(policy)[0])


@breaks("layer norm epsilon 1e-5 in the towers instead of 1e-6")
def tower_epsilon(policy: Policy) -> None:
    for module in policy.model.vision_backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


@breaks("features of the last block")
def last_block(policy: Policy) -> None:
    for tower in towers(policy):
        tower.blocks.append(nn.Identity())  # the tower leaves out the last entry


@breaks("features of one block earlier")
def earlier_block(policy: Policy) -> None:
    for tower in towers(policy):
        del tower.blocks[-1]


@breaks("final norm applied to the features")
def final_norm(policy: Policy) -> None:
    for tower in towers(policy):
        forward = tower.forward
        tower.forward = lambda pixels, forward=forward, tower=tower: tower.norm(forward(pixels))


@breaks("no LayerScale in DINOv2")
def no_layer_scale(policy: Policy) -> None:
    for block in towers(policy)[0].blocks:
        block.ls1 = block.ls2 = nn.Identity()


@breaks("no register tokens in DINOv2")
def no_registers(policy: Policy) -> None:
    _prefix(policy, lambda tower: (tower.cls_token, []))


@breaks("position embedding also added to the class and register tokens")
def positions_on_prefix(policy: Policy) -> None:
    dino = towers(policy)[0]
    count = dino.config.prefix_tokens
    prefix = torch.cat([dino.cls_token, dino.reg_token], dim=1) + dino.pos_embed[:, :count]
    dino.cls_token, dino.reg_token = nn.Parameter(prefix[:, :1]), nn.Parameter(prefix[:, 1:])


@breaks("prefix tokens kept, the last patches dropped")
def prefix_kept(policy: Policy) -> None:
    _prefix(policy, lambda tower: (tower.cls_token, [tower.reg_token]), keep=slice(0, -5))


@breaks("class and register tokens in another order", HARMLESS)
def prefix_order(policy: Policy) -> None:
    """They carry no position and attention does not know order: mathematically the same model."""
    _prefix(policy, lambda tower: (tower.reg_token.flip(1), [tower.cls_token]))


def _prefix(policy: Policy, parts: Callable, keep: slice | None = None) -> None:
    dino = towers(policy)[0]

    def forward(pixels: Tensor) -> Tensor:
        first, others = parts(dino)
        x = torch.cat([first, *others, dino.patch_embed(pixels) + dino.pos_embed], dim=1)
        before = x.shape[1] - dino.config.patches
        for block in dino.blocks[:-1]:
            x = block(x)
        return x[:, keep or slice(before, None)]

    dino.forward = forward


@breaks("patches counted column by column")
def column_major(policy: Policy) -> None:
    for tower in towers(policy):
        embed = tower.patch_embed
        embed.forward = lambda pixels, embed=embed: embed.proj(pixels).mT.flatten(2).mT


# Pixels


def _preprocessor(policy: Policy, **changes: object) -> None:
    values = read_json(CHECKPOINT / "preprocessor_config.json") | changes
    policy.processor.image_processor = ImageProcessor.from_dict(values)


def _normalize(means: list, stds: list) -> list:
    return [{"mean": mean, "std": std} for mean, std in zip(means, stds, strict=True)]


@breaks("normalisation constants not rounded to bfloat16")
def unrounded_constants(policy: Policy) -> None:
    _preprocessor(policy, tvf_normalize_params=None)


@breaks("ImageNet constants for both towers")
def imagenet_for_both(policy: Policy) -> None:
    stored = read_json(CHECKPOINT / "preprocessor_config.json")["tvf_normalize_params"]
    _preprocessor(policy, tvf_normalize_params=[stored[0], stored[0]])


@breaks("0.5 constants for both towers")
def half_for_both(policy: Policy) -> None:
    _preprocessor(policy, tvf_normalize_params=_normalize([[0.5] * 3] * 2, [[0.5] * 3] * 2))


@breaks("towers given each other's pixels")
def swapped_pixels(policy: Policy) -> None:
    stored = read_json(CHECKPOINT / "preprocessor_config.json")["tvf_normalize_params"]
    _preprocessor(policy, tvf_normalize_params=stored[::-1])


@breaks("bilinear resize")
def bilinear(policy: Policy) -> None:
    stored = read_json(CHECKPOINT / "preprocessor_config.json")["tvf_resize_params"]
    _preprocessor(policy, tvf_resize_params=[entry | {"interpolation": 2} for entry in stored])


@breaks("letterbox instead of resize-naive")
def letterboxed(policy: Policy) -> None:
    _preprocessor(policy, tvf_do_letterbox=True, tvf_letterbox_fill=[127, 127, 127])


@breaks("BGR pixels")
def bgr(policy: Policy) -> None:
    process = policy.processor.image_processor
    policy.processor.image_processor = lambda image: process(np.ascontiguousarray(image[:, :, ::-1]))
