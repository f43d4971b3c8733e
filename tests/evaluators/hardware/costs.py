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


COUNTS = st.integers(0, 10**9)
BITS = st.floats(1, 32)


@st.composite
def costs(draw):
    """Any cost with at least one searched weight."""
    layers = draw(
        st.lists(
            st.builds(
                Layer,
                weights=COUNTS,
                weight_bits=BITS,
                biases=COUNTS,
                bias_bits=BITS,
                activations=COUNTS,
                activation_bits=BITS,
                macs=COUNTS,
                searched=st.booleans(),
            ),
            max_size=5,
        )
    )
    certain = Layer(weights=draw(st.integers(1, 10**9)), weight_bits=draw(BITS), macs=1, activations=1)
    return Cost((*layers, certain), draw(COUNTS), draw(st.booleans()))
