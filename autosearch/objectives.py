"""What makes one trial better than another: metrics, scaled and signed, and the limits they keep to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from autosearch.units import Amount
from evaluators import Direction, Metric

SUM = "sum of scaled metrics"
"""How the objective is called that `sum_scaled_metrics` makes."""


@dataclass(frozen=True)
class ScaledMetric:
    """scale * value of a metric.

    Attributes:
        metric: What is measured.
        scale: 0 = recorded, and not optimised.
        direction: Whether lower or higher products are better.
    """

    metric: Metric
    scale: float
    direction: Direction

    def of(self, value: float) -> float:
        """The product; 0 for a scale of 0, even of an infinite value."""
        return self.scale * value if self.scale else 0.0


@dataclass(frozen=True)
class Constraint:
    """A metric is at least, or at most, a limit.

    Attributes:
        metric: What is measured.
        bound: Which of them.
        limit: The number; relative until the float model's own value is known.
    """

    metric: Metric
    bound: Literal["min", "max"]
    limit: Amount

    def violation(self, value: float) -> float:
        """How far a value is beyond the limit, as a share of the limit (of 1 where that is 0).

        At most 0 if it keeps to it. So violations of metrics in different units can be added, as
        Optuna's samplers do.
        """
        assert not self.limit.is_relative
        if value == self.limit.value:
            return 0.0
        beyond = self.limit.value - value if self.bound == "min" else value - self.limit.value
        return beyond / (abs(self.limit.value) or 1.0)

    @property
    def relation(self) -> str:
        """Of a value to the limit."""
        return ">=" if self.bound == "min" else "<="

    def __str__(self) -> str:
        return f"{self.metric.name} {self.relation} {self.limit}"


@dataclass(frozen=True)
class Objectives:
    """What a search optimises, and within which limits.

    Attributes:
        terms: Scaled metrics, in the order of the configuration; `search_metric` alone, with a scale of
            1, where it has no `metrics`.
        sum_direction: Of the one objective that is the sum of the terms; None = each term is one.
        constraints: All of them must be kept to.
        searched: The metric of `search_metric`; None with `metrics`.
        tolerance: Of the searched metric's difference from the float model; None = any.
    """

    terms: tuple[ScaledMetric, ...]
    sum_direction: Direction | None = None
    constraints: tuple[Constraint, ...] = ()
    searched: Metric | None = None
    tolerance: float | None = None

    @property
    def optimised(self) -> tuple[ScaledMetric, ...]:
        """The terms that count."""
        return tuple(term for term in self.terms if term.scale)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the objectives."""
        if self.sum_direction is not None:
            return (SUM,)
        return tuple(term.metric.name for term in self.optimised)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Of the objectives."""
        if self.sum_direction is not None:
            return (self.sum_direction,)
        return tuple(term.direction for term in self.optimised)

    @property
    def is_single(self) -> bool:
        """Whether there is one objective, by which trials have an order."""
        return len(self.names) == 1

    def scaled(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The terms of a trial with these metrics, by metric."""
        return {
            term.metric.name: term.of(metrics[term.metric.name])
            for term in self.terms
            if term.metric.name in metrics
        }

    def values(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """The objectives of a trial with these metrics; None if one of them is missing.

        A sum adds a term whose direction is that of the sum, and subtracts one whose is the other.
        """
        if any(term.metric.name not in metrics for term in self.optimised):
            return None
        products = [term.of(metrics[term.metric.name]) for term in self.optimised]
        if self.sum_direction is None:
            return tuple(products)
        signs = [1 if term.direction == self.sum_direction else -1 for term in self.optimised]
        return (sum(sign * product for sign, product in zip(signs, products, strict=True)),)

    def losses(self, values: Sequence[float]) -> tuple[float, ...]:
        """Objectives with the sign that makes lower better."""
        return tuple(
            value if direction == "minimize" else -value
            for value, direction in zip(values, self.directions, strict=True)
        )

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Of each constraint on one of these metrics, by what it says; at most 0 where it is kept to."""
        return {
            str(constraint): constraint.violation(metrics[constraint.metric.name])
            for constraint in self.constraints
            if constraint.metric.name in metrics
        }

    def resolved(self, float_values: Mapping[str, float]) -> Objectives:
        """The same with limits as plain numbers.

        Args:
            float_values: The float model's own, of the metrics that relative limits are on.
        """
        constraints = tuple(
            replace(each, limit=Amount(each.limit.of(float_values[each.metric.name])))
            if each.limit.is_relative
            else each
            for each in self.constraints
        )
        return replace(self, constraints=constraints)

    @property
    def needs_float_values(self) -> frozenset[str]:
        """Metrics of which the float model's own value decides something."""
        relative = {each.metric.name for each in self.constraints if each.limit.is_relative}
        if self.searched is not None and not self.searched.against_float:
            relative.add(self.searched.name)
        return frozenset(relative)

    @property
    def notes(self) -> tuple[str, ...]:
        """Directions that contradict the metrics' own, in sentences."""
        return tuple(
            f"metrics.{term.metric.name}.direction: {term.direction!r} with scale {term.scale:g} prefers"
            f" {'lower' if _opposite(term.metric.direction) == 'minimize' else 'higher'} values of"
            f" {term.metric.name}, of which {'higher' if term.metric.direction == 'maximize' else 'lower'}"
            " ones are better by themselves"
            for term in self.optimised
            if term.direction != own_direction(term.metric, term.scale)
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be the same for a study to be continued, JSON-ready."""
        identity: dict[str, Any] = {}
        if self.searched is not None:
            identity["metric"] = [self.searched.name, self.searched.direction]
        else:
            terms = [[term.metric.name, term.scale, term.direction] for term in self.terms]
            identity["metrics"] = {"terms": terms, "direction of the sum": self.sum_direction}
        if self.constraints:
            identity["constraints"] = sorted(str(constraint) for constraint in self.constraints)
        return identity

    def __str__(self) -> str:
        signs = {"minimize": "minimized", "maximize": "maximized"}
        parts = [
            f"{'' if term.scale == 1 else f'{term.scale:g} * '}{term.metric.name} ({signs[term.direction]})"
            for term in self.optimised
        ]
        recorded = [term.metric.name for term in self.terms if not term.scale]
        shown = ", ".join(parts)
        if self.sum_direction is not None:
            shown = f"the sum ({signs[self.sum_direction]}) of {shown}"
        if recorded:
            shown += f"; recorded: {', '.join(recorded)}"
        if self.constraints:
            shown += f"; constraints: {', '.join(map(str, self.constraints))}"
        return shown


def own_direction(metric: Metric, scale: float) -> Direction:
    """Of a metric times a scale, so that better values of the metric win."""
    return metric.direction if scale >= 0 else _opposite(metric.direction)


def _opposite(direction: Direction) -> Direction:
    return "minimize" if direction == "maximize" else "maximize"
