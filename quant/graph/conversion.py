"""Whether a model of an old opset still computes the same after onnx's version converter."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quant.calibration.data import Feed
from quant.errors import ModelError
from quant.graph.session import float_session

_log = logging.getLogger(__name__)

_TOLERANCE = 1e-3
"""Of the largest magnitude of an output: far above what folding and reordering change in float32."""
_DIFFERING_INTEGERS = 0.01
"""Share of an integer output's elements that rounding may have changed, as that of an ArgMax between ties."""


def check_conversion(original: ir.Model, prepared: ir.Model, feed: Feed, threads: int) -> None:
    """Runs a model before and after its conversion on one feed and compares the outputs.

    A model that gives other outputs in a second run, or that onnxruntime cannot run at its own opset,
    cannot be compared: a warning says so.

    Args:
        original: The model as it was read.
        prepared: What `quant.graph.prepare` made of it, at a later opset.
        feed: Its inputs.
        threads: Of the sessions; 0 = all cores.

    Raises:
        ModelError: If an output differs, or onnxruntime cannot run the converted model.
    """
    versions = f"from opset {original.opset_imports.get('')} to {prepared.opset_imports.get('')}"
    try:
        wanted = _outputs(original, feed, threads)
    except ModelError as error:
        _log.warning("onnx's conversion %s is not checked: before it, %s", versions, error)
        return
    try:
        got = _outputs(prepared, feed, threads)
    except ModelError as error:
        raise ModelError(f"{error} (after onnx's conversion {versions}; {_REMEDY})") from error
    names = [value.name or "" for value in original.graph.outputs]
    complaint = _complaint(names, wanted, got)
    if complaint is None:
        return
    if _complaint(names, wanted, _outputs(original, feed, threads, runs=2)) is not None:
        _log.warning("onnx's conversion %s is not checked: two runs of the model differ", versions)
        return
    raise ModelError(f"model: onnx's conversion {versions} changes {complaint}; {_REMEDY}")


_REMEDY = "export the model at opset 21 or a nearer one"


def _outputs(model: ir.Model, feed: Feed, threads: int, runs: int = 1) -> list[Any]:
    """Of the last run; random numbers differ from run to run, but in every session alike."""
    outputs: list[Any] = []
    with float_session(model, (), ("CPUExecutionProvider",), threads) as session:
        for _ in range(runs):
            outputs = session.run(None, dict(feed))
    return outputs


def _complaint(names: Sequence[str], wanted: Sequence[Any], got: Sequence[Any]) -> str | None:
    """The first output that differs, with both values, or None."""
    for name, before, after in zip(names, wanted, got, strict=True):
        if not isinstance(before, np.ndarray):  # sequences and maps
            continue
        if before.shape != after.shape or before.dtype != after.dtype:
            return f"output {name!r} from {before.dtype} {before.shape} to {after.dtype} {after.shape}"
        difference = _difference(before, after)
        if difference is not None:
            return f"output {name!r}: {difference}"
    return None


def _difference(before: NDArray[Any], after: NDArray[Any]) -> str | None:
    if not np.issubdtype(before.dtype, np.floating):
        share = float(np.mean(before != after)) if before.size else 0.0
        return f"{share:.0%} of its elements" if share > _DIFFERING_INTEGERS else None
    largest = np.abs(before, where=np.isfinite(before), out=np.zeros(before.shape)).max(initial=0)
    same = np.isclose(after, before, rtol=0, atol=_TOLERANCE * largest, equal_nan=True)
    if same.all():
        return None
    place = np.unravel_index(int(np.argmin(same)), same.shape)
    return f"{before[place]!s} becomes {after[place]!s} at {tuple(int(i) for i in place)}"
