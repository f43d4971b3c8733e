"""Hardware metrics that are sums over a model's cost: known before it is written or run.

Over layers l with n weights of w bits, m biases of b bits, k input elements of a bits and c MACs (k and c
for one sample); S the searched layers, L all layers, o float constants outside of them:

    average_bitwidth        sum_S n w / sum_S n
    memory_density          compare_to / average_bitwidth
    average_bitwidth_total  (sum_L (n w + m b + k a) + 32 o) / (sum_L (n + m + k) + o)
    weights_above_<x>_bits  sum_L n [w > x] / sum_L n
    packed_size             ceil((sum_L (n w + m b) + 32 o) / 8)
    macs                    sum_L c
    flops                   2 sum_L c
    bitops                  sum_L c w a; c a^2 where activations are multiplied
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from evaluators.errors import EvaluationError
from evaluators.hardware.cost import FLOAT_BITS, LayerCost, ModelCost
from evaluators.metric import Metric


@dataclass(frozen=True)
class CostMetric:
    """A metric and its formula, which makes one number of a cost.

    The formula raises EvaluationError where it has no value.
    """

    metric: Metric
    value: Callable[[ModelCost], float]


def average_bitwidth(cost: ModelCost) -> float:
    """Bits of a weight, on average over the searched layers' weights.

    MASE's metric of the same name (Zhang et al., 2023, arXiv:2307.15517). Layers that nothing was chosen
    for do not count; a chosen float format counts 32.

    Raises:
        EvaluationError: If no searched layer has weights.
    """
    layers = [layer for layer in cost.layers if layer.searched]
    weights = sum(layer.weights for layer in layers)
    if not weights:
        raise EvaluationError("average_bitwidth: no searched layer has weights to average over")
    return sum(layer.weights * layer.weight_bits for layer in layers) / weights


def memory_density(cost: ModelCost, compare_to: float) -> float:
    """How many times less the searched layers' weights take than with `compare_to` bits each.

    Raises:
        EvaluationError: As for `average_bitwidth`.
    """
    return compare_to / average_bitwidth(cost)


def average_bitwidth_total(cost: ModelCost) -> float:
    """Bits of a value, on average over all weights, biases, constants and (of one sample) layer inputs.

    Raises:
        EvaluationError: If the model has none of these.
    """
    values = cost.other_weights + sum(
        layer.weights + layer.biases + layer.activations for layer in cost.layers
    )
    if not values:
        raise EvaluationError("average_bitwidth_total: the model has neither weights nor layers")
    activation_bits = sum(layer.activations * layer.activation_bits for layer in cost.layers)
    return (_constant_bits(cost) + activation_bits) / values


def weights_above(cost: ModelCost, bits: float) -> float:
    """Share, from 0 to 1, of all layers' weights that take more than `bits` bits, searched or not.

    Raises:
        EvaluationError: If no layer has weights.
    """
    weights = sum(layer.weights for layer in cost.layers)
    if not weights:
        raise EvaluationError(f"weights_above_{bits:g}_bits: no layer has weights to take a share of")
    return sum(layer.weights for layer in cost.layers if layer.weight_bits > bits) / weights


def packed_size(cost: ModelCost) -> float:
    """Bytes of all weights, biases and constants at their own widths, without the graph around them."""
    return math.ceil(_constant_bits(cost) / 8)


def macs(cost: ModelCost) -> float:
    """Multiply-accumulate operations for one sample."""
    return sum(layer.macs for layer in cost.layers)


def flops(cost: ModelCost) -> float:
    """Multiplications and additions for one sample, two for each MAC; other operators are not counted."""
    return 2 * macs(cost)


def bitops(cost: ModelCost) -> float:
    """MACs for one sample, each weighted by the product of its operands' bits.

    Where a layer multiplies two activations, as in attention, their bits count for both.
    Baskin et al. (2018, arXiv:1804.10969) count the accumulator's bits beside; Van Baalen et al. (2020,
    arXiv:2005.07093) and we do not.
    """
    return sum(layer.macs * layer.activation_bits * _second_bits(layer) for layer in cost.layers)


def _second_bits(layer: LayerCost) -> float:
    """Bits of what the activations are multiplied by.

    Weights that another layer shares may be counted there: then they have bits here, but no number.
    """
    has_weights = layer.weights > 0 or layer.weight_bits < FLOAT_BITS
    return layer.weight_bits if has_weights else layer.activation_bits


def _constant_bits(cost: ModelCost) -> float:
    bits = sum(layer.weights * layer.weight_bits + layer.biases * layer.bias_bits for layer in cost.layers)
    return bits + FLOAT_BITS * cost.other_weights
