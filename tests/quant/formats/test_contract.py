"""What every number format keeps, with several parameters each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant.errors import ConfigError
from quant.formats import FORMATS, Family
from quant.formats.registry import ALIASES
from tests.quant.formats.cases import (
    BLOCKS,
    CALIBRATED,
    CASES,
    ELEMENTWISE,
    F32,
    MEANS,
    RANGE,
    Case,
    emulated,
    values,
    weights,
)

SHAPES = ((), (1,), (37,), (5, 64), (33, 50), (2, 3, 5, 17))

SETTLED = [
    case
    for case in CASES
    # 2^e saturates to the number below it, and what is rounded up to 2^e does so the second time
    if case.name not in ("minifloat_denorm", "block_fp")
    # levels are those of the tensor, and those of the sums are others
    and case.name != "binary_residual"
    # scales that are subnormal E4M3 numbers are far from what the block needs
    and case.parameters != (("block_size", 16),)
]
"""Those that leave what they have rounded as it is."""

ODD = [
    case
    for case in CASES
    if case.name not in ("integer", "fixed", "binary", "binary_residual")
    and "int" not in case.name.removeprefix("mx").removesuffix("int")
    and not case.name.startswith(("int", "uint"))
]
"""Those that treat both signs alike, zero apart."""

EMULATED = [case for case in CASES if case.format.emulation() is not None]

MONOTONIC = [case for case in CASES if case.name != "binary_residual"]


def test_every_format_has_a_case() -> None:
    assert {case.name for case in CASES} == {*FORMATS, *ALIASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_keeps_shape_type_and_input(case: Case) -> None:
    for shape in SHAPES:
        x = values(2000)[: int(np.prod(shape))].reshape(shape)
        before = x.copy()
        rounded = case.format.round(x)
        assert rounded.dtype == np.float32 and rounded.shape == shape
        assert not np.shares_memory(rounded, x)
        np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_empty(case: Case) -> None:
    assert case.format.round(np.zeros((3, 0), np.float32)).shape == (3, 0)


@pytest.mark.parametrize("case", SETTLED, ids=str)
def test_idempotent(case: Case) -> None:
    once = case.format.round(values(33, 50))
    np.testing.assert_array_equal(case.format.round(once), once)


@pytest.mark.parametrize("case", ODD, ids=str)
def test_odd(case: Case) -> None:
    x = values(33, 50)
    x[x == 0] = 1
    np.testing.assert_array_equal(case.format.round(-x), -case.format.round(x))


@pytest.mark.parametrize("case", MONOTONIC, ids=str)
def test_monotonic(case: Case) -> None:
    width = min((16, *(min(v) for _, v in case.parameters if isinstance(v, list))))
    x = np.sort(values(40, width), axis=1)
    if case in ELEMENTWISE or case in CALIBRATED[:-1]:
        x = np.sort(values(1, 640), axis=1)
    rounded = case.format.round(x)
    if any(isinstance(value, list) and len(value) == 2 for _, value in case.parameters):
        rounded = np.concatenate([case.format.round(row[None]) for row in x])
    assert np.all(np.diff(rounded, axis=1) >= 0)


@pytest.mark.parametrize("case", [*ELEMENTWISE, *BLOCKS, *CALIBRATED], ids=str)
def test_nan_stays_nan_and_others_do_not_become_it(case: Case) -> None:
    x = values(6, 40)
    x[2, 7] = x[3, 0] = np.nan
    assert np.argwhere(np.isnan(case.format.round(x))).tolist() == [[2, 7], [3, 0]]


@pytest.mark.parametrize("case", MEANS, ids=str)
def test_nan_stays_nan_with_means(case: Case) -> None:
    x = values(6, 40)
    x[2, 7] = np.nan
    rounded = case.of("data_in").round(x)
    assert np.isnan(rounded[2, 7]) and not np.isnan(np.delete(rounded, 2, axis=0)).any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_saturates(case: Case) -> None:
    x = values(6, 40)
    x[2, 7], x[3, 0] = np.inf, -np.inf
    rounded = case.format.round(x)
    assert np.all(np.isfinite(rounded))
    if case in ELEMENTWISE or case in CALIBRATED:
        far = case.format.round(np.float32([-3.4028235e38, 3.4028235e38]))
        np.testing.assert_array_equal(far, case.format.round(np.float32([-np.inf, np.inf])))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_zeros(case: Case) -> None:
    rounded = case.format.round(np.zeros((4, 32), np.float32))
    without_zero = case.name in ("log", "block_log") or case == Case("binary")
    assert np.all(rounded == rounded.flat[0])
    if not without_zero:
        assert not rounded.any()


def test_what_is_not_emulated_is_native() -> None:
    assert all(case.format.native() is not None for case in CASES if case not in EMULATED)


@pytest.mark.parametrize("opset", [21, 25])
@pytest.mark.parametrize("case", EMULATED, ids=str)
def test_onnxruntime_rounds_to_the_same_bits(case: Case, opset: int) -> None:
    emulation = case.format.emulation()
    assert emulation is not None
    session = emulated(emulation, opset)
    for seed, exponents in enumerate([(-24, 24), (-149, 127), (-3, 3)]):
        for shape in SHAPES[1:]:
            x = values(int(np.prod((33, 50))), seed=seed, exponents=exponents)[: int(np.prod(shape))]
            x = x.reshape(shape)
            expected = case.format.round(x) + np.float32(0)  # −0 + 0 = 0
            (got,) = session.run(None, {"x": x})
            np.testing.assert_array_equal((got + np.float32(0)).view(np.int32), expected.view(np.int32))


KNOWN_SHAPES = (
    ((37,), (37,)),
    ((None,), (37,)),
    ((5, 64), (5, 64)),
    ((None, 64), (5, 64)),
    ((None, 50), (33, 50)),
    ((7, 16), (7, 16)),
    ((None, 3, 5, 17), (2, 3, 5, 17)),
    ((None, 3, 8, 32), (2, 3, 8, 32)),
    ((None, None, 8, 8), (2, 3, 8, 8)),
    ((None, None, None, 8), (2, 3, 8, 8)),
    ((None, 3, None, None), (2, 3, 5, 17)),
    ((None, 6, 1, 1), (4, 6, 1, 1)),
    ((None, 6, 9, 20), (0, 6, 9, 20)),
    (None, (0, 6, 9, 20)),
)
"""What may be known of a shape, and one that it is."""


@pytest.mark.parametrize(("known", "shape"), KNOWN_SHAPES, ids=str)
@pytest.mark.parametrize("case", EMULATED, ids=str)
def test_what_is_known_of_the_shape_changes_no_bit(
    case: Case, known: tuple[int | None, ...] | None, shape: tuple[int, ...]
) -> None:
    emulation = case.format.emulation(known)
    assert emulation is not None
    session = emulated(emulation, 21)
    twice = (2 * shape[0], *shape[1:]) if known is not None and known[0] is None else shape
    for own in {shape, twice}:
        x = values(4000, exponents=(-149, 127))[: int(np.prod(own))].reshape(own)
        (got,) = session.run(None, {"x": x})
        expected = case.format.round(x) + np.float32(0)  # −0 + 0 = 0
        np.testing.assert_array_equal((got + np.float32(0)).view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("case", EMULATED, ids=str)
def test_onnxruntime_keeps_nan_and_saturates(case: Case) -> None:
    x = values(6, 40)
    x[2, 7], x[3, 0], x[4, 1] = np.nan, np.inf, -np.inf
    emulation = case.format.emulation()
    assert emulation is not None
    (got,) = emulated(emulation, 21).run(None, {"x": x})
    assert np.isnan(got[2, 7])
    others = np.delete(np.arange(6), 2)
    expected = case.format.round(x)
    if case in ELEMENTWISE:
        np.testing.assert_array_equal(got, expected)
    elif not any(isinstance(value, list) and len(value) == 2 for _, value in case.parameters):
        np.testing.assert_array_equal(got[others], expected[others])


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(width=32)),
    st.sampled_from(CASES),
)
def test_any_numbers(x: F32, case: Case) -> None:
    rounded = case.format.round(x)
    assert np.all(np.isnan(rounded[np.isnan(x)]))
    if case not in MEANS:
        assert np.all(np.isfinite(rounded[~np.isnan(x)]))


@st.composite
def parameters(draw: st.DrawFn, family: Family) -> dict[str, Any]:
    """Some of a family's parameters, each within its range."""
    given = {}
    for parameter in family.parameters:
        if "data_in" not in parameter.roles:
            continue
        if not parameter.is_required and draw(st.booleans()):
            continue
        if parameter.choices is not None:
            value = draw(st.sampled_from(parameter.choices))
        elif parameter.kind is bool:
            value = draw(st.booleans())
        elif parameter.kind is tuple:
            value = draw(st.lists(st.integers(1, 20), min_size=1, max_size=2))
        else:
            value = draw(st.integers(parameter.low, parameter.high))
        given[parameter.name] = value
    return given


