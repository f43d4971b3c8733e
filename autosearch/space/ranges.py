"""Ranges of numbers as a search space writes them: ``{type: int, low: 2, high: 8, step: 2, log: false}``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from autosearch.space.dimensions import Dimension, Range, steps_between
from autosearch.space.fields import Place
from quant.errors import nearest

_RANGE_KEYS = ("type", "low", "high", "step", "log")


class Numeric(Protocol):
    """What is known of a key.

    Attributes:
        key: Flat name.
        number: int or float where its values are numbers, otherwise None.
    """

    @property
    def key(self) -> str: ...
    @property
    def number(self) -> type[int] | type[float] | None: ...
    def parse(self, value: object, place: Place) -> Any:
        """A value, checked."""
        ...


def parse_range(field: Numeric, given: Mapping[Any, Any], place: Place) -> Dimension:
    """Checks a range.

    Raises:
        ConfigError: For the first thing that is wrong, with its place.
    """
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


def _checked_range(field: Numeric, given: Mapping[Any, Any], place: Place) -> Dimension:
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


def is_list(value: object) -> bool:
    """Sets are refused: their order, and with it a seeded search, would change from run to run."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
