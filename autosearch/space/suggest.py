"""The search space as Optuna's parameters: define by run, only keys that matter are asked for.

A key is asked for after the keys that decide whether it matters, so ``Percentile`` is a
parameter of the trials whose ``calibrate_method`` is Percentile, and of no others. With several
parts, the categorical parameter ``space`` chooses one and the names of its parameters begin with
its number (``1:per_channel``), so that the distributions of two parts never clash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from graphlib import TopologicalSorter
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from autosearch.space.configuration import Point
from autosearch.space.dimensions import Choices, Dimension, Range
from autosearch.space.effective import canonical_json
from autosearch.space.layer_form import stand_in
from autosearch.space.parts import Part
from autosearch.space.rules import LAYERS, Drop, Rule, Strip, apply_rules

SPACE = "space"
"""Name of the parameter that chooses a part, unless another one is given."""


def suggest_point(
    parts: Sequence[Part], rules: Sequence[Rule], trial: BaseTrial, chooser: str = SPACE
) -> Point:
    """Asks a trial for a point."""
    number = int(_ask(trial, chooser, _part_numbers(parts))) if len(parts) > 1 else 0
    prefix = _prefix(parts, number)

    def ask(name: str, dimension: Dimension) -> Any:
        return _from_optuna(dimension, _ask(trial, prefix + name, _distribution(dimension, rules)))

    return Point(number, _walk(parts[number], rules, ask))


def trial_params(
    parts: Sequence[Part], rules: Sequence[Rule], point: Point, chooser: str = SPACE
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """The parameters of a trial that would be suggested this point, and their distributions."""
    prefix = _prefix(parts, point.part)
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    if len(parts) > 1:
        params[chooser] = point.part
        distributions[chooser] = _part_numbers(parts)

    chosen = {**point.values, **_raw(parts[point.part], point)}

    def record(name: str, dimension: Dimension) -> Any:
        params[prefix + name] = _to_optuna(dimension, chosen[name])
        distributions[prefix + name] = _distribution(dimension, rules)
        return chosen[name]

    _walk(parts[point.part], rules, record)
    return params, distributions


def _raw(part: Part, point: Point) -> dict[str, Any]:
    """What was chosen for the layers, by the names of the parameters."""
    return {
        f"{group.key}.{key}": value
        for group in part.groups
        for key, value in point.values[group.key].raw.items()
    }


def offered(dimension: Dimension, rules: Iterable[Rule]) -> Dimension:
    """Without the choices that a rule drops whatever the rest; unless nothing would be left."""
    drops = [rule for rule in rules if isinstance(rule, Drop) and rule.key == dimension.key]
    if isinstance(dimension, Range) or not drops:
        return dimension
    left = [value for value in dimension.values if not any(rule.refuses(value) for rule in drops)]
    return Choices(dimension.key, tuple(left)) if left else dimension


def _walk(part: Part, rules: Sequence[Rule], choose: Callable[[str, Dimension], Any]) -> dict[str, Any]:
    """Chooses formats for the layers, then a value for every key that matters beside those chosen before.

    Args:
        part: What is chosen.
        rules: What decides whether a key matters.
        choose: Answers with the value of a parameter, by its name and its dimension.
    """
    values = dict(part.base)
    chosen: dict[str, Any] = {}
    for group in part.groups:
        chosen[group.key] = group.choose(choose)
    if part.groups:
        values[LAYERS] = stand_in(any(pick.calibrated for pick in chosen.values()))
    for dimension in _decisive_first(part.dimensions, rules):
        key = dimension.key
        if dimension.size == 1:
            chosen[key] = values[key] = dimension.value(0)
        elif _matters(key, values, rules):
            chosen[key] = values[key] = choose(key, dimension)
    return chosen


def _matters(key: str, values: dict[str, Any], rules: Sequence[Rule]) -> bool:
    effective = apply_rules(values, rules)
    strips = (rule for rule in rules if isinstance(rule, Strip) and key in rule.keys)
    return all(rule.keeps(effective) for rule in strips)


def _decisive_first(dimensions: Iterable[Dimension], rules: Iterable[Rule]) -> list[Dimension]:
    """Every key after the keys that decide whether it matters; otherwise as written."""
    by_key = {dimension.key: dimension for dimension in dimensions}
    after: dict[str, list[str]] = {key: [] for key in by_key}
    for rule in rules:
        if isinstance(rule, Strip):
            for key in by_key.keys() & set(rule.keys):
                after[key] += [read for read in rule.reads if read in by_key and read != key]
    return [by_key[key] for key in TopologicalSorter(after).static_order()]


def _ask(trial: BaseTrial, name: str, wanted: BaseDistribution) -> Any:
    if isinstance(wanted, CategoricalDistribution):
        return trial.suggest_categorical(name, wanted.choices)
    if isinstance(wanted, IntDistribution):
        return trial.suggest_int(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    assert isinstance(wanted, FloatDistribution)
    return trial.suggest_float(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)


def _part_numbers(parts: Sequence[Part]) -> CategoricalDistribution:
    return CategoricalDistribution(range(len(parts)))


def _prefix(parts: Sequence[Part], number: int) -> str:
    return f"{number}:" if len(parts) > 1 else ""


def _distribution(dimension: Dimension, rules: Iterable[Rule]) -> BaseDistribution:
    if isinstance(dimension, Choices):
        values: Sequence[Any] = offered(dimension, rules).values
        return CategoricalDistribution(
            [*map(canonical_json, values)] if _travels_as_json(dimension) else values
        )
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.integer:
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=step)


def _to_optuna(dimension: Dimension, value: Any) -> Any:
    return canonical_json(value) if _travels_as_json(dimension) else value


def _from_optuna(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Range):
        return dimension.snap(value)
    return json.loads(value) if _travels_as_json(dimension) else value


def _travels_as_json(dimension: Dimension) -> bool:
    """Optuna's categories are None, bool, int, float and str; lists and dicts become text."""
    return isinstance(dimension, Choices) and any(isinstance(v, list | dict) for v in dimension.values)
