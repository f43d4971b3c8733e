"""A whole finite space, filtered, merged and with its costs, as a few arrays."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autosearch.space.columns import Tables, Words, group
from autosearch.space.cost import SHARED_STAGES, CostModel
from autosearch.space.domain import Columns
from autosearch.space.parts import Part
from autosearch.space.rules import Rule

_CHUNK = 1 << 17


@dataclass(frozen=True)
class SharedStage:
    """One stage whose result several configurations use, over all configurations.

    Attributes:
        group: Equal numbers share the result; int32.
        seconds: Expected time, float32.
    """

    group: NDArray[np.int32]
    seconds: NDArray[np.float32]


@dataclass(frozen=True)
class Enumeration:
    """The distinct configurations of a space, in the order of their index.

    Attributes:
        dropped, stripped: Number of configurations by the reason of a rule.
        index: The first of the points that are equal to each other; int64.
        cost_s: Expected seconds, nothing shared; float64.
        stages: By name of the stage, in the order in which stages run.
    """

    dropped: Mapping[str, int]
    stripped: Mapping[str, int]
    index: NDArray[np.int64]
    cost_s: NDArray[np.float64]
    stages: Mapping[str, SharedStage]

    def __len__(self) -> int:
        return self.index.size

    def cheapest_order(self) -> NDArray[np.int64]:
        """Positions, cheapest configuration first; ties by index."""
        return np.argsort(self.cost_s, kind="stable")

    def grouped_order(self) -> NDArray[np.int64]:
        """Positions, with configurations that share stages side by side.

        Cheap transforms first, within them cheap statistics, within those cheap configurations.
        """
        transform, statistics = self.stages["transform"], self.stages["statistics"]
        keys = (transform.seconds, transform.group, _least(statistics), statistics.group, self.cost_s)
        return np.lexsort(keys[::-1])

    def total_cost_s(self) -> float:
        """Expected seconds for all, each shared stage computed once, for the most demanding."""
        total = float(self.cost_s.sum())
        for stage in self.stages.values():
            once = np.zeros(int(stage.group.max(initial=-1)) + 1)
            np.maximum.at(once, stage.group, stage.seconds)
            total += float(once.sum()) - float(stage.seconds.sum(dtype=np.float64))
        return total


def _least(stage: SharedStage) -> NDArray[np.float32]:
    """For each configuration, the least time among those that share the stage with it."""
    least = np.full(int(stage.group.max(initial=-1)) + 1, np.inf, np.float32)
    np.minimum.at(least, stage.group, stage.seconds)
    return least[stage.group]


def enumerate_parts(parts: Sequence[Part], rules: Iterable[Rule], cost_model: CostModel) -> Enumeration:
    """Counts, filters, merges and prices all points, chunk by chunk."""
    tables = Tables(parts, tuple(rules))
    dropped: Counter[str] = Counter()
    stripped: Counter[str] = Counter()
    found: list[tuple[NDArray[np.int64], Words]] = []
    for part, index in _chunks(parts):
        columns = tables.decode(part, index - _offsets(parts)[part])
        kept = tables.kept(columns, index.size, dropped)
        if not kept.all():
            index, columns = index[kept], _rows(columns, kept)
        tables.canonicalise(columns, part, stripped)
        words = tables.pack(columns)
        first = group(words, index.size)[0]
        found.append((index[first], [np.broadcast_to(word, index.size)[first] for word in words]))
    index = np.concatenate([index for index, _ in found])
    width = len(found[0][1])
    words = [np.concatenate([words[i] for _, words in found]) for i in range(width)]
    del found
    index = index[group(words, index.size)[0]]
    return Enumeration(+dropped, +stripped, index, *_price(tables, index, _offsets(parts), cost_model))


def _price(
    tables: Tables, index: NDArray[np.int64], offsets: NDArray[np.int64], cost_model: CostModel
) -> tuple[NDArray[np.float64], dict[str, SharedStage]]:
    cost_s = np.empty(index.size)
    seconds = {stage: np.empty(index.size, np.float32) for stage in SHARED_STAGES}
    words: dict[str, list[Words]] = {stage: [] for stage in SHARED_STAGES}
    for part, start, stop in _runs(index, offsets):
        columns = tables.decode(part, index[start:stop] - offsets[part])
        tables.canonicalise(columns, part, Counter())
        expected = cost_model.expected(tables.lookup(columns))
        cost_s[start:stop] = sum(expected.values())
        for stage, keys in SHARED_STAGES.items():
            seconds[stage][start:stop] = expected[stage]
            packed = tables.pack(columns, keys)
            words[stage].append([np.broadcast_to(word, stop - start) for word in packed])
    return cost_s, {
        stage: SharedStage(_group_numbers(words[stage], index.size), seconds[stage])
        for stage in SHARED_STAGES
    }


def _group_numbers(chunks: list[Words], size: int) -> NDArray[np.int32]:
    width = len(chunks[0]) if chunks else 0
    joined = [np.concatenate([chunk[i] for chunk in chunks]) for i in range(width)]
    return group(joined, size)[1].astype(np.int32)


def _offsets(parts: Sequence[Part]) -> NDArray[np.int64]:
    """Index of every part's first point."""
    sizes = [part.size or 0 for part in parts]
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)


def _chunks(parts: Sequence[Part]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    for part, offset in enumerate(_offsets(parts)):
        size = parts[part].size or 0
        for start in range(0, size, _CHUNK):
            yield part, offset + np.arange(start, min(start + _CHUNK, size), dtype=np.int64)


def _runs(index: NDArray[np.int64], offsets: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Slices of an ascending index, each within one part and no longer than a chunk."""
    bounds = [*np.searchsorted(index, offsets), index.size]
    for part, (low, high) in enumerate(itertools.pairwise(bounds)):
        for start in range(int(low), int(high), _CHUNK):
            yield part, start, min(start + _CHUNK, int(high))


def _rows(columns: Columns, kept: NDArray[np.bool_]) -> Columns:
    return {key: column[kept] if column.ndim else column for key, column in columns.items()}
