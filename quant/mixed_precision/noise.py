"""How far a quantized model's outputs are from the float model's, in the parts that belong together.

An output may mix quantities of different sizes: a detector's last Concat puts box coordinates of hundreds
beside scores below one. So errors are summed for each part, and measured against what that part says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.calibration.data import Feed

Outputs = Sequence[NDArray[Any]]
"""Of one batch."""

Labels = Sequence[NDArray[np.int64]]
"""The number of the part that every element of an output belongs to: the output's shape, or () for all."""

_CONSTANT = 1e-12
"""Distance relative to the mean square below which a guess is exact, and says nothing of accuracy."""


@dataclass(frozen=True)
class Noise:
    """Distance of outputs from the float outputs.

    Attributes:
        relative: Of every part, sum (q - f)^2 / sum (f - g)^2 with the best guess g that needs no model:
            0 = equal, 1 = no better than a guess. Infinite where q is not finite.
        mean_square: Mean of (q - f)^2 over the elements of all parts.
    """

    relative: tuple[float, ...]
    mean_square: float

    @property
    def worst(self) -> float:
        """Of the part with the greatest relative error."""
        return max(self.relative, default=0.0)


class Reference:
    """The float outputs and what their parts say."""

    def __init__(
        self,
        outputs: Sequence[Outputs],
        labels: Sequence[Labels],
        parts: int,
        feeds: Sequence[Feed] = (),
        states: Collection[str] = (),
    ) -> None:
        """Sums up what every part's errors are measured against.

        That is its distance from the nearest of the guesses that need no model: what the output is on
        average over the samples, and, where an input has the output's shape, that input: of a filtered image
        the changes count.

        Args:
            outputs: For each batch, samples along the first axis. Of integers and truth values only
                equality counts, and their error is the share that differs.
            labels: For each batch, one for each output.
            parts: Number of parts.
            feeds: What the outputs were computed from.
            states: Names of inputs that are no such guess.
        """
        self.outputs, self.labels, self.parts = outputs, labels, parts
        self.feeds, self.states = feeds, states
        self.energy, self.elements = np.zeros(parts), 0
        for position in range(len(outputs[0]) if outputs else 0):
            self.energy += self._distance(position)
            self.elements += sum(batch[position].size for batch in outputs)

    def _distance(self, position: int) -> NDArray[np.float64]:
        """Of an output's parts from the nearest guess that is not exact, shape (parts,)."""
        batches = [batch[position] for batch in self.outputs]
        square = self._total(position, [np.zeros_like(f) for f in batches])
        if batches[0].dtype.kind != "f":
            sizes = [self._part_sums(np.ones(f.shape), own[position]) for f, own in self._labelled(batches)]
            return np.asarray(np.sum(sizes, axis=0), np.float64)
        guesses = [_sample_means(batches)]
        for name in set(self.feeds[0] if self.feeds else ()) - set(self.states):
            given = [feed[name] for feed in self.feeds]
            if all(x.shape == f.shape and x.dtype == f.dtype for x, f in zip(given, batches, strict=True)):
                guesses.append(given)
        distances = np.array([self._total(position, guess) for guess in guesses])
        distances = np.where(distances <= _CONSTANT * square, np.inf, distances).min(axis=0)
        return np.asarray(np.where(np.isinf(distances), square, distances))

    def _labelled(self, batches: Outputs) -> Iterable[tuple[NDArray[Any], Labels]]:
        return zip(batches, self.labels, strict=True)

    def _total(self, position: int, guess: Outputs) -> NDArray[np.float64]:
        """Sums of squared differences from a guess over an output's parts, shape (parts,)."""
        batches = [batch[position] for batch in self.outputs]
        errors = [_squared_error(f, g) for f, g in zip(batches, guess, strict=True)]
        sums = [self._part_sums(error, own[position]) for error, own in self._labelled(errors)]
        return np.asarray(np.sum(sums, axis=0), np.float64)

    def _part_sums(self, values: NDArray[Any], label: NDArray[np.int64]) -> NDArray[np.float64]:
        if label.ndim == 0:
            sums = np.zeros(self.parts)
            sums[label] = values.sum(dtype=np.float64)
            return sums
        weighted = np.bincount(label.reshape(-1), _real(values).reshape(-1), self.parts)
        return np.asarray(weighted, np.float64)

    def noise(self, batches: Iterable[Outputs]) -> Noise:
        """The noise of another model's outputs.

        Args:
            batches: For each batch, in the same order as the float ones. Where an output's shape differs
                (found objects, say), it counts as zeros of the float output's shape.
        """
        errors = np.zeros(self.parts)
        for outputs, others, labels in zip(self.outputs, batches, self.labels, strict=True):
            for f, q, label in zip(outputs, others, labels, strict=True):
                errors += self._part_sums(_squared_error(f, q), label)
        errors = np.where(np.isfinite(errors), errors, np.inf)
        relative = np.where(self.energy > 0, errors / np.where(self.energy > 0, self.energy, 1), errors)
        return Noise(tuple(float(value) for value in relative), float(errors.sum()) / max(self.elements, 1))


def _sample_means(batches: Outputs) -> list[NDArray[Any]]:
    """Mean over the samples at every position, float64; over all values where shapes vary or there is one.

    Of n samples, the mean of the others is n / (n - 1) as far away; so far the result is moved.
    """
    shapes = {f.shape[1:] for f in batches}
    samples = sum(f.shape[0] if f.ndim else 1 for f in batches)
    if len(shapes) > 1 or samples < 2 or not batches[0].ndim:
        mean = sum(f.sum(dtype=np.float64) for f in batches) / max(sum(f.size for f in batches), 1)
        return [np.full(f.shape, mean) for f in batches]
    mean = sum(f.sum(axis=0, dtype=np.float64) for f in batches) / samples
    return [f + (mean - f) * samples / (samples - 1) for f in batches]


def _real(values: NDArray[Any]) -> NDArray[np.float64]:
    return values.astype(np.float64)


def _squared_error(f: NDArray[Any], q: NDArray[Any]) -> NDArray[Any]:
    q = q if q.shape == f.shape else np.zeros_like(f)
    with np.errstate(over="ignore", invalid="ignore"):
        return (_real(q) - _real(f)) ** 2 if f.dtype.kind == "f" else f != q
