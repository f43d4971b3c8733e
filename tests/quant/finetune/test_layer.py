from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.errors import DataError
from quant.finetune import AdaQuant, AdaRound, Algorithm, Gptq, LayerProblem, finetune_layer
from tests.quant.finetune.problems import Array, Layer, grid_for, layer, roundings

ALGORITHMS: list[Algorithm] = [AdaRound(num_iterations=60), AdaQuant(num_iterations=60), Gptq()]
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    algorithm=st.sampled_from(ALGORITHMS),
    granularity=st.sampled_from(["tensor", "channel", "block"]),
    symmetric=st.booleans(),
    bits=st.sampled_from([2, 4, 8]),
    groups=st.sampled_from([1, 4]),
    noise=st.sampled_from([0.0, 0.1, 1.0]),
    update_bias=st.booleans(),
    refine=st.booleans(),
)
def test_never_worse_than_nearest_rounding(
    seed: int,
    algorithm: Algorithm,
    granularity: str,
    symmetric: bool,
    bits: int,
    groups: int,
    noise: float,
    update_bias: bool,
    refine: bool,
) -> None:
    a = layer(seed, groups=groups, inputs=5, samples=12, noise=noise)
    grid = grid_for(a.weight, bits, granularity, symmetric)
    result = finetune_layer(a.problem(grid), algorithm, update_bias=update_bias, refine=refine)
    before = a.losses(grid.round(a.weight.astype(np.float32)))
    after = a.losses(result.weight, result.bias)
    assert np.all(after <= before * (1 + 1e-5) + 1e-12)
    assert result.loss_before == pytest.approx(before.sum(), rel=1e-5, abs=1e-12)
    assert result.loss_after == pytest.approx(after.sum(), rel=1e-5, abs=1e-10)
    assert result.weight.dtype == np.float32
    np.testing.assert_array_equal(grid.round(result.weight), result.weight)


@algorithms
def test_improves_a_layer(algorithm: Algorithm) -> None:
    a = layer(0, outputs=16, inputs=32, samples=400)
    result = finetune_layer(a.problem(grid_for(a.weight)), algorithm)
    assert result.loss_after < 0.7 * result.loss_before
    assert not result.fell_back and result.iterations >= 1


def test_near_the_best_of_all_roundings() -> None:
    """Gptq, refined, against brute force over the neighbours; it may go beyond them and be better."""
    excess = []
    for seed in range(8):
        a = layer(seed, outputs=2, inputs=9, noise=0.0)
        grid = grid_for(a.weight, bits=3)
        result = finetune_layer(a.problem(grid), Gptq())
        weight = a.weight.astype(np.float32)
        lower, upper = grid.lower(weight), grid.upper(weight)
        for output in range(2):
            every = roundings(lower[0, output], upper[0, output])
            best = (((every - a.weight[0, output]) @ a.inputs[0].T) ** 2).mean(axis=1).min()
            excess.append(a.losses(result.weight)[0, output] / best)
    assert np.median(excess) < 1.3


@algorithms
def test_updating_the_bias_helps(algorithm: Algorithm) -> None:
    a = layer(1, outputs=8, inputs=16, samples=200)
    problem = a.problem(grid_for(a.weight, bits=3))
    fixed = finetune_layer(problem, algorithm)
    updated = finetune_layer(problem, algorithm, update_bias=True)
    assert updated.loss_after < fixed.loss_after
    assert fixed.bias is problem.bias
    mean = a.errors(updated.weight, updated.bias).mean(axis=1)
    np.testing.assert_allclose(mean, 0, atol=1e-5)


def test_a_layer_without_bias_gets_none() -> None:
    a = layer(1)
    problem = dataclasses.replace(a.problem(grid_for(a.weight)), bias=None)
    with_update = finetune_layer(problem, Gptq(), update_bias=True)
    assert with_update.bias is None
    np.testing.assert_array_equal(with_update.weight, finetune_layer(problem, Gptq()).weight)


def test_falls_back_where_nothing_is_better() -> None:
    a = layer(2)
    grid = grid_for(a.weight)
    exact = Layer(grid.round(a.weight.astype(np.float32)).astype(np.float64), a.bias, a.inputs, a.inputs)
    result = finetune_layer(exact.problem(grid), AdaRound(num_iterations=5))
    assert result.fell_back and result.kept_outputs == 3
    np.testing.assert_array_equal(result.weight, exact.weight)


def test_the_refined_result_does_not_need_the_float_gram() -> None:
    a = layer(3)
    grid = grid_for(a.weight)
    full, partial = (finetune_layer(a.problem(grid, float_gram=has), Gptq()) for has in (True, False))
    np.testing.assert_array_equal(full.weight, partial.weight)
    assert full.loss_before - full.loss_after == pytest.approx(partial.loss_before - partial.loss_after)


