"""Gives a model its hardware metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evaluators.errors import EvaluatorInputError
from evaluators.hardware.analytic import CostMetric
from evaluators.hardware.cost import ModelCost
from evaluators.hardware.families import Bench, Part, check_places, family_of, options_of
from evaluators.hardware.latency import Latency
from evaluators.metric import Metric
from evaluators.sessions import Feed, SessionConfig, SessionSettings


class HardwareEvaluator:
    """Hardware metrics of one model after another; made by `hardware_metrics`.

    It keeps no value from model to model, and can be pickled.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = tuple(parts)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `evaluate` returns: the metrics asked for, each with those found together with it."""
        return tuple(metric for part in self._parts for metric in _metrics(part))

    @property
    def analytic(self) -> tuple[Metric, ...]:
        """Those known from the cost alone, without writing or running the model."""
        return tuple(part.metric for part in self._parts if isinstance(part, CostMetric))

    @property
    def identity(self) -> str:
        """Tells apart evaluators that give other numbers to the same model."""
        return ", ".join(map(_description, self._parts))

    def from_cost(self, cost: ModelCost) -> dict[str, float]:
        """Values of the analytic metrics.

        Raises:
            EvaluationError: If a value does not exist.
        """
        parts = (part for part in self._parts if isinstance(part, CostMetric))
        return {part.metric.name: float(part.value(cost)) for part in parts}

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
        values = self.from_cost(cost)
        for part in self._parts:
            if not isinstance(part, CostMetric):
                names = [metric.name for metric in part.metrics]
                values |= zip(names, part.measure(Path(model_path), session_config), strict=True)
        return {metric.name: values[metric.name] for metric in self.metrics}

    def notes(self, cost: ModelCost) -> tuple[str, ...]:
        """What a reader of this model's values has to know, in sentences."""
        if cost.emulated and any(isinstance(part, Latency) for part in self._parts):
            return (
                "latency is that of an emulation: standard operators stand for number formats that the model"
                " would have natively elsewhere",
            )
        return ()


def hardware_metrics(
    names: Iterable[str],
    metric_options: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    float_model: str | Path | None = None,
    feeds: Iterable[Feed] | None = None,
    session_settings: SessionSettings | None = None,
) -> HardwareEvaluator:
    """The evaluator of some hardware metrics.

    Args:
        names: Of metrics, at least one. Metrics of one family come together: `memory_density` with
            `average_bitwidth`, and `latency_spread` and `latency_ratio` with `latency`.
        metric_options: Options by metric; within a family it does not matter under which name.
        float_model: What latency is compared with; other metrics do not need it.
        feeds: What models are timed on.
        session_settings: How models are run, but for the number of threads, which is an option.

    Raises:
        EvaluatorInputError: If a name or an option is unknown or wrong, or something is missing that a
            metric needs; with the place and the remedy.
    """
    asked = [names] if isinstance(names, str) else list(names)
    if not asked:
        raise EvaluatorInputError("metrics: name at least one hardware metric")
    families = {family.names: family for family in map(family_of, asked)}
    options = metric_options or {}
    check_places(options, [name for names in families for name in names])
    bench = Bench(float_model, feeds, session_settings)
    return HardwareEvaluator(
        part for family in families.values() for part in family.make(options_of(family, options), bench)
    )


def _metrics(part: Part) -> tuple[Metric, ...]:
    return (part.metric,) if isinstance(part, CostMetric) else part.metrics


def _description(part: Part) -> str:
    """Of what a part's values depend on, the same in every process."""
    if not isinstance(part, CostMetric):
        return repr(part)
    options = getattr(part.value, "keywords", {})
    return " ".join([part.metric.name, *(f"{key}={value!r}" for key, value in options.items())])
