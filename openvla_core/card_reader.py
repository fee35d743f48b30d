"""Reads names and values that a person wrote, and collects every problem instead of stopping at the first."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from openvla_core import rotations


class CardReader:
    """One level of a card; what is missing or not understood is added to `problems`."""

    def __init__(self, values: Mapping[str, Any], prefix: str, problems: list[str]) -> None:
        self._values = values
        self._prefix = prefix
        self._problems = problems
        self._known: set[str] = set()

    def _get(self, key: str) -> Any:
        self._known.add(key)
        if key not in self._values:
            self._problems.append(f"{self._prefix}{key} is missing")
            return None
        return self._values[key]

    def _expect(self, key: str, value: Any, expected: str) -> None:
        self._problems.append(f"{self._prefix}{key} is {value!r}, expected {expected}")

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self._get(key)
        if value is not None and not isinstance(value, Mapping):
            self._expect(key, value, "names and values")
        return value if isinstance(value, Mapping) else {}

    def text(self, key: str) -> str:
        value = self._get(key)
        if key in self._values and not (isinstance(value, str) and value.strip()):
            self._expect(key, value, "a word")
        return value if isinstance(value, str) else ""

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self._get(key)
        if key in self._values and value not in choices:
            self._expect(key, value, f"one of {', '.join(choices)}")
        return value if isinstance(value, str) else ""

    def number(self, key: str, above: float = -math.inf) -> float:
        value = self._get(key)
        good = (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > above
        )
        if key in self._values and not good:
            self._expect(key, value, "a finite number" + (f" above {above:g}" if above > -math.inf else ""))
        return float(value) if good else 0.0

    def rotation(self, key: str) -> tuple[float, float, float, float]:
        """A quaternion x, y, z, w or a 3 x 3 matrix, as a unit quaternion; no rotation when the key is absent."""
        self._known.add(key)
        value = self._values.get(key, (0.0, 0.0, 0.0, 1.0))
        numbers = np.array([])
        if isinstance(value, (list, tuple)):
            try:
                numbers = np.array(value, dtype=np.float64)
            except (TypeError, ValueError):
                pass  # a ragged list, or words
        quaternion = rotations.unit(numbers) if numbers.shape == (4,) else rotations.from_matrix(numbers)
        if quaternion is None:
            self._expect(key, value, "a rotation: a quaternion [x, y, z, w] or a 3 x 3 matrix")
            return (0.0, 0.0, 0.0, 1.0)
        # What is a unit quaternion already stays as it is written, so that a card survives being saved.
        kept = numbers if numbers.shape == (4,) and np.allclose(numbers, quaternion, rtol=0, atol=1e-15) else quaternion
        x, y, z, w = kept.tolist()
        return (x, y, z, w)

    def refuse_unknown(self) -> None:
        for key in self._values:
            if key not in self._known:
                self._problems.append(f"{self._prefix}{key} is not understood")
