"""Several instructions behind one image: the image is encoded once, each instruction only sees the image and itself.

B images, K instructions per image, P patches, C tokens shared by all prompts, S tokens per instruction block.
The sequence is [BOS, P patches, shared prompt words, K blocks]; a block holds the rest of one prompt and its actions.
"""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from openvla_core.prompt import SPACE, build_prompt, with_trailing_space

ACTION_DIM = 7


@dataclass(frozen=True)
class Sentences:
    """All known sentences, tokenized. N sentences, W longest remainder of a prompt after the shared words."""

    texts: tuple[str, ...]
    shared: Tensor  # (1 + C,) int64: BOS and the words every prompt begins with
    rests: Tensor  # (N, W) int64, padded on the right with 0
    lengths: Tensor  # (N,) int64, tokens of each remainder; the last one is the space token
    colors: Tensor  # (N,) int64, position of the colour word in the remainder

    @classmethod
    def build(cls, texts: tuple[str, ...], tokenizer: Tokenizer, color_words: tuple[str, ...]) -> "Sentences":
        space = tokenizer.token_to_id(SPACE)
        assert space is not None, "the tiny tokenizer always has the space token"
        ids = [with_trailing_space(tokenizer.encode(build_prompt(text)).ids, space) for text in texts]
        shared = 0
        while len({prompt[shared] for prompt in ids}) == 1:
            shared += 1
        rests = [prompt[shared:] for prompt in ids]
        width = max(map(len, rests))
        colors = {tokenizer.token_to_id(word) for word in color_words}
        return cls(
            texts=texts,
            shared=torch.tensor(ids[0][:shared]),
            rests=torch.tensor([rest + [0] * (width - len(rest)) for rest in rests]),
            lengths=torch.tensor([len(rest) for rest in rests]),
            colors=torch.tensor([next(i for i, token in enumerate(rest) if token in colors) for rest in rests]),
        )

    @property
    def block_width(self) -> int:
        """S: the longest remainder and the action tokens."""
        return self.rests.shape[1] + ACTION_DIM


class Packing:
    """Token ids, positions and attention mask for K instructions per image."""

    def __init__(self, sentences: Sentences, patches: int, instructions: int) -> None:
        self.sentences = sentences
        prefix = patches + len(sentences.shared)
        width = sentences.block_width
        blocks = torch.arange(instructions).repeat_interleave(width)
        inside = torch.arange(width).repeat(instructions)
        self.prefix = prefix
        self.position_ids = torch.cat([torch.arange(prefix), prefix + inside])[None]
        owner = torch.cat([torch.full((prefix,), -1), blocks])
        order = torch.arange(len(owner))
        visible = (order[:, None] >= order[None]) & ((owner[None] == -1) | (owner[:, None] == owner[None]))
        # (1, 1, L, L): 0 where a token may look, a very negative number where it may not
        self.mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)[None, None]

    def fill(self, sentence: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Writes prompts and action tokens into blocks.

        Args:
            sentence: (B, K) int64, index of each sentence.
            actions: (B, K, 7) int64, the action ids the model reads.

        Returns:
            ids (B, K * S) int64, and rows (B, K, 8) int64: where in the sequence the seven actions and the
            end of sequence are predicted.
        """
        batch, count = sentence.shape
        width = self.sentences.block_width
        lengths = self.sentences.lengths[sentence]
        ids = torch.zeros(batch, count, width, dtype=torch.int64)
        ids[..., : self.sentences.rests.shape[1]] = self.sentences.rests[sentence]
        ids.scatter_(2, lengths[..., None] + torch.arange(ACTION_DIM), actions)
        return ids.flatten(1), self._rows(lengths[..., None] - 1 + torch.arange(ACTION_DIM + 1))

    def color_rows(self, sentence: Tensor, ahead: int = 0) -> Tensor:
        """(B, K) int64: where in the sequence each colour word stands, or the word `ahead` places after it."""
        return self._rows(self.sentences.colors[sentence][..., None] + ahead).squeeze(-1)

    def _rows(self, inside: Tensor) -> Tensor:
        starts = self.prefix + torch.arange(inside.shape[1]) * self.sentences.block_width
        return starts[None, :, None] + inside
