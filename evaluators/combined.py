"""Several evaluators as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeGuard

from evaluators.accuracy import AccuracyEvaluator
from evaluators.builtin import DistanceEvaluator
from evaluators.classification import ClassificationEvaluator
from evaluators.custom import CustomEvaluator
from evaluators.errors import EvaluatorInputError
from evaluators.metric import Evaluator, Metric
from evaluators.perplexity import PerplexityEvaluator
from evaluators.reports import Report
from evaluators.sessions import SessionConfig

ReportingEvaluator = DistanceEvaluator | AccuracyEvaluator | ClassificationEvaluator | PerplexityEvaluator
"""Those that can say what their metrics are over part of the data."""


class CombinedEvaluator:
    """Runs evaluators one after another and returns the metrics of all.

    Args:
        evaluators: Evaluators of this package, or whatever `as_evaluator` makes one of.

    Raises:
        EvaluatorInputError: If there is none, one cannot be used, or two have a metric of the same name.
    """

    def __init__(self, evaluators: Iterable[Any]) -> None:
        given = list(evaluators)
        if not given:
            raise EvaluatorInputError("evaluators: give at least one")
        self._evaluators = tuple(part for each in given for part in _parts(as_evaluator(each)))
        self._identity = ", ".join(map(_identity, given))
        self._check_names()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of all in their order; the first one's first is searched."""
        return tuple(metric for evaluator in self._evaluators for metric in evaluator.metrics)

    @property
    def identity(self) -> str:
        """Tells apart evaluators that give other numbers on the same feeds."""
        return self._identity

    def reporting(self, metric: str | None = None) -> ReportingEvaluator | None:
        """The first evaluator that can report a metric, or any, over part of the data; None if none can."""
        return next((each for each in self._evaluators if can_report(each, metric)), None)

    def prepare(self) -> None:
        """Computes now what evaluators need of the float model.

        Raises:
            EvaluatorInputError: As for `DistanceEvaluator.prepare`.
        """
        for evaluator in self._evaluators:
            if isinstance(evaluator, DistanceEvaluator):
                evaluator.prepare()

    def evaluate(
        self,
        model_path: Path,
        session_config: SessionConfig = (),
        *,
        report: Report | None = None,
        report_at: Sequence[int] = (),
        reported: str | None = None,
    ) -> dict[str, float]:
        """Value of every metric for one model, in the order of `metrics`.

        Args:
            model_path: An ONNX file.
            session_config: What its session needs.
            report: Told the values of one evaluator over part of the data, before the others run; what it
                raises passes through, and spares those.
            report_at: As for `Reports`.
            reported: A metric of that evaluator; None = the first that can report.

        Raises:
            EvaluationError: If one of the evaluators raises it.
            EvaluatorInputError: If `report` is given and nothing can report, or an evaluator that names its
                metrics only now has one of a name that there is already.
        """
        values: dict[str, float] = {}
        reporting = None
        if report is not None:
            reporting = self.reporting(reported)
            if reporting is None:
                raise EvaluatorInputError(
                    f"report: none of the evaluators gives {reported or 'values'} after a part of its data"
                )
            values |= reporting.evaluate(model_path, session_config, report=report, report_at=report_at)
        for evaluator in self._evaluators:
            if evaluator is not reporting:
                values |= evaluator.evaluate(model_path, session_config)
        self._check_names()
        return {metric.name: values[metric.name] for metric in self.metrics}

    def close(self) -> None:
        """Frees what evaluators keep of the float model."""
        for evaluator in self._evaluators:
            if isinstance(evaluator, DistanceEvaluator):
                evaluator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_names(self) -> None:
        names = [metric.name for metric in self.metrics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise EvaluatorInputError(
                f"evaluators: {', '.join(map(repr, twice))} is a metric of more than one; leave one out,"
                " or give it another name"
            )


def can_report(evaluator: Evaluator, metric: str | None = None) -> TypeGuard[ReportingEvaluator]:
    """Whether an evaluator that is not a combined one can say what a metric is over part of the data."""
    names = [own.name for own in evaluator.metrics]
    return isinstance(evaluator, ReportingEvaluator) and (metric is None or metric in names)


def as_evaluator(user: Any) -> Evaluator:
    """The evaluator itself if it is one of this package's, else a wrapper around it."""
    return user if isinstance(user, _OWN) else CustomEvaluator(user)


_OWN = (
    AccuracyEvaluator,
    ClassificationEvaluator,
    CombinedEvaluator,
    CustomEvaluator,
    DistanceEvaluator,
    PerplexityEvaluator,
)


def _parts(evaluator: Evaluator) -> tuple[Evaluator, ...]:
    """An evaluator, or those that it is combined of."""
    return evaluator._evaluators if isinstance(evaluator, CombinedEvaluator) else (evaluator,)


def _identity(given: object) -> str:
    """Module and name of a function or class, or of an object's class; and the `identity` it has."""
    named = given if hasattr(given, "__qualname__") else type(given)
    name = f"{named.__module__}.{getattr(named, '__qualname__', '')}"
    return f"{name} {getattr(given, 'identity', '')}".rstrip()
