"""Evaluators of software metrics, found by the metrics' names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from autosearch.errors import ConfigError
from autosearch.objective_settings import find_metric
from evaluators import (
    DISTANCES,
    AccuracyEvaluator,
    ClassificationEvaluator,
    DistanceEvaluator,
    Evaluator,
    PerplexityEvaluator,
    SessionSettings,
)
from evaluators.hardware import HARDWARE_METRICS
from evaluators.sessions import Feed
from quant.errors import nearest

_LABELLED = ("accuracy", "loss")
_TOP_K = re.compile(r"top([2-9]|[1-9]\d+)_accuracy")
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


class MetricOptions:
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
        """Refuses tables that no evaluator took.

        Raises:
            ConfigError: With the place.
        """
        for name in self._tables:
            if name not in self._taken:
                reason = "has no options here" if name in metrics else "is not among the metrics"
                raise ConfigError(f"metric_options.{name}: {name} {reason}{nearest(name, metrics)}")


def software_evaluators(
    asked: Mapping[str, str], given: Sequence[str], bench: Bench, options: MetricOptions
) -> list[Evaluator]:
    """The built-in evaluators that give some metrics.

    Args:
        asked: The metrics, with the places that ask for them.
        given: What else there is, for complaints.
        bench: What to evaluate with.
        options: Of the metrics.

    Raises:
        ConfigError: If there is none for a metric, or it lacks labels.
    """
    evaluators: list[Evaluator] = []
    left = {find_metric(name, (*_LABELLED, *_PERPLEXITY)) or name: place for name, place in asked.items()}
    found = {name: find_metric(name, DISTANCES) for name in left}
    known_distances = [each for each in found.values() if each is not None]
    if known_distances:
        evaluators.append(distances(known_distances, bench))
        left = {name: place for name, place in left.items() if found[name] is None}
    if "perplexity" in left:
        evaluators.append(_perplexity(bench, options))
        left = {name: place for name, place in left.items() if name not in _PERPLEXITY}
    labelled = [name for name in left if name in _LABELLED]
    if labelled == ["accuracy"] and left["accuracy"] == "search_metric":
        evaluators.append(_accuracy("accuracy", 1, "search_metric", bench, options))  # of any scores
        del left["accuracy"]
    elif labelled:
        evaluators.append(_classification(labelled, left[labelled[0]], bench, options))
        left = {name: place for name, place in left.items() if name not in labelled}
    for name in [name for name in left if _TOP_K.fullmatch(name)]:
        top_k = int(name.removeprefix("top").removesuffix("_accuracy"))
        evaluators.append(_accuracy(name, top_k, left.pop(name), bench, options))
    for name, place in left.items():
        known = {*given, *DISTANCES, *_LABELLED, *_PERPLEXITY, *HARDWARE_METRICS, "weights_above_8_bits"}
        raise ConfigError(f"{place}: nothing produces a metric {name!r}{nearest(name, known)}")
    return evaluators


def distances(names: Sequence[str], bench: Bench) -> DistanceEvaluator:
    """How far models are from the float model."""
    return DistanceEvaluator(
        bench.float_model,
        bench.data,
        tuple(names),
        cache_dir=bench.cache_dir,
        session_settings=bench.session_settings,
    )


def _classification(
    names: Sequence[str], place: str, bench: Bench, options: MetricOptions
) -> ClassificationEvaluator:
    labels = _labels(place, bench)
    given = options.merged(_LABELLED, ("output", "average", "from_logits"))
    return ClassificationEvaluator(
        bench.data, labels, float_model=bench.float_model, session_settings=bench.session_settings, **given
    )


def _accuracy(name: str, top_k: int, place: str, bench: Bench, options: MetricOptions) -> AccuracyEvaluator:
    given = options.merged([name], ("output", "average"))
    settings = bench.session_settings
    return AccuracyEvaluator(
        bench.data, _labels(place, bench), top_k=top_k, session_settings=settings, **given
    )


def _labels(place: str, bench: Bench) -> ArrayLike:
    if bench.labels is None:
        raise ConfigError(
            f"{place}: needs labels; give eval_data: {{path: ARCHIVE.npz, labels: NAME OF ITS LABELS}}, or"
            " eval_labels in Python"
        )
    return bench.labels


def _perplexity(bench: Bench, options: MetricOptions) -> PerplexityEvaluator:
    given = options.merged(_PERPLEXITY, ("output", "ignore_index"))
    return PerplexityEvaluator(bench.data, bench.labels, session_settings=bench.session_settings, **given)
