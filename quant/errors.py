"""The errors that `quant` raises, all of them `ValueError`s addressed to the caller."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QuantError(ValueError):
    """Base of every error that this package raises on purpose."""


class ConfigError(QuantError):
    """A configuration that is wrong in itself: unknown key, wrong type, contradiction."""


class DataError(QuantError):
    """Calibration data that is empty, exhausted, not finite, or does not fit the model."""


class ModelError(QuantError):
    """A model that cannot be quantized: unreadable, invalid, already quantized."""


class QuantizationError(QuantError):
    """A model and a configuration that are each valid but cannot be combined."""


def nearest(name: str, known: Iterable[str], also: Iterable[str] = ()) -> str:
    """The ending of an error message that names the closest known word, or lists all.

    Words of `also` are proposed where they are close, and not listed.

    >>> nearest("Percentil", ["Percentile", "CalibDataSize"])
    "; did you mean 'Percentile'?"
    """
    words = sorted(known)
    folded = {word.casefold(): word for word in (*also, *words)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {folded[close[0]]!r}?"
    return f"; known: {', '.join(words)}"
