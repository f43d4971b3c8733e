"""The door of ``search_space.layers``: what the user wrote for layers -> checked, typed entries.

layers: {by: name | type | pattern, share: layer | type | block | all,
         default: {name: [integer, NA], data_in_width: [4, 8], ...}, <name, type or pattern>: {...}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from autosearch.space.dimensions import Choices, Dimension
from autosearch.space.effective import canonical_json
from autosearch.space.fields import Place
from autosearch.space.layer_form import is_null
from autosearch.space.ranges import is_list, parse_range
from quant.errors import ConfigError, nearest
from quant.formats import ROLES, Family, Parameter, format_family
from quant.layers import BY, By
from quant.layers.table import check_patterns, check_types

NAME = "name"
SELECTORS = {NAME: "", **{f"{role}_{NAME}": role for role in ROLES}}
"""Keys that choose a family of formats, and for which role alone."""

Share: TypeAlias = Literal["layer", "type", "block", "all"]
"""Which layers of an entry have one choice: each its own; those of a type; of a block; all."""

SHARES: tuple[Share, ...] = get_args(Share)
_BY, _SHARE = "by", "share"


@dataclass(frozen=True)
class Entry:
    """What the layers of one key of the table range over.

    Attributes:
        place: Where it is written.
        share: Which of these layers have one choice.
        names: Choices of families by selector; None = float.
        parameters: By key with the role, ``weight_width``.
    """

    place: str
    share: Share
    names: Mapping[str, Choices]
    parameters: Mapping[str, Dimension]

    def selector(self, role: str) -> str:
        """The key that chooses the family of a role."""
        own = f"{role}_{NAME}"
        return own if own in self.names else NAME

    def has_bias(self) -> bool:
        """Whether anything is said of biases; they stay float otherwise."""
        return any(key.startswith("bias_") for key in (*self.names, *self.parameters))

    def dimensions(self, role: str, name: str | None) -> tuple[Dimension, ...]:
        """The parameters of a role that a family has, in the order in which they are written."""
        family = format_family(name)
        known = () if family is None else family.keys(role)
        return tuple(
            dimension
            for key, dimension in self.parameters.items()
            if key.startswith(f"{role}_") and key.removeprefix(f"{role}_") in known
        )


@dataclass(frozen=True)
class Table:
    """The table as a whole.

    Attributes:
        by: What the keys are.
        entries: By key.
    """

    by: By
    entries: Mapping[str, Entry]


def parse_table(given: object, place: Place) -> Table:
    """Checks a table; whether the model has its layers is seen later.

    Raises:
        ConfigError: For the first thing that is wrong, with its place.
    """
    if not isinstance(given, Mapping):
        raise place.error(f"takes {{by: name, default: {{...}}, <layer>: {{...}}}}, got {given!r}")
    by = _word(given.get(_BY, BY[0]), BY, place.key(_BY))
    share = _word(given.get(_SHARE, SHARES[0]), SHARES, place.key(_SHARE))
    table = {str(key): value for key, value in given.items() if key not in (_BY, _SHARE)}
    if not table:
        raise place.error("says nothing of any layer; give it the key default, or leave it out")
    check_patterns(table, by, str(place))
    check_types(table, by, str(place))
    return Table(by, {key: _entry(value, share, place.key(key)) for key, value in table.items()})


def _word(value: object, known: Sequence[Any], place: Place) -> Any:
    if value not in known:
        raise place.error(f"{value!r} is not possible{nearest(str(value), known)}")
    return value


def _entry(given: object, share: Share, place: Place) -> Entry:
    if not isinstance(given, Mapping):
        raise place.error(f"takes {{name: [...], data_in_width: [...], ...}}, got {given!r}")
    if list(given) == ["config"]:
        raise place.error("write what is below MASE's level 'config' here, without that level")
    share = _word(given.get(_SHARE, share), SHARES, place.key(_SHARE))
    rest = {str(key): value for key, value in given.items() if key != _SHARE}
    names = {key: _names(key, rest.pop(key), place.key(key)) for key in SELECTORS if key in rest}
    if NAME not in names:
        if not {f"{role}_{NAME}" for role in ROLES[:2]} <= names.keys():
            raise place.error("name is missing: the formats to choose from, such as [integer, NA]")
        names[NAME] = Choices(NAME, (None,))
    entry = Entry(str(place), share, names, {})
    parameters = {
        key: _dimension(_key(key, entry, place), value, place.key(key)) for key, value in rest.items()
    }
    return Entry(str(place), share, names, parameters)


def _names(key: str, given: object, place: Place) -> Choices:
    """The families, by their one name each."""
    if not is_list(given):
        given = [given]
    assert isinstance(given, Sequence)
    if not given:
        raise place.error("the list of formats is empty; give at least one, or NA for float")
    families = [format_family(name, str(place.item(i))) for i, name in enumerate(given)]
    return Choices(key, tuple(dict.fromkeys(None if each is None else each.name for each in families)))


@dataclass(frozen=True)
class _Key:
    """A parameter's key, and what its families take.

    Attributes:
        key: With the role.
        parameters: Of every family that has it.
    """

    key: str
    parameters: tuple[Parameter, ...]

    @property
    def number(self) -> type[int] | None:
        """For ranges."""
        return int if any(parameter.kind in (int, tuple) for parameter in self.parameters) else None

    def parse(self, value: object, place: Place) -> Any:
        """The value, JSON-ready; that of one family at least.

        Raises:
            ConfigError: If all families refuse it, as the first does.
        """
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        if is_null(value):
            return None
        errors = []
        for parameter in self.parameters:
            try:
                parsed = parameter.parse(value, str(place))
            except ConfigError as error:
                errors.append(error)
            else:
                return value if isinstance(parsed, tuple) and not is_list(value) else _plain(parsed)
        raise errors[0]


def _key(key: str, entry: Entry, place: Place) -> _Key:
    role = next((role for role in ROLES if key.startswith(f"{role}_")), None)
    known = dict[str, list[Parameter]]()
    for each in ROLES if role is None else (role,):
        for family in _families(entry, each):
            for parameter in family.parameters:
                if each in parameter.roles:
                    known.setdefault(f"{each}_{parameter.name}", []).append(parameter)
    if key not in known:
        selector = NAME if role is None else entry.selector(role)
        names = ", ".join(str(name) if name else "NA" for name in entry.names[selector].values)
        if not known:
            raise place.error(f"unknown key {key!r}: {names} has no parameters; leave it out")
        raise place.error(f"unknown key {key!r} with {selector} {names}{nearest(key, (*known, *SELECTORS))}")
    return _Key(key, tuple(known[key]))


def _families(entry: Entry, role: str) -> Iterator[Family]:
    for name in entry.names[entry.selector(role)].values:
        family = format_family(name)
        if family is not None:
            yield family


def _dimension(key: _Key, value: object, place: Place) -> Dimension:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return parse_range(key, value, place)
    if not is_list(value):
        return Choices(key.key, (key.parse(value, place),))
    assert isinstance(value, Sequence)
    if not value:
        raise place.error("the list of choices is empty; give at least one, or leave the key out")
    parsed = [key.parse(choice, place.item(i)) for i, choice in enumerate(value)]
    return Choices(key.key, tuple({canonical_json(choice): choice for choice in parsed}.values()))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
