"""What one key of a search space ranges over: choices or a range of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Choices:
    """A list, without duplicates.

    Attributes:
        key: Flat name.
        values: JSON-ready, at least one.
    """

    key: str
    values: tuple[Any, ...]

    @property
    def size(self) -> int:
        """Number of choices."""
        return len(self.values)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """All choices."""
        return self.values

    def described(self) -> list[Any]:
        """For JSON."""
        return [self.key, *self.values]

    def value(self, digit: int) -> Any:
        """The choice at a position."""
        return self.values[digit]

    def digit(self, value: object) -> int:
        """The position of a choice."""
        return self.values.index(value)

    def draw(self, generator: np.random.Generator) -> Any:
        """One choice, all alike."""
        return self.values[int(generator.integers(len(self.values)))]


@dataclass(frozen=True)
class Range:
    """The numbers low, low + step, ... up to high, or all numbers between where step is None.

    Attributes:
        key: Flat name.
        low, high: Both included; `high` is on the grid of `step`.
        step: Distance of neighbours; None for a continuous range.
        log: Sampled uniformly in the logarithm.
        integer: Whether its values are ints.
    """

    key: str
    low: float
    high: float
    step: float | None
    log: bool
    integer: bool

    @cached_property
    def size(self) -> int | None:
        """Number of values; None for a continuous range."""
        if self.low == self.high:
            return 1
        return None if self.step is None else steps_between(self.low, self.high, self.step) + 1

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The ends."""
        return (self.low, self.high)

    def described(self) -> list[Any]:
        """For JSON."""
        return [self.key, {"low": self.low, "high": self.high, "step": self.step, "log": self.log}]

    @cached_property
    def values(self) -> Sequence[Any]:
        """All of them, in order; of a finite range only."""
        assert self.size is not None
        if self.integer:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        return [self.value(digit) for digit in range(self.size)]

    def value(self, digit: int) -> Any:
        """The value at a position; decimal arithmetic, so that 0.1 + 2 x 0.1 is 0.3."""
        if self.integer:
            return int(self.low) + digit * int(self.step or 1)
        return float(Decimal(repr(self.low)) + digit * Decimal(repr(self.step or 0.0)))

    def digit(self, value: float) -> int:
        """The position of a value, or of the one nearest to it."""
        assert self.size is not None
        return round((value - self.low) / (self.step or 1))

    def snap(self, value: float) -> Any:
        """The value itself in a continuous range, otherwise the nearest on the grid."""
        return value if self.size is None else self.value(self.digit(value))

    def draw(self, generator: np.random.Generator) -> Any:
        """One value, uniform in it or in its logarithm."""
        if self.log:
            margin = 0.5 if self.integer else 0.0
            low, high = math.log(self.low - margin), math.log(self.high + margin)
            return self.snap(min(max(math.exp(generator.uniform(low, high)), self.low), self.high))
        if self.size is None:
            return float(generator.uniform(self.low, self.high))
        return self.value(int(generator.integers(self.size)))


Dimension = Choices | Range


def describe_dimension(dimension: Dimension) -> str:
    """For reports.

    >>> describe_dimension(Choices("weight_width", (2, None)))
    'weight_width 2, NA'
    """
    if isinstance(dimension, Range):
        step = "" if dimension.step in (None, 1) else f" by {dimension.step}"
        return f"{dimension.key} {dimension.low} to {dimension.high}{step}"
    return f"{dimension.key} {', '.join('NA' if value is None else str(value) for value in dimension.values)}"


def steps_between(low: float, high: float, step: float) -> int:
    """How often `step` fits between; decimal arithmetic."""
    return int((Decimal(repr(high)) - Decimal(repr(low))) / Decimal(repr(step)))
