"""What each number format costs in accuracy, when a single tensor of a float model has it.

A few formats of each site are measured, by running the model with the rounded values in that place; the
others follow from how much they change the tensor: small independent roundings add noise in proportion
to their energy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.mixed_precision.substitution import Edge, Substitution

Rounding = Callable[[NDArray[Any]], NDArray[Any]]
"""From a tensor to the nearest values of a format, same shape and dtype."""

_ELEMENTS = 1 << 16
"""Of an activation, to estimate how much a format changes it."""


@dataclass(frozen=True)
class Site:
    """A place for a format.

    Attributes:
        place: Name of an initializer, or an edge.
        value: Of the initializer; None for an edge.
        roundings: The formats that it may have, at least one.
    """

    place: str | Edge
    value: NDArray[Any] | None
    roundings: Sequence[Rounding]


def format_errors(substitution: Substitution, sites: Sequence[Site], runs: int) -> list[NDArray[np.float64]]:
    """Relative noise of the outputs for every format of every site alone; all else is float.

    Args:
        substitution: Of the float model, with all places of the sites.
        sites: In any order.
        runs: About how many times the model may run over the yardstick's data; each site gets one run at
            least.

    Returns:
        Of each site the mean of `Noise.relative`, shape (formats,); infinite where outputs are not finite.
    """
    each = max(1, runs // max(1, len(sites)))
    return [_site_errors(substitution, site, each) for site in sites]


def _site_errors(substitution: Substitution, site: Site, runs: int) -> NDArray[np.float64]:
    values = [site.value] if isinstance(site.place, str) else substitution.values(site.place)
    arrays = [value for value in values if value is not None]
    part = arrays if isinstance(site.place, str) else [_part(arrays)]
    energy = np.array([_energy(part, rounding) for rounding in site.roundings])
    anchors = _anchors(energy, runs)
    measured = np.array([_measure(substitution, site, site.roundings[i], arrays) for i in anchors])
    return _interpolated(energy, anchors, measured)


def _measure(
    substitution: Substitution, site: Site, rounding: Rounding, arrays: Sequence[NDArray[Any]]
) -> float:
    rounded = [rounding(array) for array in arrays]
    if isinstance(site.place, str):
        noise = substitution.noise(initializers={site.place: rounded[0]})
    else:
        noise = substitution.noise(edges={site.place: rounded})
    return float(np.mean(noise.relative))


def _part(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Some rows of a tensor: along the last axis nothing is left out, for blocks lie there."""
    rows = np.concatenate([array.reshape(-1, array.shape[-1] if array.ndim else 1) for array in arrays])
    step = max(1, rows.size // _ELEMENTS)
    return rows[::step]


def _energy(arrays: Sequence[NDArray[Any]], rounding: Rounding) -> float:
    """Sum of squared changes."""
    return sum(
        float(np.square(rounding(array).astype(np.float64) - array.astype(np.float64)).sum())
        for array in arrays
    )


def _anchors(energy: NDArray[np.float64], count: int) -> list[int]:
    """Positions of the formats to measure: spread over the energies that differ, or the middle one."""
    distinct, first = np.unique(energy, return_index=True)
    usable = first[np.isfinite(distinct) & (distinct > 0)]
    if usable.size <= count:
        return [int(position) for position in usable]
    wanted = [0.5] if count == 1 else np.linspace(0, 1, count)
    return [int(usable[round(place * (usable.size - 1))]) for place in wanted]


def _interpolated(
    energy: NDArray[np.float64], anchors: Sequence[int], measured: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Errors of all formats: between two anchors by powers of the energy, beyond them in proportion to it."""
    errors = np.where(np.isfinite(energy), 0.0, np.inf)
    usable = [(energy[i], error) for i, error in zip(anchors, measured, strict=True) if error > 0]
    changed = np.isfinite(energy) & (energy > 0)
    if usable:
        x, y = np.log(np.array(sorted(usable)).T)
        wanted = np.log(energy[changed])
        beyond = wanted - np.clip(wanted, x[0], x[-1])
        errors[changed] = np.exp(np.interp(wanted, x, y) + beyond)
    errors[list(anchors)] = measured
    return errors
