"""What a model costs, as plain numbers: all that the analytic hardware metrics read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

FLOAT_BITS = 32
"""Of a value that is not quantized."""


class LayerCost(Protocol):
    """One layer: how many values of each role it has, and how many bits each of them takes.

    Bits are per element with what blocks share (exponents, scales) included, hence not always whole; 32
    where a role is not quantized. Roles that a layer does not have count 0 elements; weights that several
    layers share count once, with one of them.

    Attributes:
        name: The node's.
        op_type: The operator, "Conv" for instance.
        weights, biases: Numbers of elements.
        activations: Number of elements of the data inputs, for one sample.
        weight_bits, bias_bits, activation_bits: Bits of an element.
        macs: Multiply-accumulate operations, for one sample.
        searched: Whether its formats were chosen, not merely left as they were.
    """

    @property
    def name(self) -> str: ...
    @property
    def op_type(self) -> str: ...
    @property
    def weights(self) -> int: ...
    @property
    def weight_bits(self) -> float: ...
    @property
    def biases(self) -> int: ...
    @property
    def bias_bits(self) -> float: ...
    @property
    def activations(self) -> int: ...
    @property
    def activation_bits(self) -> float: ...
    @property
    def macs(self) -> int: ...
    @property
    def searched(self) -> bool: ...


class ModelCost(Protocol):
    """A whole model.

    Attributes:
        layers: Its layers.
        other_weights: Number of float constants outside of them, of 32 bits each.
        emulated: Whether some format is computed by other operators instead of natively, so that how fast
            the model runs says nothing of hardware that has the format.
    """

    @property
    def layers(self) -> Sequence[LayerCost]: ...
    @property
    def other_weights(self) -> int: ...
    @property
    def emulated(self) -> bool: ...


@dataclass(frozen=True)
class FloatLayerCost:
    """A layer without any quantization; see `LayerCost`."""

    name: str
    op_type: str
    weights: int
    biases: int
    activations: int
    macs: int
    searched: bool
    weight_bits: float = FLOAT_BITS
    bias_bits: float = FLOAT_BITS
    activation_bits: float = FLOAT_BITS


@dataclass(frozen=True)
class FloatModelCost:
    """A model without any quantization; see `ModelCost`."""

    layers: tuple[FloatLayerCost, ...]
    other_weights: int
    emulated: bool = False


def float_cost(cost: ModelCost) -> FloatModelCost:
    """The cost of the float model that a candidate was made of: the same counts, 32 bits everywhere."""
    layers = (
        FloatLayerCost(
            layer.name,
            layer.op_type,
            layer.weights,
            layer.biases,
            layer.activations,
            layer.macs,
            layer.searched,
        )
        for layer in cost.layers
    )
    return FloatModelCost(tuple(layers), cost.other_weights)
