"""Shapes that tensors take when a model runs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from quant.calibration.data import Feed
from quant.graph.session import float_session

_PROVIDERS = ("CPUExecutionProvider",)
"""Shapes are the same everywhere, and a whole batch may not fit elsewhere."""


def runtime_shapes(
    model: ir.Model,
    tensors: Iterable[str],
    feed: Feed,
    *,
    threads: int = 0,
) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors with one feed, from one run whose outputs are these shapes.

    Args:
        model: Any model; left as it is.
        tensors: Their names; constants and inputs are allowed.
        feed: What the model reads.
        threads: Of the session; 0 = all cores.

    Raises:
        ModelError: If onnxruntime cannot run the model.
    """
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    shapes, asked = dict[str, tuple[int, ...]](), []
    for name in dict.fromkeys(tensors):
        constant = values[name].const_value
        if constant is not None:
            shapes[name] = tuple(constant.shape.numpy())
        elif name in feed:
            shapes[name] = feed[name].shape
        else:
            asked.append(name)
    if not asked:
        return shapes
    model = model.clone()
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    del model.graph.outputs[:]
    for index, name in enumerate(asked):
        node = ir.node("Shape", [values[name]], outputs=[ir.Value(name=f"shape_{index}_of_{name}")])
        node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.INT64, ir.Shape([None])
        model.graph.append(node)
        model.graph.outputs.append(node.outputs[0])
    with float_session(model, (), _PROVIDERS, threads) as session:
        found = session.run(None, dict(feed))
    return shapes | {name: tuple(map(int, shape)) for name, shape in zip(asked, found, strict=True)}
