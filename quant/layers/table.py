"""Which entry of a table by name, by type or by pattern is a layer's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, TypeVar

from quant.errors import ConfigError, nearest
from quant.layers.types import OP_TYPES, WORDS

By: TypeAlias = Literal["name", "type", "pattern"]
"""What the keys of a table are."""

BY: tuple[By, ...] = ("name", "type", "pattern")

DEFAULT = "default"
"""The key of the entry for every layer that has none of its own."""

T = TypeVar("T")


class Named(Protocol):
    """What decides on a layer's entry: `QuantizableLayer`, or anything with the same two."""

    @property
    def name(self) -> str: ...
    @property
    def words(self) -> tuple[str, ...]: ...


def entry_of(table: Mapping[str, T], by: By, layer: Named) -> T | None:
    """The entry of a table for a layer, or None; entries are never merged.

    Args:
        table: Entries by key.
        by: What the keys are: ``name``: names of nodes, and after them types; ``type``: types alone, MASE's
            words before ONNX's; ``pattern``: regular expressions for the whole name, the first that
            matches. The key ``default`` comes last.
        layer: The layer.
    """
    key = key_of(table, by, layer)
    return None if key is None else table[key]


def key_of(table: Collection[str], by: By, layer: Named) -> str | None:
    """The key of that entry."""
    if by == "pattern":
        found = (key for key in table if key != DEFAULT and re.fullmatch(key, layer.name))
        return next(found, DEFAULT if DEFAULT in table else None)
    own = (layer.name, *layer.words) if by == "name" else layer.words
    return next((key for key in (*own, DEFAULT) if key in table), None)


def check_patterns(table: Collection[str], by: By, place: str) -> None:
    """Refuses keys that are no regular expressions where they should be.

    Raises:
        ConfigError: With the key.
    """
    for key in table if by == "pattern" else ():
        try:
            re.compile(key)
        except re.error as error:
            raise ConfigError(f"{place}: {key!r} is not a regular expression: {error}") from None


def check_types(table: Collection[str], by: By, place: str) -> None:
    """Refuses keys of a table by type that are no type, before any model is known.

    Raises:
        ConfigError: With the nearest type.
    """
    for key in table if by == "type" else ():
        if key not in WORDS and key not in OP_TYPES and key != DEFAULT:
            raise ConfigError(
                f"{place}: {key!r} is no type of layer{nearest(key, WORDS | OP_TYPES)} (by: name has the"
                " names of nodes)"
            )


def check_keys(table: Collection[str], by: By, layers: Sequence[Named], place: str) -> None:
    """Refuses keys that stand for no layer of a model; types that it happens not to have are allowed.

    Args:
        table: The keys.
        by: As in `entry_of`.
        layers: Those of the model.
        place: The configuration's key, for errors.

    Raises:
        ConfigError: With the nearest name.
    """
    check_patterns(table, by, place)
    check_types(table, by, place)
    names = [layer.name for layer in layers]
    for key in table:
        if key == DEFAULT or by == "type":
            continue
        if by == "pattern" and not any(re.fullmatch(key, name) for name in names):
            raise ConfigError(
                f"{place}: no layer's whole name matches {key!r}; `.*` around it matches parts of names"
            )
        if by == "name" and key not in names and key not in WORDS and key not in OP_TYPES:
            known = nearest(key, {*names, *WORDS, *OP_TYPES})
            raise ConfigError(f"{place}: no layer of the model is called {key!r}, and no type{known}")
