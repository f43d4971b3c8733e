from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import evaluators.parts
import quant.graph.parts

Values = dict[str, NDArray[Any]]

MESSAGES = [
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node."
    " Name:'c' Status Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, ...)"
    " Failed to allocate memory for requested buffer of size 939524096",
    "CUDA failure 2: out of memory ; GPU=0 ; file=cuda_allocator.cc ; expr=cudaMalloc((void**)&p, size);",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
    "std::bad_alloc",
]
"""What onnxruntime has been seen to say, shortened."""


@pytest.fixture(params=[quant.graph.parts, evaluators.parts], ids=["quant", "evaluators"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    found: ModuleType = request.param
    return found


def device(samples: int, seen: list[int], message: str = MESSAGES[0]) -> Callable[[Values], list[Any]]:
    """Doubles its input and gives its second axis, in memory that it uses again; it has little memory."""
    memory = np.empty((64, 3))

    def run(feed: Values) -> list[Any]:
        x = feed["x"]
        seen.append(len(x))
        if len(x) > samples:
            raise RuntimeError(message)
        np.multiply(x, feed["factor"], out=memory[: len(x)])
        return [memory[: len(x)], np.array([x.shape[1]])]

    return run


@pytest.mark.parametrize("message", MESSAGES, ids=["arena", "cudaMalloc", "cuBLAS", "bad_alloc"])
@pytest.mark.parametrize("size", [2, 5, 8])
def test_a_batch_that_does_not_fit_runs_in_parts(module: ModuleType, size: int, message: str) -> None:
    x = np.arange(3.0 * size).reshape(size, 3)
    seen: list[int] = []
    doubled, width = module.run_in_parts(device(2, seen, message), {"x": x, "factor": np.array(2.0)})
    np.testing.assert_array_equal(doubled, 2 * x)
    assert width.tolist() == [3]
    assert sum(count for count in seen if count <= 2) == size


def test_too_little_for_one_sample_is_the_reason(module: ModuleType) -> None:
    feed = {"x": np.ones((4, 3)), "factor": np.array(2.0)}
    with pytest.raises(MemoryError, match=r"even for a batch of one: .*requested buffer of size 939524096"):
        module.run_in_parts(device(0, []), feed)


def test_other_errors_are_not_tried_again(module: ModuleType) -> None:
    seen: list[int] = []
    with pytest.raises(RuntimeError, match="no such operator"):
        module.run_in_parts(device(0, seen, "no such operator"), {"x": np.ones((4, 3))})
    assert seen == [4]


def test_outputs_without_samples_cannot_be_put_together(module: ModuleType) -> None:
    def mean(feed: Values) -> list[Any]:
        if len(feed["x"]) > 2:
            raise RuntimeError(MESSAGES[1])
        return [feed["x"].mean(axis=0)]

    with pytest.raises(MemoryError, match="no axis of samples: CUDA failure 2"):
        module.run_in_parts(mean, {"x": np.arange(12.0).reshape(4, 3)})
