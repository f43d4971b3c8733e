from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant import CalibrationData
from quant.mixed_precision.format_errors import Rounding, Site, format_errors
from quant.mixed_precision.substitution import Edge, Substitution, substitution
from quant.mixed_precision.yardstick import yardstick
from tests.quant.graphs import Array, Feed, build, floats, node, run

FEEDS: list[Feed] = [{"x": floats(5, 6, seed=seed)} for seed in range(3)]
FIRST, SECOND, SUM = Edge("MatMul_a", 0), Edge("MatMul_c", 0), Edge("Add_y", 1)
CONSTANTS = {"v": floats(6, 8, seed=10), "w": floats(8, 4, seed=11), "u": floats(6, 4, seed=12)}


def two_branches(constants: dict[str, Array] | None = None) -> onnx.ModelProto:
    """y = relu(x v) w + x u."""
    nodes = [
        node("MatMul", "x v", "a"),
        node("Relu", "a", "b"),
        node("MatMul", "b w", "c"),
        node("MatMul", "x u", "d"),
        node("Add", "c d", "y"),
    ]
    return build(nodes, {"x": ["n", 6]}, constants or CONSTANTS, "y")


@contextmanager
def substituted() -> Iterator[Substitution]:
    model = ir.from_proto(two_branches())
    providers = ("CPUExecutionProvider",)
    measured = yardstick(model, CalibrationData(FEEDS), None, providers=providers, threads=1)
    edges = [FIRST, SECOND, SUM]
    with substitution(model, list(CONSTANTS), edges, measured, providers=providers, threads=1) as found:
        yield found


def error(outputs: list[Array]) -> float:
    """Mean squared difference from the float model's outputs."""
    floats_ = [run(two_branches(), feed)[0] for feed in FEEDS]
    return float(np.mean([(o - f) ** 2 for o, f in zip(outputs, floats_, strict=True)]))


def test_without_anything_given_it_is_the_float_model() -> None:
    with substituted() as found:
        assert found.noise().mean_square < 1e-12


def test_an_initializer_takes_another_value_for_one_run() -> None:
    other = np.rint(CONSTANTS["v"])
    wanted = error([run(two_branches({**CONSTANTS, "v": other}), feed)[0] for feed in FEEDS])
    with substituted() as found:
        assert found.noise(initializers={"v": other}).mean_square == pytest.approx(wanted, rel=1e-4)
        assert found.noise().mean_square < 1e-12


def test_an_edge_takes_other_values_and_other_readers_of_the_tensor_do_not() -> None:
    """x is read by two nodes; what is rounded for the first, the second sees as it is."""
    outputs = []
    for feed in FEEDS:
        hidden = np.maximum(np.rint(feed["x"]) @ CONSTANTS["v"], 0)
        outputs.append(hidden @ CONSTANTS["w"] + feed["x"] @ CONSTANTS["u"])
    with substituted() as found:
        rounded = [np.rint(value) for value in found.values(FIRST)]
        assert found.noise(edges={FIRST: rounded}).mean_square == pytest.approx(error(outputs), rel=1e-4)


def test_values_of_an_edge_are_what_the_node_reads() -> None:
    with substituted() as found:
        for feed, x, hidden in zip(FEEDS, found.values(FIRST), found.values(SECOND), strict=True):
            np.testing.assert_array_equal(x, feed["x"])
            np.testing.assert_allclose(hidden, np.maximum(feed["x"] @ CONSTANTS["v"], 0), rtol=1e-5)


def to_multiples_of(step: float) -> Rounding:
    return lambda values: (np.rint(values / step) * step).astype(np.float32)


STEPS = (0.01, 0.03, 0.1, 0.3, 1.0)


def sites(*steps: float) -> list[Site]:
    roundings = [to_multiples_of(step) for step in steps]
    return [Site("w", CONSTANTS["w"], roundings), Site(SECOND, None, roundings)]


def test_with_enough_runs_every_format_is_measured() -> None:
    with substituted() as found:
        weights, inputs = format_errors(found, sites(*STEPS), runs=100)
        for step, weight_error, input_error in zip(STEPS, weights, inputs, strict=True):
            rounding = to_multiples_of(step)
            direct = found.noise(initializers={"w": rounding(CONSTANTS["w"])}).relative
            assert weight_error == pytest.approx(np.mean(direct))
            edges = {SECOND: [rounding(value) for value in found.values(SECOND)]}
            assert input_error == pytest.approx(np.mean(found.noise(edges=edges).relative))


def test_with_few_runs_the_others_follow_from_how_much_they_round() -> None:
    """Rounding noise has energy step^2 / 12, and so has the error of a nearly linear model."""
    with substituted() as found:
        all_measured = format_errors(found, sites(*STEPS), runs=100)
        few = format_errors(found, sites(*STEPS), runs=2)
    for guessed, measured in zip(few, all_measured, strict=True):
        assert np.all(np.diff(guessed) > 0)
        np.testing.assert_allclose(np.log10(guessed), np.log10(measured), atol=0.5)


def test_a_format_that_changes_nothing_costs_nothing_and_one_that_overflows_everything() -> None:
    same: Rounding = lambda values: values  # noqa: E731 - a value like the others
    overflowing: Rounding = lambda values: np.full_like(values, np.inf)  # noqa: E731
    with substituted() as found:
        (errors,) = format_errors(found, [Site("w", CONSTANTS["w"], [same, overflowing])], runs=1)
    assert errors[0] == 0
    assert errors[1] == np.inf
