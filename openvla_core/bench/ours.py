"""The ways of this project: plain `decoding.generate`, and the engine with and without drafts."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openvla_core.bench.answers import Answer
from openvla_core.bench.stopwatch import Stopwatch
from openvla_core.bench.subject import Subject
from openvla_core.decoding import generate
from openvla_core.engine.buckets import bucket_for
from openvla_core.engine.drafts import WIDTH, PreviousAction
from openvla_core.engine.engine import Engine
from openvla_core.engine.graphs import Stages
from openvla_core.engine.vision import encode_image, side_stream
from openvla_core.model import OpenVLA
from openvla_core.model.language_model import new_cache
from openvla_core.policy import Policy
from openvla_core.processor import to_numpy


class Eager:
    """`decoding.generate`: transformers' Llama, called pass by pass with its dynamic cache."""

    def __init__(self, subject: Subject, model: OpenVLA | None = None) -> None:
        self.subject, self.model = subject, model or subject.model

    @property
    def note(self) -> str:
        return "decoding.generate, dynamic cache, nothing compiled"

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Answer:
        subject = self.subject
        chosen = to_numpy(generate(self.model, subject.decoder, *subject.inputs(image), subject.count)[0])
        return Answer(chosen, subject.action(chosen), passes=subject.count - 1)

    def expect(self, number: int, ids: np.ndarray) -> None:
        """Needs no help."""

    @torch.inference_mode()
    def stages(self, image: np.ndarray) -> dict[str, float]:
        subject, llama = self.subject, self.model.language_model
        watch = Stopwatch(subject.device)
        with watch("preprocess"):
            ids, pixels = subject.inputs(image)
        with watch("vision"):
            features = self.model.vision_backbone(pixels.to(subject.dtype))
        with watch("projector"):
            patches = self.model.projector(features)
        text = llama.model.embed_tokens(ids)
        step = {"inputs_embeds": torch.cat([text[:, :1], patches.to(text.dtype), text[:, 1:]], dim=1)}
        cache, chosen = new_cache(llama), []
        for number in range(subject.count):
            with watch("decode" if number else "prefill"):
                row = llama(**step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float()
                chosen.append(subject.decoder.choose(row))
            step = {"input_ids": chosen[-1].view(1, 1)}
        with watch("post"):
            subject.action(to_numpy(torch.stack(chosen)))
        watch.seconds["decode"] /= subject.count - 1
        return watch.seconds


class EngineRunner:
    """The engine; here without a guess, whether it takes any or not."""

    def __init__(self, subject: Subject, engine: Engine) -> None:
        self.subject, self.engine = subject, engine
        self._stages = _EngineStages(subject, engine)

    @property
    def note(self) -> str:
        rows = f"{WIDTH} rows a pass" if self.engine.drafts else "one row a pass"
        graphs = "CUDA graphs" if self.subject.device.type == "cuda" else "no graphs"
        return f"static cache, {graphs}, {rows}"

    def __call__(self, image: np.ndarray) -> Answer:
        subject, engine = self.subject, self.engine
        made = engine.generate(subject.decoder, *subject.inputs(image), subject.count, self.draft())
        self.observe(made.ids)
        chosen = to_numpy(made.ids)
        return Answer(chosen, subject.action(chosen), made.passes, made.proposed, made.accepted)

    def draft(self) -> Tensor | None:
        """The guess of the next answer, (D,) int64."""
        return None

    def observe(self, ids: Tensor) -> None:
        """Told the answer."""

    def expect(self, number: int, ids: np.ndarray) -> None:
        """Needs no help."""

    def stages(self, image: np.ndarray) -> dict[str, float]:
        return self._stages(image)


class PolicyRunner:
    """`Policy.predict`: the same with the probabilities and checks that a robot is driven with."""

    note = "Policy.predict over the engine, one row a pass"

    def __init__(self, subject: Subject, engine: Engine) -> None:
        self.subject = subject
        self.policy = Policy(subject.checkpoint, decoding="reference", engine="eager")
        self.policy.unnorm_key = subject.unnorm_key
        self.policy.generation.engine = engine

    def __call__(self, image: np.ndarray) -> Answer:
        prediction = self.policy.predict(image, self.subject.instruction)
        return Answer(prediction.tokens.ids, prediction.action, passes=self.subject.count - 1)

    def expect(self, number: int, ids: np.ndarray) -> None:
        """Needs no help."""

    def stages(self, image: np.ndarray) -> dict[str, float]:
        """Those of the engine; what comes on top is the difference to it."""
        return {}


class PreviousActionDrafts(EngineRunner):
    """Drafts are the answer before, as when a robot is driven. Here every image is a new one, so few are right."""

    def __init__(self, subject: Subject, engine: Engine) -> None:
        super().__init__(subject, engine)
        self._proposer = PreviousAction()

    def draft(self) -> Tensor | None:
        return self._proposer.propose(self.subject.count)

    def observe(self, ids: Tensor) -> None:
        self._proposer.observe(ids)


class CorruptedTruth(EngineRunner):
    """Drafts are the right answer with each token replaced with probability 1 - p: what drafts of that quality cost."""

    def __init__(self, subject: Subject, engine: Engine, p: float) -> None:
        super().__init__(subject, engine)
        self.p = p
        self._draft: Tensor | None = None

    def expect(self, number: int, ids: np.ndarray) -> None:
        first, end = self.subject.decoder.first_id, self.subject.decoder.end_id
        rng = np.random.default_rng([number, round(1000 * self.p)])
        # A step of 1 to 255 around the circle of action ids is always another id.
        wrong = first + (ids - first + rng.integers(1, end - first, len(ids))) % (end - first)
        mixed = np.where(rng.random(len(ids)) < self.p, ids, wrong)
        self._draft = torch.from_numpy(mixed).to(self.subject.device)

    def draft(self) -> Tensor | None:
        return self._draft


class _EngineStages:
    """The parts of the engine one by one, each a graph of its own on a GPU; together they are not quite one answer."""

    def __init__(self, subject: Subject, engine: Engine) -> None:
        self.subject, self.engine = subject, engine
        self.width = WIDTH if engine.drafts else 1
        self._stages = Stages(subject.device)
        self._side = side_stream(engine.model)
        self._made = False

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> dict[str, float]:
        subject, passes, model = self.subject, self.engine.passes, self.engine.model
        if not self._made:
            self.bucket = bucket_for(subject.tokens + subject.count, self.engine.buckets)
            length = -(-(self.bucket + self.width) // 8) * 8
            self.cache, self.tables = passes.new_cache(1, length), passes.new_tables(length)
            self._made = True
        watch = Stopwatch(subject.device)
        with watch("preprocess"):
            ids, pixels = subject.inputs(image)
        with watch("vision"):
            # Towers and projector: on a GPU the engine runs them as one.
            patches = self._stages.run("vision", lambda given: encode_image(model, given, self._side), pixels)
        text = model.language_model.model.embed_tokens(ids)
        x = torch.cat([text[:, :1], patches.to(text.dtype), text[:, 1:]], dim=1)
        x = F.pad(x, (0, 0, 0, self.bucket - subject.count - x.shape[1]))
        lengths = torch.tensor([subject.tokens], device=subject.device)
        with watch("prefill"):
            row = self._stages.run("prompt", lambda x, n: passes.prompt(x, n, self.cache, self.tables), x, lengths)
            chosen = subject.decoder.choose(row[0])
        places = lengths[:, None] + torch.arange(self.width, device=subject.device)
        fed = torch.zeros(1, self.width, dtype=torch.int64, device=subject.device)
        fed[:, 0] = chosen
        with watch("decode"):
            rows = self._stages.run("rows", lambda i, p: passes.rows(i, p, self.cache, self.tables), fed, places)
            subject.decoder.choose(rows[0, 0])
        with watch("post"):
            subject.action(to_numpy(chosen.repeat(subject.count)))
        return watch.seconds
