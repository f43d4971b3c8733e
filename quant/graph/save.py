"""Writing models."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import onnx

from quant.cache import write_atomically

_LARGEST_BYTES = 2**31 - 2**20
"""Protobuf messages end at 2 GiB; a little is left for the graph."""

_SMALLEST_EXTERNAL_BYTES = 1024


def save_model(model: onnx.ModelProto, path: Path, *, external_data: bool) -> None:
    """Writes a model so that no reader ever sees half of it; equal models give equal bytes.

    Args:
        model: May be of any size.
        path: Weights beyond 2 GiB, or with `external_data` all but the smallest, go to a file of
            this name with ``.data`` appended.
        external_data: See above.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    external_data = external_data or sum(len(t.raw_data) for t in model.graph.initializer) > _LARGEST_BYTES
    if not external_data:
        write_atomically(path, model.SerializeToString(deterministic=True))
        return
    location = f"{path.name}.data"
    folder = path.parent / f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # onnx moves the data out of the model that it saves
    folder.mkdir()
    try:
        onnx.save_model(
            copy,
            str(folder / path.name),
            save_as_external_data=True,
            location=location,
            size_threshold=_SMALLEST_EXTERNAL_BYTES,
        )
        if (folder / location).exists():  # not where all tensors are small
            os.replace(folder / location, path.parent / location)  # the graph last: it names the data
        os.replace(folder / path.name, path)
    finally:
        for leftover in folder.iterdir():
            leftover.unlink()
        folder.rmdir()
