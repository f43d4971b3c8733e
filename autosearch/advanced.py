"""Advanced FastFinetune search: NumIterations and LearningRate as ranges, by a sampler of Optuna's."""

from __future__ import annotations

from dataclasses import replace

from autosearch.config import AdvancedFastftParams
from autosearch.errors import ConfigError
from autosearch.samplers import sampler_names
from autosearch.samplers.by_name import OWN
from autosearch.space import SearchSpace
from autosearch.space.dimensions import Dimension, Range
from autosearch.space.layer_groups import LayerGroup
from autosearch.space.parts import Part
from autosearch.space.rules import LEARNING_RATE, NUM_ITER_LR, NUM_ITERATIONS, Strip, apply_rules
from autosearch.stage import OneStage, Stage
from autosearch.stop import Limits
from evaluators import Metric
from quant.errors import nearest

SEARCHED = (NUM_ITERATIONS, LEARNING_RATE)
_PLACE = "advanced_fastft_search"
_SAMPLER_PLACE = "advanced_fastft_params.sampler_algo"
_SWITCH = "include_fast_ft"

_STARTUP_TRIALS = 4
"""Two parameters and few trials. On 120 quadratic functions of both, 10 trials of TPE with 4 (10) at
random end 0.15 (0.33) above the minimum on average, 20 trials 0.024 (0.037), 40 as much with either."""


def advanced_plan(space: SearchSpace, params: AdvancedFastftParams, limits: Limits) -> OneStage:
    """The plan of an advanced search.

    Args:
        space: As the user wrote it.
        params: How to search it.
        limits: Beside n_trials.

    Raises:
        ConfigError: If the space or the sampler is none for this search, with the reason.
    """
    stage = Stage(
        advanced_space(space),
        _sampler_name(params.sampler_algo),
        replace(limits, n_trials=params.n_trials),
        place=_SAMPLER_PLACE,
        startup_trials=_STARTUP_TRIALS,
        introduction=f"Advanced FastFinetune search by {params.sampler_algo}, {params.n_trials} trials",
    )
    return OneStage(stage)


def advanced_space(space: SearchSpace) -> SearchSpace:
    """The space with ranges from the least to the greatest choice of what is searched.

    NumIterations becomes a range of integers, LearningRate a continuous one, uniform in its logarithm;
    a range that has a step stays as it is.

    Raises:
        ConfigError: If anything else has more than one choice, naming it, or nothing has.
    """
    if len(space.parts) > 1:
        raise ConfigError(f"{_PLACE}: takes one search space, not a list of {len(space.parts)}")
    (part,) = space.parts
    for axis in part.axes:
        _check(axis)
    _check_finetunes(part)
    dimensions = tuple(_as_range(each) if each.key in SEARCHED else each for each in part.dimensions)
    ranges = space.with_parts([Part(dimensions, part.base, part.groups)])
    _check_effect(ranges)
    return ranges


def check_direction(params: AdvancedFastftParams, metric: Metric) -> None:
    """Refuses a direction that is neither the metric's nor that of the difference from the float model.

    Raises:
        ConfigError: With the one that the metric has.
    """
    difference = "maximize" if metric.is_similarity else "minimize"
    if params.direction in (None, metric.direction, difference):
        return
    better = "higher" if metric.direction == "maximize" else "lower"
    raise ConfigError(
        f"advanced_fastft_params.direction: {params.direction!r} contradicts the metric {metric.name}, of"
        f" which {better} values are better; leave it out, or write {metric.direction!r}"
    )


def _check(dimension: Dimension | LayerGroup) -> None:
    if dimension.key == NUM_ITER_LR:
        raise ConfigError(
            f"search_space.{dimension.key}: pairs cannot be searched as ranges; give NumIterations and"
            f" LearningRate, or set {_PLACE} to false"
        )
    if dimension.key not in SEARCHED and dimension.size != 1:
        raise ConfigError(
            f"search_space.{dimension.key}: {_PLACE} varies NumIterations and LearningRate alone;"
            " give it one choice, or search with two_stage_search or search_algo"
        )


def _check_finetunes(part: Part) -> None:
    switch = next((each.value(0) for each in part.dimensions if each.key == _SWITCH), part.base[_SWITCH])
    if not switch:
        raise ConfigError(
            f"{_PLACE}: include_fast_ft is false, so that FastFinetune would do nothing; set it to true in"
            " quantization_config or in the search space"
        )


def _check_effect(space: SearchSpace) -> None:
    (part,) = space.parts
    varied = [each.key for each in part.dimensions if each.key in SEARCHED and each.size != 1]
    if not varied:
        raise ConfigError(
            f"{_PLACE}: nothing to search; give NumIterations or LearningRate of"
            " search_space.extra_options.FastFinetune two values, the least and the greatest"
        )
    values = {**part.base, **{each.key: each.extremes[0] for each in part.dimensions}}
    effective = apply_rules(values, space.rules)
    for rule in space.rules:
        for key in varied:
            if isinstance(rule, Strip) and key in rule.keys and not rule.keeps(effective):
                raise ConfigError(f"search_space.{key}: has no effect here: {rule.reason}")


def _as_range(dimension: Dimension) -> Dimension:
    if dimension.size == 1 or (isinstance(dimension, Range) and dimension.step is not None):
        return dimension
    low, high = min(dimension.extremes), max(dimension.extremes)
    if dimension.key == NUM_ITERATIONS:
        return Range(dimension.key, low, high, 1, False, True)
    return Range(dimension.key, low, high, None, True, False)


def _sampler_name(name: str) -> str:
    """Optuna's own random sampler, not the one that prefers cheap configurations."""
    if name.casefold() == "random":
        return "RandomSampler"
    if name.casefold() not in OWN:
        return name
    known = [each for each in sampler_names() if each not in OWN]
    raise ConfigError(
        f"{_SAMPLER_PLACE}: {name!r} lists its configurations, which a range has not{nearest(name, known)}"
    )
