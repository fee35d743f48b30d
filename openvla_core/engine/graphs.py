"""Steps of the engine that are recorded once as CUDA graphs and then replayed; elsewhere plain calls."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 3  # calls before a capture: kernels are chosen, workspaces allocated, layers compiled

logger = logging.getLogger(__name__)


class Stages:
    """Runs functions under a name. On CUDA each (name, shapes of its inputs) becomes one graph, later calls replay it.

    What a function must keep to, so that a replay does what a call would:
    - everything that changes from call to call comes in through its tensor inputs, or through tensors that stay where
      they are (weights, the key-value cache); a name stands for one and the same work;
    - it never waits for the device (no `.item()`, no `.cpu()`, no branch on a value) and draws no random numbers;
    - called twice with the same inputs it leaves the same state behind: it is called a few times before it is recorded.

    What `run` returns is overwritten by the next run of the same name and shapes; clone what is to be kept. Nothing is
    allocated by a replay. Use it from one thread at a time, and from one stream.
    """

    def __init__(self, device: torch.device | str, capture: bool | None = None) -> None:
        """
        Args:
            device: where the functions work.
            capture: None records on CUDA and goes on with plain calls, after a warning, where recording fails; True
                insists on it; False always calls. On a CPU, True keeps the fixed buffers and calls the first function
                again where a GPU would replay it, which shows mistakes that otherwise only a GPU would.
        """
        self.device = torch.device(device)
        self.capturing = self.device.type == "cuda" if capture is None else capture
        self._must_capture = capture is True
        self._fixed: dict[Hashable, _Fixed] = {}
        self._seen: set[Hashable] = set()
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def captures(self) -> int:
        """How many different (name, shapes) have been run; with capture on, as many graphs exist."""
        return len(self._seen)

    @property
    def names(self) -> tuple[str, ...]:
        """The names behind `captures`, one entry for each set of shapes, sorted."""
        return tuple(sorted(key[0] for key in self._seen))  # type: ignore[index]

    @torch.inference_mode()
    def run(self, name: str, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """function(*inputs), recorded or replayed.

        Args:
            function: of tensors on the device, returning a tensor, a tuple of tensors, or None.
            inputs: of any device; pinned host memory is copied without waiting.

        Returns:
            What the function returns, on the device.
        """
        key = (name, tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        self._seen.add(key)
        if not self.capturing:
            return function(*(tensor.to(self.device, non_blocking=True) for tensor in inputs))
        if key not in self._fixed:
            try:
                self._fixed[key] = self._record(function, inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if self._must_capture:
                    raise
                logger.warning("stage '%s' cannot be recorded as a CUDA graph, it is called instead: %s", name, error)
                self.capturing = False
                self._fixed.clear()
                return self.run(name, function, *inputs)
        return self._fixed[key](inputs)

    def _record(self, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> "_Fixed":
        buffers = tuple(torch.empty(t.shape, dtype=t.dtype, device=self.device).copy_(t) for t in inputs)
        if self.device.type == "cuda":
            return self._record_graph(function, buffers)
        outputs = _like(function(*buffers))
        return _Fixed(buffers, outputs, lambda: _copy(function(*buffers), outputs), function)

    def _record_graph(self, function: Callable[..., Any], buffers: tuple[Tensor, ...]) -> "_Fixed":
        # The outer stream context is for a capture that fails: torch leaves its stream the current one then.
        with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.current_stream(self.device)):
            if self._stream is None:
                self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            outputs = self._warm_up(function, buffers, self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile; only what this one does is checked.
            mode = "thread_local"
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
                _copy(function(*buffers), outputs)
        return _Fixed(buffers, outputs, graph.replay, function)

    def _warm_up(self, function: Callable[..., Any], buffers: tuple[Tensor, ...], stream: torch.cuda.Stream) -> Any:
        """Calls the function on the stream of the capture. Returns memory for its results.

        It lies outside the pool that the graphs share: there, one graph's intermediate values may lie where another's
        results were.
        """
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                result = function(*buffers)
        torch.cuda.current_stream().wait_stream(stream)
        return _like(result)


@dataclass(frozen=True)
class _Fixed:
    """One recorded function with the buffers it reads and writes. `function` is kept for the tensors it holds."""

    inputs: tuple[Tensor, ...]
    outputs: Any
    replay: Callable[[], None]
    function: Callable[..., Any]

    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        for buffer, given in zip(self.inputs, inputs, strict=True):
            buffer.copy_(given, non_blocking=True)
        self.replay()
        return self.outputs


def _like(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(torch.empty_like(tensor) for tensor in result)
    return None if result is None else torch.empty_like(result)


def _copy(result: Any, outputs: Any) -> None:
    if isinstance(result, tuple):
        for tensor, output in zip(result, outputs, strict=True):
            output.copy_(tensor)
    elif result is not None:
        outputs.copy_(result)
