"""Configurations as columns of small integer codes, and the rules as tables on the codes.

A column holds, for one key and many configurations, the codes of their values in the key's
`Domain`; where all have the same value it is an array of shape (). A rule becomes, for every key
that it writes, a table of codes indexed by the codes of the keys that it reads.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosearch.space.cost import Lookup
from autosearch.space.domain import Codes, Columns, Domain
from autosearch.space.layer_columns import LayerColumns
from autosearch.space.parts import Part
from autosearch.space.rules import LAYERS, Drop, Rewrite, Rule, Strip

Words = list[NDArray[np.int64]]
"""Several columns packed into few: equal rows have equal words, and the reverse."""

_WORD_LIMIT = 2**62
_KEEP = -1


@dataclass(frozen=True)
class Effect:
    """A rule, tabulated.

    Attributes:
        reason: Of the rule.
        reads: Keys that index the tables, one axis each.
        tables: New code by written key; -1 leaves the old one.
    """

    reason: str
    reads: tuple[str, ...]
    tables: dict[str, Codes]


class Tables:
    """All that is needed to turn digits of a space into effective columns.

    Args:
        parts: The space; every dimension finite.
        rules: In their order.
    """

    def __init__(self, parts: Sequence[Part], rules: Iterable[Rule]) -> None:
        self.parts = parts
        self.domains = {key: Domain() for key in parts[0].base}
        self._layers = LayerColumns(parts, self.domains)
        self._constants = [
            self._encode_base(part) | self._layers.constants(number) for number, part in enumerate(parts)
        ]
        self._digits = [self._encode_choices(part) for part in parts]
        self._varied = [frozenset(digits) for digits in self._digits]
        self._drops = [rule for rule in rules if isinstance(rule, Drop)]
        self._refused = {
            rule.key: np.array([rule.refuses(value) for value in self.domains[rule.key].values])
            for rule in self._drops
        }
        effects = [self._tabulate(rule) for rule in rules if not isinstance(rule, Drop)]
        self._effects = [effect for effect in effects if effect.tables]
        self._functions: dict[tuple[str, Callable[[Any], Any]], NDArray[np.float64]] = {}

    def decode(self, part: int, index: NDArray[np.int64]) -> Columns:
        """Columns, as the user wrote them, of points of one part."""
        columns = dict(self._constants[part])
        groups, numbers, size = self.parts[part].groups, [], index.size
        for at in reversed(range(len(groups))):
            index, number = np.divmod(index, groups[at].size)
            numbers.append(number)
            if groups[at].size > 1:
                columns |= self._layers.decode(part, at, number)
        for key, codes in reversed(self._digits[part].items()):
            index, digit = np.divmod(index, len(codes))
            columns[key] = codes[digit]
        if groups:
            columns[LAYERS] = self._layers.stand_ins(part, numbers[::-1], size)
        return columns

    def kept(self, columns: Columns, size: int, dropped: Counter[str]) -> NDArray[np.bool_]:
        """Which configurations no rule drops; counts the others by the first reason."""
        kept = np.ones(size, np.bool_)
        for rule in self._drops:
            refused = kept & self._refused[rule.key][columns[rule.key]]
            dropped[rule.reason] += int(refused.sum())
            kept &= ~refused
        return kept

    def canonicalise(self, columns: Columns, part: int, stripped: Counter[str]) -> None:
        """Applies the rules in place; counts the configurations that each one changed.

        What a rule changes in a key that the part does not vary merges nothing and is not counted.
        """
        for effect in self._effects:
            at = tuple(columns[key] for key in effect.reads)
            changed: Any = False
            for key, table in effect.tables.items():
                new, old = table[at], columns[key]
                columns[key] = np.where(new == _KEEP, old, new)
                if key in self._varied[part]:
                    changed = changed | (columns[key] != old)
            stripped[effect.reason] += int(np.sum(changed))

    def pack(self, columns: Columns, keys: Iterable[str] | None = None) -> Words:
        """Words that are equal where the values of these keys are; by default, of all keys."""
        domains = self.domains if keys is None else {key: self.domains[key] for key in keys}
        varying = {key: len(domain) for key, domain in domains.items() if len(domain) > 1}
        return pack([columns[key] for key in varying], list(varying.values()))

    def lookup(self, columns: Columns) -> Lookup:
        """Numeric functions of values, over columns."""

        def over_columns(key: str, function: Callable[[Any], Any]) -> NDArray[np.float64]:
            if (key, function) not in self._functions:
                values = self.domains[key].values
                self._functions[key, function] = np.array([function(value) for value in values], float)
            return self._functions[key, function][columns[key]]

        return over_columns

    def _encode_base(self, part: Part) -> Columns:
        varied = {dimension.key for dimension in part.dimensions}
        return {
            key: np.array(self.domains[key].encode(value), np.int32)
            for key, value in part.base.items()
            if key not in varied
        }

    def _encode_choices(self, part: Part) -> dict[str, Codes]:
        return {
            dimension.key: np.array(
                [self.domains[dimension.key].encode(value) for value in dimension.values], np.int32
            )
            for dimension in part.dimensions
        }

    def _tabulate(self, rule: Rewrite | Strip) -> Effect:
        """Evaluates a rule on all combinations of what it reads; takes new values in."""
        domains = [self.domains[key].values for key in rule.reads]
        shape = tuple(len(values) for values in domains)
        tables: dict[str, Codes] = {}
        for at, values in zip(np.ndindex(shape), itertools.product(*domains), strict=True):
            for key, value in rule.effect(dict(zip(rule.reads, values, strict=True))).items():
                if key not in tables:
                    tables[key] = np.full(shape, _KEEP, np.int32)
                tables[key][at] = self.domains[key].encode(value)
        needed = {key: table for key, table in tables.items() if len(self.domains[key]) > 1}
        return Effect(rule.reason, rule.reads, needed)


def pack(columns: Sequence[Codes], sizes: Sequence[int]) -> Words:
    """Mixed-radix numbers of the columns, as many as are needed to stay within 62 bits."""
    words: Words = []
    capacity = _WORD_LIMIT
    for column, size in zip(columns, sizes, strict=True):
        if not words or capacity * size > _WORD_LIMIT:
            words.append(column.astype(np.int64))
            capacity = size
        else:
            words[-1] = words[-1] * size + column
            capacity *= size
    return words


def group(words: Words, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Equal rows of words.

    Returns:
        The first row of each group, ascending; and for every row the number of its group.
    """
    if not words:
        return np.zeros(min(size, 1), np.int64), np.zeros(size, np.int64)
    rows = [np.broadcast_to(word, size) for word in words]
    order = np.lexsort(rows)
    differs = np.zeros(size, np.bool_)
    differs[:1] = True
    for row in rows:
        differs[1:] |= row[order[1:]] != row[order[:-1]]
    numbers = np.empty(size, np.int64)
    numbers[order] = np.cumsum(differs) - 1
    return np.sort(order[differs]), numbers
