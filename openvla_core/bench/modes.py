"""The modes by name, and how each one is made."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openvla_core.bench.answers import Runner
from openvla_core.bench.subject import Subject
from openvla_core.errors import ConfigError

if TYPE_CHECKING:
    from openvla_core.engine.engine import Engine

REFERENCE = "hf"
ACCEPTANCES = (0.0, 0.25, 0.5, 0.75, 1.0)
SWEEP = "drafts"
DEFAULT = (REFERENCE, "hf_static", "eager", "engine", "policy", "engine_draft", SWEEP, "engine_int8")


@dataclass(frozen=True)
class Mode:
    """exact: its tokens must be those of `hf` in float32. quantization: of the decoder's weights."""

    name: str
    what: str
    make: Callable[["Workshop"], Runner]
    exact: bool = True
    quantization: str = "none"


@dataclass
class Workshop:
    """Makes runners of one subject; each kind of engine is made once, and all of them share the weights."""

    subject: Subject
    compile_layers: bool = False
    progress: Callable[[str], None] = lambda sentence: None
    _engines: dict[tuple[str, bool], "Engine"] = field(default_factory=dict)

    def engine(self, quantization: str = "none", drafts: bool = False) -> "Engine":
        """The engine over the subject's model, or over a quantized copy of it, warmed up."""
        if (quantization, drafts) not in self._engines:
            from openvla_core.bench.quantized import quantized_copy
            from openvla_core.engine.engine import Engine

            subject = self.subject
            model = subject.model if quantization == "none" else quantized_copy(subject.model, quantization)
            engine = Engine(model, drafts=drafts, compile_layers=self.compile_layers)
            engine.warm_up(subject.decoder, subject.count, self.progress)
            self._engines[quantization, drafts] = engine
        return self._engines[quantization, drafts]

    def forget(self, quantization: str) -> None:
        """Gives the memory of a quantized copy back once nothing else holds it."""
        self._engines.pop((quantization, False), None)


def all_modes() -> dict[str, Mode]:
    """Every mode by its name, in the order of the report."""
    modes = [
        Mode(REFERENCE, "transformers' generate(), as the published code calls it", _hf),
        Mode("hf_static", "the same with its static cache", _hf_static),
        Mode("eager", "decoding.generate of this project", _eager),
        Mode("engine", "the engine, one token a pass", _engine),
        Mode("policy", "Policy.predict over the engine: what the policy node calls", _policy),
        Mode("engine_draft", "the engine; drafts are the previous action, of an unrelated image", _engine_draft),
        *(_sweep(p) for p in ACCEPTANCES),
        *(_quantized(name) for name in ("int8", "int4", "nf4", "fp8")),
    ]
    return {mode.name: mode for mode in modes}


def chosen_modes(names: Sequence[str]) -> list[Mode]:
    """The modes of these names in the order of the report, the reference always among them.

    Raises ConfigError with the nearest name for one that does not exist.
    """
    known = all_modes()
    wanted = {REFERENCE, *_spelled_out(names, known)}
    return [mode for name, mode in known.items() if name in wanted]


def sweep_name(p: float) -> str:
    """Of the mode whose drafts are right with probability p, per token."""
    return f"engine_draft_p{round(100 * p)}"


def _spelled_out(names: Iterable[str], known: dict[str, Mode]) -> Iterable[str]:
    for name in names:
        if name == SWEEP:
            yield from map(sweep_name, ACCEPTANCES)
        elif name in known:
            yield name
        else:
            nearest = difflib.get_close_matches(name, [*known, SWEEP], n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"there is no mode {name!r}; did you mean {nearest!r}? The modes are: {', '.join([*known, SWEEP])}."
            )


def _hf(workshop: Workshop) -> Runner:
    from openvla_core.bench.huggingface import HuggingFace

    return HuggingFace(workshop.subject)


def _hf_static(workshop: Workshop) -> Runner:
    from openvla_core.bench.huggingface import HuggingFace

    return HuggingFace(workshop.subject, cache="static")


def _eager(workshop: Workshop) -> Runner:
    from openvla_core.bench.ours import Eager

    return Eager(workshop.subject)


def _engine(workshop: Workshop) -> Runner:
    from openvla_core.bench.ours import EngineRunner

    return EngineRunner(workshop.subject, workshop.engine())


def _policy(workshop: Workshop) -> Runner:
    from openvla_core.bench.ours import PolicyRunner

    return PolicyRunner(workshop.subject, workshop.engine())


def _engine_draft(workshop: Workshop) -> Runner:
    from openvla_core.bench.ours import PreviousActionDrafts

    return PreviousActionDrafts(workshop.subject, workshop.engine(drafts=True))


def _sweep(p: float) -> Mode:
    def make(workshop: Workshop) -> Runner:
        from openvla_core.bench.ours import CorruptedTruth

        return CorruptedTruth(workshop.subject, workshop.engine(drafts=True), p)

    what = f"the engine; drafts made from the right answer, each token right with probability {p:g}"
    return Mode(sweep_name(p), what, make)


def _quantized(quantization: str) -> Mode:
    def make(workshop: Workshop) -> Runner:
        from openvla_core.bench.ours import EngineRunner

        return EngineRunner(workshop.subject, workshop.engine(quantization))

    what = f"the engine over {quantization} weights in the decoder; not exact"
    return Mode(f"engine_{quantization}", what, make, exact=False, quantization=quantization)
