"""onnxruntime's own static quantizer on a model, and its numbers beside ours."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from quant import QuantConfig
from tests.quant.graphs import Feed, initializers, pipeline

Numbers = dict[str, NDArray[Any]]


class Reader(CalibrationDataReader):
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)


def onnxruntime_quantized(
    model: onnx.ModelProto, feeds: Sequence[Feed], folder: Path, config: QuantConfig
) -> onnx.ModelProto:
    """The result of `quantize_static` with the same configuration."""
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    options = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.extra_options.model_dump().items()
        if value is not None and name in config.extra_options.model_fields_set
    }
    if "Percentile" in options:
        options["CalibPercentile"] = options.pop("Percentile")
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            quantize_static(
                source,
                target,
                Reader(feeds),
                calibrate_method=config.calibrate_method,
                activation_type=config.activation_type,
                weight_type=config.weight_type,
                per_channel=config.per_channel,
                reduce_range=config.reduce_range,
                nodes_to_quantize=list(config.nodes_to_quantize),
                nodes_to_exclude=list(config.nodes_to_exclude),
                op_types_to_quantize=list(config.op_types_to_quantize),
                extra_options=options,
            )
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(target)


def both(
    model: onnx.ModelProto, feeds: Sequence[Feed], folder: Path, **config: Any
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Our model and onnxruntime's, both calibrated without graph optimisations, as onnxruntime does."""
    checked = QuantConfig(optimize_model=False, **config)
    with mock.patch.object(ort, "SessionOptions", _unoptimized):
        ours = pipeline(model, feeds).quantize(checked).model
    return ours, onnxruntime_quantized(model, feeds, folder, checked)


_SessionOptions = ort.SessionOptions


def _unoptimized() -> ort.SessionOptions:
    options = _SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def assert_same_numbers(ours: onnx.ModelProto, theirs: onnx.ModelProto) -> None:
    """The same tensors are quantized, to the same integers with the same scales and zero points."""
    mine, other = quantization_numbers(ours), quantization_numbers(theirs)
    assert sorted(mine) == sorted(other)
    differing = [
        name
        for name, array in other.items()
        if array.dtype != mine[name].dtype or not np.array_equal(array, mine[name])
    ]
    assert not differing, {name: (mine[name], other[name]) for name in differing}
    assert connections(ours) == connections(theirs)


def quantization_numbers(model: onnx.ModelProto) -> Numbers:
    """Scales, zero points and integers by name; a single number has shape ()."""
    read = {name for node in model.graph.node for name in node.input}
    return {
        name: array.reshape(()) if array.size == 1 and not name.endswith("_quantized") else array
        for name, array in initializers(model).items()
        if name in read and name.endswith(("_scale", "_zero_point", "_quantized"))
    }


def connections(model: onnx.ModelProto) -> dict[str, list[tuple[str, ...]]]:
    """Per operator: for each node, what its inputs are, seen through Q/DQ."""
    through = {node.output[0]: node.input for node in model.graph.node if node.op_type == "DequantizeLinear"}
    scales = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    found: dict[str, list[tuple[str, ...]]] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        sources = []
        for name in node.input:
            if name in through:
                integers, scale, _ = through[name]
                sources.append(f"DQ({scales.get(integers, scale)})")
            else:
                sources.append("float")
        found.setdefault(node.op_type, []).append(tuple(sources))
    return {op_type: sorted(nodes) for op_type, nodes in found.items()}
