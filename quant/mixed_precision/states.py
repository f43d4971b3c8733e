"""Models that are called step by step: what one step puts out, the next one takes in.

Quantization errors of states accumulate over the steps, so they are measured over runs of steps in which
the quantized model reads its own states. Which inputs are states, the data tell: a feed repeats what the
float model made of the feed before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from quant.calibration.data import Feed
from quant.mixed_precision.noise import Outputs

Carried = Mapping[str, int]
"""Of one feed: the inputs that are states of the feed before, and the positions of these outputs."""

_TOLERANCE = 1e-4
"""Relative to the greatest value: feeds may have been recorded with another runtime."""


def carried_states(feeds: Sequence[Feed], outputs: Sequence[Outputs]) -> tuple[Carried, ...]:
    """The states that each feed carries on; none where a new run of steps begins.

    Args:
        feeds: In their order in time.
        outputs: What the float model made of each.
    """
    pairs = zip(feeds[1:], outputs[:-1], strict=True)
    return ({}, *(_states(feed, before) for feed, before in pairs)) if feeds else ()


def _states(feed: Feed, before: Outputs) -> dict[str, int]:
    found = {}
    for name, given in feed.items():
        for position, output in enumerate(before):
            if given.shape == output.shape and given.dtype == output.dtype and given.dtype.kind == "f":
                largest = np.abs(output).max(initial=0)
                if largest > 0 and np.abs(given - output).max() <= _TOLERANCE * largest:
                    found[name] = position
                    break
    return found


def follow(
    feeds: Iterable[Feed], carried: Iterable[Carried], run: Callable[[Feed], Outputs]
) -> Iterator[Outputs]:
    """A model's outputs on every feed, its own states in place of those that the feeds hold."""
    outputs: Outputs = ()
    for feed, states in zip(feeds, carried, strict=True):
        outputs = run({**feed, **{name: outputs[position] for name, position in states.items()}})
        yield outputs


def spread(feeds: Sequence[Feed], samples: int, available: int) -> tuple[Feed, ...]:
    """About so many samples from all over the data; whole batches, for a model may take no other.

    Args:
        feeds: All of them.
        samples: How many.
        available: How many there are.
    """
    count = math.ceil(len(feeds) * min(1.0, samples / max(available, 1)))
    return tuple(feeds[index * len(feeds) // count] for index in range(count))
