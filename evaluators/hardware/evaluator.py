"""Gives a model its hardware metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evaluators.errors import EvaluatorInputError
from evaluators.hardware.analytic import CostMetric
from evaluators.hardware.cost import ModelCost
from evaluators.hardware.families import check_places, family_of, options_of
from evaluators.metric import Metric
from evaluators.sessions import SessionConfig


class HardwareEvaluator:
    """Hardware metrics of one model after another; made by `hardware_metrics`.

    It keeps nothing from model to model, and can be pickled.
    """

    def __init__(self, parts: Iterable[CostMetric]) -> None:
        self._parts = tuple(parts)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `evaluate` returns: the metrics asked for, each with those found together with it."""
        return tuple(part.metric for part in self._parts)

    @property
    def analytic(self) -> tuple[Metric, ...]:
        """Those known from the cost alone, without writing or running the model."""
        return tuple(part.metric for part in self._parts)

    @property
    def identity(self) -> str:
        """Tells apart evaluators that give other numbers."""
        return repr(self._parts)

    def from_cost(self, cost: ModelCost) -> dict[str, float]:
        """Values of the analytic metrics.

        Raises:
            EvaluationError: If a value does not exist.
        """
        return {part.metric.name: float(part.value(cost)) for part in self._parts}

    def evaluate(
        self, cost: ModelCost, model_path: str | Path, session_config: SessionConfig = ()
    ) -> dict[str, float]:
        """Values of all metrics, in the order of `metrics`.

        Args:
            cost: Of the model.
            model_path: Its file.
            session_config: Session config entries that it needs.

        Raises:
            EvaluationError: If a value does not exist, or the model does not run where it has to.
        """
        return self.from_cost(cost)

    def notes(self, cost: ModelCost) -> tuple[str, ...]:
        """What a reader of this model's values has to know, in sentences."""
        return ()


def hardware_metrics(
    names: Iterable[str], metric_options: Mapping[str, Mapping[str, Any]] | None = None
) -> HardwareEvaluator:
    """The evaluator of some hardware metrics.

    Args:
        names: Of metrics, at least one. Metrics of one family come together: `memory_density` with
            `average_bitwidth`.
        metric_options: Options by metric; within a family it does not matter under which name.

    Raises:
        EvaluatorInputError: If a name or an option is unknown or wrong; with the place and the remedy.
    """
    asked = [names] if isinstance(names, str) else list(names)
    if not asked:
        raise EvaluatorInputError("metrics: name at least one hardware metric")
    families = {family.names: family for family in map(family_of, asked)}
    options = metric_options or {}
    check_places(options, [name for names in families for name in names])
    return HardwareEvaluator(
        part for family in families.values() for part in family.make(options_of(family, options))
    )
