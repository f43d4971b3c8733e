"""One-layer models, and their columns by the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from quant.finetune.block import Columns, Draw
from quant.finetune.columns import layer_columns
from quant.finetune.weights import weight_matrix
from tests.quant.graphs import Array, build, floats, node, run


class Layer:
    """A node `y = op(x, w)` and its output in onnxruntime."""

    def __init__(
        self, op_type: str, x: tuple[int, ...], w: tuple[int, ...], inputs: str = "x w", **attributes: Any
    ) -> None:
        self.weight, self.x = floats(*w, seed=1), floats(*x, seed=2)
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.proto = build(
            [node(op_type, inputs, "y", name="layer", **attributes)],
            {"x": x},
            {"w": self.weight},
            "y",
            output_shape=None,
        )
        model = ir.from_proto(self.proto)
        assert isinstance(model, ir.Model)
        self.node = model.graph[0]
        self.columns = layer_columns(self.node)

    @property
    def output(self) -> Array:
        return run(self.proto, {"x": self.x})[0]

    @property
    def matrix(self) -> Array:
        return weight_matrix(self.node, self.weight)

    def batch(self, seed: int, size: int | None = None) -> Array:
        """Another input, of another number of samples."""
        return floats(self.x.shape[0] if size is None else size, *self.x.shape[1:], seed=seed)


def columns_of(columns: Columns, x: Array, max_bytes: int = 1 << 40, draw: Draw | None = None) -> Array:
    """X, shape (groups, in, N), with all taps written out; N runs as the blocks' positions do."""
    parts = []
    for block in columns.blocks(x, max_bytes) if draw is None else columns.drawn(x, draw):
        starts = [tap * block.dilation for tap in range(block.taps)]
        taps = np.stack([block.rows(start, start + block.length) for start in starts], axis=1)
        parts.append(columns.unfold(taps, 1))
    return (
        np.concatenate(parts, axis=2) if parts else np.zeros((columns.groups, columns.inputs, 0), np.float32)
    )
