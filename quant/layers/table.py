"""Which entry of a table by name, by type or by pattern is a layer's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Literal, Protocol, TypeAlias

from quant.errors import ConfigError, nearest
from quant.layers.types import OP_TYPES, WORDS

By: TypeAlias = Literal["name", "type", "pattern"]
"""What the keys of a table are."""

BY: tuple[By, ...] = ("name", "type", "pattern")

DEFAULT = "default"
"""The key of the entry for every layer that has none of its own."""


class Named(Protocol):
    """What decides on a layer's entry: `QuantizableLayer`, or anything with the same four."""

    @property
    def name(self) -> str: ...
    @property
    def words(self) -> tuple[str, ...]: ...
    @property
    def module(self) -> str: ...
    @property
    def has_weight(self) -> bool: ...


def keys_of(table: Collection[str], by: By, layers: Sequence[Named], place: str) -> dict[str, str]:
    """The key of every layer that has an entry, by the layer's name; entries are never merged.

    Args:
        table: The keys.
        by: What they are: ``name``: names of nodes, or paths of modules that are one layer alone, as
            PyTorch or as MASE writes them (``seq_blocks.2``, ``seq_blocks_2``), and after them types;
            ``type``: types alone, MASE's words before ONNX's; ``pattern``: regular expressions for the
            whole name of a node, the first that matches. The key ``default`` comes last.
        layers: Those of the model.
        place: The configuration's key, for errors.

    Raises:
        ConfigError: If a key stands for no layer of the model, with the nearest name, or for several;
            types that it happens not to have are allowed.
    """
    check_patterns(table, by, place)
    check_types(table, by, place)
    if by == "pattern":
        _check_matches(table, layers, place)
        found = {layer.name: _first_match(table, layer) for layer in layers}
    else:
        own = _own_keys(table, layers, place) if by == "name" else {}
        found = {layer.name: own.get(layer.name) or _of_type(table, layer) for layer in layers}
    return {name: key for name, key in found.items() if key is not None}


def _first_match(table: Collection[str], layer: Named) -> str | None:
    found = (key for key in table if key != DEFAULT and re.fullmatch(key, layer.name))
    return next(found, DEFAULT if DEFAULT in table else None)


def _of_type(table: Collection[str], layer: Named) -> str | None:
    return next((key for key in (*layer.words, DEFAULT) if key in table), None)


def _own_keys(table: Collection[str], layers: Sequence[Named], place: str) -> dict[str, str]:
    """The keys that stand for one layer, by its name."""
    names = {layer.name for layer in layers}
    own: dict[str, str] = {}
    for key in table:
        if key not in names and (key == DEFAULT or key in WORDS or key in OP_TYPES):
            continue
        name = key if key in names else _of_module(key, layers, place)
        if name in own:
            raise ConfigError(f"{place}: {own[name]!r} and {key!r} are one layer, {name!r}; leave one out")
        own[name] = key
    return own


def _of_module(key: str, layers: Sequence[Named], place: str) -> str:
    """The name of the layer that a module's path stands for: of several, the one with a weight."""
    found = [layer for layer in layers if layer.module == key and key]
    found = found or [layer for layer in layers if layer.module.replace(".", "_") == key and key]
    weighted = [layer for layer in found if layer.has_weight]
    if len(found) > 1 and len(weighted) != 1:
        names = ", ".join(repr(layer.name) for layer in weighted or found)
        raise ConfigError(f"{place}: {key!r} is the module of several layers; name one of {names}")
    if not found:
        paths = [layer.module for layer in layers if layer.module]
        hint = nearest(key, [layer.name for layer in layers], (*WORDS, *OP_TYPES, *paths))
        raise ConfigError(f"{place}: no layer of the model is called {key!r}, and no type{hint}")
    return (weighted or found)[0].name


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


def _check_matches(table: Collection[str], layers: Sequence[Named], place: str) -> None:
    """Refuses patterns that no layer matches."""
    for key in table:
        if key != DEFAULT and not any(re.fullmatch(key, layer.name) for layer in layers):
            raise ConfigError(
                f"{place}: no layer's whole name matches {key!r}; `.*` around it matches parts of names"
            )
