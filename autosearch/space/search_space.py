"""The search space: which configurations there are, and what each one is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial

from autosearch.space.configuration import Configuration, Point
from autosearch.space.cost import CostModel
from autosearch.space.dimensions import Dimension
from autosearch.space.effective import canonical_json, digest_of
from autosearch.space.enumeration import Enumeration, enumerate_parts
from autosearch.space.layer_groups import ChosenLayers, Sites, describe_groups, draw_picks
from autosearch.space.parts import Part, parse_search_space
from autosearch.space.report import SpaceReport, counted
from autosearch.space.rules import (
    LAYERS,
    LEARNING_RATE,
    NUM_ITER_LR,
    NUM_ITERATIONS,
    RULES,
    WATCHED,
    Rule,
    apply_rules,
    refusal,
    stripped_keys,
)
from autosearch.space.suggest import SPACE, offered, suggest_point, trial_params
from quant.config import QuantConfig
from quant.errors import ConfigError

ENUMERATION_LIMIT = 2**22
"""Points up to which a space is enumerated: some seconds and a few hundred MB."""


class SearchSpace:
    """A union of products of choices, over a base configuration.

    Points (one for every combination of choices) are numbered part by part, the key written last
    varying fastest. Many points may be one configuration: `Enumeration` has the distinct ones.

    Args:
        search_space: A dict from keys to choices or ranges, or a list of such dicts.
        base: Where the keys that the space does not name come from.
        cost_model: Prices configurations.
        rules: What is refused and merged.
        limit: Points up to which the space is enumerated.
        layers: Gives the layers of the model; called only if the space has the key ``layers``.

    Raises:
        ConfigError: For a key, a choice or a range that is wrong, naming its place.
    """

    def __init__(
        self,
        search_space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        base: QuantConfig | None = None,
        *,
        cost_model: CostModel | None = None,
        rules: Sequence[Rule] = RULES,
        limit: int = ENUMERATION_LIMIT,
        layers: Sites | None = None,
    ) -> None:
        self.parts: tuple[Part, ...] = parse_search_space(search_space, base or QuantConfig(), layers)
        self.cost_model = cost_model or CostModel()
        self.rules = tuple(rules)
        self.limit = limit
        self._chooser = SPACE
        self._named: frozenset[str] | None = None
        self._layers = _layer_names(self.parts)

    def with_parts(self, parts: Sequence[Part], chooser: str = SPACE) -> SearchSpace:
        """A space of other parts, priced and filtered alike; its configurations are told apart alike.

        Args:
            parts: At least one.
            chooser: Name of the parameter that chooses a part. Where both spaces are searched in one
                study, theirs must differ: a parameter has the same choices in all trials.
        """
        space = SearchSpace({}, cost_model=self.cost_model, rules=self.rules, limit=self.limit)
        space.parts = tuple(parts)
        space._chooser = chooser
        space._named = self._varying
        space._layers = self._layers
        return space

    @cached_property
    def raw_size(self) -> int | None:
        """Number of points; None where a range is continuous."""
        sizes = [part.size for part in self.parts]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @cached_property
    def digest(self) -> str:
        """What the dimensions are, whatever they were written like; the base is left aside."""
        return digest_of([[axis.described() for axis in part.axes] for part in self.parts])

    def values_of(self, key: str) -> tuple[Any, ...]:
        """Every value that a key takes somewhere, unless it is a range: then its ends."""
        values = {}
        for part in self.parts:
            written = next((one for one in part.dimensions if one.key == key), None)
            for value in written.extremes if written else (part.base[key],):
                values[canonical_json(value)] = value
        return tuple(values.values())

    @cached_property
    def size(self) -> int | None:
        """Number of distinct configurations; of points where it is not enumerated, None if infinite."""
        return len(self.enumeration) if self.is_enumerable else self.raw_size

    @property
    def is_enumerable(self) -> bool:
        """Whether all points are finite in number and few enough to be listed."""
        return self.raw_size is not None and self.raw_size <= self.limit

    @cached_property
    def enumeration(self) -> Enumeration:
        """The distinct configurations.

        Raises:
            ConfigError: If the space is not enumerable, with the remedy.
        """
        if self.require_finite() > self.limit:
            raise ConfigError(
                f"search_space: {counted(self.require_finite())} points are too many to enumerate"
                f" (limit {self.limit}); "
                "leave choices out, or search with 'random' or 'TPE'"
            )
        return enumerate_parts(self.parts, self.rules, self.cost_model)

    def require_finite(self) -> int:
        """The number of points.

        Raises:
            ConfigError: If a range is continuous, with the remedy.
        """
        if self.raw_size is None:
            raise ConfigError(
                f"{self._continuous()}: a continuous range cannot be enumerated; "
                "give it a step or a list of choices, or search with 'random' or 'TPE'"
            )
        return self.raw_size

    def __iter__(self) -> Iterator[Configuration]:
        """The distinct configurations by index, one at a time."""
        return (self.configuration(int(index)) for index in self.enumeration.index)

    def configuration(self, index: int) -> Configuration:
        """The configuration of a point of a space without continuous ranges.

        Raises:
            IndexError: If there is no such point.
        """
        if self.raw_size is None or not 0 <= index < self.raw_size:
            raise IndexError(f"no point {index} in a space of {self.raw_size}")
        number = 0
        while index >= (size := self.parts[number].size or 0):
            number, index = number + 1, index - size
        part = self.parts[number]
        digits = zip(part.axes, part.digits(index), strict=True)
        return self.at(Point(number, {axis.key: axis.value(digit) for axis, digit in digits}))

    def at(self, point: Point) -> Configuration:
        """The configuration of a point."""
        part, given = self.parts[point.part], point.values
        values = {**part.base, **{each.key: given[each.key] for each in part.dimensions if each.key in given}}
        layers = None
        if part.groups:
            layers = ChosenLayers(tuple((group, given[group.key]) for group in part.groups), self._layers)
            values[LAYERS] = layers.stand_in()
        effective = apply_rules(values, self.rules)
        meaningless = stripped_keys(effective, self.rules)
        shown = self._varying - meaningless - ({LAYERS} if layers else set())
        return Configuration(
            index=self._index(point, meaningless),
            point=point,
            varied={key: value for key, value in effective.items() if key in shown},
            plain=effective,
            cost_s=self.cost_model.seconds(effective),
            excluded=refusal(values, self.rules),
            layers=layers,
            watched={key: values[key] for key in WATCHED},
        )

    def draw(self, generator: np.random.Generator) -> Configuration:
        """A point at random; choices that a rule refuses by themselves are left out.

        All points alike in a finite space, all parts alike otherwise. A configuration that many
        points stand for is drawn as often as all of them. Of the formats of a layer, all families
        are alike, however many parameters they have.
        """
        part = int(generator.choice(len(self.parts), p=self._part_probabilities))
        drawn: dict[str, Any] = {
            dimension.key: dimension.draw(generator) for dimension in self._offered[part]
        }
        return self.at(Point(part, drawn | draw_picks(self.parts[part].groups, generator)))

    def suggest(self, trial: BaseTrial) -> Configuration:
        """Asks an Optuna trial for a configuration; only keys that matter become parameters."""
        return self.at(suggest_point(self.parts, self.rules, trial, self._chooser))

    def trial_params(
        self, configuration: Configuration
    ) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """The parameters of a trial that would be suggested this configuration.

        Returns:
            Parameters and their distributions, by Optuna's name: what
            ``study.enqueue_trial(params)`` and ``create_trial(params=, distributions=)`` take.
        """
        return trial_params(self.parts, self.rules, configuration.point, self._chooser)

    def describe(self, first: int = 5) -> SpaceReport:
        """What the space amounts to, for the log: sizes, what each rule did, cost, first configurations."""
        layers = tuple(line for part in self.parts for line in describe_groups(part.groups))
        if not self.is_enumerable:
            return SpaceReport(self.raw_size, self.limit, layers=layers)
        found = self.enumeration
        order = found.grouped_order()[:first]
        return SpaceReport(
            self.raw_size,
            self.limit,
            dropped=tuple(found.dropped.items()),
            stripped=tuple(found.stripped.items()),
            distinct=len(found),
            cost_s=found.total_cost_s(),
            first=tuple(self.configuration(int(found.index[position])) for position in order),
            layers=layers,
        )

    @cached_property
    def _varying(self) -> frozenset[str]:
        """Keys that do not have one value all over the space, or the one that this is part of.

        Configurations of that one, as the bases of parts, also differ in what rules made of its choices.
        """
        if self._named is not None:
            return self._named
        varying = {key for key in self.parts[0].base if len(self.values_of(key)) > 1}
        if NUM_ITER_LR in varying:  # in the effective form, the pair is the two keys
            varying = varying - {NUM_ITER_LR} | {NUM_ITERATIONS, LEARNING_RATE}
        return frozenset(varying)

    def _index(self, point: Point, meaningless: frozenset[str]) -> int | None:
        """The first of the positions that differ in meaningless keys alone; of a space that is enumerable."""
        if not self.is_enumerable:
            return None
        part = self.parts[point.part]
        digits = [
            axis.digit(point.values[axis.key])
            if axis.key in point.values and axis.key not in meaningless
            else 0
            for axis in part.axes
        ]
        return sum(part.size or 0 for part in self.parts[: point.part]) + part.index(digits)

    def _continuous(self) -> str:
        return next(
            f"search_space.{dimension.key}"
            for part in self.parts
            for dimension in part.dimensions
            if dimension.size is None
        )

    @cached_property
    def _offered(self) -> list[list[Dimension]]:
        return [[offered(dimension, self.rules) for dimension in part.dimensions] for part in self.parts]

    @cached_property
    def _part_probabilities(self) -> list[float]:
        if self.raw_size is None:
            return [1 / len(self.parts)] * len(self.parts)
        return [(part.size or 0) / self.raw_size for part in self.parts]


def _layer_names(parts: Sequence[Part]) -> tuple[str, ...]:
    """Of the layers that some part gives formats; every configuration lists them all."""
    return tuple(dict.fromkeys(site.name for part in parts for group in part.groups for site in group.sites))
