from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from quant import QuantConfig
from quant.activation_params import activation_params, tensor_ranges
from quant.calibration.statistics import TensorStatistics
from quant.constant_params import constant_params, quantized_weight
from quant.graph.placement import Bias, Placement, Weight
from quant.grids import Grids
from quant.parameters import avoid_bias_overflow, quantized_bias, tensor_bits
from quant.qparams import QuantParams, dequantize
from quant.types import INTEGER_TYPES, QuantType
from tests.quant.graphs import floats


def placement(*, axis: int | None = None, multiplier: float = 1.0) -> Placement:
    bias = Bias("fc", "b", "b", "x", "w", multiplier)
    return Placement(
        {"x": "x", "p": "x", "y": "y", "s": "s"},
        {"w": Weight("w", axis, True), "k": Weight("k", None, False)},
        (bias,),
        (),
        {"y": "r", "s": (0.0, 1.0)},
        (),
    )


def statistics(low: float, high: float) -> TensorStatistics:
    return TensorStatistics(np.array([low], np.float32), np.array([high], np.float32))


def test_ranges_come_from_their_source() -> None:
    config = QuantConfig(activation_type="QUInt8")
    seen = {"x": statistics(-1, 3), "r": statistics(0, 2)}
    grids = Grids(config)
    params = activation_params(seen, tensor_ranges(seen, seen, grids.default, config), placement(), grids)
    assert set(params) == {"x", "y", "s"}  # p shares x's
    assert params["y"].scale == np.float32(2 / 255) and params["s"].scale == np.float32(1 / 255)
    assert placement().calibrated == ("x", "r")


@pytest.mark.parametrize(
    ("options", "site", "wanted"),
    [
        ({}, Weight("w", None, True), ("int8", True, False)),
        ({"weight_type": "QUInt8"}, Weight("w", None, True), ("uint8", False, False)),
        ({"weight_type": "QUInt8"}, Weight("w", 0, True), ("uint8", True, False)),
        ({"reduce_range": True}, Weight("w", None, True), ("int8", True, True)),
        (
            {"activation_type": "QUInt16", "reduce_range": True},
            Weight("k", None, False),
            ("uint16", False, True),
        ),
        ({"extra_options": {"WeightSymmetric": False}}, Weight("w", None, True), ("int8", False, False)),
        ({"extra_options": {"WeightSymmetric": False}}, Weight("w", 1, True), ("int8", True, False)),
        ({"extra_options": {"ActivationSymmetric": True}}, Weight("k", None, False), ("int8", True, False)),
    ],
)
def test_grids_of_constants(options: dict[str, object], site: Weight, wanted: tuple[str, bool, bool]) -> None:
    grid = Grids(QuantConfig(**options)).weight(site)
    assert (grid.type.numpy.name, grid.symmetric, grid.reduce_range) == wanted


def test_activations_never_use_a_reduced_range() -> None:
    assert not Grids(QuantConfig(reduce_range=True)).default.reduce_range


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("multiplier", [1.0, -0.5])
def test_biases_have_the_products_scale(axis: int | None, multiplier: float) -> None:
    config = QuantConfig(per_channel=axis is not None)
    constants = {"w": floats(6, 5), "b": floats(5, seed=1), "k": floats(3)}
    sites = placement(axis=axis, multiplier=multiplier)
    params = constant_params(sites, constants, Grids(config))
    params["x"] = QuantParams(np.asarray(0.25, np.float32), np.asarray(3, np.int8))
    integers, scale = quantized_bias(sites.biases[0], sites, params, constants)
    np.testing.assert_array_equal(scale, np.float32(0.25) * params["w"].scale)
    assert integers.dtype == np.int32
    np.testing.assert_allclose(
        integers * scale.astype(np.float64), multiplier * constants["b"], atol=scale.max() / 2
    )
    assert not avoid_bias_overflow(sites, params, constants, Grids(config))


@pytest.mark.parametrize("weight_type", ["QInt8", "QUInt8"])
def test_weights_are_raised_for_a_large_bias(weight_type: str) -> None:
    config = QuantConfig(weight_type=weight_type)
    constants = {"w": floats(6, 5, scale=1e-8), "b": floats(5, scale=100), "k": floats(3)}
    params = constant_params(placement(), constants, Grids(config))
    params["x"] = QuantParams(np.asarray(1e-3, np.float32), np.asarray(0, np.int8))
    raised = avoid_bias_overflow(placement(), params, constants, Grids(config))
    assert set(raised) == {"w"}
    integers, _ = quantized_bias(placement().biases[0], placement(), params | raised, constants)
    assert np.abs(integers.astype(np.int64)).max() < 2**31 - 1


def test_a_scale_that_underflows_stays_positive() -> None:
    constants = {"w": floats(6, 5), "b": np.zeros(5, np.float32), "k": floats(3)}
    tiny = QuantParams(np.asarray(1e-30, np.float32), np.asarray(0, np.int8))
    integers, scale = quantized_bias(placement().biases[0], placement(), {"x": tiny, "w": tiny}, constants)
    assert scale > 0 and not integers.any()


@pytest.mark.parametrize("element", [QuantType.QInt8, QuantType.QUInt16])
def test_bits_of_every_tensor(element: QuantType) -> None:
    bits = tensor_bits(placement(), Grids(QuantConfig(activation_type=element)))
    wide = INTEGER_TYPES[element].bits
    assert bits == {"x": wide, "p": wide, "y": wide, "s": wide, "w": 8, "k": wide, "b": 32}


@pytest.mark.parametrize("method", ["MinMax", "NonOverflow", "MinMSE"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_weights_by_least_squared_error(method: str, reduce_range: bool) -> None:
    constants = {"w": floats(20, 1500), "k": floats(7)}
    constants["w"][0, 0] = 9  # an outlier
    found: dict[str, float] = {}
    for rule in ("MinMax", "MSE"):
        config = QuantConfig(
            calibrate_method=method,
            weight_type="QInt8",
            reduce_range=reduce_range,
            extra_options={"WeightCalibrateMethod": rule},
        )
        params = constant_params(placement(), constants, Grids(config))["w"]
        site = placement().weights["w"]
        integers = numpy_helper.to_array(quantized_weight(site, params, constants, Grids(config)))
        if reduce_range and method == "MinMax":
            assert np.abs(integers).max() <= 64
        found[rule] = float(np.mean((dequantize(integers, params) - constants["w"]) ** 2))
        assert (np.frexp(params.scale)[0] == 0.5) == (method != "MinMax")
    assert found["MSE"] == found["MinMax"] if method == "MinMSE" else found["MSE"] < found["MinMax"]
