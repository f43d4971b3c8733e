"""What gives models their metrics: software and hardware evaluators, found by the metrics' names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from autosearch.config import AutoSearchConfig
from autosearch.errors import ConfigError
from autosearch.objective_settings import find_metric
from evaluators import (
    DISTANCES,
    ClassificationEvaluator,
    CombinedEvaluator,
    DistanceEvaluator,
    Evaluator,
    Metric,
    PerplexityEvaluator,
    SessionSettings,
    as_evaluator,
)
from evaluators.hardware import (
    HARDWARE_METRICS,
    HardwareEvaluator,
    ModelCost,
    float_cost,
    hardware_metrics,
    is_hardware_metric,
)
from evaluators.sessions import Feed, SessionConfig
from quant.errors import nearest

DEFAULT_METRIC = "L2"
"""What is measured when nothing of software is asked for."""

_LATENCY = HARDWARE_METRICS["latency"].names
_LABELLED = ("accuracy", "loss")
_PERPLEXITY = ("perplexity", "loss")


@dataclass(frozen=True)
class Bench:
    """What models are evaluated with.

    Attributes:
        float_model: Path of the float model.
        data: What candidates run on.
        labels: Of that data; None = there are none.
        cache_dir: Where the float model's outputs are kept.
        session_settings: How models are run.
    """

    float_model: Path
    data: Iterable[Feed]
    labels: ArrayLike | None
    cache_dir: Path
    session_settings: SessionSettings


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

    def of_float_model(self, path: Path, cost: ModelCost | None) -> dict[str, float]:
        """The float model's own value of every metric that it has one of.

        Args:
            path: Its file.
            cost: Of any model made of it; None where no metric is of hardware.
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
            unquantized = float_cost(cost)
            values |= self.before_running(unquantized, path) | self.by_running(unquantized, path)
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
    options = _Options(settings.metric_options)
    evaluators = [*([] if own is None else [own]), *_software(software, given, bench, options)]
    if not evaluators:
        evaluators = [_distances([DEFAULT_METRIC], bench)]
    timed = [name for name in hardware if name in _LATENCY]
    static = [name for name in hardware if name not in _LATENCY]
    evaluation = Evaluation(
        evaluators[0] if len(evaluators) == 1 else CombinedEvaluator(evaluators),
        _hardware(static, bench, options),
        _hardware(timed, bench, options),
    )
    options.check_all_taken([metric.name for metric in evaluation.metrics])
    return evaluation


class _Options:
    """`metric_options`, of which every table must be taken by an evaluator."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        self._tables = tables
        self._taken: set[str] = set()

    def take(self, names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """The tables of these metrics."""
        found = {name: self._tables[name] for name in names if name in self._tables}
        self._taken |= found.keys()
        return found

    def merged(self, names: Iterable[str], known: Sequence[str]) -> dict[str, Any]:
        """The options of an evaluator of several metrics, from the tables of all of them."""
        merged: dict[str, Any] = {}
        for name, table in self.take(names).items():
            for option, value in table.items():
                if option not in known:
                    raise ConfigError(
                        f"metric_options.{name}.{option}: unknown option{nearest(option, known)}"
                    )
                if merged.setdefault(option, value) != value:
                    raise ConfigError(
                        f"metric_options.{name}.{option}: {value!r}, and {merged[option]!r} for a metric that"
                        " is found together with it; give it once"
                    )
        return merged

    def check_all_taken(self, metrics: Sequence[str]) -> None:
        for name in self._tables:
            if name not in self._taken:
                reason = "has no options here" if name in metrics else "is not among the metrics"
                raise ConfigError(f"metric_options.{name}: {name} {reason}{nearest(name, metrics)}")


def _asked(settings: AutoSearchConfig) -> dict[str, str]:
    """Every metric that is asked for, with the place."""
    places = {name: f"metrics.{name}" for name in settings.metrics}
    limited = {name: f"constraints.{name}" for name in settings.constraints}
    return places | {name: place for name, place in limited.items() if find_metric(name, places) is None}


def _software(
    asked: Mapping[str, str], given: Sequence[str], bench: Bench, options: _Options
) -> list[Evaluator]:
    evaluators: list[Evaluator] = []
    left = dict(asked)
    distances = {name: find_metric(name, DISTANCES) for name in left}
    known_distances = [found for found in distances.values() if found is not None]
    if known_distances:
        evaluators.append(_distances(known_distances, bench))
        left = {name: place for name, place in left.items() if distances[name] is None}
    if "perplexity" in left:
        evaluators.append(_perplexity(bench, options))
        left = {name: place for name, place in left.items() if name not in _PERPLEXITY}
    labelled = [name for name in left if name in _LABELLED]
    if labelled:
        evaluators.append(_classification(labelled, left[labelled[0]], bench, options))
        left = {name: place for name, place in left.items() if name not in labelled}
    for name, place in left.items():
        known = {*given, *DISTANCES, *_LABELLED, *_PERPLEXITY, *HARDWARE_METRICS, "weights_above_8_bits"}
        raise ConfigError(f"{place}: nothing produces this metric{nearest(name, known)}")
    return evaluators


def _distances(names: Sequence[str], bench: Bench) -> DistanceEvaluator:
    return DistanceEvaluator(
        bench.float_model,
        bench.data,
        tuple(names),
        cache_dir=bench.cache_dir,
        session_settings=bench.session_settings,
    )


def _classification(
    names: Sequence[str], place: str, bench: Bench, options: _Options
) -> ClassificationEvaluator:
    if bench.labels is None:
        raise ConfigError(
            f"{place}: needs labels; give eval_data: {{path: ARCHIVE.npz, labels: NAME OF ITS LABELS}}, or"
            " eval_labels in Python"
        )
    given = options.merged(_LABELLED, ("output", "average", "from_logits"))
    return ClassificationEvaluator(bench.data, bench.labels, session_settings=bench.session_settings, **given)


def _perplexity(bench: Bench, options: _Options) -> PerplexityEvaluator:
    given = options.merged(_PERPLEXITY, ("output", "ignore_index"))
    return PerplexityEvaluator(bench.data, bench.labels, session_settings=bench.session_settings, **given)


def _hardware(names: Sequence[str], bench: Bench, options: _Options) -> HardwareEvaluator | None:
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
