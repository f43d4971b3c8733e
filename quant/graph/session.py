"""onnxruntime sessions of a model that is in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from quant.errors import ModelError
from quant.graph.exposure import expose

_LARGEST_BYTES = 1 << 30
"""Weights beyond this travel through a file: protobuf messages end at 2 GiB."""

_ERRORS_ONLY = 3

Provider = str | tuple[str, dict[str, str]]
"""An execution provider's name, alone or with its options."""

_state = ort.capi.onnxruntime_pybind11_state
_ERRORS = (
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.NotImplemented,
    _state.RuntimeException,
)
"""onnxruntime's exceptions, which have no base class of their own."""


def check_providers(providers: Sequence[Provider]) -> None:
    """Refuses execution providers that onnxruntime does not have here.

    Raises:
        ModelError: With their names and those of the ones that it has.
    """
    names = {provider if isinstance(provider, str) else provider[0] for provider in providers}
    missing = names - set(ort.get_available_providers())
    if missing:
        raise ModelError(
            f"execution_providers: onnxruntime here has no {', '.join(sorted(missing))}; it has"
            f" {', '.join(ort.get_available_providers())}"
        )


@contextmanager
def float_session(
    model: ir.Model,
    outputs: Sequence[str],
    providers: Sequence[Provider],
    threads: int,
    config: Iterable[tuple[str, str]] = (),
) -> Iterator[ort.InferenceSession]:
    """A session that also gives inner tensors.

    Args:
        model: Any model; left as it is.
        outputs: Names of values that become outputs, as `expose` makes them.
        providers: onnxruntime's execution providers.
        threads: Of the session; 0 = all cores.
        config: Session config entries.

    Raises:
        ModelError: If onnxruntime cannot run the model or lacks a provider.
    """
    check_providers(providers)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # between two runs the cores belong to whoever looks at the outputs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in config:
        options.add_session_config_entry(key, value)
    options.log_severity_level = _ERRORS_ONLY
    with ExitStack() as stack:
        try:
            model = model.clone()
            expose(model, outputs)
            source = _source(model, stack)
            session = ort.InferenceSession(source, options, providers=list(providers), enable_fallback=0)
            _check_started(session, providers)
            yield session
        except _ERRORS as error:
            raise ModelError(f"model: onnxruntime cannot run it: {error}") from error


def _check_started(session: ort.InferenceSession, providers: Sequence[Provider]) -> None:
    """Refuses to run without a provider that onnxruntime has and could not start."""
    missing = {each if isinstance(each, str) else each[0] for each in providers} - {*session.get_providers()}
    if missing:
        raise ModelError(
            f"execution_providers: {', '.join(sorted(missing))} could not be started; check its driver and"
            " libraries"
        )


def _source(model: ir.Model, stack: ExitStack) -> bytes | str:
    """The model's bytes, or if it is too large for that the path of a file that goes with the stack.

    External tensors are read through views, in place: the file that they lie in stays open.
    """
    size = 0
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
        size += 0 if value.const_value is None else value.const_value.nbytes
    if size < _LARGEST_BYTES:
        data: bytes = ir.to_proto(model).SerializeToString()
        return data
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="autosearch-"))
    path = Path(folder) / "model.onnx"
    ir.save(model, path, external_data="weights.bin")
    return str(path)
