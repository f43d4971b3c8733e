"""What gives models their metrics: software and hardware evaluators, found by the metrics' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from autosearch.config import AutoSearchConfig
from autosearch.objective_settings import find_metric
from autosearch.software_metrics import Bench, MetricOptions, distances, software_evaluators
from evaluators import (
    CombinedEvaluator,
    Evaluator,
    Metric,
    as_evaluator,
)
from evaluators.hardware import (
    HARDWARE_METRICS,
    HardwareEvaluator,
    ModelCost,
    hardware_metrics,
    is_hardware_metric,
)
from evaluators.sessions import SessionConfig

DEFAULT_METRIC = "L2"
"""What is measured when nothing of software is asked for."""

_LATENCY = HARDWARE_METRICS["latency"].names


@dataclass(frozen=True)
class Evaluation:
    """All evaluators of a search.

    Attributes:
        software: Runs the model on data.
        static: Hardware metrics that are known before the model runs; None = there are none.
        timed: Those of running it; None = there are none.
    """

    software: Evaluator
    static: HardwareEvaluator | None = None
    timed: HardwareEvaluator | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Of all of them; those of a custom evaluator are certain after its first evaluation only."""
        hardware = (each.metrics for each in (self.static, self.timed) if each is not None)
        return (*self.software.metrics, *chain.from_iterable(hardware))

    @property
    def identity(self) -> str:
        """Tells apart hardware evaluators that give other numbers to the same model."""
        return "; ".join(each.identity for each in (self.static, self.timed) if each is not None)

    @property
    def is_of_hardware(self) -> bool:
        """Whether some metric needs a model's cost."""
        return self.static is not None or self.timed is not None

    def before_running(self, cost: ModelCost, path: Path, entries: SessionConfig = ()) -> dict[str, float]:
        """Hardware metrics of a written model that is not run for them."""
        return {} if self.static is None else self.static.evaluate(cost, path, entries)

    def by_running(self, cost: ModelCost, path: Path, entries: SessionConfig = ()) -> dict[str, float]:
        """Hardware metrics of running a model."""
        return {} if self.timed is None else self.timed.evaluate(cost, path, entries)

    def notes(self, cost: ModelCost) -> tuple[str, ...]:
        """What a reader of a model's hardware metrics has to know, in sentences."""
        parts = (each for each in (self.static, self.timed) if each is not None)
        return tuple(chain.from_iterable(part.notes(cost) for part in parts))

    def of_float_model(self, path: Path, cost: ModelCost | None) -> dict[str, float]:
        """The float model's own value of every metric that it has one of.

        Args:
            path: Its file.
            cost: With 32 bits everywhere; None where no metric is of hardware.
        """
        values: dict[str, float] = {}
        if any(not metric.against_float for metric in self.software.metrics):
            values |= self.software.evaluate(path)
        values = {
            metric.name: values[metric.name]
            for metric in self.software.metrics
            if not metric.against_float and metric.name in values
        }
        if cost is not None:
            values |= self.before_running(cost, path) | self.by_running(cost, path)
        return values


def make_evaluation(settings: AutoSearchConfig, bench: Bench) -> Evaluation:
    """The evaluators that a configuration needs.

    Metrics of the custom evaluator come from there; the built-in evaluators give what it does not.

    Args:
        settings: How to search.
        bench: What to evaluate with.

    Raises:
        ConfigError: If a metric has no evaluator, or one that lacks labels; with the nearest name or the
            remedy.
        EvaluatorInputError: If data, labels or options do not fit.
    """
    places = _asked(settings)
    own = None if settings.search_evaluator is None else as_evaluator(settings.search_evaluator)
    given = [metric.name for metric in own.metrics] if own is not None else []
    others = {name: place for name, place in places.items() if find_metric(name, given) is None}
    hardware = [name for name in others if is_hardware_metric(name)]
    software = {name: place for name, place in others.items() if name not in hardware}
    if own is None and not settings.metrics:
        software = {settings.search_metric or DEFAULT_METRIC: "search_metric", **software}
    options = MetricOptions(settings.metric_options)
    evaluators = [*([] if own is None else [own]), *software_evaluators(software, given, bench, options)]
    if not evaluators:
        evaluators = [distances([DEFAULT_METRIC], bench)]
    timed = [name for name in hardware if name in _LATENCY]
    static = [name for name in hardware if name not in _LATENCY]
    evaluation = Evaluation(
        evaluators[0] if len(evaluators) == 1 else CombinedEvaluator(evaluators),
        _hardware(static, bench, options),
        _hardware(timed, bench, options),
    )
    options.check_all_taken([metric.name for metric in evaluation.metrics])
    return evaluation


def _asked(settings: AutoSearchConfig) -> dict[str, str]:
    """Every metric that is asked for, with the place."""
    places = {name: f"metrics.{name}" for name in settings.metrics}
    limited = {name: f"constraints.{name}" for name in settings.constraints}
    return places | {name: place for name, place in limited.items() if find_metric(name, places) is None}


def _hardware(names: Sequence[str], bench: Bench, options: MetricOptions) -> HardwareEvaluator | None:
    if not names:
        return None
    families = {name for asked in names for name in _family(asked)}
    return hardware_metrics(
        names,
        options.take(families),
        float_model=bench.float_model,
        feeds=bench.data,
        session_settings=bench.session_settings,
    )


def _family(name: str) -> tuple[str, ...]:
    return HARDWARE_METRICS[name].names if name in HARDWARE_METRICS else (name,)
