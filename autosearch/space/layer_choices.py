"""What the formats of one layer range over: a format for every role, and the parameters of that format.

A tree: a selector (``name``, or ``weight_name`` for one role) chooses a family of formats, and only the
parameters of that family are chosen from then on. Choices that make the same format (a fraction
width that is given, and the same as the default) are one; combinations that make none (an exponent
wider than the format) are no choice at all. So every number below `LayerChoices.size` is a layer
quantized in a way of its own.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from autosearch.space.dimensions import Choices, Dimension
from autosearch.space.layer_form import RoleForm, layer_entry, role_form
from quant.errors import ConfigError

PRODUCT_LIMIT = 1 << 17
"""Combinations of one format's parameters: some seconds."""

Choose = Callable[[Dimension], Any]
"""Answers with a value of a dimension that has several."""


@dataclass(frozen=True)
class Option:
    """One format of a role.

    Attributes:
        digits: Positions of the parameters' values, in the order of the dimensions.
        raw: The values as written, by key.
        form: What they come to.
    """

    digits: tuple[int, ...]
    raw: Mapping[str, Any]
    form: RoleForm


@dataclass(frozen=True)
class RoleChoices:
    """The formats of one family for one role.

    Attributes:
        role: Whose.
        dimensions: The parameters that are written, keys such as ``weight_width``.
        options: All different; the first of equal ones.
        merged: How many combinations equal an earlier one.
        refused: How many are no format, by the reason.
    """

    role: str
    dimensions: tuple[Dimension, ...]
    options: tuple[Option, ...]
    merged: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    _numbers: dict[tuple[int, ...], int] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls, role: str, name: str | None, dimensions: Sequence[Dimension], selector: str, place: str
    ) -> RoleChoices:
        """All combinations, made and compared.

        Args:
            role: Whose.
            name: Of the family; None = float.
            dimensions: Its parameters that are written.
            selector: The key that says the name.
            place: Of the entry, for errors.

        Raises:
            ConfigError: If no combination is a format, with the reason of the first, or if they are
                too many.
        """
        count = math.prod(dimension.size or 0 for dimension in dimensions)
        if count > PRODUCT_LIMIT:
            raise ConfigError(
                f"{place}: {count} combinations of {', '.join(each.key for each in dimensions)};"
                f" give fewer choices (limit {PRODUCT_LIMIT})"
            )
        found: dict[RoleForm, Option] = {}
        order: dict[RoleForm, int] = {}
        numbers: dict[tuple[int, ...], int] = {}
        refused: Counter[str] = Counter()
        for digits in itertools.product(*(range(dimension.size or 0) for dimension in dimensions)):
            raw = {each.key: each.value(digit) for each, digit in zip(dimensions, digits, strict=True)}
            try:
                form = role_form(role, {selector: name, **raw})
            except ConfigError as error:
                refused[str(error)] += 1
                continue
            if form not in found:
                found[form] = Option(digits, raw, form)
                order[form] = len(order)
            numbers[digits] = order[form]
        if not found:
            raise ConfigError(f"{place}.{next(iter(refused))}")
        return cls(
            role, tuple(dimensions), tuple(found.values()), len(numbers) - len(found), dict(refused), numbers
        )

    @property
    def label(self) -> str:
        """Role and family, for reports."""
        return f"{self.role} {self.options[0].form.name}"

    @cached_property
    def calibrated(self) -> NDArray[np.bool_]:
        """Of every option, whether its scale follows from a calibrated range."""
        return np.array([option.form.calibrated for option in self.options])

    def choose(self, choose: Choose) -> int:
        """Asks for the parameters; the number of the option that they make.

        A combination that is no format stands for the nearest one that is: as near as possible in the
        first parameter, then in the next.
        """
        digits = tuple(
            0 if dimension.size == 1 else dimension.digit(choose(dimension)) for dimension in self.dimensions
        )
        if digits not in self._numbers:
            self._numbers[digits] = self._nearest(digits)
        return self._numbers[digits]

    def _nearest(self, wanted: tuple[int, ...]) -> int:
        distances = [
            tuple(abs(a - b) for a, b in zip(option.digits, wanted, strict=True)) for option in self.options
        ]
        return distances.index(min(distances))


