"""Finetuned layers and models as results of stages: their keys, sizes and bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from quant.cache import Stage, StageCache
from quant.finetune.device import Device
from quant.finetune.finetune import solve_layer
from quant.finetune.grid import digest_of
from quant.finetune.layer import Algorithm, LayerProblem, LayerResult

_NUMBERS = ("loss_before", "loss_after", "iterations", "kept_outputs")


def _encode(result: LayerResult) -> bytes:
    arrays = {name: np.asarray(getattr(result, name)) for name in _NUMBERS} | {"weight": result.weight}
    if result.bias is not None:
        arrays["bias"] = result.bias
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _decode(data: memoryview) -> LayerResult:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = dict(archive)
    numbers = {name: arrays[name].item() for name in _NUMBERS}
    return LayerResult(arrays["weight"], arrays.get("bias"), **numbers)


def _bytes(result: LayerResult) -> int:
    return int(result.weight.nbytes)


LAYERS: Stage[LayerResult] = Stage("finetuned layers", 4, 10_000, _encode, _decode, 1 << 28, _bytes)
"""By everything that decides them, so that configurations whose first layers agree share those."""


class CachedSolve:
    """`solve_layer`, looked up by the content of its arguments first."""

    def __init__(self, cache: StageCache) -> None:
        self.cache = cache

    def __call__(
        self, problem: LayerProblem, algorithm: Algorithm, update_bias: bool, device: Device
    ) -> LayerResult:
        moments = problem.moments
        statistics = (moments.gram, moments.cross, moments.mean, moments.quantized_mean, moments.float_gram)
        shift, sample = moments.shift, problem.sample
        shifts = () if shift is None else (shift.product, shift.mean, shift.power)
        columns = () if sample is None else (sample.inputs, sample.quantized_inputs)
        arrays = (problem.weight, problem.bias, *statistics, *shifts, *columns)
        key = {
            "cut_at": None if sample is None else repr(sample.high),
            "arrays": _digest(arrays),
            "grid": digest_of(problem.grid),
            "algorithm": repr(algorithm),
            "update_bias": update_bias,
            "device": device.name,
        }
        return self.cache.get(LAYERS, key, lambda: solve_layer(problem, algorithm, update_bias, device))


def _digest(arrays: Iterable[NDArray[np.generic] | None]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none;")
            continue
        digest.update(f"{array.dtype}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
