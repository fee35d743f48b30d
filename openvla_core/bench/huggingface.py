"""The yardstick: what the published code does for one action, with the transformers that is installed.

For every action the sentence is tokenized again, Pillow resizes the picture once for each tower, both towers run
through all their blocks although the last one's result is never used, and `LlamaForCausalLM.generate` picks the tokens.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openvla_core.bench.answers import Answer
from openvla_core.bench.stopwatch import Stopwatch
from openvla_core.bench.subject import Subject
from openvla_core.image_processor import as_rgb, center_crop, letterbox, resize
from openvla_core.model.vision_backbone import VisionTransformer
from openvla_core.processor import to_numpy
from openvla_core.prompt import build_prompt, with_trailing_space


class HuggingFace:
    """Calls `generate`. cache: "dynamic", its default, or "static", with what it compiles by itself on a GPU."""

    def __init__(self, subject: Subject, cache: str = "dynamic") -> None:
        self.subject, self.cache = subject, cache
        self._normalizations = [_normalization(subject, index) for index in range(len(subject.config.towers))]
        self.options: dict[str, Any] = {"do_sample": False, "pad_token_id": subject.config.pad_token_id}
        if cache == "static":
            self.options["cache_implementation"] = "static"

    @property
    def note(self) -> str:
        """What was used, for the report."""
        if self.cache == "dynamic":
            return "generate(), dynamic cache, nothing compiled"
        if self.subject.device.type == "cuda":
            return "generate(), static cache, decoding compiled by generate() itself"
        return "generate(), static cache, nothing compiled: generate() compiles on a GPU only"

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Answer:
        pixels, ids = self.preprocess(image)
        embeddings = self.join(ids, self.project(self.see(pixels)))
        return self.post(self.generate(embeddings))

    def expect(self, number: int, ids: np.ndarray) -> None:
        """Needs no help."""

    @torch.inference_mode()
    def stages(self, image: np.ndarray) -> dict[str, float]:
        """The same work in pieces; decode is what each further token adds to `generate`."""
        watch = Stopwatch(self.subject.device)
        with watch("preprocess"):
            pixels, ids = self.preprocess(image)
        with watch("vision"):
            features = self.see(pixels)
        with watch("projector"):
            patches = self.project(features)
        embeddings = self.join(ids, patches)
        with watch("prefill"):
            self.generate(embeddings, count=1)
        with watch("decode"):
            chosen = self.generate(embeddings)
        with watch("post"):
            self.post(chosen)
        seconds, further = watch.seconds, self.subject.count - 1
        seconds["decode"] = max(seconds["decode"] - seconds["prefill"], 0.0) / max(further, 1)
        return seconds

    def preprocess(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """pixel_values (1, 3 per tower, S, S) in the dtype of the weights and input_ids (1, L), on the device."""
        subject, processor = self.subject, self.subject.policy.processor
        planes = [self._planes(processor.preparation(image), index) for index in range(len(self._normalizations))]
        pixels = torch.cat(planes)[None].to(subject.device, dtype=subject.dtype)
        text = build_prompt(subject.instruction, subject.config.prompt_style)
        ids = with_trailing_space(processor.tokenizer.encode(text).ids, processor.space_id)
        return pixels, torch.tensor([ids], device=subject.device)

    def see(self, pixels: Tensor) -> Tensor:
        """pixels (1, C, S, S) -> features of all towers (1, P, D_vision)."""
        backbone = self.subject.model.vision_backbone
        if not hasattr(backbone, "fused_featurizer"):
            return _all_blocks(backbone.featurizer, pixels)
        first, second = pixels.split(3, dim=1)
        towers = ((backbone.featurizer, first), (backbone.fused_featurizer, second))
        return torch.cat([_all_blocks(tower, part) for tower, part in towers], dim=2)

    def project(self, features: Tensor) -> Tensor:
        return self.subject.model.projector(features)

    def join(self, ids: Tensor, patches: Tensor) -> Tensor:
        """What the language model reads: (1, P + L, D_llm)."""
        text = self.subject.model.language_model.model.embed_tokens(ids)
        return torch.cat([text[:, :1], patches.to(text.dtype), text[:, 1:]], dim=1)

    def generate(self, embeddings: Tensor, count: int | None = None) -> Tensor:
        """(1, T, D_llm) -> ids (count,), D of them by default."""
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        language: Any = self.subject.model.language_model
        count = self.subject.count if count is None else count
        lengths = {"max_new_tokens": count, "min_new_tokens": count}
        return language.generate(inputs_embeds=embeddings, attention_mask=mask, **lengths, **self.options)[0]

    def post(self, ids: Tensor) -> Answer:
        chosen = to_numpy(ids)
        return Answer(chosen, self.subject.action(chosen), passes=self.subject.count - 1)

    def _planes(self, image: np.ndarray, index: int) -> Tensor:
        """One tower's share of the channels, (3, S, S) float32: resize, to [0, 1], subtract, divide."""
        processor = self.subject.policy.processor.image_processor
        tower, (mean, std) = processor.towers[index], self._normalizations[index]
        pixels = as_rgb(np.asarray(Image.fromarray(image)))
        if processor.letterbox_fill is not None:
            pixels = letterbox(pixels, processor.letterbox_fill)
        fitted = center_crop(resize(pixels, tower.resize, tower.interpolation), tower.crop)
        levels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous().float().div(255)
        return levels.sub_(mean).div_(std)


def _all_blocks(tower: VisionTransformer, pixels: Tensor) -> Tensor:
    """(1, 3, S, S) -> (1, P, D): features of the last block but one, and the last one computed all the same."""
    kept: list[Tensor] = []
    x = tower.patch_embed(pixels) + tower.pos_embed
    if tower.config.prefix_tokens:
        prefix = torch.cat([tower.cls_token, tower.reg_token], dim=1)
        x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)
    for block in tower.blocks:
        kept.append(x)
        x = block(x)
    return kept[-1][:, tower.config.prefix_tokens :]


def _normalization(subject: Subject, index: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of one tower, (3, 1, 1) float32 each."""
    values = subject.checkpoint.preprocessor_config
    stored = values.get("tvf_normalize_params")
    pair = (stored[index]["mean"], stored[index]["std"]) if stored else (values["means"][index], values["stds"][index])
    mean, std = (torch.tensor(numbers, dtype=torch.float32).view(3, 1, 1) for numbers in pair)
    return mean, std
