"""The Llama of the model: transformers' own, with every number of its configuration written out."""

from typing import TYPE_CHECKING

from openvla_core.model.config import LanguageConfig
from openvla_core.quiet import quiet

if TYPE_CHECKING:
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

# transformers imports torchao where it is installed, which then lists every kernel that is not for this machine.
NOISY = ("torchao", "torch.utils._pytree")


def build_llama(config: LanguageConfig, attn_implementation: str = "sdpa") -> "LlamaForCausalLM":
    """A Llama with random weights. attn_implementation: "sdpa" or "eager"."""
    with quiet(*NOISY):
        from transformers import LlamaForCausalLM
    return LlamaForCausalLM(llama_config(config, attn_implementation))


def new_cache(llama: "LlamaForCausalLM") -> "DynamicCache":
    """An empty key-value cache for it."""
    from transformers import DynamicCache

    return DynamicCache(config=llama.config)


def llama_config(config: LanguageConfig, attn_implementation: str) -> "LlamaConfig":
    """Every value is written out, so that a changed default elsewhere cannot change the model."""
    with quiet(*NOISY):
        from transformers import LlamaConfig
    return LlamaConfig(  # type: ignore[call-arg]
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        hidden_act="silu",
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        attention_bias=False,
        mlp_bias=False,
        attention_dropout=0.0,
        tie_word_embeddings=False,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        attn_implementation=attn_implementation,
    )
