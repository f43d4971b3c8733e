"""Reading a float model: checked, digested, with its weights left on disk until they are needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from quant.calibration.data import InputSpec
from quant.errors import ModelError

_QUANTIZED_OPS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "QLinearAdd",
        "ConvInteger",
        "MatMulInteger",
        "MatMulNBits",
        "QGemm",
        "QAttention",
    }
)
_CHUNK = 1 << 22


@dataclass(frozen=True)
class FloatModel:
    """A float model as it was read.

    Attributes:
        path: Where it was read from.
        model: Its graph; not to be edited.
        digest: sha256 of the file and of its external data files.
    """

    path: Path
    model: ir.Model
    digest: str

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What a feed must contain."""
        initializers = self.model.graph.initializers
        return tuple(
            InputSpec(value.name or "", _numpy_type(value), _shape(value))
            for value in self.model.graph.inputs
            if value.name not in initializers
        )


def load_float_model(path: str | Path) -> FloatModel:
    """Reads and checks a float model.

    Raises:
        ModelError: If the file is missing, is not ONNX, is refused by onnx's checker, or already
            contains quantized operators.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"model: no file {str(path)!r}")
    try:
        onnx.checker.check_model(str(path))
        model = ir.load(path)
    except Exception as error:  # the checker and protobuf raise types of their own
        raise ModelError(f"model {str(path)!r}: not a valid ONNX model: {_first_line(error)}") from error
    for node in model.graph.all_nodes():
        if node.op_type in _QUANTIZED_OPS:
            raise ModelError(
                f"model {str(path)!r}: already quantized: node {node.name!r} is a {node.op_type}; give the"
                " float model"
            )
    return FloatModel(path, model, _digest(path, model))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _digest(path: Path, model: ir.Model) -> str:
    external = {
        Path(value.const_value.path)
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    digest = hashlib.sha256()
    for file in (path, *sorted(external)):
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _numpy_type(value: ir.Value) -> np.dtype[np.generic]:
    if value.dtype is None:
        raise ModelError(f"model: input {value.name!r} has no element type")
    return np.dtype(value.dtype.numpy())


def _shape(value: ir.Value) -> tuple[int | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)
