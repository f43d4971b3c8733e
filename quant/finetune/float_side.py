"""Columns of the float model's layers, which all configurations share: kept as far as there is room."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quant.cache import Stage
from quant.finetune.block import BLOCK_BYTES, Array, Block, Columns, Draw, drawn_columns
from quant.graph.segment_runner import SegmentRunner, Values

KEPT_BYTES = 1 << 28
"""Of the columns of one model that are kept; the float model runs again for layers beyond."""

_ALIGNMENT = 64
_AHEAD = 4
"""Batches whose columns are being gathered at the same time, at most."""


@dataclass(frozen=True)
class Sampling:
    """Which columns of a batch are taken.

    Attributes:
        shares: Of the columns of each kind, about; 1 = all.
        samples: Shares of smaller samples, of the columns themselves.
        seed: Which ones.
    """

    shares: Mapping[Columns, float]
    samples: Mapping[Columns, float]
    seed: int

    def blocks(self, columns: Columns, x: NDArray[Any], batch: int) -> Iterator[Block]:
        """Of an input, as the node takes it; the same of all inputs of one shape."""
        share = self.shares[columns]
        if share < 1:
            return columns.drawn(x, Draw(share, (self.seed, batch)))
        return columns.blocks(x, BLOCK_BYTES)


class BatchColumns(Protocol):
    """The columns of one batch of a tensor, of every kind that layers take of it."""

    def blocks(self, columns: Columns) -> Iterable[Block]: ...


@dataclass(frozen=True)
class Streamed:
    """Made when they are asked for.

    Attributes:
        x: The tensor.
        batch: Number of the batch, which decides on the columns where they are a share.
        sampling: Which columns.
    """

    x: NDArray[Any]
    batch: int
    sampling: Sampling

    def blocks(self, columns: Columns) -> Iterable[Block]:
        return self.sampling.blocks(columns, self.x, self.batch)

    def sample(self, columns: Columns) -> Array:
        """The columns of the smaller sample, shape (groups, in, count)."""
        draw = Draw(self.sampling.samples[columns], (self.sampling.seed, self.batch, 1))
        return drawn_columns(columns, self.x, draw)


def streamed(
    batches: Iterable[Values],
    name: str,
    kinds: Iterable[Columns],
    sampling: Callable[[Iterable[Columns], tuple[int, ...]], Sampling],
) -> Iterator[Streamed]:
    """A tensor batch by batch, all sampled by the shape of the first."""
    taken: Sampling | None = None
    for batch, values in enumerate(batches):
        taken = taken or sampling(kinds, values[name].shape)
        yield Streamed(values[name], batch, taken)


@dataclass(frozen=True)
class Kept:
    """Those of an earlier walk, perhaps of another process.

    Attributes:
        parts: By their kind.
    """

    parts: Mapping[Columns, Sequence[Block]]

    def blocks(self, columns: Columns) -> Iterable[Block]:
        return self.parts[columns]


KeptBlocks = list[list[list[Block]]]
"""By batch and kind."""

Keep = Callable[[list[list[str]], Callable[[], KeptBlocks | None]], KeptBlocks | None]
"""Looks up what a function gives for a walk up to one cut, or calls it.

