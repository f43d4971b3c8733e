"""Costs of models, written down by hand."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st


@dataclass(frozen=True)
class Layer:
    name: str = "layer"
    op_type: str = "Gemm"
    weights: int = 0
    weight_bits: float = 32
    biases: int = 0
    bias_bits: float = 32
    activations: int = 0
    activation_bits: float = 32
    macs: int = 0
    searched: bool = True


@dataclass(frozen=True)
class Cost:
    layers: tuple[Layer, ...]
    other_weights: int = 0
    emulated: bool = False


COUNTS = st.integers(0, 9)
BITS = st.integers(4, 128).map(lambda quarters: quarters / 4)


@st.composite
def costs(draw):
    """Small models, with at least one searched weight; bits are exact in binary, as sums of them are."""
    layers = st.builds(
        Layer,
        weights=COUNTS,
        weight_bits=BITS,
        biases=COUNTS,
        bias_bits=BITS,
        activations=COUNTS,
        activation_bits=BITS,
        macs=COUNTS,
        searched=st.booleans(),
    )
    certain = Layer(weights=draw(st.integers(1, 9)), weight_bits=draw(BITS))
    return Cost((*draw(st.lists(layers, max_size=5)), certain), draw(COUNTS), draw(st.booleans()))
