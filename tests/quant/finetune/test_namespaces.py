"""The same results in the strictest namespace of the array API standard."""

from __future__ import annotations

from typing import Any

import array_api_strict as strict
import numpy as np
import pytest

from quant.finetune import (
    AdaQuant,
    AdaRound,
    Algorithm,
    Gptq,
    InputMoments,
    LayerProblem,
    UniformGrid,
    finetune_layer,
)
from tests.quant.finetune.problems import Array, grid_for, layer


def to_strict(array: Array | None) -> Any:
    return None if array is None else strict.asarray(np.array(array))


@pytest.mark.parametrize(
    "algorithm",
    [
        AdaRound(num_iterations=150, early_stop=True, lr_adjust=(1e-6, 0.2)),
        AdaQuant(num_iterations=150, early_stop=True, lr_adjust=(1e-6, 0.01)),
        Gptq(act_order=True),
        Gptq(act_order=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_results(algorithm: Algorithm, granularity: str, dtype: Any) -> None:
    a = layer(0, groups=2, inputs=10)
    grid = grid_for(a.weight, granularity=granularity, symmetric=False, dtype=dtype)
    problem = a.problem(grid, dtype)
    parts = vars(problem.moments.dropped(0.5)).values()
    moments = InputMoments(*(None if part is None else to_strict(part) for part in parts))
    strict_problem = LayerProblem(
        to_strict(problem.weight),
        moments,
        UniformGrid(to_strict(grid.scale), to_strict(grid.zero_point), grid.qmin, grid.qmax),
        to_strict(problem.bias),
    )
    plain = LayerProblem(problem.weight, problem.moments.dropped(0.5), grid, problem.bias)
    expected = finetune_layer(plain, algorithm, update_bias=True)
    result = finetune_layer(strict_problem, algorithm, update_bias=True)
    assert type(result.weight) is type(strict_problem.weight)
    np.testing.assert_allclose(np.asarray(result.weight), expected.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(result.bias), expected.bias, rtol=1e-4, atol=1e-5)
    assert result.loss_after == pytest.approx(expected.loss_after, rel=1e-4)
    assert (result.iterations, result.kept_outputs) == (expected.iterations, expected.kept_outputs)
