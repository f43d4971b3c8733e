"""What a causal language model's ONNX file reads, from a text: Hugging Face's inputs, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

_PAST = ("past_key_values", "past_key", "past_value")
_CACHE_SWITCH = "use_cache_branch"
_INTEGERS = {TensorProto.INT64: np.int64, TensorProto.INT32: np.int32}


def model_inputs(model: Path) -> list[ValueInfoProto]:
    """The inputs that have no initializer; weights in other files are not read.

    Raises:
        ValueError: If there is no such file, or it is no ONNX model.
    """
    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception as error:  # protobuf's own errors among them
        raise ValueError(f"{model}: not an ONNX model: {error}") from error
    given = {initializer.name for initializer in graph.initializer}
    return [value for value in graph.input if value.name not in given]


def sequences(tokens: Sequence[int], length: int, count: int | None = None) -> NDArray[np.int64]:
    """Consecutive pieces of a text, (pieces, length); what is left over at its end is dropped.

    Raises:
        ValueError: If the text is shorter than one piece.
    """
    pieces = len(tokens) // length
    if not pieces:
        raise ValueError(f"the text has {len(tokens)} tokens; one sequence takes {length}")
    pieces = pieces if count is None else min(pieces, count)
    return np.array(tokens[: pieces * length], dtype=np.int64).reshape(pieces, length)


def feeds_for(inputs: Sequence[ValueInfoProto], input_ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Arrays for all inputs of a model, with the sequences along their first axis.

    ``input_ids`` are given; every position is attended to (``attention_mask``), counts from 0
    (``position_ids``), and has nothing before it: ``past_key_values.*``, (batch, heads, past tokens,
    head size), have no past tokens.

    Raises:
        ValueError: If the model has other inputs, or its past leaves heads or head size open.
    """
    names = [value.name for value in inputs]
    if "input_ids" not in names:
        raise ValueError(f"the model reads {', '.join(names)}; a causal language model reads input_ids")
    return {value.name: _array(value, input_ids) for value in inputs}


def _array(value: ValueInfoProto, input_ids: NDArray[np.int64]) -> NDArray[Any]:
    element = value.type.tensor_type.elem_type
    if value.name.startswith(_PAST):
        return _empty_past(value, len(input_ids))
    if value.name == _CACHE_SWITCH:
        raise ValueError(
            f"{value.name}: a decoder that was merged from two; give the one without a past"
            " (decoder_model.onnx), or export again with a newer optimum"
        )
    arrays = {
        "input_ids": input_ids,
        "attention_mask": np.ones_like(input_ids),
        "position_ids": np.tile(np.arange(input_ids.shape[1]), (len(input_ids), 1)),
    }
    if value.name not in arrays or element not in _INTEGERS:
        raise ValueError(
            f"{value.name}: an input of type {TensorProto.DataType.Name(element)} that no text gives; known"
            f" are integers {', '.join(arrays)}, and past_key_values"
        )
    return arrays[value.name].astype(_INTEGERS[element])


def _empty_past(value: ValueInfoProto, batch: int) -> NDArray[Any]:
    tensor = value.type.tensor_type
    shape = [dimension.dim_value for dimension in tensor.shape.dim]
    if len(shape) != 4 or not shape[1] or not shape[3]:
        named = [dimension.dim_param or dimension.dim_value for dimension in tensor.shape.dim]
        raise ValueError(
            f"{value.name}: shape {named}; (batch, heads, past tokens, head size) with numbers of heads and"
            " sizes is what an export by optimum has"
        )
    return np.zeros((batch, shape[1], 0, shape[3]), dtype=helper.tensor_dtype_to_np_dtype(tensor.elem_type))
