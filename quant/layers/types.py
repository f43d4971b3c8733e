"""The words for types of layers: those of MASE, which are PyTorch's, for the operators of ONNX."""

from __future__ import annotations

from collections.abc import Mapping

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose constant operand is a weight."""

ELEMENTWISE: Mapping[str, str] = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "PRelu": "prelu",
    "Elu": "elu",
    "Selu": "selu",
    "Celu": "celu",
    "Gelu": "gelu",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish",
    "Mish": "mish",
    "Swish": "silu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "LayerNormalization": "layer_norm",
    "RMSNormalization": "rms_norm",
    "GroupNormalization": "group_norm",
}
"""Operator type -> its word, where that does not depend on the number of axes; they have no weights here."""

BY_RANK: Mapping[str, str] = {
    "BatchNormalization": "batch_norm",
    "InstanceNormalization": "instance_norm",
    "AveragePool": "avg_pool",
    "GlobalAveragePool": "adaptive_avg_pool",
}
"""The same where the word ends in the number of spatial axes: ``avg_pool2d``."""

DATA_INPUTS: Mapping[str, int] = {"Add": 2, "Sub": 2, "Mul": 2, "Div": 2}
"""How many of an operator's first inputs are data, where it is not one."""

_RANKS = (1, 2, 3)
_WEIGHTED_WORDS = {
    *(f"{word}{rank}d" for word in ("conv", "conv_transpose") for rank in _RANKS),
    *("linear", "matmul", "bmm"),
}

WORDS = frozenset(
    {*_WEIGHTED_WORDS, *ELEMENTWISE.values(), *(f"{word}{n}d" for word in BY_RANK.values() for n in _RANKS)}
)
"""All of them."""

OP_TYPES = frozenset({*WEIGHTED, *ELEMENTWISE, *BY_RANK})
"""Operator types of ONNX whose nodes are layers."""


def weighted_words(op_type: str, rank: int | None, *, constant: bool) -> tuple[str, ...]:
    """The words for an operator that multiplies two tensors, the most specific first.

    Args:
        op_type: One of `WEIGHTED`.
        rank: Axes of its second operand, or None if unknown.
        constant: Whether one of the two is constant.
    """
    if op_type in ("Conv", "ConvTranspose"):
        word = "conv" if op_type == "Conv" else "conv_transpose"
        return () if rank is None else (f"{word}{rank - 2}d",)
    if constant:
        return ("linear",)
    return ("bmm", "matmul") if rank == 3 else ("matmul",)


def other_words(op_type: str, rank: int | None) -> tuple[str, ...]:
    """The words for an operator without weights, whose first input has so many axes."""
    if op_type in ELEMENTWISE:
        return (ELEMENTWISE[op_type],)
    # of batch_norm1d's two layouts one has no spatial axis
    return () if rank is None else (f"{BY_RANK[op_type]}{max(rank - 2, 1)}d",)
