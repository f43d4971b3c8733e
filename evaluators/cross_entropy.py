"""Cross entropy: how surprised a classifier, or a language model at a token, is by the right class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_PROBABILITY = 1e-7
"""What a probability of zero counts as, so that a rounded one is no infinite loss; Keras has the same."""

# 4 MiB of float32: a vocabulary of 50 000 goes 20 tokens at a time, in the cache.
_SLICE_ELEMENTS = 1 << 20


def losses_from_logits(logits: NDArray[Any], labels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Negative log likelihood of each label under the softmax of its logits, in nats.

        loss = log sum_c exp(z_c - m) - (z_label - m),    m = max_c z_c

    Stable for logits of any size. Exponentials are float32, sums float64 (everything is, of float64 logits);
    no copy is larger than a slice of rows. A label at -inf costs +inf; a row that has +inf or NaN, or nothing
    but -inf, NaN.

    Args:
        logits: (rows, classes), any float or integer type.
        labels: (rows,), from 0 to classes - 1.
    """
    losses = np.empty(len(labels), np.float64)
    dtype = np.float64 if logits.dtype.itemsize > 4 else np.float32
    for rows in _slices(logits):
        z: NDArray[Any] = logits[rows].astype(dtype)
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf: NaN, for the caller to tell
            np.subtract(z, z.max(axis=1, keepdims=True), out=z)
        right = np.take_along_axis(z, labels[rows, None], axis=1)[:, 0].astype(np.float64)
        losses[rows] = np.log(np.exp(z, out=z).sum(axis=1, dtype=np.float64)) - right
    return losses


def losses_from_probabilities(
    probabilities: NDArray[Any], labels: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Negative logarithm of each label's probability, in nats.

        loss = -log max(p_label / sum_c p_c, 1e-7)

    Quantized probabilities do not add up to one, hence the sum; a row of zeros costs as a label of
    probability zero.

    Args:
        probabilities: (rows, classes), not negative.
        labels: (rows,), from 0 to classes - 1.
    """
    losses = np.empty(len(labels), np.float64)
    for rows in _slices(probabilities):
        p = probabilities[rows].astype(np.float64)
        total = p.sum(axis=1)
        right = np.take_along_axis(p, labels[rows, None], axis=1)[:, 0]
        share = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
        losses[rows] = -np.log(np.maximum(share, LEAST_PROBABILITY))
    return losses


def _slices(scores: NDArray[Any]) -> Iterator[slice]:
    step = max(1, _SLICE_ELEMENTS // max(1, scores.shape[1]))
    return (slice(start, start + step) for start in range(0, len(scores), step))
