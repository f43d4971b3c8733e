"""The parameters of number formats: types, defaults, ranges, and what is wrong with a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from quant.errors import ConfigError, nearest
from quant.formats.contract import Format

ROLES = ("data_in", "weight", "bias")
"""What a layer's configuration has a format for; prefixes of its keys."""


class Required(Enum):
    """The default of a parameter that has none."""

    REQUIRED = "required"


REQUIRED = Required.REQUIRED


@dataclass(frozen=True)
class Derived:
    """A default that follows from other parameters.

    Attributes:
        text: The formula, as documentation writes it.
        value: Of the parameters before it.
    """

    text: str
    value: Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a family of formats; in a configuration ``<role>_<name>``.

    Attributes:
        name: Without the role.
        kind: int, bool, str, or tuple for a block's shape.
        meaning: One line for documentation and errors.
        default: A value, `REQUIRED`, or `Derived` from parameters before it.
        low, high: Bounds of an int, or of the entries of a tuple; both inclusive.
        choices: All valid values, where they are few.
        roles: For which it can be given.
    """

    name: str
    kind: type
    meaning: str
    default: Any = REQUIRED
    low: int | None = None
    high: int | None = None
    choices: tuple[Any, ...] | None = None
    roles: tuple[str, ...] = ROLES

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is REQUIRED

    def valid(self) -> str:
        """The values that are valid, in words."""
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.kind is bool:
            return "true or false"
        bounds = f" {self.low} to {self.high}" if self.low is not None else ""
        return f"integer{bounds}" if self.kind is int else f"one or two integers{bounds}, e.g. [1, 16]"

    def parse(self, value: object, place: str) -> Any:
        """The value, checked and typed.

        Raises:
            ConfigError: With the place, the value and what is valid.
        """
        parsed = self._typed(value)
        if parsed is None or not self._in_range(parsed):
            raise ConfigError(f"{place}: got {value!r}, valid is {self.valid()} ({self.meaning})")
        return parsed

    def _typed(self, value: object) -> Any:
        if self.kind is tuple:
            return _block_size(value)
        if self.kind is int:
            return _integer(value)
        return value if isinstance(value, self.kind) else None

    def _in_range(self, value: Any) -> bool:
        if self.choices is not None:
            return value in self.choices
        numbers = value if isinstance(value, tuple) else (value,)
        return self.low is None or all(self.low <= number <= (self.high or number) for number in numbers)


def _integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value == int(value) else None


def _block_size(value: object) -> tuple[int, ...] | None:
    """A tuple of at most two lengths that are not all 1 to begin with; a single number is one length."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    lengths = [_integer(entry) for entry in entries]
    while len(lengths) > 1 and lengths[0] == 1:
        del lengths[0]
    if not lengths or len(lengths) > 2:
        return None
    parsed = tuple(length for length in lengths if length is not None)
    return parsed if len(parsed) == len(lengths) else None


@dataclass(frozen=True)
class Family:
    """Formats that differ in their parameters.

    Attributes:
        name: As configurations call it.
        meaning: One line.
        parameters: In an order in which defaults can be derived.
        make: The format of a role ("data_in", "weight" or "bias") with these parameters, all given.
    """

    name: str
    meaning: str
    parameters: tuple[Parameter, ...]
    make: Callable[..., Format]

    def keys(self, role: str) -> tuple[str, ...]:
        """The parameters that matter for a role, without its prefix."""
        return tuple(parameter.name for parameter in self.parameters if role in parameter.roles)

    def build(self, role: str, given: Mapping[str, Any], place: str = "") -> Format:
        """A format.

        Args:
            role: Of the tensor.
            given: Parameters without the role; None and "NA" stand for the default.
            place: What errors begin with.

        Raises:
            ConfigError: For unknown and missing parameters and for values that are not valid.
        """
        for key in given:
            if key not in self.keys(role):
                raise ConfigError(self._unknown(role, key, place))
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if role not in parameter.roles:
                continue
            where = f"{place}{role}_{parameter.name}"
            value = given.get(parameter.name)
            if not is_default(value):
                values[parameter.name] = parameter.parse(value, where)
            elif parameter.is_required:
                raise ConfigError(
                    f"{where}: format {self.name!r} needs it; give {parameter.valid()} ({parameter.meaning})"
                )
            else:
                default = parameter.default
                values[parameter.name] = default.value(values) if isinstance(default, Derived) else default
        try:
            return self.make(role, **values)
        except ConfigError as error:
            raise ConfigError(f"{place}{role}: {error}") from None

    def _unknown(self, role: str, key: str, place: str) -> str:
        if not self.keys(role):
            return f"{place}{role}_{key}: format {self.name!r} has no parameters; leave it out"
        return (
            f"{place}{role}_{key}: unknown parameter of format {self.name!r}{nearest(key, self.keys(role))}"
        )


def is_default(value: object) -> bool:
    """Whether a value stands for the parameter's default."""
    return value is None or (isinstance(value, str) and value.upper() == "NA")
