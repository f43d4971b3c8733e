"""Writing models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from quant.cache import write_atomically
from quant.graph.shared_weights import SharedWeights, aligned

_LARGEST_BYTES = 2**31 - 2**20
"""Protobuf messages end at 2 GiB; a little is left for the graph."""

_SMALLEST_EXTERNAL_BYTES = 1024

_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER


def save_model(
    model: onnx.ModelProto, path: Path, *, external_data: bool, weights: SharedWeights | None = None
) -> None:
    """Writes a model so that no reader ever sees half of it; equal models give equal bytes.

    Args:
        model: May be of any size.
        path: Weights beyond 2 GiB, or with `external_data` all but the smallest, go to a file of
            this name with ``.data`` appended.
        external_data: See above.
        weights: What the model refers to; written beside it, if it is not there already.

    Raises:
        OSError: If it cannot be written; no unfinished file is left behind.
    """
    if external_data or sum(map(_inline_bytes, model.graph.initializer)) > _LARGEST_BYTES:
        _save_with_own_data(model, path, weights)
        return
    if weights is not None:
        weights.write(path.parent)  # the graph after it: it names the data
    write_atomically(path, _serialized(model))
    if weights is not None:  # whoever deletes weights that no model needs may have been between
        weights.write(path.parent)


def _save_with_own_data(model: onnx.ModelProto, path: Path, weights: SharedWeights | None) -> None:
    """The graph to `path`, and all but the smallest initializers to a file of its own."""
    graph = _without_initializers(model)
    end, moved = 0, []
    for tensor in model.graph.initializer:
        own = graph.graph.initializer.add()
        length = len(_data(tensor, weights))
        if length < _SMALLEST_EXTERNAL_BYTES:
            own.CopyFrom(tensor)
            continue
        _copy_fields(tensor, own, omit="raw_data")
        _refer(own, f"{path.name}.data", aligned(end), length)
        moved.append((tensor, aligned(end) - end))
        end = aligned(end) + length
    if moved:  # the graph after it: it names the data
        content = (part for tensor, gap in moved for part in (bytes(gap), _data(tensor, weights)))
        write_atomically(path.with_name(f"{path.name}.data"), content)
    write_atomically(path, graph.SerializeToString(deterministic=True))


def _serialized(model: onnx.ModelProto) -> Iterator[bytes]:
    """The model's bytes in parts, one initializer at a time: the whole once more may be gigabytes."""
    rest = _without_initializers(model)
    graph = rest.graph.SerializeToString(deterministic=True)
    rest.ClearField("graph")
    sizes = [tensor.ByteSize() for tensor in model.graph.initializer]
    heads = [_head(_INITIALIZER, size) for size in sizes]
    yield rest.SerializeToString(deterministic=True)
    yield _head(_GRAPH, len(graph) + sum(map(len, heads)) + sum(sizes))
    yield graph
    for head, tensor in zip(heads, model.graph.initializer, strict=True):
        yield head
        yield tensor.SerializeToString(deterministic=True)


def _head(field: int, size: int) -> bytes:
    """What stands before an embedded message: number of the field, wire type 2, length."""
    return _varint(field << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits a byte, least first; the eighth says that there are more."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def _without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    rest = onnx.ModelProto()
    _copy_fields(model, rest, omit="graph")
    _copy_fields(model.graph, rest.graph, omit="initializer")
    return rest


def _inline_bytes(tensor: onnx.TensorProto) -> int:
    """What a tensor adds to the model's file, from its shape: protobuf would copy the data to tell."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return 0
    element = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(math.prod(tensor.dims) * element.itemsize)


def _data(tensor: onnx.TensorProto, weights: SharedWeights | None) -> memoryview:
    """The tensor's bytes; none where they are in a field of their type, as small ones may be."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        assert weights is not None, f"initializer {tensor.name!r} refers to data that are not given"
        return weights.data(tensor).data
    return memoryview(tensor.raw_data)


def _refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("external_data")
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _copy_fields(source: Any, target: Any, omit: str) -> None:
    """Copies all fields of a protobuf message but one, which may be too large to be copied."""
    for field, value in source.ListFields():
        if field.name == omit:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
