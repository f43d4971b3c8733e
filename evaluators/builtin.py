"""The evaluator that needs no labels: how far a model's outputs are from the float model's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onnxruntime

from evaluators.comparison import FloatOutput, OutputComparison, distances_of
from evaluators.distance import distance_metric
from evaluators.errors import EvaluationError, EvaluatorInputError
from evaluators.metric import Metric
from evaluators.reports import Report, Reports
from evaluators.sessions import Feed, SessionConfig, SessionSettings, check_feeds, create_session, run_batches
from evaluators.stored_outputs import StoredOutputs

MEMORY_LIMIT_BYTES = 1 << 30


class DistanceEvaluator:
    """Distances of a model's outputs from the float model's, on the same data.

    The float outputs are computed once, at the first need, and kept in memory up to a limit, beyond
    it in a temporary file. A candidate then costs a session, one pass over the feeds and the
    distances; its own outputs are dropped batch by batch.

    A copy that is pickled to another process leaves the float outputs behind and computes its own
    at the first need: send an evaluator once per process, not once per model.

    Args:
        float_model: Path of the float ONNX model.
        feeds: `{input name: array}` for each batch, iterable again and again; batches may differ in
            size, and outputs in shape from batch to batch.
        metrics: Names of built-in distances, in upper or lower case; the first is searched.
        cache_dir: Where the file goes, made if it is missing; the system's temporary directory if
            None.
        memory_limit_bytes: How much of the float outputs is kept in memory.
        session_settings: How models are run, the float model among them.

    Raises:
        EvaluatorInputError: If a metric is unknown, none is named, the float model is not there, or the
            feeds can be read only once.
    """

    def __init__(
        self,
        float_model: str | Path,
        feeds: Iterable[Feed],
        metrics: Sequence[str] = ("L2",),
        *,
        cache_dir: str | Path | None = None,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
        session_settings: SessionSettings | None = None,
    ) -> None:
        check_feeds(feeds)
        self._metrics = _distance_metrics(metrics)
        self._float_model = Path(float_model)
        if not self._float_model.is_file():
            raise EvaluatorInputError(f"float_model: there is no file {self._float_model}")
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._feeds = feeds
        self._memory_limit_bytes = memory_limit_bytes
        self._session_settings = session_settings or SessionSettings()
        self._float_outputs: tuple[FloatOutput, ...] = ()
        self._stored: StoredOutputs | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The distances asked for, in that order."""
        return self._metrics

    def prepare(self) -> None:
        """Computes the float outputs now, if that is not done yet.

        Raises:
            EvaluatorInputError: If the float model does not run on the feeds, the feeds are empty,
                or an output is empty, not numeric, or has NaN or infinities.
        """
        if self._stored is not None:
            return
        stored = StoredOutputs(self._memory_limit_bytes, self._cache_dir)
        try:
            self._float_outputs = self._store_float_outputs(stored)
        except BaseException:
            stored.close()
            raise
        self._stored = stored

    def evaluate(
        self,
        model_path: Path,
        session_config: SessionConfig = (),
        *,
        report: Report | None = None,
        report_at: Sequence[int] = (),
    ) -> dict[str, float]:
        """Distance of a model from the float model, in every metric.

        Args:
            model_path: An ONNX file.
            session_config: What its session needs.
            report: Told the distances over part of the data, and what it raises passes through. The
                sums of the rest are then rounded elsewhere: the last digits may differ from those of
                an evaluation that reports nothing.
            report_at: As for `Reports`.

        Raises:
            EvaluationError: If the model does not run, its outputs have other names, types or
                shapes than the float model's, or have NaN or infinities.
            EvaluatorInputError: As for `prepare`, the first time.
        """
        self.prepare()
        session = create_session(model_path, self._session_settings, session_config)
        _check_output_names(session, [output.name for output in self._float_outputs])
        metrics = [metric.name for metric in self._metrics]
        values = distances_of(metrics, self._compare(session, metrics, report, report_at))
        for name, value in values.items():
            if math.isnan(value):
                raise EvaluationError(f"{name} overflows float64: the outputs are too large to compare")
        return values

    def close(self) -> None:
        """Frees the float outputs; another evaluation would compute them again."""
        if self._stored is not None:
            self._stored.close()
            self._stored = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """With the float outputs, if they are known and in memory: no other process has to compute them."""
        if self._stored is not None and self._stored.is_in_memory:
            return dict(self.__dict__)
        return {**self.__dict__, "_stored": None, "_float_outputs": ()}

    def _store_float_outputs(self, stored: StoredOutputs) -> tuple[FloatOutput, ...]:
        try:
            session = create_session(self._float_model, self._session_settings)
            names = [output.name for output in session.get_outputs()]
            float_outputs = [FloatOutput(name) for name in names]
            for batch in run_batches(session, self._feeds, names):
                float_outputs = [o.add(x) for o, x in zip(float_outputs, batch, strict=True)]
                stored.append(batch)
        except EvaluationError as error:
            raise EvaluatorInputError(f"float model {self._float_model}: {error}") from error
        if not len(stored):
            raise EvaluatorInputError("feeds: no batch; give at least one to evaluate on")
        for float_output in float_outputs:
            float_output.require_values()
        return tuple(float_outputs)

    def _compare(
        self,
        session: onnxruntime.InferenceSession,
        metrics: Sequence[str],
        report: Report | None,
        report_at: Sequence[int],
    ) -> list[OutputComparison]:
        assert self._stored is not None
        names = [output.name for output in self._float_outputs]
        comparisons = [OutputComparison(metrics, output) for output in self._float_outputs]
        reports = Reports(report, report_at, len(self._stored))

        def so_far() -> dict[str, float]:
            return distances_of(metrics, comparisons) if all(c.has_values for c in comparisons) else {}

        batches = zip_longest(self._stored, run_batches(session, self._feeds, names))
        for seen, (float_batch, batch) in enumerate(batches, 1):
            if float_batch is None or batch is None:
                raise EvaluationError(
                    f"feeds: not the {len(self._stored)} batches that the float model ran on; "
                    "they must be the same at every reading"
                )
            for comparison, x, y in zip(comparisons, float_batch, batch, strict=True):
                comparison.add(x, y)
            reports.after(seen, so_far)
        return comparisons


def _distance_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """The built-in metrics of some names, each once, at least one."""
    if isinstance(names, str) or not names:
        raise EvaluatorInputError(f'metrics: must be a tuple of names such as ("L2",), not {names!r}')
    return tuple(dict.fromkeys(distance_metric(name) for name in names))


def _check_output_names(session: onnxruntime.InferenceSession, expected: Sequence[str]) -> None:
    names = [output.name for output in session.get_outputs()]
    if sorted(names) != sorted(expected):
        raise EvaluationError(
            f"the model's outputs are {', '.join(names)}; the float model's are {', '.join(expected)}"
        )
