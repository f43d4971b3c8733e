"""The largest magnitude of every channel of an activation, over the calibration data."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quant.calibration.collect import refuse_non_finite, stream
from quant.calibration.data import Feed

ChannelMaxima = dict[str, NDArray[np.float32]]
"""max |x_j| by tensor name, shape (channels,) of the last axis; a tensor without values is missing."""


def collect_channel_maxima(
    model: ir.Model,
    tensors: Sequence[str],
    feeds: Iterable[Feed],
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
) -> ChannelMaxima:
    """Runs the model batch by batch and keeps one number for each channel of each tensor.

    Args:
        model: A prepared model; left as it is.
        tensors: Names of float tensors with channels along the last axis, which is as long in every
            batch; inputs of the graph are allowed. The other axes may differ.
        feeds: Batches; an empty one of a tensor counts for nothing.
        providers: onnxruntime's execution providers.
        threads: Of the session and of the counting; 0 = all cores.

    Raises:
        DataError: If a tensor takes a NaN or infinite value, with its name.
        ModelError: If onnxruntime cannot run the model.
    """
    maxima: ChannelMaxima = {}

    def widen(name: str, values: NDArray[Any]) -> None:
        if values.size == 0:
            return
        rows = values.astype(np.float32, copy=False).reshape(-1, values.shape[-1])
        largest = np.maximum(rows.max(axis=0), -rows.min(axis=0))  # |x| would be a copy of the batch
        refuse_non_finite(name, largest)
        maxima[name] = np.maximum(maxima[name], largest) if name in maxima else largest

    if tensors:
        stream(model, tensors, feeds, widen, providers=providers, threads=threads)
    return {name: maxima[name] for name in tensors if name in maxima}


def encode_channel_maxima(maxima: ChannelMaxima) -> bytes:
    """As an .npz archive; tensor names travel in an array of their own."""
    arrays: dict[str, NDArray[Any]] = {"names": np.array(list(maxima), dtype=np.str_)}
    arrays |= {f"max{index}": largest for index, largest in enumerate(maxima.values())}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def decode_channel_maxima(data: bytes | memoryview) -> ChannelMaxima:
    """The inverse of `encode_channel_maxima`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {str(name): archive[f"max{index}"] for index, name in enumerate(archive["names"])}
