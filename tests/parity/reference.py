"""onnxruntime's own static quantizer on a model, and its numbers beside ours."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, create_calibrator, quantize_static

from quant import Pipeline, QuantConfig
from quant.config import TensorOverride
from quant.types import ELEMENT_TYPES, ElementName
from tests.quant.graphs import Feed, initializers, pipeline

Numbers = dict[str, NDArray[Any]]

_MOVERS = ("MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


class Reader(CalibrationDataReader):
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)


class _Remembered:
    """onnxruntime's calibrator, which runs once for the configurations that calibrate alike."""

    ranges: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: Path, op_types: Sequence[str], **arguments: Any) -> None:
        calibration = {name: arguments[name] for name in ("calibrate_method", "extra_options")}
        self.key = f"{digest(model.read_bytes())} {sorted(op_types)} {calibration}"
        self.create = partial(create_calibrator, model, op_types, **arguments)

    def collect_data(self, reader: Reader) -> None:
        if self.key not in self.ranges:
            calibrator = self.create()
            calibrator.collect_data(reader)
            self.ranges[self.key] = calibrator.compute_data()

    def compute_data(self) -> Any:
        return copy.deepcopy(self.ranges[self.key])


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
    if config.extra_options.TensorQuantOverrides:
        overrides = config.extra_options.TensorQuantOverrides
        options["TensorQuantOverrides"] = {
            name: [_override(each, config.activation_type) for each in given]
            for name, given in overrides.items()
        }
    if "Percentile" in options:
        options["CalibPercentile"] = options.pop("Percentile")
    logging.disable(logging.WARNING)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch("onnxruntime.quantization.quantize.create_calibrator", _Remembered),
        ):
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
    return _with_our_names(onnx.load(target))


def _with_our_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The values of second formats called as ours, in place; one DequantizeLinear may then be there twice."""

    def renamed(name: str) -> str:
        for theirs, ours in (
            ("_scale_convert", "_convert_scale"),
            ("_zero_point_convert", "_convert_zero_point"),
            ("_convert_QuantizeLinear_Input", "_DequantizeLinear_Output"),
        ):
            if name.endswith(theirs):
                return f"{name.removesuffix(theirs)}{ours}"
        return name

    for each in model.graph.node:
        each.input[:] = map(renamed, each.input)
        each.output[:] = map(renamed, each.output)
    for tensor in model.graph.initializer:
        tensor.name = renamed(tensor.name)
    return model


def _override(given: TensorOverride, default: ElementName) -> dict[str, Any]:
    """As onnxruntime wants it: no absent keys, arrays, a set of readers."""
    plain = {name: getattr(given, name) for name in given.model_fields_set}
    plain |= {name: np.array(plain[name], np.float32) for name in ("rmin", "rmax") if name in plain}
    if "scale" in plain:
        element = ELEMENT_TYPES[given.quant_type or default]
        plain["scale"] = np.array(given.scale, np.float32)
        plain["zero_point"] = np.array(given.zero_point, element.numpy)
    if given.convert is not None:
        plain["convert"] = _override(given.convert, default)
        if given.convert.recv_nodes is not None:
            plain["convert"]["recv_nodes"] = set(given.convert.recv_nodes)
    return plain


def both(
    model: onnx.ModelProto, feeds: Sequence[Feed], folder: Path, **config: Any
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Our model and onnxruntime's, both calibrated without graph optimisations, as onnxruntime does."""
    checked = QuantConfig(optimize_model=False, **config)
    return quantized(model, feeds, checked), onnxruntime_quantized(model, feeds, folder, checked)


def quantized(model: onnx.ModelProto, feeds: Sequence[Feed], config: QuantConfig) -> onnx.ModelProto:
    """Our model; what configurations share is computed once for each model and feeds."""
    data = b"".join(name.encode() + array.tobytes() for feed in feeds for name, array in feed.items())
    key = digest(model.SerializeToString(deterministic=True) + data)
    if key not in _pipelines:
        _pipelines[key] = pipeline(model, feeds)
    with mock.patch.object(ort, "SessionOptions", _unoptimized):
        return _pipelines[key].quantize(config).model


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_pipelines: dict[str, Pipeline] = {}


_SessionOptions = ort.SessionOptions


