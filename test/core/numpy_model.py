"""The whole model a second time, in plain float64 numpy, written from its description and not from our code.

Slow and short on purpose: loops over heads, no caching, one image and one sentence.
"""

import math

import numpy as np

PATCH = 14
LAYER_NORM_EPSILON = 1e-6

erf = np.vectorize(math.erf)


def logits(state, towers, language, ids, pixels):
    """Logits (P + T, vocabulary).

    Args:
        state: {published parameter name: array}.
        towers: per tower {"depth", "num_heads", "prefix_tokens"}.
        language: {"num_attention_heads", "num_key_value_heads", "num_hidden_layers", "rms_norm_eps", "rope_theta"}.
        ids: list of T token ids.
        pixels: (3 per tower, S, S).
    """
    names = ["featurizer", "fused_featurizer"][: len(towers)]
    features = [
        vision_tower(part(state, f"vision_backbone.{name}."), pixels[3 * i : 3 * i + 3], **tower)
        for i, (name, tower) in enumerate(zip(names, towers, strict=True))
    ]
    patches = projector(part(state, "projector."), np.concatenate(features, axis=1))
    text = state["language_model.model.embed_tokens.weight"][ids]
    x = np.concatenate([text[:1], patches, text[1:]])
    x = llama(part(state, "language_model.model."), x, **language)
    return x @ state["language_model.lm_head.weight"].T


def part(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def linear(state, name, x):
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(state, name, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def vision_tower(state, pixels, depth, num_heads, prefix_tokens):
    """pixels (3, S, S) -> (P, D): the output of block depth - 2, without norm and without prefix tokens."""
    side = pixels.shape[1] // PATCH
    kernel = state["patch_embed.proj.weight"]
    x = np.empty((side * side, len(kernel)))
    for row in range(side):
        for column in range(side):
            patch = pixels[:, PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)]
            x[row * side + column] = (kernel * patch).sum(axis=(1, 2, 3)) + state["patch_embed.proj.bias"]
    x = x + state["pos_embed"][0]
    if prefix_tokens:
        x = np.concatenate([state["cls_token"][0], state["reg_token"][0], x])
    for index in range(depth - 1):
        block = part(state, f"blocks.{index}.")
        x = x + block.get("ls1.scale_factor", 1.0) * vision_attention(block, layer_norm(block, "norm1", x), num_heads)
        hidden = gelu(linear(block, "mlp.fc1", layer_norm(block, "norm2", x)))
        x = x + block.get("ls2.scale_factor", 1.0) * linear(block, "mlp.fc2", hidden)
    return x[prefix_tokens:]


def vision_attention(state, x, heads):
    width = x.shape[1]
    size = width // heads
    q, k, v = np.split(linear(state, "attn.qkv", x), 3, axis=1)
    joined = np.empty_like(x)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        joined[:, own] = softmax(q[:, own] @ k[:, own].T / math.sqrt(size)) @ v[:, own]
    return linear(state, "attn.proj", joined)


def projector(state, x):
    x = linear(state, "fc2", gelu(linear(state, "fc1", x)))
    return linear(state, "fc3", gelu(x)) if "fc3.weight" in state else x


def rms_norm(weight, x, epsilon):
    return weight * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)


def rotate(x, theta):
    """x (N, d): the two halves of the features are the two coordinates that turn by position * frequency.

    The angles, their sines and cosines are float32 numbers, whatever the precision of the model.
    """
    half = x.shape[1] // 2
    frequency = (theta ** (-np.arange(half) / half)).astype(np.float32)
    angle = np.arange(len(x), dtype=np.float32)[:, None] * frequency
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = x[:, :half], x[:, half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)


def llama(state, x, num_attention_heads, num_key_value_heads, num_hidden_layers, rms_norm_eps, rope_theta):
    """x (N, H) -> (N, H), final norm included."""
    for index in range(num_hidden_layers):
        layer = part(state, f"layers.{index}.")
        y = rms_norm(layer["input_layernorm.weight"], x, rms_norm_eps)
        x = x + causal_attention(part(layer, "self_attn."), y, num_attention_heads, num_key_value_heads, rope_theta)
        y = rms_norm(layer["post_attention_layernorm.weight"], x, rms_norm_eps)
        gate = linear(layer, "mlp.gate_proj", y)
        x = x + linear(layer, "mlp.down_proj", gate / (1 + np.exp(-gate)) * linear(layer, "mlp.up_proj", y))
    return rms_norm(state["norm.weight"], x, rms_norm_eps)


def causal_attention(state, x, heads, shared_heads, theta):
    size = x.shape[1] // heads
    q, k, v = (linear(state, f"{name}_proj", x) for name in "qkv")
    future = np.triu(np.ones((len(x), len(x)), dtype=bool), 1)
    joined = np.empty((len(x), heads * size))
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        group = head // (heads // shared_heads)
        shared = slice(group * size, (group + 1) * size)
        scores = rotate(q[:, own], theta) @ rotate(k[:, shared], theta).T / math.sqrt(size)
        joined[:, own] = softmax(np.where(future, -np.inf, scores)) @ v[:, shared]
    return linear(state, "o_proj", joined)
