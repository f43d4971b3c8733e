"""Whether a model's output is that of a Softmax."""

from __future__ import annotations

from pathlib import Path

import onnx

_PASSED_THROUGH = frozenset(
    ["Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze"]
)
"""Operators that change what their input is at most by rounding."""


def ends_in_softmax(model_path: Path, output: str) -> bool:
    """Whether an output is a Softmax's: as it is, quantized, rounded by a function, cast or reshaped."""
    model = onnx.load_model(model_path, load_external_data=False)
    producers = {name: node for node in model.graph.node for name in node.output}
    functions = {(function.domain, function.name) for function in model.functions}
    name = output
    while name in producers:
        node = producers[name]
        if node.op_type == "Softmax" and node.domain in ("", "ai.onnx"):
            return True
        rounds = (node.domain, node.op_type) in functions or node.op_type in _PASSED_THROUGH
        if not rounds or not node.input:
            return False
        name = node.input[0]
    return False
