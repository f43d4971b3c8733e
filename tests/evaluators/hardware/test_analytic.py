import math

import numpy as np
import pytest
from hypothesis import given, settings

from evaluators import EvaluationError, float_cost
from evaluators.hardware import analytic
from tests.evaluators.hardware.costs import Cost, Layer, costs


def bits_of_every_weight(cost, *, searched_only):
    """One number for each single weight: what the formulas count without writing it out."""
    layers = [layer for layer in cost.layers if layer.searched or not searched_only]
    return np.concatenate([np.full(layer.weights, layer.weight_bits) for layer in layers])


def bits_of_every_constant(cost):
    biases = [np.full(layer.biases, layer.bias_bits) for layer in cost.layers]
    weights = bits_of_every_weight(cost, searched_only=False)
    return np.concatenate([weights, *biases, np.full(cost.other_weights, 32)])


def bits_of_every_value(cost):
    inputs = [np.full(layer.activations, layer.activation_bits) for layer in cost.layers]
    return np.concatenate([bits_of_every_constant(cost), *inputs])


@settings(deadline=None)
@given(costs())
def test_average_bitwidth_is_the_mean_over_every_searched_weight(cost):
    mean = bits_of_every_weight(cost, searched_only=True).mean()
    assert analytic.average_bitwidth(cost) == pytest.approx(mean)
    assert analytic.memory_density(cost, 24) == pytest.approx(24 / mean)


@settings(deadline=None)
@given(costs())
def test_the_total_is_the_mean_over_every_value(cost):
    assert analytic.average_bitwidth_total(cost) == pytest.approx(bits_of_every_value(cost).mean())


@settings(deadline=None)
@given(costs())
def test_packed_size_holds_every_bit_of_the_constants_and_less_than_a_byte_more(cost):
    bits = bits_of_every_constant(cost).sum()
    size = analytic.packed_size(cost)
    assert size == int(size) and 0 <= 8 * size - bits < 8


@settings(deadline=None)
@given(costs())
def test_shares_of_wide_weights_are_those_of_single_weights_and_fall_with_the_limit(cost):
    weights = bits_of_every_weight(cost, searched_only=False)
    shares = [analytic.weights_above(cost, bits) for bits in (0.5, 4, 8, 8.25, 16, 32)]
    assert shares == [pytest.approx(np.mean(weights > bits)) for bits in (0.5, 4, 8, 8.25, 16, 32)]
    assert shares == sorted(shares, reverse=True) and shares[0] == 1 and shares[-1] == 0


@settings(deadline=None)
@given(costs())
def test_bitops_count_every_mac_by_the_bits_of_what_it_multiplies(cost):
    expected = 0.0
    for layer in cost.layers:
        product = not layer.weights and layer.weight_bits == 32  # of two activations
        other = layer.activation_bits if product else layer.weight_bits
        for _ in range(layer.macs):
            expected += layer.activation_bits * other
    assert analytic.bitops(cost) == expected
    assert analytic.macs(cost) == sum(layer.macs for layer in cost.layers)
    assert analytic.flops(cost) == 2 * analytic.macs(cost)


@settings(deadline=None)
@given(costs())
def test_values_of_the_float_model(cost):
    floats = float_cost(cost)
    assert analytic.average_bitwidth(floats) == analytic.average_bitwidth_total(floats) == 32
    assert analytic.packed_size(floats) == 4 * bits_of_every_constant(cost).size
    assert analytic.weights_above(floats, 31) == 1 and analytic.weights_above(floats, 32) == 0
    assert analytic.bitops(floats) == 1024 * analytic.macs(cost) == 1024 * analytic.macs(floats)
    assert not floats.emulated


def test_by_hand():
    """MASE's examples: 32 bits against 2 and against 8; and a block format of 8 + 8 / 32 bits."""
    two, eight = (Cost((Layer(weights=10, weight_bits=bits),)) for bits in (2, 8))
    assert (analytic.memory_density(two, 32), analytic.memory_density(eight, 32)) == (16, 4)
    mxint = Cost(
        (Layer(weights=64, weight_bits=8.25, biases=3, bias_bits=16, macs=64, activation_bits=4),), 2
    )
    assert analytic.packed_size(mxint) == 64 + 2 + 6 + 8
    assert analytic.weights_above(mxint, 8) == 1 and analytic.weights_above(mxint, 8.25) == 0
    assert analytic.bitops(mxint) == 64 * 8.25 * 4


def test_bitops_of_attention_and_of_shared_weights():
    attention = Layer(op_type="MatMul", macs=10, activation_bits=8)
    tied = Layer(macs=10, activation_bits=8, weight_bits=4)  # counted with another layer
    assert analytic.bitops(Cost((attention,))) == 640
    assert analytic.bitops(Cost((tied,))) == 320


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (analytic.average_bitwidth, "average_bitwidth: no searched layer has weights"),
        (analytic.average_bitwidth_total, "average_bitwidth_total: the model has neither"),
        (lambda cost: analytic.weights_above(cost, 8), "weights_above_8_bits: no layer has weights"),
    ],
    ids=["average", "total", "share"],
)
def test_there_is_no_mean_of_nothing(value, message):
    with pytest.raises(EvaluationError, match=message):
        value(Cost((Layer(op_type="Add"),)))
    assert math.isclose(analytic.packed_size(Cost(())), 0)