Beside the names of the tensors and the kinds of columns of all cuts so far, the float model, the data, what
runs them and the sampling decide.
"""


class FloatSide:
    """Gives the float model's columns of one cut after another, running the model only where it must."""

    def __init__(
        self,
        runner: SegmentRunner,
        kinds: Sequence[tuple[str, tuple[Columns, ...]]],
        sampling: Callable[[Iterable[Columns], tuple[int, ...]], Sampling],
        pool: ThreadPoolExecutor,
        keep: Keep | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            runner: Of the float model, with a cut for each tensor.
            kinds: The tensor of each cut, and the columns that are made of it.
            sampling: Which of them, from the shape of a tensor's first batch.
            pool: Where they are gathered.
            keep: How they are kept; None = not at all.
        """
        self.runner = runner
        self.kinds = kinds
        self.sampling = sampling
        self.pool = pool
        self.keep = keep
        self.room = KEPT_BYTES
        self._cut = 0
        self._started: Iterator[Streamed] | None = None

    def batches(self, cut: int) -> Iterator[BatchColumns]:
        """Of one cut, batch by batch; cuts in ascending order."""
        if self.keep is not None:
            walk = [[name, *map(repr, kinds)] for name, kinds in self.kinds[: cut + 1]]
            found = self.keep(walk, lambda: self._gathered(cut))
            if found is not None:
                self.room -= size_bytes(found)
                kinds = self.kinds[cut][1]
                return (Kept(dict(zip(kinds, blocks, strict=True))) for blocks in found)
        started, self._started = self._started, None
        return started or self._streamed(cut)

    def _streamed(self, cut: int) -> Iterator[Streamed]:
        """Runs the model up to a cut."""
        name, kinds = self.kinds[cut]
        batches: Iterator[Values] = iter(())
        while self._cut <= cut:
            batches = self.runner.advance()
            self._cut += 1
        return streamed(batches, name, kinds, self.sampling)

    def _gathered(self, cut: int) -> KeptBlocks | None:
        """All columns of a cut, or None if there is no room for them; then its batches wait in `_started`."""
        kinds, batches = self.kinds[cut][1], self._streamed(cut)
        first = next(batches)
        found = self._within(first, kinds, self.room // len(self.runner.feeds))
        if found is None:
            self._started = chain([first], batches)
            return None

        def gather(batch: Streamed) -> list[list[Block]]:
            return [list(batch.blocks(columns)) for columns in kinds]

        running = []
        for batch in batches:
            running.append(self.pool.submit(gather, batch))
            if len(running) > _AHEAD:
                running[-_AHEAD].result()
        return [found, *(future.result() for future in running)]

    @staticmethod
    def _within(batch: Streamed, kinds: Sequence[Columns], most_bytes: int) -> list[list[Block]] | None:
        """All columns of a batch, or None as soon as they take more."""
        found: list[list[Block]] = []
        for columns in kinds:
            found.append([])
            for block in batch.blocks(columns):
                most_bytes -= block.values.nbytes
                if most_bytes < 0:
                    return None
                found[-1].append(block)
        return found


def size_bytes(kept: KeptBlocks | None) -> int:
    """Of their arrays."""
    return sum(block.values.nbytes for batch in kept or () for blocks in batch for block in blocks)


def encode(kept: KeptBlocks | None) -> list[bytes | memoryview]:
    """A table of all blocks, then their arrays."""
    if kept is None:
        return []
    table, arrays = [], list[bytes | memoryview]()
    for batch in kept:
        table.append([[_row(block) for block in blocks] for blocks in batch])
        arrays += [block.values.reshape(-1).view(np.uint8).data for blocks in batch for block in blocks]
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return [len(text).to_bytes(_ALIGNMENT, "little"), text, *arrays]


def decode(data: memoryview) -> KeptBlocks | None:
    """The inverse; arrays are views."""
    if not data:
        return None
    start = _ALIGNMENT + int.from_bytes(data[:_ALIGNMENT], "little")
    table = json.loads(bytes(data[_ALIGNMENT:start]))
    values = np.frombuffer(data[start:], np.float32)
    end = 0

    def block(taps: int, dilation: int, length: int, shape: list[int]) -> Block:
        nonlocal end
        begin, end = end, end + int(np.prod(shape))
        return Block(values[begin:end].reshape(shape), taps, dilation, length)

    return [[[block(*row) for row in blocks] for blocks in batch] for batch in table]


def _row(block: Block) -> tuple[int, int, int, list[int]]:
    return block.taps, block.dilation, block.length, list(block.values.shape)


FLOAT_COLUMNS: Stage[KeptBlocks | None] = Stage(
    "float columns", 1, 1000, encode, decode, KEPT_BYTES, size_bytes
)
"""Of one cut of the float model; nothing where they do not fit."""
