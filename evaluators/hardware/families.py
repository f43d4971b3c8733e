"""The hardware metrics by name: which are found together, and which options they have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Any

from evaluators.errors import EvaluatorInputError
from evaluators.hardware.analytic import CostMetric, average_bitwidth, memory_density
from evaluators.hardware.cost import FLOAT_BITS
from evaluators.metric import Metric, hint


@dataclass(frozen=True)
class NoOptions:
    """Of metrics that leave nothing to choose."""


@dataclass(frozen=True)
class BitwidthOptions:
    """Options of average_bitwidth and memory_density.

    Attributes:
        compare_to: Bits of a weight that memory_density is in relation to.

    Raises:
        EvaluatorInputError: If it is no positive number.
    """

    compare_to: float = FLOAT_BITS

    def __post_init__(self) -> None:
        value = self.compare_to
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise EvaluatorInputError(f"compare_to: must be a positive number of bits, not {value!r}")


@dataclass(frozen=True)
class Family:
    """Metrics that are found together, and so given together.

    Attributes:
        names: Of the metrics; options may be given under each.
        options: Their type, with the defaults.
        make: Options -> the metrics.
    """

    names: tuple[str, ...]
    options: type[Any]
    make: Callable[[Any], tuple[CostMetric, ...]]


def _bitwidth(options: BitwidthOptions) -> tuple[CostMetric, ...]:
    return (
        CostMetric(Metric("average_bitwidth", "bit", "minimize"), average_bitwidth),
        CostMetric(
            Metric("memory_density", "", "maximize"), partial(memory_density, compare_to=options.compare_to)
        ),
    )


_FAMILIES: tuple[Family, ...] = (Family(("average_bitwidth", "memory_density"), BitwidthOptions, _bitwidth),)

HARDWARE_METRICS: Mapping[str, Family] = MappingProxyType(
    {name: family for family in _FAMILIES for name in family.names}
)
"""The family of every name."""


def is_hardware_metric(name: str) -> bool:
    """Whether a name is that of a hardware metric."""
    return name in HARDWARE_METRICS


def family_of(name: str) -> Family:
    """The family that a metric belongs to.

    Raises:
        EvaluatorInputError: If there is no such metric; with the nearest name.
    """
    if name not in HARDWARE_METRICS:
        raise EvaluatorInputError(
            f"metrics: no hardware metric is called {name!r}; {hint(str(name), HARDWARE_METRICS)}"
        )
    return HARDWARE_METRICS[name]


def options_of(family: Family, metric_options: Mapping[str, Mapping[str, Any]]) -> Any:
    """The family's options, from what is given under its names.

    Raises:
        EvaluatorInputError: If an option is unknown, is given twice with different values, or has a
            wrong value; with the place.
    """
    known = [field.name for field in fields(family.options)]
    given: dict[str, Any] = {}
    places: dict[str, str] = {}
    for name in family.names:
        for option, value in _table(metric_options, name).items():
            place = f"metric_options.{name}.{option}"
            if option not in known:
                remedy = hint(str(option), known) if known else f"{name} has no options"
                raise EvaluatorInputError(f"{place}: unknown option; {remedy}")
            if option in given and given[option] != value:
                raise EvaluatorInputError(
                    f"{place}: {value!r}, but {places[option]} is {given[option]!r}; give it once"
                )
            given[option], places[option] = value, place
    try:
        return family.options(**given)
    except EvaluatorInputError as error:
        option = str(error).partition(":")[0]
        where = places.get(option, f"metric_options.{family.names[0]}.{option}")
        raise EvaluatorInputError(f"{where}{str(error)[len(option) :]}") from None


def check_places(metric_options: Mapping[str, Any], asked: Sequence[str]) -> None:
    """Refuses options of metrics that are not asked for.

    Raises:
        EvaluatorInputError: With the place.
    """
    for name in metric_options:
        if name not in asked:
            raise EvaluatorInputError(
                f"metric_options.{name}: no such metric among those asked for; {hint(str(name), asked)}"
            )


def _table(metric_options: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = metric_options.get(name, {})
    if not isinstance(table, Mapping):
        raise EvaluatorInputError(f"metric_options.{name}: must be a table of options, not {table!r}")
    return table
