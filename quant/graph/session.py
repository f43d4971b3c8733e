"""onnxruntime sessions of a model that is in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from quant.errors import ModelError

_LARGEST_BYTES = 1 << 30
"""Weights beyond this travel through a file: protobuf messages end at 2 GiB."""

_ERRORS_ONLY = 3


@contextmanager
def float_session(
    model: ir.Model, outputs: Sequence[str], providers: Sequence[str], threads: int
) -> Iterator[ort.InferenceSession]:
    """A session that also gives inner tensors.

    Args:
        model: Any model; left as it is.
        outputs: Names of values that become outputs.
        providers: onnxruntime's execution providers.
        threads: Of the session; 0 = all cores.

    Raises:
        ModelError: If onnxruntime cannot run the model or lacks a provider.
    """
    missing = set(providers) - set(ort.get_available_providers())
    if missing:
        raise ModelError(
            f"execution_providers: onnxruntime here has no {', '.join(sorted(missing))}; it has"
            f" {', '.join(ort.get_available_providers())}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    with tempfile.TemporaryDirectory(prefix="autosearch-") as folder:
        try:
            source = _source(_with_outputs(model, outputs), Path(folder))
            yield ort.InferenceSession(source, options, providers=list(providers))
        except ort.capi.onnxruntime_pybind11_state.Fail as error:
            raise ModelError(f"model: onnxruntime cannot run it: {error}") from error


def _with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    model = model.clone()
    values = ir.convenience.create_value_mapping(model.graph)
    present = {value.name for value in model.graph.outputs}
    model.graph.outputs.extend(values[name] for name in names if name not in present)
    return model


def _source(model: ir.Model, folder: Path) -> bytes | str:
    """The model's bytes, or the path of a file in the folder if it is too large for that."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    if sum(tensor.nbytes for tensor in tensors if tensor is not None) < _LARGEST_BYTES:
        proto = ir.to_proto(model)
        data: bytes = proto.SerializeToString()
        external = any(tensor.external_data for tensor in proto.graph.initializer)
        if not external:
            return data
    path = folder / "model.onnx"
    ir.save(model, path, external_data="weights.bin")
    return str(path)
