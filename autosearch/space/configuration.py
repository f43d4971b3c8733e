"""One point of a search space, as the rest of the product sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from autosearch.space.effective import digest_of
from autosearch.space.layer_form import short_layers
from autosearch.space.layer_groups import ChosenLayers
from autosearch.space.rules import DEFAULTS, LAYERS, MOVING_AVERAGE, Flat
from quant.config import QuantConfig, unflatten

_SHORT_NAMES = {
    "include_cle": "cle",
    "include_sq": "sq",
    "include_auto_mp": "auto_mp",
    "include_fast_ft": "fast_ft",
    MOVING_AVERAGE: "moving_average",
    "extra_options.CalibMovingAverageConstant": "constant",
}

_LONG_NUMBER = 10


@dataclass(frozen=True)
class Point:
    """A choice for every dimension of one part of the space.

    Attributes:
        part: Which dict of the space.
        values: By flat key, as written; a key that has no effect may be missing.
    """

    part: int
    values: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Configuration:
    """A configuration to try. Two are equal if they quantize alike.

    Attributes:
        index: Position in the full product; None for a point of a continuous range. Of the
            positions that differ in meaningless keys alone, the first.
        point: What was chosen.
        varied: `params` but for those of layers.
        plain: `effective`, with a stand-in for what was chosen for the layers.
        cost_s: Expected seconds, nothing shared.
        excluded: Why it must not run, or None.
        layers: What was chosen for them; None where the space says nothing of layers.
        watched: Values of the keys `WATCHED`, as written.
    """

    index: int | None
    point: Point = field(repr=False)
    varied: Flat
    plain: Flat = field(repr=False)
    cost_s: float
    excluded: str | None = None
    layers: ChosenLayers | None = field(default=None, repr=False)
    watched: Flat = field(default_factory=dict, repr=False)

    @cached_property
    def params(self) -> Flat:
        """The effective values of the keys that vary in the space and matter here."""
        return self.varied if self.layers is None else {**self.varied, **self.layers.params()}

    @cached_property
    def effective(self) -> Flat:
        """All keys, flat, after the rules."""
        return self.plain if self.layers is None else {**self.plain, LAYERS: self.layers.resolved()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the effective form: its name everywhere."""
        return digest_of(self.effective)

    @cached_property
    def config(self) -> QuantConfig:
        """What the quantizer takes.

        Raises:
            ConfigError: If the configuration is excluded.
        """
        return QuantConfig(**unflatten({**self.effective, **self.watched}))

    @cached_property
    def short(self) -> str:
        """What distinguishes it within the space, on a line.

        Such as ``Percentile 99.99, QUInt8/QInt8, per_channel, cle``.
        """
        return shorten(self.params, self.effective)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Configuration) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def shorten(params: Flat, effective: Flat) -> str:
    """A line for people: switches by name where they differ from the default, values with theirs."""
    words = []
    if any(key.split(".")[0] == LAYERS for key in params):
        params = {key: value for key, value in params.items() if key.split(".")[0] != LAYERS}
        words.append(short_layers(effective[LAYERS]))
    if "calibrate_method" in params or "extra_options.Percentile" in params:
        words.append(effective["calibrate_method"])
    if "extra_options.Percentile" in params:
        words[-1] += f" {effective['extra_options.Percentile']}"
    if "activation_type" in params or "weight_type" in params:
        words.append(f"{effective['activation_type']}/{effective['weight_type']}")
    done = ("calibrate_method", "extra_options.Percentile", "activation_type", "weight_type")
    others = (_word(key, value) for key, value in params.items() if key not in done)
    return ", ".join(word for word in (*words, *others) if word) or "as the base configuration"


def _word(key: str, value: object) -> str:
    name = _SHORT_NAMES.get(key, key.rpartition(".")[2])
    if isinstance(value, bool):
        said = name if value else f"no {name}"
        return "" if value == DEFAULTS[key] else said
    if isinstance(value, list):
        return f"{name} [{' '.join(str(item) for item in value)}]"
    if isinstance(value, float) and len(repr(value)) > _LONG_NUMBER:
        return f"{name} {value:.6g}"  # drawn from a continuous range
    return f"{name} {value}"
