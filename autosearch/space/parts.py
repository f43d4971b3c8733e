"""The door of the search space: what the user wrote -> checked, typed parts.

Nothing gets further that a configuration would refuse later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from autosearch.space.dimensions import Choices, Dimension, Range, steps_between
from autosearch.space.effective import canonical_json
from autosearch.space.fields import LEVELS, Field, Place, fields
from autosearch.space.rules import LEARNING_RATE, NUM_ITER_LR, NUM_ITERATIONS, Flat, split_num_iter_lr
from quant.config import OTHER_NAMES, QuantConfig, flatten
from quant.errors import nearest

_RANGE_KEYS = ("type", "low", "high", "step", "log")


@dataclass(frozen=True)
class Part:
    """One dict of the space: a product of dimensions.

    Attributes:
        dimensions: In the order in which the user wrote them.
        base: The flat values of all keys; those that `dimensions` do not name apply.
    """

    dimensions: tuple[Dimension, ...]
    base: Flat

    @cached_property
    def size(self) -> int | None:
        """Number of points; None where a dimension is continuous."""
        sizes = [dimension.size for dimension in self.dimensions]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def digits(self, index: int) -> tuple[int, ...]:
        """Mixed-radix digits of a point's index; the last dimension is the fastest."""
        digits = []
        for dimension in reversed(self.dimensions):
            assert dimension.size is not None
            index, digit = divmod(index, dimension.size)
            digits.append(digit)
        return tuple(reversed(digits))

    def index(self, digits: Sequence[int]) -> int:
        """The inverse of `digits`."""
        index = 0
        for dimension, digit in zip(self.dimensions, digits, strict=True):
            assert dimension.size is not None
            index = index * dimension.size + digit
        return index


def parse_search_space(search_space: object, base: QuantConfig) -> tuple[Part, ...]:
    """Checks a search space: a dict, or a list of dicts that stands for their union.

    Raises:
        ConfigError: For the first thing that is wrong, with its place.
    """
    place = Place(("search_space",))
    if isinstance(search_space, Mapping):
        return (_parse_part(search_space, base, place),)
    if not _is_list(search_space):
        raise place.error(f"takes a dict or a list of dicts, got {search_space!r}")
    assert isinstance(search_space, Sequence)
    if not search_space:
        raise place.error("the list is empty; give at least one dict")
    return tuple(_parse_part(part, base, place.item(i)) for i, part in enumerate(search_space))


def _parse_part(part: object, base: QuantConfig, place: Place) -> Part:
    if not isinstance(part, Mapping):
        raise place.error(f"takes a dict of keys and their choices, got {part!r}")
    dimensions: dict[str, Dimension] = {}
    for key, value, where in _leaves(part, "", place):
        if key in dimensions:
            raise where.error("is given twice")
        dimensions[key] = _parse_dimension(fields()[key], value, where)
    apart = [key for key in (NUM_ITERATIONS, LEARNING_RATE) if key in dimensions]
    if apart and NUM_ITER_LR in dimensions:
        name = apart[0].rpartition(".")[2]
        raise place.error(f"NumIterLR and {name} both set {name}; give one of them in each dict")
    flat = flatten(base.to_dict())
    return Part(tuple(dimensions.values()), {**flat, **split_num_iter_lr(flat[NUM_ITER_LR])})


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
        return _parse_range(field, value, place)
    if not _is_list(value):
        return Choices(field.key, (field.parse(value, place),))
    assert isinstance(value, Sequence)
    if not value:
        raise place.error("the list of choices is empty; give at least one, or leave the key out")
    parsed = [_parse_choice(field, choice, place.item(i)) for i, choice in enumerate(value)]
    distinct = {canonical_json(choice): choice for choice in parsed}
    return Choices(field.key, tuple(distinct.values()))


def _parse_choice(field: Field, choice: object, place: Place) -> Any:
    """A choice of a list-valued key is a list: which of two names were meant is not guessed."""
    if field.is_list and choice is not None and not _is_list(choice):
        name = field.key.rpartition(".")[2]
        raise place.error(f"each choice of {name} is a list; write [[...], [...]], got {choice!r}")
    return field.parse(choice, place)


def _parse_range(field: Field, given: Mapping[Any, Any], place: Place) -> Dimension:
    if field.number is None:
        raise place.error("does not take numbers; a range cannot stand here, give a list of choices")
    for key in given:
        if key not in _RANGE_KEYS:
            raise place.error(f"unknown key {key!r} of a range{nearest(str(key), _RANGE_KEYS)}")
    missing = [key for key in ("type", "low", "high") if key not in given]
    if missing:
        raise place.error(f"a range needs type, low and high; {missing[0]!r} is missing")
    if given["type"] not in ("int", "float"):
        raise place.key("type").error(f"takes 'int' or 'float', got {given['type']!r}")
    if given["type"] == "float" and field.number is int:
        raise place.key("type").error("takes 'int': the values of this key are integers")
    if not isinstance(given.get("log", False), bool):
        raise place.key("log").error(f"takes true or false, got {given['log']!r}")
    return _checked_range(field, given, place)


def _checked_range(field: Field, given: Mapping[Any, Any], place: Place) -> Dimension:
    is_int, log = given["type"] == "int", given.get("log", False)
    low, high = (
        field.parse(_number(given[end], is_int, place.key(end)), place.key(end)) for end in ("low", "high")
    )
    step = given.get("step")
    step = (1 if is_int else None) if step is None else _number(step, is_int, place.key("step"))
    if low > high:
        raise place.error(f"low {low} is above high {high}")
    if step is not None and step <= 0:
        raise place.key("step").error(f"must be positive, got {step}")
    if log and low <= 0:
        raise place.key("low").error(f"must be positive with log, got {low}")
    if log and (given.get("step") not in (None, 1) or is_int != (field.number is int)):
        raise place.error("log takes no step, and the type that the key has")
    open_ended = Range(field.key, low, high, step, log, field.number is int)
    if step is None:
        return open_ended
    return replace(open_ended, high=open_ended.value(steps_between(low, high, step)))


def _number(value: object, is_int: bool, place: Place) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and is_int and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int if is_int else int | float):
        raise place.error(f"takes {'an integer' if is_int else 'a number'}, got {value!r}")
    if not math.isfinite(value):
        raise place.error(f"must be finite, got {value!r}")
    return value


def _is_list(value: object) -> bool:
    """Sets are refused: their order, and with it a seeded search, would change from run to run."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
