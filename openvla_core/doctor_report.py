"""What `openvla doctor` found out, as data and as text of at most 120 columns."""

from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Any

from openvla_core.memory import MemoryEstimate

COLUMNS, INDENT = 120, 14
PER_ROW = 7
MAX_SENTENCES = 100


@dataclass(frozen=True)
class Tower:
    """One vision transformer; `depth` counts all blocks, the last of which is never run."""

    name: str
    pixels: int
    patches: int
    depth: int
    width: int
    heads: int
    parameters: int


@dataclass(frozen=True)
class Language:
    """Sizes of the Llama."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int
    rms_norm_eps: float


@dataclass(frozen=True)
class StoredFile:
    """One safetensors file: how many tensors, their bytes and the dtypes as the file names them."""

    name: str
    tensors: int
    bytes: int
    dtypes: list[str]


@dataclass(frozen=True)
class DataSetDimension:
    """The physical range that -1 to 1 stands for; with scaled false the number passes through as it is."""

    name: str
    unit: str
    low: float
    high: float
    scaled: bool


@dataclass(frozen=True)
class DataSet:
    """One unnorm_key; `problem` says why its statistics cannot be used."""

    key: str
    dimensions: list[DataSetDimension]
    trajectories: int | None
    transitions: int | None
    problem: str = ""


@dataclass(frozen=True)
class Memory:
    """Estimates per mode, and for what was loaded the bytes its weights occupy beside those predicted from shapes."""

    tokens: int
    patches: int
    modes: list[MemoryEstimate]
    loaded: str
    measured: int | None
    predicted: int | None


@dataclass(frozen=True)
class Finding:
    """One thing a robot needs, whether it is there, and the particulars."""

    name: str
    good: bool
    text: str


@dataclass(frozen=True)
class Report:
    """Everything about one checkpoint."""

    checkpoint: str
    towers: list[Tower]
    projector: list[int]
    language: Language
    parameters: dict[str, int]
    files: list[StoredFile]
    prompt: str
    prompt_style: str
    tokens: int
    action_ids: tuple[int, int]
    images: list[str]
    adapter: str
    instructions: list[str]
    data_sets: list[DataSet]
    memory: Memory
    findings: list[Finding]

    @property
    def good(self) -> bool:
        """Whether nothing stands in the way of driving an arm."""
        return all(finding.good for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "good": self.good}

    def to_text(self) -> str:
        """The block that a person reads."""
        lines = [*_row("checkpoint", self.checkpoint), *self._architecture(), *self._storage(), *self._inputs()]
        if self.adapter:
            lines += _row("adapter", self.adapter)
        if self.instructions:
            lines += _row("instructions", f"{len(self.instructions)} known sentences:")
            lines += [" " * INDENT + sentence[:COLUMNS] for sentence in self.instructions[:MAX_SENTENCES]]
            if len(self.instructions) > MAX_SENTENCES:
                lines.append(" " * INDENT + f"and {len(self.instructions) - MAX_SENTENCES:,} more")
        lines += [line for data_set in self.data_sets for line in _data_set(data_set)]
        lines += _memory(self.memory)
        for finding in self.findings:
            lines += _row(finding.name, finding.text if finding.good else f"NOT USABLE: {finding.text}")
        return "\n".join(map(printable, lines))

    def _architecture(self) -> list[str]:
        count = len(self.towers)
        lines = _row("architecture", f"OpenVLA: {count} vision tower{'s' * (count > 1)}, projector, Llama")
        for tower in self.towers:
            lines += _row(
                "vision tower",
                f"{tower.name}: {tower.pixels} px, {tower.patches} patches, "
                f"depth {tower.depth} ({tower.depth - 1} run), "
                f"width {tower.width}, {tower.heads} heads",
            )
        lines += _row("projector", f"{len(self.projector) - 1} layers, {' > '.join(map(str, self.projector))}")
        llm = self.language
        lines += _row(
            "language",
            f"Llama: {llm.layers} layers, hidden {llm.hidden}, mlp {llm.intermediate}, {llm.heads} heads, "
            f"{llm.kv_heads} kv heads, vocabulary {llm.vocabulary}, {llm.positions} positions, "
            f"rms eps {llm.rms_norm_eps:g}",
        )
        towers = [f"{'tower ' + str(i)} {tower.parameters:,}" for i, tower in enumerate(self.towers, start=1)]
        parts = [f"{name} {self.parameters[name]:,}" for name in ("vision", "projector", "language")]
        if count > 1:
            parts[0] += f" ({', '.join(towers)})"
        return lines + _row("parameters", f"{self.parameters['total']:,}: {', '.join(parts)}")

    def _storage(self) -> list[str]:
        lines = []
        for stored in self.files:
            size = f"{stored.tensors} tensors, {_size(stored.bytes)}, {' and '.join(stored.dtypes)}"
            lines += _row("file", f"{stored.name}: {size}")
        return lines

    def _inputs(self) -> list[str]:
        first, last = self.action_ids
        lines = _row("prompt", f"{self.prompt_style}: {self.prompt}")
        lines += _row("tokenizer", f"{self.tokens} tokens, actions are {first} to {last}")
        return lines + [line for text in self.images for line in _row("image", text)]


def printable(line: str) -> str:
    """The line with what would steer a terminal written out: names and sentences come from files of others."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def _row(name: str, text: str) -> list[str]:
    """Wrapped text beside its name; words longer than a line stay whole."""
    parts = wrap(text, COLUMNS - INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{name:{INDENT - 1}s} {parts[0]}", *(" " * INDENT + part for part in parts[1:])]


def _data_set(data_set: DataSet) -> list[str]:
    if data_set.problem:
        return _row("unnorm_key", f"{data_set.key} NOT USABLE: {data_set.problem}")
    facts = [f"{len(data_set.dimensions)} numbers"]
    if data_set.trajectories or data_set.transitions:
        unit = "trajectories" if data_set.trajectories else "transitions"
        facts.append(f"{data_set.trajectories or data_set.transitions:,} {unit}")
    unscaled = [dimension.name for dimension in data_set.dimensions if not dimension.scaled]
    if unscaled:
        facts.append(f"* as the model gives it: {', '.join(unscaled)}")
    lines = _row("unnorm_key", f"{data_set.key}: {', '.join(facts)}")
    for first in range(0, len(data_set.dimensions), PER_ROW):
        row = data_set.dimensions[first : first + PER_ROW]
        names = [f"{d.name}{f' {d.unit}' if d.unit else ''}{'' if d.scaled else '*'}" for d in row]
        for head, cells in (
            ("", names),
            ("from", [f"{d.low:+.4f}" for d in row]),
            ("to", [f"{d.high:+.4f}" for d in row]),
        ):
            lines.append(" " * INDENT + f"{head:5s}" + "".join(f"{cell:>13s}" for cell in cells))
    return lines


def _memory(memory: Memory) -> list[str]:
    lines = [
        f"{'memory':{INDENT - 1}s} {'mode':6s}{'weights':>12s}{'kv cache':>12s}{'activations':>13s}{'total':>12s}"
        f"   for {memory.tokens} tokens, {memory.patches} of them patches"
    ]
    for mode in memory.modes:
        if mode.problem:
            lines += _row("", f"{mode.mode:5s} {mode.problem}")
            continue
        cells = (f"{_size(mode.weights):>12s}", f"{_size(mode.kv_cache):>12s}", f"{_size(mode.activations):>13s}")
        lines.append(" " * INDENT + f"{mode.mode:6s}{''.join(cells)}{_size(mode.total):>12s}")
    if memory.measured is not None:
        expected = f", {_size(memory.predicted)} predicted" if memory.predicted is not None else ""
        lines += _row("", f"loaded in {memory.loaded}: {memory.measured:,} bytes of weights measured{expected}")
    return lines


def _size(count: int) -> str:
    """Decimal units, as disks and GPU data sheets count."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count / 1e3:.1f} kB"
