"""Which tensors are looked at in one run of the model, so that a batch of them fits into memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from quant.calibration.data import Feed


def memory_groups(model: ir.Model, tensors: Sequence[str], feed: Feed, most_bytes: int) -> list[list[str]]:
    """Parts the tensors, in their order, into groups of at most so many bytes for one batch.

    A larger tensor is a group by itself. Free dimensions have the sizes that the batch gives those of
    that name in the inputs; a tensor with others counts for nothing.

    Args:
        model: With the shapes of its values.
        tensors: Names; there is always a group, even if there are none.
        feed: A batch, not smaller than the others.
        most_bytes: Of a group.
    """
    sizes = _dimension_sizes(model, feed)
    values = ir.convenience.create_value_mapping(model.graph)
    groups: list[list[str]] = [[]]
    held = 0
    for name in tensors:
        size = _bytes(values[name], sizes)
        if groups[-1] and held + size > most_bytes:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def _dimension_sizes(model: ir.Model, feed: Feed) -> dict[str, int]:
    """Free dimensions of the inputs by name, with their sizes in the batch."""
    named = {}
    for value in model.graph.inputs:
        if value.name is None or value.shape is None or value.name not in feed:
            continue
        for dimension, size in zip(value.shape, feed[value.name].shape, strict=True):
            if isinstance(dimension, ir.SymbolicDim) and dimension.value is not None:
                named[str(dimension.value)] = size
    return named


def _bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    """Memory of a tensor; 0 where a dimension is unknown."""
    if value.shape is None or value.dtype is None:
        return 0
    dimensions = [
        sizes.get(str(dimension.value), 0) if isinstance(dimension, ir.SymbolicDim) else dimension
        for dimension in value.shape
    ]
    return math.ceil(math.prod(dimensions) * value.dtype.itemsize)