Decoded: TypeAlias = tuple[RoleChoices, NDArray[np.intp], NDArray[np.int64]]
"""Rows of an array of numbers, and for each row the position of an option."""


@dataclass(frozen=True)
class Branch:
    """One family of formats, for all roles that follow the selector.

    Attributes:
        name: Of the family; None = float.
        roles: Their choices; none where they stay float.
    """

    name: str | None
    roles: tuple[RoleChoices, ...]

    @cached_property
    def size(self) -> int:
        """Number of combinations of formats."""
        return math.prod(len(role.options) for role in self.roles)


@dataclass(frozen=True)
class Selector:
    """A key that chooses a family, and what follows from each choice.

    Attributes:
        names: Its choices; the key is ``name`` or ``<role>_name``.
        branches: By position of the name.
    """

    names: Choices
    branches: tuple[Branch, ...]

    @cached_property
    def size(self) -> int:
        """Number of combinations of formats."""
        return sum(branch.size for branch in self.branches)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The number of each branch's first combination."""
        return tuple(itertools.accumulate((branch.size for branch in self.branches), initial=0))[:-1]

    def dimensions(self) -> Iterator[Dimension]:
        """The names and all parameters, each once."""
        yield self.names
        roles = (role for branch in self.branches for role in branch.roles)
        yield from {each.key: each for role in roles for each in role.dimensions}.values()

    def options(self, number: int) -> tuple[Branch, tuple[Option, ...]]:
        """The branch and its formats of a combination."""
        at = next(i for i in reversed(range(len(self.branches))) if number >= self.starts[i])
        branch, number = self.branches[at], number - self.starts[at]
        chosen = []
        for role in reversed(branch.roles):
            number, digit = divmod(number, len(role.options))
            chosen.append(role.options[digit])
        return branch, tuple(reversed(chosen))

    def decode(self, number: NDArray[np.int64]) -> Iterator[Decoded]:
        """The same for many."""
        at = np.searchsorted(self.starts, number, side="right") - 1
        for position, branch in enumerate(self.branches):
            rows = np.flatnonzero(at == position)
            rest = number[rows] - self.starts[position]
            for role in reversed(branch.roles):
                rest, digits = np.divmod(rest, len(role.options))
                yield role, rows, digits

    def number(self, branch: int, digits: Sequence[int]) -> int:
        """The inverse: of a branch by position, and of one option for each of its roles."""
        number = 0
        for role, digit in zip(self.branches[branch].roles, digits, strict=True):
            number = number * len(role.options) + digit
        return self.starts[branch] + number

    def choose(self, choose: Choose) -> int:
        """Asks for the name, then for its parameters."""
        branch = 0 if self.names.size == 1 else self.names.digit(choose(self.names))
        return self.number(branch, [role.choose(choose) for role in self.branches[branch].roles])

    def draw(self, generator: np.random.Generator, count: int) -> list[int]:
        """So many families at random, all alike, then a combination of formats of each."""
        branches = generator.integers(len(self.branches), size=count)
        sizes = np.array([branch.size for branch in self.branches], np.int64)
        numbers: list[int] = (np.array(self.starts)[branches] + generator.integers(sizes[branches])).tolist()
        return numbers


