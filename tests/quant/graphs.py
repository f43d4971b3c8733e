"""Small models, and short ways to quantize and run them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quant import CalibrationData, FloatModel, Pipeline, QuantConfig, QuantizedModel

Array = NDArray[Any]
Feed = dict[str, Array]


def floats(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Normal numbers, float32."""
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def node(
    op_type: str, inputs: str, outputs: str, name: str | None = None, **attributes: Any
) -> onnx.NodeProto:
    """A node; names of values are separated by blanks, `-` stands for an absent one."""
    sources = ["" if value == "-" else value for value in inputs.split()]
    name = f"{op_type}_{outputs.split()[0]}" if name is None else name
    return helper.make_node(op_type, sources, outputs.split(), name=name, **attributes)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, Array],
    outputs: str,
    *,
    output_shape: Sequence[int | str] | None = None,
    opset: int = 21,
    ir_version: int = 10,
) -> onnx.ModelProto:
    """A checked model with float32 inputs and outputs, whose shapes are inferred where none is given."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape) for name in outputs.split()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del inferred.graph.value_info[:]
    onnx.checker.check_model(inferred)
    return inferred


def float_model(model: onnx.ModelProto) -> FloatModel:
    """As `load_float_model` would have read it from a file."""
    data = model.SerializeToString(deterministic=True)
    return FloatModel(Path("model.onnx"), ir.from_proto(model), hashlib.sha256(data).hexdigest())


def pipeline(model: onnx.ModelProto, feeds: Any) -> Pipeline:
    return Pipeline(float_model(model), CalibrationData(feeds), threads=1)


def quantize(model: onnx.ModelProto, feeds: Any, **config: Any) -> QuantizedModel:
    return pipeline(model, feeds).quantize(QuantConfig(**config))


def serialized(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def session(model: onnx.ModelProto | ir.Model, *, optimized: bool = True) -> ort.InferenceSession:
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | ir.Model, feed: Feed, *, optimized: bool = True) -> list[Array]:
    outputs: list[Array] = session(model, optimized=optimized).run(None, feed)
    return outputs


def run_quantized(
    quantized: QuantizedModel,
    feed: Feed,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> list[Array]:
    """In a session with the entries that the model needs."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    for key, value in quantized.session_config:
        options.add_session_config_entry(key, value)
    source = quantized.standalone().SerializeToString()
    runner = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = runner.run(None, feed)
    return outputs


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def op_types(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def quantized_activations(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor in the float model -> the tensor whose scale its QuantizeLinear uses."""
    return {
        node.name.rpartition("_QuantizeLinear")[0]: node.input[1].removesuffix("_scale")
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def relative_error(wanted: Array, got: Array) -> float:
    """|got - wanted| / |wanted|, Euclidean."""
    return float(np.linalg.norm(got.astype(np.float64) - wanted) / np.linalg.norm(wanted.astype(np.float64)))
