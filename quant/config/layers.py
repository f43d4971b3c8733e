"""A number format for every layer: the table of level 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import PlainSerializer, PlainValidator

from quant.errors import ConfigError, nearest
from quant.formats import FLOAT, ROLES, Format, LayerFormats, format_family, layer_formats, make_format
from quant.layers.table import BY, DEFAULT, By, Named, check_patterns, check_types, keys_of

Value: TypeAlias = str | bool | int | float | tuple[Any, ...] | None

KEYS = "keys"
"""What errors call the keys of the table."""

_BY = "by"
_NULL = "NA"


@dataclass(frozen=True)
class LayerEntry:
    """The formats of one layer, as MASE writes them: flat.

    Attributes:
        given: Keys and values: ``name``, the format of data and weight; ``data_in_name``,
            ``weight_name``, ``bias_name``, where it is another one; ``data_in_width`` and so on, the
            parameters of the role's format. ``"NA"`` is None: as a name float, as a parameter its
            default.
        formats: What it says.
        weightless: Whether it says too little for a weight: it is for layers that have none.
    """

    given: tuple[tuple[str, Value], ...]
    formats: LayerFormats
    weightless: bool = False

    @classmethod
    def of(cls, given: object, place: str) -> LayerEntry:
        """Reads one entry.

        Raises:
            ConfigError: For an unknown key or a wrong value, with the place.
        """
        if isinstance(given, LayerEntry):
            return given
        if not isinstance(given, Mapping):
            raise ConfigError(f"{place}: {given!r} is no table of formats; give {{name: integer, ...}}")
        values = {str(key): _plain(value) for key, value in given.items()}
        weightless = _is_weightless(values, place)
        formats = layer_formats(values | {"weight_name": FLOAT} if weightless else values, place)
        return cls(tuple(values.items()), formats, weightless)

    def check_weight(self, place: str) -> None:
        """Refuses the entry for a layer with a weight if it does not say what that is to be.

        Raises:
            ConfigError: With the missing parameter.
        """
        if self.weightless:
            make_format("weight", dict(self.given), f"{place}.")

    def to_dict(self) -> dict[str, Any]:
        """As it is written, JSON-ready."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.given}


@dataclass(frozen=True)
class LayerTable:
    """Formats by layer.

    Attributes:
        by: What the keys are: ``name`` (of nodes or modules, and after them types), ``type`` or ``pattern``.
        entries: By key, in the order given; the key ``default`` is for all layers without another.
    """

    by: By
    entries: tuple[tuple[str, LayerEntry], ...]

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
        by = given.get(_BY, BY[0])
        if by not in BY:
            raise ConfigError(f"{_BY}: {by!r} is not possible{nearest(str(by), BY)}")
        table = {str(key): value for key, value in given.items() if key != _BY}
        if not table:
            raise ValueError(f"says nothing of any layer; give it the key {DEFAULT}, or leave it out")
        check_patterns(table, by, KEYS)
        check_types(table, by, KEYS)
        return cls(by, tuple((key, LayerEntry.of(value, key)) for key, value in table.items()))

    def resolved(self, layers: Sequence[Named]) -> dict[str, LayerEntry]:
        """The entry of every layer that has one, by its name.

        Raises:
            ConfigError: If a key stands for no layer, or for several.
        """
        table = dict(self.entries)
        return {name: table[key] for name, key in keys_of(table, self.by, layers, "layers").items()}

    def formats(self) -> Iterator[tuple[str, Format]]:
        """All formats that some layer may have, with the role: "data_in", "weight" or "bias"."""
        for _, entry in self.entries:
            for role in ROLES:
                own: Format | None = getattr(entry.formats, role)
                if own is not None:
                    yield role, own

    def to_dict(self) -> dict[str, Any]:
        """As it is written, JSON-ready."""
        return {_BY: self.by} | {key: entry.to_dict() for key, entry in self.entries}


def _is_weightless(values: Mapping[str, Value], place: str) -> bool:
    """Whether the weight's format has parameters without a default, and none of its keys is given."""
    if any(key.startswith("weight_") for key in values):
        return False
    name = values.get("name")
    family = format_family(name if isinstance(name, str) else None, f"{place}.name")
    return family is not None and any(
        parameter.is_required and "weight" in parameter.roles for parameter in family.parameters
    )


def _plain(value: object) -> Value:
    if isinstance(value, str) and value.upper() == _NULL:
        return None
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigError(f"{value!r} is no value of a format's parameter")


def _serialized(table: LayerTable | None) -> dict[str, Any] | None:
    return None if table is None else table.to_dict()


def _parsed(value: object) -> LayerTable | None:
    return None if value is None else LayerTable.of(value)


Layers = Annotated[
    LayerTable | None,
    PlainValidator(_parsed),
    PlainSerializer(_serialized, return_type=dict[str, Any] | None),
]