@pytest.mark.parametrize("name", [name for name in FORMATS if "int" not in name or name == "mxint"])
def test_any_parameters(name: str) -> None:
    x = values(12, 37, exponents=(-149, 127))
    x[0, 0], x[1, 1] = np.inf, -np.inf

    @settings(max_examples=8, deadline=None)
    @given(parameters(FORMATS[name]))
    def rounds_as_onnxruntime(chosen: dict[str, Any]) -> None:
        try:
            own = FORMATS[name].build("data_in", chosen)
        except ConfigError:
            return
        own = own.bound(*RANGE) if own.calibrated else own
        rounded = own.round(x)
        assert np.all(np.isfinite(rounded))
        emulation = own.emulation()
        if emulation is not None:
            (got,) = emulated(emulation, 21).run(None, {"x": x})
            np.testing.assert_array_equal(got, rounded)

    rounds_as_onnxruntime()


@pytest.mark.parametrize(
    ("case", "shape", "bits"),
    [
        ("block_fp", (4, 32), 12 + 8 / 16),
        ("block_fp", (4, 20), 12 + 8 * 2 / 20),
        ("block_fp-6-4x16", (8, 32), 6 + 8 / 64),
        ("block_fp-6-4x16", (2, 32), 6 + 8 / 32),
        ("block_minifloat-8-4-8", (3, 16), 8.5),
        ("block_log-4-6", (16,), 4 + 6 / 16),
        ("mxint-8", (4, 8, 64), 8.25),
        ("mxint-4-1x16", (5, 5), 4 + 8 / 5),
        ("mxfp-2-1", (32,), 4.25),
        ("float4e2m1", (64,), 4.25),
        ("float4e2m1-16", (64,), 4.5),
        ("binary", (7,), 1),
        ("binary_residual-4", (7,), 4),
        ("ternary", (7,), 2),
        ("integer-5", (7, 3), 5),
        ("uint4", (7, 3), 4),
        ("float8e5m2", (7, 3), 8),
        ("bfloat16", (7, 3), 16),
        ("log-4", (7, 3), 4),
        ("minifloat_denorm-6-3", (0, 3), 6),
        ("mxint-8", (0, 3), 8),
    ],
)
def test_bits_per_element(case: str, shape: tuple[int, ...], bits: float) -> None:
    own = next(own for own in CASES if str(own) == case)
    assert own.format.bits_per_element(shape) == pytest.approx(bits, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("role", ["data_in", "weight", "bias"])
def test_values_compare_and_hash(case: Case, role: str) -> None:
    assert case.of(role) == case.of(role) and hash(case.of(role)) == hash(case.of(role))
    assert case.of(role).name == ALIASES.get(case.name, case.name)


@pytest.mark.parametrize("case", CALIBRATED, ids=str)
def test_needs_a_range_first(case: Case) -> None:
    open_format = case.of("weight")
    assert open_format.calibrated and not case.format.calibrated
    with pytest.raises(ConfigError, match="bind it to a range"):
        open_format.round(weights(2, 3))
    fitted = open_format.fit(weights(8, 40))
    assert np.abs(fitted.round(weights(8, 40)) - weights(8, 40)).max() < np.abs(weights(8, 40)).max()


@pytest.mark.parametrize("case", [case for case in CASES if case not in CALIBRATED], ids=str)
def test_needs_no_range(case: Case) -> None:
    assert not case.format.calibrated and case.format.fit(weights(2, 3)) is case.format
    with pytest.raises(TypeError, match="needs no range"):
        case.format.bound(*RANGE)
