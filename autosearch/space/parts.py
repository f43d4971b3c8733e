"""The door of the search space: what the user wrote -> checked, typed parts.

Nothing gets further that a configuration would refuse later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from autosearch.space.dimensions import Choices, Dimension
from autosearch.space.effective import canonical_json
from autosearch.space.fields import LEVELS, Field, Place, fields
from autosearch.space.layer_form import stand_in
from autosearch.space.layer_groups import LayerGroup, Sites, layer_groups
from autosearch.space.layer_table import parse_table
from autosearch.space.ranges import is_list, parse_range
from autosearch.space.rules import (
    DEFAULTS,
    LAYERS,
    LEARNING_RATE,
    NUM_ITER_LR,
    NUM_ITERATIONS,
    PLACEMENT,
    Flat,
    split_num_iter_lr,
)
from quant.config import OTHER_NAMES, QuantConfig, flatten, unflatten
from quant.errors import ConfigError, nearest

_REFUSED = (*PLACEMENT, "include_auto_mp", "extra_options.EnableSubgraph")
"""Keys of which `QuantConfig` takes nothing but the default beside layers."""


@dataclass(frozen=True)
class Part:
    """One dict of the space: a product of dimensions.

    Attributes:
        dimensions: In the order in which the user wrote them.
        base: The flat values of all keys; those that `dimensions` do not name apply. With groups,
            ``layers`` is a stand-in for what they come to.
        groups: The layers' dimensions.
    """

    dimensions: tuple[Dimension, ...]
    base: Flat
    groups: tuple[LayerGroup, ...] = ()

    @property
    def axes(self) -> tuple[Dimension | LayerGroup, ...]:
        """Everything that is chosen; the last one varies fastest."""
        return (*self.dimensions, *self.groups)

    @cached_property
    def size(self) -> int | None:
        """Number of points; None where a dimension is continuous."""
        sizes = [axis.size for axis in self.axes]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def digits(self, index: int) -> tuple[int, ...]:
        """Mixed-radix digits of a point's index, one for each axis."""
        digits = []
        for axis in reversed(self.axes):
            assert axis.size is not None
            index, digit = divmod(index, axis.size)
            digits.append(digit)
        return tuple(reversed(digits))

    def index(self, digits: Sequence[int]) -> int:
        """The inverse of `digits`."""
        index = 0
        for axis, digit in zip(self.axes, digits, strict=True):
            assert axis.size is not None
            index = index * axis.size + digit
        return index


def parse_search_space(
    search_space: object, base: QuantConfig, sites: Sites | None = None
) -> tuple[Part, ...]:
    """Checks a search space: a dict, or a list of dicts that stands for their union.

    Args:
        search_space: What the user wrote.
        base: Where the other keys come from.
        sites: Gives the layers of the model; None = there is none to say anything of layers.

    Raises:
        ConfigError: For the first thing that is wrong, with its place.
    """
    place = Place(("search_space",))
    sites = sites and cache(sites)
    if isinstance(search_space, Mapping):
        return (_parse_part(search_space, base, place, sites),)
    if not is_list(search_space):
        raise place.error(f"takes a dict or a list of dicts, got {search_space!r}")
    assert isinstance(search_space, Sequence)
    if not search_space:
        raise place.error("the list is empty; give at least one dict")
    return tuple(_parse_part(part, base, place.item(i), sites) for i, part in enumerate(search_space))


