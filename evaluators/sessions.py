"""The one place where evaluators create and run onnxruntime sessions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnxruntime import ExecutionOrder

from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.metric import hint
from evaluators.parts import run_in_parts

Provider = str | tuple[str, Mapping[str, str]]
Feed = Mapping[str, NDArray[Any]]
SessionConfig = Sequence[tuple[str, str]]
"""Session config entries: `[("session.disable_quant_qdq", "1")]`."""

_FATAL = 4  # onnxruntime repeats on stderr, at the level of errors, what it raises


@dataclass(frozen=True)
class SessionSettings:
    """How a model is run while it is evaluated.

    Attributes:
        providers: Execution providers, most wanted first, each a name or (name, options).
        threads: Threads within an operator; None leaves it to onnxruntime (one per core).
        config_entries: Session config entries for every model.

    Raises:
        EvaluatorInputError: If a provider is not part of the installed onnxruntime, no provider is
            named, or threads is below 1.
    """

    providers: tuple[Provider, ...] = ("CPUExecutionProvider",)
    threads: int | None = None
    config_entries: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.providers:
            raise EvaluatorInputError("providers: name at least one execution provider")
        if self.threads is not None and self.threads < 1:
            raise EvaluatorInputError(f"threads: must be at least 1 or None, not {self.threads!r}")
        available = onnxruntime.get_available_providers()
        for name in self.provider_names:
            if name not in available:
                raise EvaluatorInputError(
                    f"providers: the installed onnxruntime has no {name!r}; {hint(name, available)}"
                )

    @property
    def provider_names(self) -> tuple[str, ...]:
        """The providers without their options."""
        return tuple(p if isinstance(p, str) else p[0] for p in self.providers)


def create_session(
    model_path: str | os.PathLike[str],
    settings: SessionSettings,
    config: SessionConfig = (),
    *,
    order: ExecutionOrder = ExecutionOrder.PRIORITY_BASED,
) -> onnxruntime.InferenceSession:
    """A session with all graph optimisations, which runs on the providers asked for or not at all.

    Args:
        model_path: An ONNX file.
        settings: How models are run.
        config: Entries that this model needs beside those of `settings`.
        order: Of the nodes. In onnxruntime's default order every weight that no kernel takes as integers
            is dequantized before the first layer runs, and all of them take memory as floats at once.

    Raises:
        EvaluationError: If onnxruntime refuses the model, or leaves out a provider.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_order = order
    options.log_severity_level = _FATAL
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    providers = [p if isinstance(p, str) else (p[0], dict(p[1])) for p in settings.providers]
    path = os.fspath(model_path)
    try:
        for key, value in (*settings.config_entries, *config):
            options.add_session_config_entry(key, value)
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        reason = str(error).replace(path, "the model")
        raise EvaluationError(f"onnxruntime cannot load the model: {reason}") from error
    missing = set(settings.provider_names) - set(session.get_providers())
    if missing:
        raise EvaluationError(
            f"onnxruntime runs the model without {', '.join(sorted(missing))}: "
            "the provider could not be started; check its driver and libraries"
        )
    return session


def run_batches(
    session: onnxruntime.InferenceSession, feeds: Iterable[Feed], output_names: Sequence[str]
) -> Iterator[list[Any]]:
    """The named outputs for one feed after another, computed as they are asked for.

    A batch for which the device has too little memory runs in parts.

    Raises:
        EvaluationError: If a feed does not fit the model's inputs, or an operator fails.
    """
    for index, feed in enumerate(feeds):
        try:
            outputs = list(run_in_parts(lambda part: session.run(output_names, dict(part)), feed))
        except Exception as error:  # as above
            raise EvaluationError(f"batch {index}: the model does not run: {error}") from error
        yield outputs


def check_feeds(feeds: Iterable[Feed]) -> None:
    """Refuses what can be read only once, as every model has to see every batch.

    Raises:
        EvaluatorInputError: If `feeds` is an iterator, or not iterable.
    """
    if isinstance(feeds, Iterator) or not isinstance(feeds, Iterable):
        raise EvaluatorInputError(
            f"feeds: must be iterable again and again, such as a list of {{input name: array}}; "
            f"{type(feeds).__name__} is not"
        )
