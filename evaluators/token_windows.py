"""Cuts a text, as one stream of tokens, into feeds of a causal language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.errors import EvaluatorInputError
from evaluators.metric import hint

Tokens = NDArray[np.int64]

_INPUTS: Mapping[str, Callable[[Tokens, Tokens], Tokens]] = MappingProxyType(
    {
        "input_ids": lambda tokens, mask: tokens,
        "attention_mask": lambda tokens, mask: mask,
        "position_ids": lambda tokens, mask: np.maximum(mask.cumsum(axis=1) - 1, 0),
    }
)
"""What a model may take, made of tokens and mask, both (windows, length)."""


def token_windows(
    tokens: ArrayLike,
    length: int,
    *,
    batch_size: int = 1,
    pad_token: int = 0,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
) -> list[dict[str, NDArray[Any]]]:
    """Feeds of windows that lie side by side in a stream of tokens.

    All windows are as long as asked for; the last one is padded on the right, where its mask is 0, and
    left out if it would hold a single token. The first token of a window is not predicted by
    anything: of n tokens n less the number of windows count for the perplexity.

    Args:
        tokens: (tokens,), or (1, tokens) as tokenizers return it; integers, at least two.
        length: Tokens in a window, from 2; at most what the model has positions for.
        batch_size: Windows in a feed; the last feed may have fewer.
        pad_token: What the padding is filled with.
        inputs: Names of the model's inputs, among `input_ids`, `attention_mask` and `position_ids`.

    Returns:
        Feeds of int64 arrays (windows, length): for `PerplexityEvaluator`, and for calibration.

    Raises:
        EvaluatorInputError: If the tokens are no such stream, a number is too small, or an input unknown.
    """
    stream = _checked(tokens)
    for name, value, least in (("length", length, 2), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise EvaluatorInputError(f"{name}: must be an integer from {least}, not {value!r}")
    for name in inputs:
        if name not in _INPUTS:
            raise EvaluatorInputError(f"inputs: cannot make {name!r} of tokens; {hint(name, _INPUTS)}")
    if len(stream) % length == 1:
        stream = stream[:-1]
    windows = -(-len(stream) // length)
    padding = windows * length - len(stream)
    ids = np.pad(stream, (0, padding), constant_values=pad_token).reshape(windows, length)
    mask = np.pad(np.ones_like(stream), (0, padding)).reshape(windows, length)
    arrays = {name: _INPUTS[name](ids, mask) for name in inputs}
    return [
        {name: array[start : start + batch_size] for name, array in arrays.items()}
        for start in range(0, windows, batch_size)
    ]


def _checked(tokens: ArrayLike) -> Tokens:
    try:
        array = np.asarray(tokens)
    except ValueError as error:
        raise EvaluatorInputError(f"tokens: not one stream: {error}") from error
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) < 2:
        raise EvaluatorInputError(
            f"tokens: must be integers, (tokens,), at least two, not {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)
