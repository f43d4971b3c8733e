"""Where the formats of one role of a layer act in a float model, and what they do there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.config import QuantConfig
from quant.constant_params import Constants
from quant.formats import Format
from quant.layers.arrangement import Arrangement, arrangement_of
from quant.layers.assignment import BIAS
from quant.layers.binding import bind_constant
from quant.layers.cost import FLOAT_BITS, LayerSizes, mean_bits
from quant.layers.layer import Operand, QuantizableLayer
from quant.mixed_precision.format_errors import Rounding, Site
from quant.mixed_precision.substitution import Edge

Bind = Callable[[Format, str], Format]
"""Gives the format of an activation its scale, by the tensor's name."""


@dataclass(frozen=True)
class RoleFormats:
    """Formats that one role of a layer may have.

    Attributes:
        layer: Name of the layer.
        role: "data_in", "weight" or "bias"; the layer has it.
        formats: At least one; None = float.
    """

    layer: str
    role: str
    formats: Sequence[Format | None]


@dataclass(frozen=True)
class FormatEffects:
    """What each of the formats of one role of a layer does.

    Attributes:
        errors: Relative noise of the model's outputs, 0 = none; shape (formats,).
        bits: Of an element, shape (formats,).
        elements: Of the weight or bias, or of the data inputs for one sample.
        macs: Multiply-accumulate operations of the layer, for one sample.
    """

    errors: NDArray[np.float64]
    bits: NDArray[np.float64]
    elements: int
    macs: int

    @classmethod
    def of(
        cls,
        candidate: RoleFormats,
        layer: QuantizableLayer,
        sizes: LayerSizes,
        sites: Sequence[Site],
        errors: Sequence[NDArray[np.float64]],
    ) -> FormatEffects:
        """Puts together what was measured at each of a role's sites."""
        (constant, *_), samples = (site.value for site in sites), sizes.samples
        shapes: tuple[tuple[int, ...], ...] = sizes.inputs
        if constant is not None:
            arrangement = _arrangement(layer, _operand(layer, candidate.role))
            shapes, samples = (arrangement.arrange(constant).shape,), 1
        widths = [
            mean_bits((_bits(own, shape), prod(shape)) for shape in shapes) for own in candidate.formats
        ]
        elements = sum(prod(shape) for shape in shapes) // samples
        return cls(np.sum(errors, axis=0), np.array(widths), elements, sizes.macs // sizes.samples)


def role_sites(
    layer: QuantizableLayer, candidate: RoleFormats, constants: Constants, bind: Bind, config: QuantConfig
) -> list[Site]:
    """The weight, the bias, or all data inputs.

    Args:
        layer: The layer.
        candidate: One of its roles.
        constants: Float initializers.
        bind: For activations.
        config: What decides on the scales of constants.
    """
    if candidate.role == "data_in":
        return [
            Site(
                Edge(layer.name, position),
                None,
                [_of_activation(own and bind(own, tensor)) for own in candidate.formats],
            )
            for position, tensor in zip(layer.data_inputs, layer.tensors, strict=True)
        ]
    operand = _operand(layer, candidate.role)
    arrangement = _arrangement(layer, operand)
    values = constants[operand.name]
    roundings = [_of_constant(own, values, arrangement, config) for own in candidate.formats]
    return [Site(operand.name, values, roundings)]


def _operand(layer: QuantizableLayer, role: str) -> Operand:
    operand = layer.weight if role == "weight" else layer.bias
    assert operand is not None
    return operand


def _arrangement(layer: QuantizableLayer, operand: Operand) -> Arrangement:
    return arrangement_of(operand.node, operand.position) if operand is layer.weight else BIAS


def _bits(own: Format | None, shape: Sequence[int]) -> float:
    return FLOAT_BITS if own is None else own.bits_per_element(shape)


def _of_activation(own: Format | None) -> Rounding:
    return _same if own is None else own.round


def _of_constant(
    own: Format | None, values: NDArray[Any], arrangement: Arrangement, config: QuantConfig
) -> Rounding:
    if own is None:
        return _same
    bound = bind_constant(own, values, arrangement, config)

    def rounding(constant: NDArray[Any]) -> NDArray[Any]:
        return arrangement.restore(bound.round(arrangement.arrange(constant).astype(np.float32)))

    return rounding


def _same(values: NDArray[Any]) -> NDArray[Any]:
    return values


def encode_effects(effects: Sequence[FormatEffects]) -> bytes:
    """As JSON; infinite errors are written as Python's json does."""
    return json.dumps(
        [[each.errors.tolist(), each.bits.tolist(), each.elements, each.macs] for each in effects]
    ).encode()


def decode_effects(data: memoryview) -> tuple[FormatEffects, ...]:
    """The inverse of `encode_effects`."""
    return tuple(
        FormatEffects(np.array(errors, np.float64), np.array(bits, np.float64), elements, macs)
        for errors, bits, elements, macs in json.loads(bytes(data))
    )
