"""The hardware metrics by name: which are found together, and which options they have."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from evaluators.errors import EvaluatorInputError
from evaluators.hardware import analytic
from evaluators.hardware.analytic import CostMetric
from evaluators.hardware.cost import FLOAT_BITS, ModelCost
from evaluators.hardware.latency import Latency, LatencyOptions
from evaluators.hardware.size import ModelSize
from evaluators.metric import Metric, hint
from evaluators.sessions import Feed, SessionConfig, SessionSettings


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


class MeasuredMetrics(Protocol):
    """Metrics that need the model's file."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `measure` returns."""
        ...

    def measure(self, model_path: Path, session_config: SessionConfig = ()) -> tuple[float, ...]:
        """The metrics' values in their order."""
        ...


@dataclass(frozen=True)
class Bench:
    """What models are timed with.

    Attributes:
        float_model: Path of the float model; None if there is none.
        feeds: Data to run models on.
        session_settings: How models are run.
    """

    float_model: str | Path | None = None
    feeds: Iterable[Feed] | None = None
    session_settings: SessionSettings | None = None


Part = CostMetric | MeasuredMetrics


@dataclass(frozen=True)
class Family:
    """Metrics that are found together, and so given together.

    Attributes:
        names: Of the metrics; options may be given under each.
        make: Options and bench -> the metrics.
        options: The options' type, with the defaults.
    """

    names: tuple[str, ...]
    make: Callable[[Any, Bench], tuple[Part, ...]]
    options: type[Any] = NoOptions


def _bitwidth(options: BitwidthOptions, _: Bench) -> tuple[Part, ...]:
    density = partial(analytic.memory_density, compare_to=options.compare_to)
    return (
        CostMetric(Metric("average_bitwidth", "bit", "minimize"), analytic.average_bitwidth),
        CostMetric(Metric("memory_density", "", "maximize"), density),
    )


def _size(_: NoOptions, __: Bench) -> tuple[Part, ...]:
    return (ModelSize(),)


def _latency(options: LatencyOptions, bench: Bench) -> tuple[Part, ...]:
    if bench.float_model is None or bench.feeds is None:
        raise EvaluatorInputError("latency: needs float_model and feeds, to time models beside the float one")
    return (Latency(options, bench.float_model, bench.feeds, bench.session_settings),)


def _sum(name: str, unit: str, value: Callable[[ModelCost], float]) -> Family:
    """A metric of its own, without options; less is better."""
    part = CostMetric(Metric(name, unit, "minimize"), value)
    return Family((name,), lambda options, bench: (part,))


_FAMILIES: tuple[Family, ...] = (
    Family(("average_bitwidth", "memory_density"), _bitwidth, BitwidthOptions),
    _sum("average_bitwidth_total", "bit", analytic.average_bitwidth_total),
    Family(("model_size",), _size),
    _sum("packed_size", "B", analytic.packed_size),
    _sum("macs", "MAC", analytic.macs),
    _sum("flops", "FLOP", analytic.flops),
    _sum("bitops", "BitOP", analytic.bitops),
    Family(("latency", "latency_spread", "latency_ratio"), _latency, LatencyOptions),
)

HARDWARE_METRICS: Mapping[str, Family] = MappingProxyType(
    {name: family for family in _FAMILIES for name in family.names}
)
"""The family of every name, but for those of `weights_above_<n>_bits`."""

_WEIGHTS_ABOVE = re.compile(r"weights_above_(\d+(?:\.\d+)?)_bits")


def is_hardware_metric(name: str) -> bool:
    """Whether a name is that of a hardware metric."""
    return name in HARDWARE_METRICS or _WEIGHTS_ABOVE.fullmatch(name) is not None


def family_of(name: str) -> Family:
    """The family that a metric belongs to.

    Raises:
        EvaluatorInputError: If there is no such metric; with the nearest name.
    """
    if name in HARDWARE_METRICS:
        return HARDWARE_METRICS[name]
    if match := _WEIGHTS_ABOVE.fullmatch(str(name)):
        return _sum(name, "", partial(analytic.weights_above, bits=float(match[1])))
    known = [*HARDWARE_METRICS, "weights_above_8_bits"]
    raise EvaluatorInputError(f"metrics: no hardware metric is called {name!r}; {hint(str(name), known)}")


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
