"""The best value that a search had found after each of its trials: data, without drawing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autosearch.errors import ConfigError
from quant.errors import nearest

Direction = Literal["minimize", "maximize"]

_METRICS = ("user_attrs_software_metrics", "user_attrs_hardware_metrics", "user_attrs_scaled_metrics")
"""Of an entry in log.json; the first that has a metric gives its value, so that scales do not count."""


@dataclass(frozen=True)
class Curve:
    """One search, as a number of trials against the best value among them.

    Attributes:
        name: What sets this search apart, such as its number format or sampler.
        values: Of each trial in its order; None where it failed.
        best: The best of the first 1, 2, ... trials; None as long as all failed.
    """

    name: str
    values: tuple[float | None, ...]
    best: tuple[float | None, ...]

    def trials_to_reach(self, value: float, direction: Direction) -> int | None:
        """How many trials it took to be as good as a value, from 1; None if it never was."""
        for number, best in enumerate(self.best, start=1):
            if best is not None and _better((best, value), direction) == best:
                return number
        return None


def best_so_far(name: str, values: Sequence[float | None], direction: Direction) -> Curve:
    """The running minimum or maximum; None and NaN are trials that failed, and change nothing."""
    kept = tuple(None if value is None or math.isnan(value) else float(value) for value in values)
    best: list[float | None] = []
    for value in kept:
        known = [each for each in (best[-1] if best else None, value) if each is not None]
        best.append(_better(known, direction) if known else None)
    return Curve(name, kept, tuple(best))


def mean_curve(name: str, curves: Sequence[Curve]) -> Curve:
    """The mean of several runs of one search, such as those of different seeds.

    A run that has ended counts with its last values, and where the first trials of a run all failed
    the mean is None.
    """
    length = max(len(curve.best) for curve in curves)
    best = _means([_extended(curve.best, length) for curve in curves])
    return Curve(name, _means([_extended(curve.values, length) for curve in curves]), best)


def logged_values(log: Path, metric: str) -> list[float | None]:
    """A metric of each trial of a log.json, by the trials' numbers; None where a trial has none.

    Raises:
        ConfigError: If the file is not a log.json, or no trial has the metric.
    """
    entries = _entries(log)
    measured = [_measured(entry) for entry in entries]
    known = {name for metrics in measured for name in metrics}
    if metric not in known:
        raise ConfigError(f"{log}: no trial has the metric {metric!r}{nearest(metric, sorted(known))}")
    # infinities are words in JSON, and float() reads them
    return [float(metrics[metric]) if metrics.get(metric) is not None else None for metrics in measured]


def _extended(values: Sequence[float | None], length: int) -> list[float | None]:
    last = values[-1] if values else None
    return [*values, *[last] * (length - len(values))]


def _means(rows: Sequence[Sequence[float | None]]) -> tuple[float | None, ...]:
    columns = zip(*rows, strict=True)
    return tuple(None if None in column else sum(column) / len(column) for column in columns)


def _entries(log: Path) -> list[Mapping[str, Any]]:
    try:
        entries = json.loads(log.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{log}: not a log.json: {error}") from None
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("number"), int) for entry in entries.values()
    ):
        raise ConfigError(f"{log}: not a log.json: it has no trials with numbers")
    return sorted(entries.values(), key=lambda entry: int(entry["number"]))


def _measured(entry: Mapping[str, Any]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for key in reversed(_METRICS):
        metrics.update(entry.get(key) or {})
    return metrics


def _better(values: Sequence[float], direction: Direction) -> float:
    return max(values) if direction == "maximize" else min(values)
