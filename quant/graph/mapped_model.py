"""A large float model whose weights several processes share: pages of a file in the stage cache.

A model that holds its weights in its own file is read into the private memory of every process. Its
initializers are therefore kept once more, in the cache, from where the system maps them. A model with
external data needs none of that: onnx-ir maps those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from quant.cache import Stage, StageCache
from quant.errors import ModelError
from quant.graph.load import FloatModel, load_float_model
from quant.graph.shared_weights import aligned, share_weights

LEAST_BYTES = 1 << 26
"""Of the initializers together, for a copy of them on disk to be worth it."""

_LENGTH_BYTES = 8


def map_weights(float_model: FloatModel, cache: StageCache) -> FloatModel:
    """The same model with its weights in the cache's directory, if it is large and there is one.

    The process that puts them there goes on with its own; those after it have them mapped, best by
    `open_mapped`.
    """
    model = float_model.model
    if cache.directory is None or _size_bytes(model) < LEAST_BYTES or _has_external_data(model):
        return float_model
    mapped = cache.get(_FLOAT_MODEL, {"of": float_model.digest}, lambda: model)
    return replace(float_model, model=mapped)


def open_mapped(path: Path, digest: str, cache: StageCache) -> FloatModel:
    """A model that another process has loaded and checked; its file is only read if the cache lacks it.

    Raises:
        ModelError: If it has to be read and cannot be, or is another one by now.
    """

    def read() -> FloatModel:
        model = load_float_model(path)
        if model.digest != digest:
            raise ModelError(f"model {str(path)!r}: has changed since it was first read; start again")
        return model

    parameters = {"of": digest}
    if (_FLOAT_MODEL, parameters) not in cache:
        return read()
    return FloatModel(path, cache.get(_FLOAT_MODEL, parameters, lambda: read().model), digest)


def encode_model(model: ir.Model) -> Sequence[bytes | memoryview]:
    """Length of the graph, 8 bytes, little-endian; the graph; from the next page on, its large tensors."""
    model = model.clone()
    weights = share_weights(model.graph)
    graph = ir.to_proto(model).SerializeToString(deterministic=True)
    head = len(graph).to_bytes(_LENGTH_BYTES, "little") + graph
    tensors = () if weights is None else weights.content()
    return [head.ljust(aligned(len(head)), b"\0"), *tensors]


def decode_model(data: memoryview) -> ir.Model:
    """The inverse of `encode_model`; large tensors are views of the data."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    end = _LENGTH_BYTES + length
    model = ir.from_proto(onnx.ModelProto.FromString(bytes(data[_LENGTH_BYTES:end])))
    assert isinstance(model, ir.Model)
    tensors = np.frombuffer(data[aligned(end) :], dtype=np.uint8)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            assert tensor.offset is not None and tensor.length is not None
            content = tensors[tensor.offset : tensor.offset + tensor.length]
            array = content.view(tensor.dtype.numpy()).reshape(tensor.shape.numpy())
            value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
    return model


_FLOAT_MODEL: Stage[ir.Model] = Stage("float model", 1, 1, encode_model, decode_model)


def _size_bytes(model: ir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _has_external_data(model: ir.Model) -> bool:
    initializers = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    attributes = (attr.value for node in model.graph.all_nodes() for attr in node.attributes.values())
    return any(
        isinstance(tensor, ir.ExternalTensor) for each in (initializers, attributes) for tensor in each
    )