@dataclass(frozen=True, eq=False)
class Pick:
    """The formats of a layer, chosen.

    Attributes:
        number: Below the size of the choices.
        raw: As written, ``{"name": "integer", "weight_width": 4, "weight_frac_width": None}``: what an
            entry of `QuantConfig.layers` can be.
        forms: What they come to, by role; those of a name that means float are left out.
        varying: The part of `raw` that had a choice.
    """

    number: int
    raw: Mapping[str, Any]
    forms: Mapping[str, RoleForm]
    varying: Mapping[str, Any]
    _entries: dict[tuple[str, ...], Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @cached_property
    def calibrated(self) -> bool:
        """Whether some role has a format whose scale follows from a calibrated range."""
        return any(form.calibrated for form in self.forms.values())

    def entry(self, roles: tuple[str, ...]) -> Mapping[str, Any]:
        """The one spelling for a layer with these roles."""
        found = self._entries.get(roles)
        if found is None:
            forms = [self.forms.get(role) or RoleForm(role, None) for role in roles]
            found = self._entries[roles] = layer_entry(forms)
        return found


@dataclass(frozen=True, eq=False)
class LayerChoices:
    """Everything that a layer's formats range over: the product of its selectors.

    Attributes:
        selectors: ``name`` first.
    """

    selectors: tuple[Selector, ...]
    _picks: dict[int, Pick] = field(default_factory=dict, repr=False)

    @cached_property
    def size(self) -> int:
        """Number of different choices."""
        return math.prod(selector.size for selector in self.selectors)

    @cached_property
    def calibrates(self) -> bool:
        """Whether some choice has a format whose scale follows from a calibrated range."""
        return any(option.form.calibrated for role in self.roles for option in role.options)

    @cached_property
    def quantizes(self) -> bool:
        """Whether some choice has any format."""
        return any(option.form.name is not None for role in self.roles for option in role.options)

    @cached_property
    def roles(self) -> tuple[RoleChoices, ...]:
        """Of all branches."""
        return tuple(
            role for selector in self.selectors for branch in selector.branches for role in branch.roles
        )

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Names and parameters, in the order in which they are asked for."""
        return tuple(each for selector in self.selectors for each in selector.dimensions())

    def pick(self, number: int) -> Pick:
        """The choice of a number."""
        found = self._picks.get(number)
        if found is None:
            found = self._pick(number)
            if len(self._picks) < _MOST_PICKS:
                self._picks[number] = found
        return found

    def _pick(self, number: int) -> Pick:
        raw: dict[str, Any] = {}
        varying: dict[str, Any] = {}
        forms: dict[str, RoleForm] = {}
        rest = number
        for selector, size in zip(self.selectors, self._strides, strict=True):
            own, rest = divmod(rest, size)
            branch, options = selector.options(own)
            name = selector.names.key
            raw[name] = branch.name
            if len(selector.branches) > 1:
                varying[name] = branch.name
            for role, option in zip(branch.roles, options, strict=True):
                raw |= option.raw
                varying |= {each.key: option.raw[each.key] for each in role.dimensions if each.size != 1}
                forms[option.form.role] = option.form
        return Pick(number, raw, forms, varying)

    def decode(self, number: NDArray[np.int64]) -> Iterator[Decoded]:
        """The formats of many choices, role by role; roles that are missing are float."""
        for selector, stride in zip(self.selectors, self._strides, strict=True):
            own, number = np.divmod(number, stride)
            yield from selector.decode(own)

    def choose(self, choose: Choose) -> Pick:
        """Asks for what varies: a name before its parameters."""
        numbers = (selector.choose(choose) for selector in self.selectors)
        return self.pick(self._number(numbers))

    def draw(self, generator: np.random.Generator, count: int) -> list[int]:
        """So many choices at random: families, all alike, then a format of each for every role."""
        numbers = [0] * count
        for selector, stride in zip(self.selectors, self._strides, strict=True):
            drawn = selector.draw(generator, count)
            numbers = [number + own * stride for number, own in zip(numbers, drawn, strict=True)]
        return numbers

    def _number(self, numbers: Iterable[int]) -> int:
        return sum(own * size for own, size in zip(numbers, self._strides, strict=True))

    @cached_property
    def _strides(self) -> tuple[int, ...]:
        """How many choices the selectors behind each one have together."""
        sizes = [selector.size for selector in self.selectors]
        return tuple(math.prod(sizes[i + 1 :]) for i in range(len(sizes)))


_MOST_PICKS = 1 << 13
"""Choices that are kept once made."""