def _unoptimized() -> ort.SessionOptions:
    options = _SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def assert_same_numbers(ours: onnx.ModelProto, theirs: onnx.ModelProto) -> int:
    """The same tensors are quantized, to the same integers with the same scales and zero points.

    Three differences are on purpose: the zero point of a tensor that calibration saw to be zero throughout,
    the scales of weights whose biases onnxruntime saturates, and pairs behind operators that move values,
    where onnxruntime leaves them out.

    Returns:
        How many scales, zero points and integer tensors are identical.
    """
    mine, other = quantization_numbers(ours), quantization_numbers(theirs)
    assert sorted(mine) == sorted(other)
    dead = {name for name in other if _is_zero_point_of_zeros(name, mine, other)}
    expected = dead | _of_saturated_biases(theirs) - _of_saturated_biases(ours)
    differing = [name for name in other.keys() - expected if not _same(mine[name], other[name])]
    assert not differing, {name: (mine[name], other[name]) for name in differing}
    closing = _pairs(ours) - _pairs(theirs)
    assert closing <= _moved(ours)
    assert connections(ours, without=closing) == connections(theirs)
    return len(other) - len(expected)


def _same(mine: NDArray[Any], other: NDArray[Any]) -> bool:
    return mine.dtype == other.dtype and np.array_equal(mine, other)


def _is_zero_point_of_zeros(name: str, mine: Numbers, other: Numbers) -> bool:
    """Whether it belongs to a range without width, which gives scale 1: theirs 0, ours the least integer."""
    if not name.endswith("_zero_point") or mine[name].shape or _same(mine[name], other[name]):
        return False
    scale = name.removesuffix("zero_point") + "scale"
    return mine[scale] == other[scale] == 1 and other[name] == 0 and mine[name] == least_integer(mine[name])


def least_integer(zero_point: NDArray[Any]) -> int:
    return int(ml_dtypes.iinfo(zero_point.dtype).min)


def _of_saturated_biases(model: onnx.ModelProto) -> set[str]:
    """Numbers of the weights with a bias that reaches the ends of int32, and of all biases beside them."""
    numbers = initializers(model)
    source = {node.output[0]: node.input for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layers = [
        (source[node.input[1]], source[node.input[2]])
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm")
        if len(node.input) > 2 and {node.input[1], node.input[2]} <= source.keys()
    ]
    limits = np.iinfo(np.int32)
    saturated = {
        weight[0] for weight, bias in layers if np.isin(numbers[bias[0]], [limits.min, limits.max]).any()
    }
    return {name for weight, bias in layers if weight[0] in saturated for name in (*weight, *bias)}


def _pairs(model: onnx.ModelProto) -> set[str]:
    """Tensors that a QuantizeLinear reads, by the names that they have in the float model."""
    return {
        node.input[0].removesuffix("_QuantizeLinear_Input")
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def _moved(model: onnx.ModelProto) -> set[str]:
    """Outputs of operators that move values, which are quantized with their input's scale."""
    producers = {name: node for node in model.graph.node for name in node.output}
    moved = set()
    for node in model.graph.node:
        mover = producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        source = producers.get(mover.input[0]) if mover is not None and mover.op_type in _MOVERS else None
        if source is not None and source.op_type == "DequantizeLinear" and source.input[1] == node.input[1]:
            moved.add(node.input[0].removesuffix("_QuantizeLinear_Input"))
    return moved


def quantization_numbers(model: onnx.ModelProto) -> Numbers:
    """Scales, zero points and integers by name; a single number has shape ()."""
    read = {name for node in model.graph.node for name in node.input}
    return {
        name: array.reshape(()) if array.size == 1 and not name.endswith("_quantized") else array
        for name, array in initializers(model).items()
        if name in read and name.endswith(("_scale", "_zero_point", "_quantized"))
    }


def connections(model: onnx.ModelProto, without: Set[str] = frozenset()) -> dict[str, list[tuple[str, ...]]]:
    """Per operator: for each node, what its inputs are, seen through Q/DQ but for those `without`."""
    sources = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    scales: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            quantize = sources.get(node.input[0])
            tensor = quantize.input[0].removesuffix("_QuantizeLinear_Input") if quantize else None
            if tensor not in without:
                scales[node.output[0]] = node.input[1]
    found: dict[str, list[tuple[str, ...]]] = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            inputs = tuple(f"DQ({scales[name]})" if name in scales else "float" for name in node.input)
            found.setdefault(node.op_type, []).append(inputs)
    return {op_type: sorted(nodes) for op_type, nodes in found.items()}
