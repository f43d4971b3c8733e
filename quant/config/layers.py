"""A number format for every layer: the table of level 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, PlainSerializer

from quant.errors import ConfigError, nearest
from quant.layers.table import BY, DEFAULT, By, check_patterns, check_types

ROLES = ("data_in", "weight", "bias")
"""What the keys of a layer's entry begin with."""

Value: TypeAlias = str | bool | int | float | tuple[Any, ...] | None

KEYS = "keys"
"""What errors call the keys of the table."""

_KEY = "by"
_NULL = "NA"


@dataclass(frozen=True)
class LayerFormats:
    """The formats of one layer, as MASE writes them: flat.

    Attributes:
        entries: Keys and values: ``name``, the format of data and weight; ``data_in_name``,
            ``weight_name``, ``bias_name``, where it is another one; ``data_in_width`` and so on, the
            parameters of the role's format. ``"NA"`` is None: as a name float, as a parameter its
            default.
    """

    entries: tuple[tuple[str, Value], ...]

    @classmethod
    def of(cls, given: object, place: str) -> LayerFormats:
        """Reads one entry.

        Raises:
            ConfigError: For an unknown key or a wrong value, with the place.
        """
        if isinstance(given, LayerFormats):
            return given
        if not isinstance(given, Mapping):
            raise ConfigError(f"{place}: {given!r} is no table of formats; give {{name: integer, ...}}")
        formats = cls(tuple((str(key), _plain(value)) for key, value in given.items()))
        for key, value in formats.entries:
            _check_key(key, value, place)
        return formats

    def to_dict(self) -> dict[str, Any]:
        """As it is written, JSON-ready."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.entries}


@dataclass(frozen=True)
class LayerTable:
    """Formats by layer.

    Attributes:
        by: What the keys are: ``name`` (of nodes, and after them types), ``type`` or ``pattern``.
        formats: By key, in the order given; the key ``default`` is for all layers without another.
    """

    by: By
    formats: tuple[tuple[str, LayerFormats], ...]

    @classmethod
    def of(cls, given: object) -> LayerTable:
        """Reads the table ``{by: name, default: {...}, <key>: {...}}``.

        Raises:
            ValueError: If it is none, or of its parts, with the place below ``layers``.
        """
        if isinstance(given, LayerTable):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f"{given!r} is no table; give {{by: name, default: {{...}}, <layer>: {{...}}}}")
        by = given.get(_KEY, BY[0])
        if by not in BY:
            raise ConfigError(f"by: {by!r} is not possible{nearest(str(by), BY)}")
        table = {str(key): value for key, value in given.items() if key != _KEY}
        if not table:
            raise ValueError(f"says nothing of any layer; give it the key {DEFAULT}, or leave it out")
        check_patterns(table, by, KEYS)
        check_types(table, by, KEYS)
        return cls(by, tuple((key, LayerFormats.of(value, key)) for key, value in table.items()))

    @property
    def table(self) -> dict[str, LayerFormats]:
        """The formats by key."""
        return dict(self.formats)

    def to_dict(self) -> dict[str, Any]:
        """As it is written, JSON-ready."""
        return {_KEY: self.by} | {key: formats.to_dict() for key, formats in self.formats}


def _plain(value: object) -> Value:
    if value == _NULL:
        return None
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigError(f"{value!r} is no value of a format's parameter")


def _check_key(key: str, value: Value, place: str) -> None:
    del value
    if key != "name" and not key.startswith(tuple(f"{role}_" for role in ROLES)):
        raise ConfigError(f"{place}: unknown key {key!r}; keys are name and begin with {', '.join(ROLES)}")


def _serialized(table: LayerTable | None) -> dict[str, Any] | None:
    return None if table is None else table.to_dict()


def _parsed(value: object) -> LayerTable | None:
    return None if value is None else LayerTable.of(value)


Layers = Annotated[
    LayerTable | None,
    BeforeValidator(_parsed),
    PlainSerializer(_serialized, return_type=dict[str, Any] | None),
]
