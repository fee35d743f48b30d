"""Action tokens of one picture or of several at once, over the weights of the model itself, with fixed shapes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openvla_core.decoding import Decoder
from openvla_core.engine.buckets import bucket_for, checked_buckets, default_buckets
from openvla_core.engine.cache import StaticCache
from openvla_core.engine.compiled import compile_layer
from openvla_core.engine.decoder import LlamaPasses, Tables
from openvla_core.engine.drafts import WIDTH, DraftFigures, accepted_prefix, fed_rows
from openvla_core.engine.graphs import Stages
from openvla_core.engine.vision import encode_image, run_block, side_stream
from openvla_core.errors import ConfigError
from openvla_core.model import OpenVLA

# Buckets that a warm-up on CUDA records; longer sentences are recorded when they first come.
WARM_BUCKETS = 3


@dataclass(frozen=True)
class Generated:
    """The answer of one sequence, on the device.

    ids (count,) int64; logits (count, vocabulary) float32 that they were chosen from; passes: of the decoder after the
    prompt; proposed and accepted: guesses that were tried, and that were right.
    """

    ids: Tensor
    logits: Tensor
    passes: int
    proposed: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class _Sequence:
    """Where a batch is kept: its bucket, its cache, and the tables for it."""

    bucket: int
    cache: StaticCache
    tables: Tables


class Engine:
    """Generates what `decoding.generate` does. Use it from one thread at a time.

    The weights may be changed in place at any time. Layers that are replaced, quantized or moved are noticed at the
    next call, which then prepares itself anew.
    """

    def __init__(
        self,
        model: OpenVLA,
        *,
        most: int = 1,
        buckets: Sequence[int] | None = None,
        drafts: bool = False,
        graphs: bool | None = None,
        compile_layers: bool = False,
    ) -> None:
        """
        Args:
            model: joined projections become the owners of its weights; its state dict stays what it is.
            most: sequences computed at once by `generate_batch`.
            buckets: sequence lengths to prepare for; None for `default_buckets`.
            drafts: take guesses. Every pass then has 8 rows, with a guess or without, so that a guess changes no bit.
            graphs: record CUDA graphs; None does where there is CUDA.
            compile_layers: through torch.compile.
        """
        if most < 1:
            raise ConfigError(f"most is {most}; at least one sequence has to be computed at once.")
        self.model, self.most, self.drafts = model, most, drafts
        self._width = WIDTH if drafts else 1
        self.figures = DraftFigures()
        self._graphs, self._compile_layers = graphs, compile_layers
        language, self._patches = model.config.language, model.config.patches
        # What fills up: a token that every prompt has, so that nothing enters that the sentence alone would not bring.
        self._filling: int = language.bos_token_id
        self._vocabulary, longest = language.vocab_size, language.max_position_embeddings
        on_cuda = model.projector.fc1.weight.device.type == "cuda"
        self.buckets = (
            default_buckets(self._patches, longest, on_cuda)
            if buckets is None
            else checked_buckets(buckets, self._patches, longest)
        )
        self._prepare()

    @property
    def prepared(self) -> int:
        """Stages and shapes met so far; on CUDA, graphs that were recorded. It no longer grows once all is warm."""
        return self._stages.captures

    def warm_up(self, decoder: Decoder, count: int, progress: Callable[[str], None] = lambda sentence: None) -> None:
        """Makes what later calls use: caches, kernels, and on CUDA the graphs of the first buckets.

        Args:
            count: tokens of an answer.
            progress: told in a sentence what is being done.
        """
        greedy = replace(decoder, temperature=0.0)
        on_cuda = self.passes.device.type == "cuda"
        buckets = [bucket for bucket in self.buckets if bucket > self._patches + count + 1]
        buckets = buckets[: WARM_BUCKETS if on_cuda else 1]
        for done, bucket in enumerate(buckets):
            progress(f"Preparing the engine for {bucket} positions ({done + 1} of {len(buckets)}).")
            ids = torch.ones(1, bucket - self._patches - count, dtype=torch.int64, device=self.passes.device)
            size = self.model.config.towers[0].image_size
            pixels = torch.zeros(1, self.model.config.channels, size, size, device=self.passes.device)
            self._answer(greedy, [ids], pixels, count, self._width)

    def generate(
        self, decoder: Decoder, input_ids: Tensor, pixel_values: Tensor, count: int, draft: Tensor | None = None
    ) -> Generated:
        """Chooses `count` tokens after a prompt.

        Args:
            input_ids: (1, L) int64 prompt ids ending in the space token.
            pixel_values: (1, 3 per tower, S, S).
            draft: (count,) int64, a guess of the answer. Without `drafts`, or with a temperature, it is not looked at.
        """
        if draft is not None and tuple(draft.shape) != (count,):
            raise ConfigError(f"the draft is {tuple(draft.shape)}; give one guess for each of the {count} tokens.")
        used = draft.tolist() if draft is not None and self.drafts and not decoder.temperature else None
        generated = self._answer(decoder, [input_ids], pixel_values, count, self._width, used)[0]
        self.figures.add(generated.passes, generated.proposed, generated.accepted)
        return generated

    def generate_batch(
        self, decoder: Decoder, input_ids: Sequence[Tensor], pixel_values: Tensor, count: int
    ) -> list[Generated]:
        """The same for several prompts (1, L) of any lengths and their pictures (B, 3 per tower, S, S).

        With a temperature the draws of the members come from one generator in turn.
        """
        generated: list[Generated] = []
        for start in range(0, len(input_ids), self.most):
            ids, pixels = list(input_ids[start : start + self.most]), pixel_values[start : start + self.most]
            real = len(ids)
            if self._stages.capturing and real > 1:
                # Each size is a recording of its own: only powers of two, the last member standing in for the missing.
                missing = min(1 << (real - 1).bit_length(), self.most) - real
                ids += ids[-1:] * missing
                pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
            generated += self._answer(decoder, ids, pixels, count)[:real]
        return generated

    @torch.inference_mode()
    def _answer(
        self,
        decoder: Decoder,
        input_ids: Sequence[Tensor],
        pixel_values: Tensor,
        count: int,
        width: int = 1,
        draft: list[int] | None = None,
    ) -> list[Generated]:
        if not self.passes.current:
            self._prepare()
        lengths = [self._patches + ids.shape[1] for ids in input_ids]
        place = self._place(len(input_ids), bucket_for(max(lengths) + count, self.buckets))
        words = place.bucket - count - self._patches
        padded = torch.cat([F.pad(ids, (0, words - ids.shape[1]), value=self._filling) for ids in input_ids])
        real = torch.tensor(lengths).to(self.passes.device, non_blocking=True)
        logits = self._read_prompt(place, padded, pixel_values, real)
        rows = torch.empty(len(input_ids), count, logits.shape[-1], device=logits.device)
        rows[:, 0] = logits
        positions = real[:, None] + self._offsets[: count + width]
        if draft is not None and count > 1:
            return [self._with_draft(decoder, place, rows, positions, draft)]
        ids = self._one_by_one(decoder, place, rows, positions, width)
        return [Generated(ids[i], rows[i], count - 1) for i in range(len(ids))]

    def _one_by_one(self, decoder: Decoder, place: _Sequence, rows: Tensor, positions: Tensor, width: int) -> Tensor:
        """Fills rows (B, count, vocabulary), whose first is known. Returns the ids (B, count)."""
        count = rows.shape[1]
        ids = [decoder.choose(rows[:, 0])]
        for i in range(1, count):
            fed = F.pad(ids[-1][:, None], (0, width - 1), value=self._filling) if width > 1 else ids[-1][:, None]
            rows[:, i] = self._read_rows(place, fed, positions[:, i - 1 : i - 1 + width])[:, 0]
            ids.append(decoder.choose(rows[:, i]))
        return torch.stack(ids, dim=1)

    def _with_draft(
        self, decoder: Decoder, place: _Sequence, rows: Tensor, positions: Tensor, draft: list[int]
    ) -> Generated:
        """The same for one sequence, several tokens a pass: each guess is judged after what the model really said."""
        count = rows.shape[1]
        chosen = decoder.choose(rows[:, 0])
        answer, known = [chosen], 1
        passes = proposed = accepted = 0
        while known < count:
            rest = min(WIDTH, count - known)
            guesses = draft[known : known + rest - 1]
            fed = fed_rows(answer[-1][-1:], guesses, self._vocabulary, self._filling)
            logits = self._read_rows(place, fed, positions[:, known - 1 : known - 1 + WIDTH])[0, :rest]
            chosen = decoder.choose(logits)
            right = accepted_prefix(guesses, chosen.tolist())
            rows[0, known : known + right + 1] = logits[: right + 1]
            answer.append(chosen[: right + 1])
            known += right + 1
            passes, accepted = passes + 1, accepted + right
            proposed += min(right + 1, len(guesses))
        return Generated(torch.cat(answer), rows[0], passes, proposed, accepted)

    def _read_prompt(self, place: _Sequence, ids: Tensor, pixel_values: Tensor, lengths: Tensor) -> Tensor:
        def prompt(ids: Tensor, pixels: Tensor, lengths: Tensor) -> Tensor:
            text = self.model.language_model.model.embed_tokens(ids)
            patches = encode_image(self.model, pixels, self._side, self._block).to(text.dtype)
            x = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
            return self.passes.prompt(x, lengths, place.cache, place.tables)

        return self._stages.run(f"prompt {place.bucket}", prompt, ids, pixel_values, lengths)

    def _read_rows(self, place: _Sequence, ids: Tensor, positions: Tensor) -> Tensor:
        def rows(ids: Tensor, positions: Tensor) -> Tensor:
            return self.passes.rows(ids, positions, place.cache, place.tables)

        return self._stages.run(f"rows {place.bucket}", rows, ids, positions)

    def _place(self, batch: int, bucket: int) -> _Sequence:
        """Made when first needed, kept from then on."""
        if (batch, bucket) not in self._places:
            # Behind the bucket lies room for the rows of a wide pass that no one looks at.
            length = -(-(bucket + WIDTH) // 8) * 8
            if bucket not in self._tables:
                self._tables[bucket] = self.passes.new_tables(length)
            cache = self.passes.new_cache(batch, length)
            self._places[batch, bucket] = _Sequence(bucket, cache, self._tables[bucket])
        return self._places[batch, bucket]

    def _prepare(self) -> None:
        self.passes = LlamaPasses(self.model.language_model, self._compile_layers)
        self._stages = Stages(self.passes.device, self._graphs)
        self._side: Any = side_stream(self.model)
        self._block = compile_layer(run_block, self.passes.device) if self._compile_layers else run_block
        self._places: dict[tuple[int, int], _Sequence] = {}
        self._tables: dict[int, Tables] = {}
        self._offsets = torch.arange(self.buckets[-1] + WIDTH, device=self.passes.device)
