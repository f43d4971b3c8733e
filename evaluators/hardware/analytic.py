"""Hardware metrics that are sums over a model's cost: known before it is written or run.

Over layers l with n weights of w bits, m biases of b bits, k input elements of a bits and c MACs (for
one sample); S the searched layers, L all layers:

    average_bitwidth        sum_S n w / sum_S n
    memory_density          compare_to / average_bitwidth
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from evaluators.errors import EvaluationError
from evaluators.hardware.cost import LayerCost, ModelCost
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
    layers = _searched_with_weights(cost)
    return _weighted_mean((layer.weights, layer.weight_bits) for layer in layers)


def memory_density(cost: ModelCost, compare_to: float) -> float:
    """How many times less the searched layers' weights take than with `compare_to` bits each.

    Raises:
        EvaluationError: As for `average_bitwidth`.
    """
    return compare_to / average_bitwidth(cost)


def _searched_with_weights(cost: ModelCost) -> list[LayerCost]:
    layers = [layer for layer in cost.layers if layer.searched and layer.weights]
    if not layers:
        raise EvaluationError("no searched layer has weights, so that there is no average over them")
    return layers


def _weighted_mean(counts_and_bits: Iterable[tuple[int, float]]) -> float:
    pairs = list(counts_and_bits)
    return sum(count * bits for count, bits in pairs) / sum(count for count, _ in pairs)
