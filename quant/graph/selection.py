"""Naming nodes and operator types in a configuration: exactly, by wildcards or by regular expressions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import translate

from quant.errors import ConfigError, nearest

_REGULAR_EXPRESSION = "re:"
_WILDCARDS = ("*", "?")


def select(patterns: Iterable[str], names: Collection[str], place: str, what: str) -> frozenset[str]:
    """The names that some pattern stands for.

    A pattern is a name; a name with ``*`` (any characters) and ``?`` (any one); or ``re:`` and a
    regular expression that matches the whole name. A pattern that is a name stands for that alone.

    Args:
        patterns: What the configuration says.
        names: What there is.
        place: The configuration's key, for errors.
        what: The complaint about a name that there is not: "the model has no node".

    Raises:
        ConfigError: If a pattern stands for nothing, or is not a regular expression.
    """
    return frozenset().union(*(_matching(pattern, names, place, what) for pattern in patterns))


def _matching(pattern: str, names: Collection[str], place: str, what: str) -> frozenset[str]:
    if pattern in names:
        return frozenset([pattern])
    if pattern.startswith(_REGULAR_EXPRESSION):
        expression = pattern.removeprefix(_REGULAR_EXPRESSION)
    elif any(wildcard in pattern for wildcard in _WILDCARDS):
        expression = translate(pattern.replace("[", "[[]"))  # brackets are common in names
    else:
        raise ConfigError(f"{place}: {what} {pattern!r}{nearest(pattern, names)}")
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise ConfigError(f"{place}: {pattern!r} is not a regular expression: {error}") from None
    found = frozenset(name for name in names if compiled.fullmatch(name))
    if not found:
        raise ConfigError(f"{place}: {what} that {pattern!r} stands for")
    return found
