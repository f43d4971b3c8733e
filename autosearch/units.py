"""Sizes and durations as people write them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_SIZES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AMOUNT = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")
_FACTOR = re.compile(r"\s*(?P<factor>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*(?P<times>[xX×]?)\s*")


@dataclass(frozen=True)
class Amount:
    """A number, or one in terms of the float model.

    Attributes:
        value: The number, or the factor.
        is_relative: Whether it is a factor of the float model's own value.
    """

    value: float
    is_relative: bool = False

    def of(self, float_value: float) -> float:
        """The number, for a float model of this value."""
        return self.value * float_value if self.is_relative else self.value

    def __str__(self) -> str:
        return f"{self.value:g}{'x' if self.is_relative else ''}"


def read_amount(value: object) -> Amount | None:
    """A number, or a text such as ``0.98x``: times the float model's own value. None stays None.

    Raises:
        ValueError: If it is neither.
    """
    if value is None or isinstance(value, Amount):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return Amount(float(value))
    match = _FACTOR.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("write a number, or '0.98x' for 0.98 times the float model's own value")
    return Amount(float(match["factor"]), is_relative=bool(match["times"]))


def read_size(value: object) -> int:
    """Bytes: a number, or a text such as ``10 GB`` (10^10) or ``512 MiB`` (2^29).

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match["unit"].lower() not in _SIZES:
        raise ValueError("write a number of bytes, or a size such as '10 GB' or '512 MiB'")
    return round(float(match["number"]) * _SIZES[match["unit"].lower()])


def read_duration(text: str) -> float:
    """Seconds of a text such as ``30d``, ``12h``, ``5m`` or ``90s``.

    Raises:
        ValueError: If it is not written so.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None or match["unit"].lower() not in _DURATIONS:
        raise ValueError(f"{text!r}: write a duration such as 30d, 12h, 5m or 90s")
    return float(match["number"]) * _DURATIONS[match["unit"].lower()]


def size_text(size_bytes: int) -> str:
    """Three digits and a decimal unit.

    >>> size_text(1_234_567)
    '1.23 MB'
    """
    amount, unit = float(size_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.3g} {unit}" if amount < 999.5 else f"{amount:.0f} {unit}"


def duration_text(seconds: float) -> str:
    """The largest unit that fits, rounded down.

    >>> duration_text(7500)
    '2 h'
    """
    units = [(length, unit) for unit, length in _DURATIONS.items() if length <= max(seconds, 1)]
    length, unit = max(units)
    return f"{max(0, int(seconds / length))} {unit}"
