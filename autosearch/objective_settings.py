"""From a configuration to the objectives of its search, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from autosearch.config import AutoSearchConfig
from autosearch.errors import ConfigError
from autosearch.objectives import Constraint, Objectives, ScaledMetric, own_direction
from evaluators import Metric
from quant.errors import nearest


def make_objectives(
    settings: AutoSearchConfig, produced: Iterable[Metric], searched: Metric | None = None
) -> Objectives:
    """The objectives of a configuration.

    Args:
        settings: Checked by `check_objectives`.
        produced: The metrics that evaluators give.
        searched: The metric of `search_metric`, where there are no `metrics`.

    Raises:
        ConfigError: If nothing produces a metric, or a limit makes no sense for it; with the place, the
            nearest name and the remedy.
    """
    known = {metric.name: metric for metric in produced}
    constraints = tuple(_constraints(settings, known))
    if searched is not None:
        term = ScaledMetric(searched, 1.0, searched.direction)
        return Objectives((term,), None, constraints, searched, settings.search_metric_tolerance)
    terms = [
        ScaledMetric(metric, setting.scale, setting.direction or own_direction(metric, setting.scale))
        for name, setting in settings.metrics.items()
        for metric in (_named(name, known, "metrics"),)
    ]
    _check_different([term.metric for term in terms])
    direction = None
    if settings.sum_scaled_metrics:
        direction = settings.direction or next(term.direction for term in terms if term.scale)
    return Objectives(tuple(terms), direction, constraints)


def check_objectives(settings: AutoSearchConfig) -> None:
    """Refuses settings of objectives that contradict each other or would do nothing.

    Raises:
        ConfigError: With the place and the remedy.
    """
    for name, limits in settings.constraints.items():
        if limits.min is None and limits.max is None:
            raise ConfigError(f"constraints.{name}: gives neither min nor max; give one, or leave it out")
    for name in settings.metric_options:
        asked = {*settings.metrics, *settings.constraints}
        if name not in asked and not settings.metrics and not settings.constraints:
            raise ConfigError(f"metric_options.{name}: there are no metrics; list {name!r} under metrics")
    if not settings.metrics:
        _check_without_metrics(settings)
        return
    if not any(setting.scale for setting in settings.metrics.values()):
        raise ConfigError(
            f"metrics: every scale is 0, so that nothing is optimised; give {next(iter(settings.metrics))!r}"
            " another one"
        )
    if settings.search_metric is not None:
        raise ConfigError(
            f"search_metric: {settings.search_metric!r} beside metrics; list it under metrics, with scale 0"
            " to record it alone, or leave metrics out"
        )
    if settings.search_metric_tolerance is not None:
        raise ConfigError(
            "search_metric_tolerance: is of search_metric; with metrics, give constraints instead, such as"
            " {accuracy: {min: 0.98x}}"
        )
    if settings.direction is not None and not settings.sum_scaled_metrics:
        raise ConfigError(
            f"direction: {settings.direction!r} is that of the sum; set sum_scaled_metrics to true, or give"
            " metrics.NAME.direction"
        )
    if settings.search_pruner is not None:
        raise ConfigError(
            "search_pruner: judges search_metric after parts of the data, and metrics take its place; leave"
            " search_pruner or metrics out"
        )
    if settings.advanced_fastft_params.direction is not None:
        raise ConfigError(
            "advanced_fastft_params.direction: is of search_metric; with metrics, give metrics.NAME.direction"
        )


def count_objectives(settings: AutoSearchConfig) -> int:
    """How many objectives a checked configuration has."""
    if settings.sum_scaled_metrics or not settings.metrics:
        return 1
    return sum(setting.scale != 0 for setting in settings.metrics.values())


def find_metric(name: str, known: Iterable[str]) -> str | None:
    """The known name that is meant, upper and lower case alike; None if there is none."""
    names = list(known)
    if name in names:
        return name
    return next((each for each in names if each.casefold() == name.casefold()), None)


def _check_without_metrics(settings: AutoSearchConfig) -> None:
    if settings.sum_scaled_metrics:
        raise ConfigError("sum_scaled_metrics: there are no metrics to add up; list them under metrics")
    if settings.direction is not None:
        raise ConfigError(
            f"direction: {settings.direction!r} is that of the sum of scaled metrics; search_metric has a"
            " direction of its own, so leave it out"
        )


def _constraints(settings: AutoSearchConfig, known: Mapping[str, Metric]) -> Iterable[Constraint]:
    for name, limits in settings.constraints.items():
        metric = _named(name, known, "constraints")
        given = {"min": limits.min, "max": limits.max}
        for bound, limit in given.items():
            if limit is not None and limit.is_relative and metric.against_float:
                raise ConfigError(
                    f"constraints.{name}.{bound}: '{limit}' is times the float model's value, and"
                    f" {metric.name} compares with the float model already; give a number"
                )
        low, high = limits.min, limits.max
        if low and high and low.is_relative == high.is_relative and low.value > high.value >= 0:
            raise ConfigError(f"constraints.{name}: nothing is at least {low} and at most {high}")
        if low is not None:
            yield Constraint(metric, "min", low)
        if high is not None:
            yield Constraint(metric, "max", high)


def _named(name: str, known: Mapping[str, Metric], place: str) -> Metric:
    found = find_metric(name, known)
    if found is None:
        raise ConfigError(f"{place}.{name}: nothing produces this metric{nearest(name, known)}")
    return known[found]


def _check_different(metrics: Sequence[Metric]) -> None:
    for position, metric in enumerate(metrics):
        if metric in metrics[:position]:
            raise ConfigError(f"metrics: {metric.name} is given twice, in upper and lower case")
