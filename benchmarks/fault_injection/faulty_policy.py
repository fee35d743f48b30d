#!/usr/bin/env python3
"""The real policy node whose model fails when it is told to, by JSON on stub/order: {"model": "nan" | "hang" | ...}."""

import ctypes
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from openvla_core.types import NormalizedAction
from openvla_ros import topics
from openvla_ros.node_support import run
from openvla_ros.policy_node import PolicyNode


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


class FaultyPolicy(PolicyNode):
    """Nothing but the model's answer is changed."""

    def __init__(self, **options) -> None:
        self.order: dict = {}
        super().__init__(**options)
        self.create_subscription(topics.String, "stub/order", self.on_order, topics.RECORD)

    def on_order(self, message) -> None:
        """What the model does from now on."""
        self.order = json.loads(message.data)

    def configure(self) -> None:
        """Loads as always, and puts the fault between node and model."""
        super().configure()
        predict = self.model.policy.predict
        self.model.policy.predict = lambda image, instruction: self.answer(predict(image, instruction))

    def answer(self, prediction):
        """The prediction, or what the fault makes of it."""
        kind, value = self.order.get("model", ""), self.order.get("value", 0)
        if kind == "once":
            self.order = {}
            raise OutOfMemoryError("CUDA out of memory (pretended)")
        if kind == "oom":
            raise OutOfMemoryError("CUDA out of memory (pretended)")
        if kind == "cuda":
            raise RuntimeError("CUDA error: an illegal memory access was encountered (pretended)")
        if kind == "abort":
            os.abort()
        if kind == "slow":
            time.sleep(value)
        if kind == "hang":
            while self.order.get("model") == "hang":
                time.sleep(0.05)
        if kind == "hold_python":
            ctypes.PyDLL(None).sleep(30)  # keeps every thread of Python waiting
        if kind == "nan":
            action = np.array(prediction.action)
            action[value] = np.nan
            return dataclasses.replace(prediction, action=action)
        if kind == "beyond":
            values = np.array(prediction.normalized.values)
            values[value] = 1.001
            return dataclasses.replace(prediction, normalized=NormalizedAction(values))
        return prediction


if __name__ == "__main__":
    sys.exit(run(FaultyPolicy))