def _parse_part(part: object, base: QuantConfig, place: Place, sites: Sites | None) -> Part:
    if not isinstance(part, Mapping):
        raise place.error(f"takes a dict of keys and their choices, got {part!r}")
    dimensions: dict[str, Dimension] = {}
    plain = {key: value for key, value in part.items() if key != LAYERS}
    for key, value, where in _leaves(plain, "", place):
        if key in dimensions:
            raise where.error("is given twice")
        dimensions[key] = _parse_dimension(fields()[key], value, where)
    apart = [key for key in (NUM_ITERATIONS, LEARNING_RATE) if key in dimensions]
    if apart and NUM_ITER_LR in dimensions:
        name = apart[0].rpartition(".")[2]
        raise place.error(f"NumIterLR and {name} both set {name}; give one of them in each dict")
    flat = flatten(base.to_dict())
    flat |= split_num_iter_lr(flat[NUM_ITER_LR])
    if LAYERS not in part:
        if base.layers is not None and sites is not None:
            base.layers.resolved(sites())  # refuses layers that the model does not have
        return Part(tuple(dimensions.values()), flat)
    _check_beside_layers(part[LAYERS], base, dimensions, place)
    groups = _parse_layers(part[LAYERS], place.key(LAYERS), sites)
    flat[LAYERS] = stand_in(any(group.choices.calibrates for group in groups)) if groups else None
    return Part(tuple(dimensions.values()), flat, groups)


def _check_beside_layers(
    layers: object, base: QuantConfig, dimensions: Mapping[str, Dimension], place: Place
) -> None:
    """Refuses what has no meaning beside layers, or decides which there are."""
    if layers is None:
        return
    _with_layers(base.to_dict(), "quantization_config")
    for key, dimension in dimensions.items():
        if key == "optimize_model" and dimension.extremes != (base.optimize_model,):
            raise place.error(f"{key} decides which layers there are; set it in quantization_config")
        if key in _REFUSED:
            for value in dimension.extremes:
                _with_layers(unflatten({**DEFAULTS, key: value}), str(place))


def _with_layers(config: dict[str, Any], place: str) -> None:
    try:
        QuantConfig(**{**config, LAYERS: stand_in(calibrated=False)})
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _parse_layers(given: object, place: Place, sites: Sites | None) -> tuple[LayerGroup, ...]:
    if given is None:
        return ()
    table = parse_table(given, place)
    if sites is None:
        raise place.error("is about the layers of a model; give SearchSpace the model's with layers=")
    return layer_groups(table, sites(), str(place))


def _leaves(level: Mapping[Any, Any], path: str, place: Place) -> Iterator[tuple[str, Any, Place]]:
    """Every key that is not a level, with its flat name."""
    for name, value in level.items():
        key = f"{path}.{name}".lstrip(".")
        where = place.key(str(name))
        if key in LEVELS:
            if not isinstance(value, Mapping):
                raise where.error(f"takes a dict of keys and their choices, got {value!r}")
            yield from _leaves(value, key, where)
        elif key in fields():
            yield key, value, where
        else:
            raise place.error(f"unknown key {name!r}{_hint(str(name), path)}")


def _hint(name: str, path: str) -> str:
    """The level that a misplaced key belongs to, otherwise what it is called here or the nearest key."""
    if path == "extra_options" and name in OTHER_NAMES:
        return f": {OTHER_NAMES[name]}"
    home = next((level for level, model in LEVELS.items() if name in model.model_fields), None)
    if home is None:
        return nearest(name, LEVELS[path].model_fields)
    return f"; it belongs in {home}" if home else "; it belongs on the first level"


def _parse_dimension(field: Field, value: object, place: Place) -> Dimension:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping) and not field.is_mapping:
        return parse_range(field, value, place)
    if not is_list(value):
        return Choices(field.key, (field.parse(value, place),))
    assert isinstance(value, Sequence)
    if not value:
        raise place.error("the list of choices is empty; give at least one, or leave the key out")
    parsed = [_parse_choice(field, choice, place.item(i)) for i, choice in enumerate(value)]
    distinct = {canonical_json(choice): choice for choice in parsed}
    return Choices(field.key, tuple(distinct.values()))


def _parse_choice(field: Field, choice: object, place: Place) -> Any:
    """A choice of a list-valued key is a list: which of two names were meant is not guessed."""
    if field.is_list and choice is not None and not is_list(choice):
        name = field.key.rpartition(".")[2]
        raise place.error(f"each choice of {name} is a list; write [[...], [...]], got {choice!r}")
    return field.parse(choice, place)
