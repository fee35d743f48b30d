"""The shipped model on a CPU without torch: exported as two graphs, the prompt and one more token, cache in and out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openvla_core.model.language_model import new_cache
from openvla_core.policy import Policy, load_policy

FILES = ("prompt.onnx", "step.onnx")
Runner = Callable[[np.ndarray, str], Sequence[int]]


def make_runner(library: str, threads: int, checkpoint: Path, folder: Path) -> Runner:
    """A function from a picture (H, W, 3) uint8 RGB and a sentence to the action's token ids.

    Args:
        library: "eager" or "engine", which are torch, or "onnxruntime" or "openvino" on what `export` left in `folder`.
    """
    torch.set_num_threads(threads)
    policy = load_policy(checkpoint, engine="auto" if library == "engine" else "eager")
    if library in ("eager", "engine"):
        return policy.predict_action_tokens
    make = {"onnxruntime": onnxruntime_graph, "openvino": openvino_graph}[library]
    return Decoding(policy, *(make(folder / name, threads) for name in FILES))


class Prompt(nn.Module):
    """Prompt and picture to the logits of the next token and the cache, two tensors per layer."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model = policy.model

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return answer(self.model.language_model, {"inputs_embeds": self.model.embed(input_ids, pixel_values)}, ())


class Step(nn.Module):
    """One token and the cache to the logits of the next token and the longer cache."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.llama = policy.model.language_model

    def forward(self, input_ids: Tensor, cached: list[Tensor]) -> tuple[Tensor, ...]:
        return answer(self.llama, {"input_ids": input_ids}, cached)


def answer(llama: nn.Module, inputs: dict[str, Tensor], cached: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One pass of the language model after what `cached` holds."""
    cache = new_cache(llama)
    for layer in range(len(cached) // 2):
        cache.update(cached[2 * layer], cached[2 * layer + 1], layer)
    output = llama(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.logits[0, -1], *(part for layer in cache.layers for part in (layer.keys, layer.values))


@torch.no_grad()
def export(checkpoint: Path, folder: Path) -> None:
    """Writes both graphs as ONNX files; lengths of prompt and cache are free."""
    policy = load_policy(checkpoint, engine="eager")
    sentence = policy.training_instructions[0]
    input_ids = torch.tensor([policy.processor.generation_ids(sentence)])
    pixel_values = policy.processor.pixel_values(np.zeros((112, 112, 3), np.uint8))
    prompt = Prompt(policy).eval()
    cached = list(prompt(input_ids, pixel_values)[1:])
    length, cache_length = torch.export.Dim("length", max=64), torch.export.Dim("cache_length", max=192)
    graphs = (
        (prompt, (input_ids, pixel_values), ({1: length}, None)),
        (Step(policy).eval(), (input_ids[:, :1], cached), (None, [{2: cache_length}] * len(cached))),
    )
    for name, (module, inputs, shapes) in zip(FILES, graphs, strict=True):
        program = torch.onnx.export(module, inputs, dynamo=True, dynamic_shapes=shapes, optimize=True, verbose=False)
        assert program is not None
        program.save(folder / name)


class Decoding:
    """The same choices as `openvla_core.decoding`, with the two graphs in place of the model."""

    def __init__(self, policy: Policy, prompt: Callable, step: Callable) -> None:
        self._policy, self._prompt, self._step = policy, prompt, step

    def __call__(self, picture: np.ndarray, sentence: str) -> list[int]:
        processor, decoder = self._policy.processor, self._policy.decoder
        input_ids = np.array([processor.generation_ids(sentence)])
        logits, *cached = self._prompt([input_ids, processor.pixel_values(picture).numpy()])
        ids: list[int] = []
        for position in range(7):
            ids.append(int(logits[decoder.first_id : decoder.end_id].argmax()) + decoder.first_id)
            if position < 6:
                logits, *cached = self._step([np.array([[ids[-1]]]), *cached])
        return ids


def onnxruntime_graph(graph: Path, threads: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """The graph in ONNX Runtime, float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def openvino_graph(graph: Path, threads: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """The graph in OpenVINO, float32 as in the file."""
    import openvino

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
    request = compiled.create_infer_request()

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        request.infer(inputs)
        return [np.array(request.get_output_tensor(index).data) for index in range(len(compiled.outputs))]

    return run
