"""Every format against its rule, written out for Python's exact numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.formats import make_format
from tests.quant.formats import references
from tests.quant.formats.cases import BLOCKS, ELEMENTWISE, MEANS, Case, case, values
from tests.quant.formats.references import FLOAT32_MAX, in_tiles, tile_shape

ELEMENT_RULES: dict[str, Callable[..., float]] = {
    "integer": references.integer,
    "fixed": references.integer,
    "minifloat_ieee": references.minifloat_ieee,
    "minifloat_denorm": references.minifloat_denorm,
    "log": references.log,
}

NARROW = [
    own
    for own in ELEMENTWISE
    # float32 itself is coarser, or there are no even codes
    if own.name in ELEMENT_RULES and dict(own.parameters)["width"] not in (3, 24, 32)
]


def parameters(own: Case) -> dict[str, Any]:
    """With the documented defaults."""
    given = dict(own.parameters)
    width = given.get("width", 12)
    if own.name in ("integer", "fixed"):
        return {"frac_width": width // 2, **given}
    if own.name.startswith("minifloat"):
        return {"exponent_bias": 2 ** (given["exponent_width"] - 1) - 1, **given}
    if own.name == "log":
        return {"exponent_bias": 2 ** (width - 2) - 1, **given}
    if own.name == "block_fp":
        exponent_width = given.get("exponent_width", 8)
        bias = 2 ** (exponent_width - 1) - 1
        return {"width": 12, "exponent_width": 8, "exponent_bias": bias, **given}
    return given


@pytest.mark.parametrize("own", NARROW, ids=str)
def test_elements(own: Case) -> None:
    x = np.concatenate([values(400, seed=1), values(200, seed=2, exponents=(-6, 6))])
    x = np.append(x, np.float32([FLOAT32_MAX, -FLOAT32_MAX]))
    rule, given = ELEMENT_RULES[own.name], parameters(own)
    expected = np.array([rule(float(element), **given) for element in x])
    rounded = own.format.round(x)
    has = np.abs(expected) <= FLOAT32_MAX  # else it is the greatest number that float32 has too
    np.testing.assert_array_equal(rounded[has], np.float32(expected[has]))
    assert np.all(np.abs(rounded[~has]) == np.abs(rounded).max())


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e6, 1e6, width=32), st.sampled_from(NARROW))
def test_any_element(x: float, own: Case) -> None:
    expected = ELEMENT_RULES[own.name](x, **parameters(own))
    assert own.format.round(np.float32([x]))[0] == np.float32(expected)


BLOCK_RULES: dict[str, Callable[..., list[float]]] = {
    "block_fp": references.block_fp,
    "block_minifloat": references.block_minifloat,
    "block_log": references.block_log,
    "mxint": references.mxint,
    "mxfp": references.mxfp,
}

TILED = [own for own in BLOCKS if own.name in BLOCK_RULES and dict(own.parameters).get("width") != 32]


@pytest.mark.parametrize("own", TILED, ids=str)
@pytest.mark.parametrize("exponents", [(-24, 24), (-3, 3)], ids=["wide", "narrow"])
def test_blocks(own: Case, exponents: tuple[int, int]) -> None:
    x = values(9, 37, exponents=exponents)
    x[np.abs(x) > 1e30] = 1  # beside it everything else vanishes
    x[:, 16:32] *= 2.0**-20
    x[4, :] = 0
    given = parameters(own)
    height, width = tile_shape(given, 32 if own.name.startswith("mx") else 16)
    given.pop("block_size", None)
    rule = BLOCK_RULES[own.name]
    expected = in_tiles(x.tolist(), height, width, lambda tile: rule(tile, **given))
    np.testing.assert_array_equal(own.format.round(x), np.float32(expected))


def test_float4_in_blocks_of_32_is_mxfp4() -> None:
    x = values(9, 70)
    mxfp4 = case("mxfp", exponent_width=2, frac_width=1)
    np.testing.assert_array_equal(case("float4e2m1").format.round(x), mxfp4.format.round(x))


def test_nvfp4() -> None:
    x = np.float32(values(8, 48, exponents=(-3, 3)).clip(-3, 5))
    own = case("float4e2m1", block_size=16).format
    tensor_scale = np.float32(5 / (448 * 6))
    scales = references.minifloat_table(4, 3, 7)[: 8 * 16 - 1]  # the last code is NaN
    elements = references.minifloat_table(2, 1, 1)

    def rule(tile: list[float]) -> list[float]:
        share = np.float32(max(map(abs, tile))) / np.float32(6)
        scale = np.float32(references.nearest(float(share / tensor_scale), scales)) * tensor_scale
        if scale == 0:
            return [0.0] * len(tile)
        return [
            float(np.float32(references.nearest(float(np.float32(v) / scale), elements)) * scale)
            for v in tile
        ]

    expected = in_tiles(x.tolist(), 1, 16, rule)
    np.testing.assert_array_equal(own.round(x), np.float32(expected))


MEAN_RULES: dict[str, Callable[..., list[float]]] = {
    "binary": references.scaled_binary,
    "binary_residual": references.binary_residual,
    "ternary": references.ternary,
}


@pytest.mark.parametrize("own", MEANS, ids=str)
def test_means_of_each_index_of_the_first_axis(own: Case) -> None:
    x = values(9, 4, 8, exponents=(-3, 3)).clip(-100, 100)
    given = {"levels": 2} if own.name == "binary_residual" else {}
    given |= {key: value for key, value in own.parameters if key != "bipolar"}
    expected = [MEAN_RULES[own.name](row, **given) for row in x.reshape(9, -1).tolist()]
    got = own.of("data_in").round(x).reshape(9, -1)
    np.testing.assert_allclose(got, np.float32(expected), rtol=2e-6, atol=2e-6)


def test_binary_residual_of_a_weight_has_one_scale_a_level() -> None:
    x = values(5, 12, exponents=(-3, 3)).clip(-10, 10)
    own = make_format("weight", {"name": "binary_residual", "weight_levels": 3})
    assert own is not None
    expected = references.binary_residual(x.reshape(-1).tolist(), 3)
    np.testing.assert_allclose(own.round(x).reshape(-1), np.float32(expected), rtol=2e-6, atol=2e-6)


def test_bipolar() -> None:
    assert case("binary").format.round(np.float32([-2, -0.0, 0, 1e-40])).tolist() == [-1, 1, 1, 1]


def test_a_tensor_of_one_axis_has_one_mean() -> None:
    bias = np.float32([1, -2, 3, -10])
    assert case("binary", bipolar=False).of("bias").round(bias).tolist() == [4, -4, 4, -4]
    assert case("ternary").of("bias").round(bias).tolist() == [0, 0, 0, -10]


def test_powers_of_two_alone_round_ties_up() -> None:
    own = case("minifloat_ieee", width=3, exponent_width=2).format
    assert own.round(np.float32([0.4, 0.5, 0.6, 1, 1.4, 1.5, 3, 5, 6, -3])).tolist() == [
        *(0, 0, 1, 1, 1, 2, 4, 4, 4, -4)
    ]