@dataclasses.dataclass(frozen=True)
class TableGrid:
    """A grid that is not uniform: the values of E2M1, times a scale for each channel."""

    scale: Array

    TABLE = np.float32([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])

    def lower(self, values: Array) -> Array:
        index = np.searchsorted(self.TABLE, values / self.scale + 1e-6, side="right") - 1
        return self.TABLE[np.maximum(index, 0)] * self.scale

    def upper(self, values: Array) -> Array:
        index = np.searchsorted(self.TABLE, values / self.scale + 1e-6, side="right")
        return self.TABLE[np.minimum(index, len(self.TABLE) - 1)] * self.scale

    def round(self, values: Array) -> Array:
        index = np.abs((values / self.scale)[..., None] - self.TABLE).argmin(axis=-1)
        return self.TABLE[index] * self.scale

    def columns(self, index: object) -> TableGrid:
        return self


@algorithms
def test_a_grid_need_not_be_uniform(algorithm: Algorithm) -> None:
    a = layer(5, outputs=8, inputs=16, samples=300)
    grid = TableGrid((np.abs(a.weight).max(axis=-1, keepdims=True) / 6).astype(np.float32))
    problem = LayerProblem(a.weight.astype(np.float32), a.moments(), grid)
    result = finetune_layer(problem, algorithm)
    assert a.losses(result.weight).sum() < 0.7 * a.losses(grid.round(problem.weight)).sum()
    on_grid = np.isclose((result.weight / grid.scale)[..., None], TableGrid.TABLE, rtol=1e-6, atol=0)
    assert np.all(on_grid.any(axis=-1))


DEGENERATE = {
    "dead inputs": lambda a: Layer(
        a.weight, a.bias, a.inputs * ([1, 0] * 4), a.quantized_inputs * ([1, 0] * 4)
    ),
    "all inputs dead": lambda a: Layer(a.weight, a.bias, 0 * a.inputs, 0 * a.inputs),
    "constant inputs": lambda a: Layer(a.weight, a.bias, 0 * a.inputs + 1, 0 * a.inputs + 1.01),
    "zero weights": lambda a: Layer(0 * a.weight, a.bias, a.inputs, a.quantized_inputs),
    "one sample": lambda a: Layer(a.weight, a.bias, a.inputs[:, :1], a.quantized_inputs[:, :1]),
    "equal inputs": lambda a: Layer(
        a.weight, a.bias, a.inputs[..., [0] * 8], a.quantized_inputs[..., [0] * 8]
    ),
    "huge": lambda a: Layer(a.weight * 1e4, a.bias, a.inputs * 1e4, a.quantized_inputs * 1e4),
    "tiny": lambda a: Layer(a.weight * 1e-4, a.bias * 1e-8, a.inputs * 1e-4, a.quantized_inputs * 1e-4),
}


@algorithms
@pytest.mark.parametrize("update_bias", [False, True])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.filterwarnings("error")
def test_degenerate_layers(algorithm: Algorithm, case: str, update_bias: bool) -> None:
    a = DEGENERATE[case](layer(4, groups=2))
    grid = grid_for(a.weight)
    result = finetune_layer(a.problem(grid), algorithm, update_bias=update_bias)
    assert np.all(np.isfinite(result.weight)) and np.all(np.isfinite(result.bias))
    before = a.losses(grid.round(a.weight.astype(np.float32)))
    after = a.losses(result.weight, result.bias)
    assert np.all(after <= before * (1 + 1e-4) + 1e-12 * np.maximum(1, before.max()))


def test_shapes_are_checked() -> None:
    a = layer(0)
    problem = a.problem(grid_for(a.weight))
    with pytest.raises(ValueError, match=r"weight: shape .* reshape it to \(groups, out, in\)"):
        dataclasses.replace(problem, weight=problem.weight[0])
    with pytest.raises(
        ValueError, match=r"moments.gram: shape \(1, 8, 8\), but the weight needs \(1, 7, 7\)"
    ):
        dataclasses.replace(problem, weight=problem.weight[..., :7])
    with pytest.raises(ValueError, match="bias: shape"):
        dataclasses.replace(problem, bias=problem.bias[0])


def test_values_that_are_not_finite_are_refused() -> None:
    a = layer(0)
    a.inputs[0, 3, 2] = np.nan
    with pytest.raises(DataError, match=r"moments\.\w+: has NaN"):
        LayerProblem(a.weight, a.moments(), grid_for(a.weight))
