"""The sentence the model was trained on, around the instruction a person gives."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from openvla_core.errors import ConfigError, InstructionError

IGNORE_INDEX = -100
MAX_INSTRUCTION_CHARACTERS = 512
SPACE = "▁"

SYSTEM_SENTENCE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
PROMPTS = {
    "openvla": "In: What action should the robot take to {instruction}?\nOut:",
    "openvla-v01": SYSTEM_SENTENCE + " USER: What action should the robot take to {instruction}? ASSISTANT:",
}

# Zero-width (non-)joiners belong to some scripts and to emoji; every other invisible character hides something.
_JOINERS = "\u200c\u200d"
_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")


def build_prompt(instruction: str, style: str = "openvla") -> str:
    """The prompt up to where the action begins. The instruction is lower-cased and otherwise left as it is.

    Raises ConfigError for an unknown style.
    """
    return PROMPTS[check_style(style)].format(instruction=instruction.lower())


def check_style(style: str) -> str:
    """The style itself. Raises ConfigError, listing the choices, when no prompt has this name."""
    if style not in PROMPTS:
        raise ConfigError(f"prompt_style is {style!r}; choose one of {', '.join(PROMPTS)}.")
    return style


def clean_instruction(text: str) -> str:
    """Strips surrounding blanks. Raises InstructionError when nothing is left or something could hide in the text."""
    if not isinstance(text, str):
        raise InstructionError(f"the instruction is a {type(text).__name__}; send a sentence.")
    cleaned = text.strip()
    if not cleaned:
        raise InstructionError("the instruction is empty; send a sentence such as 'pick up the cup'.")
    if len(cleaned) > MAX_INSTRUCTION_CHARACTERS:
        raise InstructionError(
            f"the instruction has {len(cleaned)} characters; send at most {MAX_INSTRUCTION_CHARACTERS}."
        )
    hidden = {c for c in cleaned if unicodedata.category(c) in _HIDDEN_CATEGORIES and c not in _JOINERS}
    hidden |= {"\ufffd"} & set(cleaned)  # stands for a character that was lost on the way
    if hidden:
        names = ", ".join(sorted(f"U+{ord(c):04X}" for c in hidden))
        raise InstructionError(f"the instruction contains control characters ({names}); send one line of plain text.")
    return cleaned


def with_trailing_space(prompt_ids: Sequence[int], space_id: int) -> list[int]:
    """The ids to generate from: in training a space token stands between "Out:" and the first action token."""
    ids = list(prompt_ids)
    return ids if ids[-1] == space_id else [*ids, space_id]


def training_sequence(
    prompt_ids: Sequence[int], space_id: int, action_ids: Sequence[int] | np.ndarray, eos_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompt, space token, D action tokens and end of sequence.

    Args:
        prompt_ids: (L,) ids of `build_prompt`, starting with the beginning-of-sequence token.
        space_id: id of the token "▁" (29871 in Llama).
        action_ids: (D,) ids of the action tokens.
        eos_id: id of the end-of-sequence token.

    Returns:
        input_ids and labels, both (T,) int64; labels are -100 except for the action tokens and the end of sequence.
    """
    prompt = with_trailing_space(prompt_ids, space_id)
    input_ids = np.array([*prompt, *action_ids, eos_id], dtype=np.int64)
    labels = np.full_like(input_ids, IGNORE_INDEX)
    labels[len(prompt) :] = input_ids[len(prompt) :]
    return input_ids, labels
