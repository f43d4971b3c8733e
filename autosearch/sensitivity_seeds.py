"""What a search per layer tries first: combinations that look best before any of them has run.

What each format of each layer alone does to the outputs is measured on the float model (a few runs for
each tensor), added up, and weighed against what the format costs: `autosearch.frontier`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from autosearch.frontier import Combination, Option, frontier, lower_hull, spread
from autosearch.space import Configuration, SearchSpace
from autosearch.space.configuration import Point
from autosearch.space.layer_choices import Branch, RoleChoices, Selector
from autosearch.space.layer_groups import LayerGroup, LayerSite
from autosearch.space.parts import Part
from quant import Pipeline, QuantConfig
from quant.config import unflatten
from quant.formats import Format, make_format
from quant.layers.role_sites import FormatEffects, RoleFormats

MANY_LAYERS = 5
"""Up to so many, a sampler needs no help."""

SEED_TRIALS = 20
"""Unless another number is asked for."""

SHARE = 4
"""One in so many trials at most."""

_SAMPLES, _FEW_SAMPLES = 32, 8
_RUNS = 4
"""Most runs of the model over these samples for every tensor that may have formats."""

_FLOAT_BITS = 32

Effects: TypeAlias = dict[tuple[str, int], FormatEffects]
"""Of the formats of a role (by the identity of its choices), in a layer by name."""


class SensitivitySeeds:
    """Gives the first configurations of a search, as `Stage.seeds` wants them."""

    def __init__(
        self,
        space: SearchSpace,
        open_pipeline: Callable[[], Pipeline],
        metrics: Iterable[str],
        trials: int | None = None,
        samples: int = 1,
    ) -> None:
        """Nothing runs yet.

        Args:
            space: What is searched.
            open_pipeline: Gives that of the float model.
            metrics: Names of those that are optimised or constrained.
            trials: How many there are in all; None = any number.
            samples: How many each trial is evaluated on.
        """
        self._space = space
        self._open_pipeline = open_pipeline
        self._price = Price(frozenset(metrics))
        self._effort = None if trials is None else trials * samples
        self._useful = SEED_TRIALS if trials is None else min(SEED_TRIALS, trials // SHARE)

    def __call__(self, count: int | None) -> Iterator[Configuration]:
        """So many configurations along the frontier, from the cheapest to the most accurate.

        Keys beside `layers` have their first choice.

        Args:
            count: None = `SEED_TRIALS`, but no more than a `SHARE` of all, for more than `MANY_LAYERS`
                layers, else none.
        """
        found = self._first_part()
        if found is not None and self.useful(count):
            yield from self._of_part(*found, self.useful(count))

    def useful(self, count: int | None) -> int:
        """How many that is at most."""
        found = self._first_part()
        if found is None or count is not None:
            return 0 if found is None else count or 0
        many = sum(len(group.sites) for group in found[1].groups) > MANY_LAYERS
        return self._useful if many else 0

    def _first_part(self) -> tuple[int, Part] | None:
        """The part of the space that they are from, with its number."""
        return next(((i, part) for i, part in enumerate(self._space.parts) if part.groups), None)

    def _of_part(self, number: int, part: Part, count: int) -> Iterator[Configuration]:
        groups, others = part.groups, {dimension.key: dimension.value(0) for dimension in part.dimensions}
        config = QuantConfig(**unflatten({**part.base, **others, "layers": None}))
        effects = _effects(self._open_pipeline(), config, groups, self._effort)
        items = [
            _Item(group, selector, effects, self._price)
            for group in groups
            for selector in group.choices.selectors
        ]
        found = frontier([item.options for item in items])
        for combination in spread(found, count):
            yield self._space.at(Point(number, {**others, **_picks(groups, items, combination)}))


@dataclass(frozen=True)
class Price:
    """What bits cost, given the metrics that are to be small.

    Attributes:
        metrics: Names of metrics that are optimised or constrained.
    """

    metrics: frozenset[str]

    def of(self, role: str, effects: FormatEffects) -> float:
        """Of one bit in all elements of a role's tensors; 0 where no metric looks at it."""
        if "average_bitwidth_total" in self.metrics:
            return float(effects.elements)
        if "bitops" in self.metrics:  # a product of two widths, taken at equal ones
            return 0.0 if role == "bias" else effects.macs
        if self.metrics & {"model_size", "packed_size"}:
            return 0.0 if role == "data_in" else effects.elements
        weighed = {"average_bitwidth", "memory_density"} & self.metrics
        weighed |= {name for name in self.metrics if name.startswith("weights_above_")}
        return float(effects.elements) if weighed and role == "weight" else 0.0


