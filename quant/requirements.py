"""What the types of a quantized model need: an opset, and settings of the session that runs it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import onnx

from quant.config import QuantConfig
from quant.formats import Format
from quant.graph.prepare import OPSET
from quant.types import ELEMENT_TYPES, ElementType, Encoding

TWO_BIT_OPSET = 25
"""The first opset whose QuantizeLinear has int2 and uint2."""

METADATA_PREFIX = "session_config."
"""What session config entries are called in a model's metadata."""

_DISABLE_FUSION = ("session.disable_quant_qdq", "1")
_KEEP_RELU = ("optimization.disable_specified_optimizers", "ReluQuantRewrite;ClipQuantRewrite")


def required_opset(config: QuantConfig) -> int:
    """The least opset that has every type of the configuration."""
    if config.layers is not None:
        formats = {(own, role != "data_in") for role, own in config.layers.formats()}
        return max((_format_opset(own, packed) for own, packed in formats), default=OPSET)
    two_bits = any(ELEMENT_TYPES[name].bits == 2 for name in config.element_names())
    return TWO_BIT_OPSET if two_bits else OPSET


@lru_cache(maxsize=1024)
def _format_opset(own: Format, packed: bool) -> int:
    """The least opset that a format goes into, as a constant (packed) or as an activation."""
    if own.calibrated:  # what it will be like is not known before it has a range
        own = own.bound(np.asarray(-1, np.float32), np.asarray(1, np.float32))
    native = own.native(packed=packed)
    if native is not None and (packed or native.params is not None):
        return max(OPSET, native.opset)
    emulation = own.emulation()
    return OPSET if emulation is None else max(OPSET, emulation.opset)


def formatted_session_config(elements: Iterable[ElementType]) -> tuple[tuple[str, str], ...]:
    """Session config entries for a model with formats for its layers.

    What it computes is meant to be float numbers rounded to formats, exactly; onnxruntime's integer kernels
    would stand in for some layers and not for others, and do not exist for most formats.

    Args:
        elements: The types of all Q/DQ nodes.
    """
    return (_DISABLE_FUSION, _KEEP_RELU) if _rewrites_wrongly(elements) else (_DISABLE_FUSION,)


def session_config(
    activations: Iterable[ElementType],
    weights: Iterable[ElementType],
    *,
    half: bool = False,
    blocks: Iterable[ElementType] = (),
) -> tuple[tuple[str, str], ...]:
    """Session config entries for a model whose activations and constants have these types.

    At its higher optimisation levels onnxruntime fuses operators with the Q/DQ nodes around them. For
    2-bit and float8 types and for 4-bit activations it does not have the kernels, and the session fails
    to build; weights that are float16 it would quantize to int8 first. It also takes out a Relu
    before a float8 QuantizeLinear, as if that could not represent negative numbers, and fails on a Clip or
    Relu before one of less than 8 bits. Between float16
    tensors its kernels for integers give wrong numbers, and that of MatMul for 8 bits fails on weights with
    a scale for each block.

    Args:
        activations, weights: The types that there are.
        half: Whether float16 tensors are quantized.
        blocks: The types of constants with a scale for each block.
    """
    used, constant = frozenset(activations), frozenset(weights)
    float8 = any(element.encoding is Encoding.FLOAT8 for element in used | constant)
    entries = [_KEEP_RELU] if _rewrites_wrongly(used) else []
    narrow = any(element.bits < 8 for element in used) or any(element.bits == 2 for element in constant)
    float_weights = any(element.encoding.is_cast for element in constant)
    bytewise_blocks = any(element.bits == 8 for element in blocks)
    unfused = float8 or narrow or float_weights or half or bytewise_blocks
    return (_DISABLE_FUSION, *entries) if unfused else tuple(entries)


def _rewrites_wrongly(elements: Iterable[ElementType]) -> bool:
    """Whether onnxruntime's rewriting of a Relu or Clip before QuantizeLinear is wrong for some type."""
    return any(element.encoding is Encoding.FLOAT8 or element.bits < 8 for element in elements)


def record_session_config(model: onnx.ModelProto, entries: Iterable[tuple[str, str]]) -> None:
    """Writes the entries into a model's metadata, in place."""
    for key, value in entries:
        model.metadata_props.add(key=f"{METADATA_PREFIX}{key}", value=value)
