"""Runs a network by ST's AiRunner, in a process of its own: ST's Python may be another one, and a board may hang.

    python ai_runner_worker.py DESCRIPTOR ANSWER.npz [INPUTS.npy]

ANSWER gets `about`, JSON with the network's `inputs` and `outputs`, and with INPUTS (a batch) `output_0`, `output_1`, ...
Needs nothing but numpy and ST's package `stm_ai_runner`, and Python 3.8.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def about(tensor: dict[str, Any]) -> dict[str, Any]:
    """A tensor as JSON holds it."""

    def number(value: Any) -> float | None:
        return None if value is None or np.size(value) == 0 else float(np.ravel(value)[0])

    return {
        "name": str(tensor["name"]),
        "shape": [int(side) for side in tensor["shape"]],
        "type": np.dtype(tensor["type"]).name,
        "scale": number(tensor.get("scale")),
        "zero_point": number(tensor.get("zero_point")),
    }


def main(descriptor: str, answer: str, inputs: str | None = None) -> int:
    """Exit code: 0, or 2 when the network can't be reached."""
    from stm_ai_runner import AiRunner  # type: ignore[import-not-found]  # of ST's installation

    runner = AiRunner()
    runner.connect(descriptor)
    if not runner.is_connected:
        print(runner.get_error())
        return 2
    try:
        told: dict[str, Any] = {
            "inputs": [about(tensor) for tensor in runner.get_input_infos()],
            "outputs": [about(tensor) for tensor in runner.get_output_infos()],
        }
        found = {}
        if inputs is not None:
            outputs, profile = runner.invoke(np.load(inputs))
            found = {f"output_{index}": array for index, array in enumerate(outputs)}
            told["durations_ms"] = [float(value) for value in profile.get("c_durations", [])]
    finally:
        runner.disconnect()
    np.savez(answer, about=np.array(json.dumps(told)), **found)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