def _effects(
    pipeline: Pipeline, config: QuantConfig, groups: Sequence[LayerGroup], effort: int | None
) -> Effects:
    """Of all formats of all roles of all layers.

    Args:
        pipeline: Of the float model.
        config: Beside the layers.
        groups: The layers.
        effort: About how many samples may run through the model, so that measuring takes no longer than
            the trials; every tensor gets one run over a few. None = any number.
    """
    formats: dict[int, list[Format | None]] = {}
    places: list[tuple[LayerSite, RoleChoices]] = []
    for group in groups:
        for role, site in itertools.product(group.choices.roles, group.sites):
            if role.role in site.roles:
                formats.setdefault(id(role), _formats(role))
                places.append((site, role))
    candidates = [RoleFormats(site.name, role.role, formats[id(role)]) for site, role in places]
    count, samples, runs = len(candidates), _SAMPLES, _RUNS
    if effort is not None:
        samples = _SAMPLES if count * _SAMPLES <= effort else _FEW_SAMPLES
        runs = min(_RUNS, max(1, effort // (count * samples)))
    found = pipeline.format_effects(config, candidates, runs * count, samples)
    return {(site.name, id(role)): each for (site, role), each in zip(places, found, strict=True)}


def _formats(role: RoleChoices) -> list[Format | None]:
    name = f"{role.role}_name"
    return [make_format(role.role, {**option.raw, name: option.form.name}) for option in role.options]


class _Item:
    """The combinations of one selector of a group that are worth a look; the frontier chooses one."""

    def __init__(self, group: LayerGroup, selector: Selector, effects: Effects, price: Price) -> None:
        self.group = group
        self.options: list[Option] = []
        self.numbers: list[int] = []
        for position, branch in enumerate(selector.branches):
            for digits, option in self._of_branch(branch, selector, effects, price):
                self.options.append(option)
                self.numbers.append(selector.number(position, digits))

    def _of_branch(
        self, branch: Branch, selector: Selector, effects: Effects, price: Price
    ) -> Iterator[tuple[tuple[int, ...], Option]]:
        """Of each role the formats on its own hull, with each other's: errors and costs add up."""
        hulls = []
        for role in branch.roles:
            options = self._options(role, effects, price)
            hulls.append([(position, options[position]) for position in lower_hull(options)])
        left = self._left_in_float(branch, selector, effects, price)
        for chosen in itertools.product(*hulls):
            cost = left + sum(option.cost for _, option in chosen)
            yield (
                tuple(position for position, _ in chosen),
                Option(cost, sum(option.error for _, option in chosen)),
            )

    def _options(self, role: RoleChoices, effects: Effects, price: Price) -> list[Option]:
        """Of every format of a role, over all layers of the group that have it."""
        own = [effects[site.name, id(role)] for site in self.group.sites if role.role in site.roles]
        errors = np.sum([each.errors for each in own], axis=0)
        costs = np.sum([price.of(role.role, each) * each.bits for each in own], axis=0)
        return [Option(float(cost), float(error)) for cost, error in zip(costs, errors, strict=True)]

    def _left_in_float(self, branch: Branch, selector: Selector, effects: Effects, price: Price) -> float:
        """What the roles cost that other branches give a format and this one does not."""
        own = {role.role for role in branch.roles}
        others = {role.role: role for each in selector.branches for role in each.roles}
        return sum(
            price.of(name, effects[site.name, id(role)]) * _FLOAT_BITS
            for name, role in others.items()
            if name not in own
            for site in self.group.sites
            if name in site.roles
        )


def _picks(groups: Sequence[LayerGroup], items: Sequence[_Item], combination: Combination) -> dict[str, Any]:
    """A choice for every group, by key."""
    numbers: dict[str, list[int]] = {group.key: [] for group in groups}
    for item, choice in zip(items, combination.choices, strict=True):
        numbers[item.group.key].append(item.numbers[choice])
    return {group.key: group.choices.pick_of(numbers[group.key]) for group in groups}
