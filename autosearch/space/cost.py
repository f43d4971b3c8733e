"""What a configuration costs: expected seconds, stage by stage.

    seconds = sum over stages of rate(stage) x work(stage, parameters)

The work is a fixed formula in relative units; the rates begin as static estimates and follow the
trials that ran. The same formula serves one configuration and columns of a million: it sees the
parameters only through a `Lookup`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosearch.space.effective import canonical_json
from autosearch.space.rules import NUM_ITERATIONS, OPTIM_ALGORITHM, Flat, extra, finetune

Amount = float | NDArray[np.float64]
Lookup = Callable[[str, Callable[[Any], Any]], Any]
"""``lookup(key, function)``: the function of the key's value, for one configuration or for many."""

CALIB_DATA_SIZE, CLE_STEPS = extra("CalibDataSize", "CLESteps")
FINETUNE_DATA_SIZE = finetune("DataSize")[0]
SECONDS_PER_MAC = 1e-10
"""Float inference on a few cores; the first observed trials replace what follows from it."""

_RANGE_WORK = {"MinMax": 0.02, "NonOverflow": 0.02, "Percentile": 0.1, "LayerWisePercentile": 0.5}
_CLE_ROUNDS_UNTIL_CONVERGED = 10
_GPTQ_ITERATIONS = 30
"""Iterations of AdaRound that take as long as GPTQ with its coordinate descent."""


def _passes(method: str) -> float:
    """A pass that fills histograms takes about twice as long as one for minima and maxima."""
    return 1.0 if method in ("MinMax", "NonOverflow") else 2.0


_MIXED_PRECISION = 50.0
"""Measuring every tensor by itself, in insertions of Q/DQ nodes."""


def _range_work(method: str) -> float:
    return _RANGE_WORK.get(method, 1.0)


def _cle_rounds(steps: int) -> float:
    return float(_CLE_ROUNDS_UNTIL_CONVERGED if steps == -1 else steps)


def _adaround_iterations(algorithm: str) -> float:
    """Per iteration: 0 for the algorithm that makes none."""
    return 0.0 if algorithm == "gptq" else 1.0


def _gptq_iterations(algorithm: str) -> float:
    return float(_GPTQ_ITERATIONS - _adaround_iterations(algorithm) * _GPTQ_ITERATIONS)


_TRANSFORM = (
    "optimize_model",
    "include_cle",
    *extra("CLESteps", "CLEScaleAppendBias", "CLEScaleUseThreshold"),
    *extra("CLEWeightThreshold", "CLETotalLayerDiffThreshold"),
    "include_sq",
    *extra("SmoothAlpha"),
)
SHARED_STAGES: Mapping[str, tuple[str, ...]] = {
    "prepare": ("optimize_model",),
    "transform": _TRANSFORM,
    "statistics": (*_TRANSFORM, CALIB_DATA_SIZE, "execution_providers"),
}
"""Stages whose result other configurations can use, and what of a configuration they depend on.

One pass gives the statistics for every method, with histograms as soon as one of them needs these,
and keeps the extremes of every batch, so that moving averages are arithmetic, too.
"""

_QUANTIZE = ("prepare", "transform", "statistics", "ranges", "insert", "finetune")
"""What is measured as `quantize` where nothing finer is."""


@dataclass(frozen=True)
class CostModel:
    """Expected seconds of each stage; a value: `observe` returns the next one.

    Attributes:
        rates: Seconds for a unit of work, by stage.
        samples: Size of the whole calibration set.
        smoothing: Weight of the newest observation in a rate.
        observed: Stages whose rate is no mere estimate any more.
    """

    rates: Mapping[str, float] = field(default_factory=lambda: static_rates())
    samples: float = 100.0
    smoothing: float = 0.3
    observed: frozenset[str] = frozenset()

    @classmethod
    def estimate(cls, model_macs: float | None = None, samples: float | None = None) -> CostModel:
        """Before anything has run.

        Args:
            model_macs: Multiply-accumulates of one sample's forward pass.
            samples: Size of the calibration set.
        """
        default = cls()
        samples = default.samples if samples is None else samples
        return cls(static_rates(1e7 if model_macs is None else model_macs, samples), samples)

    def work(self, lookup: Lookup) -> dict[str, Amount]:
        """Relative units of work by stage."""
        algorithm = lookup(OPTIM_ALGORITHM, _adaround_iterations) * lookup(NUM_ITERATIONS, float)
        iterations = algorithm + lookup(OPTIM_ALGORITHM, _gptq_iterations)
        finetune_passes = lookup(FINETUNE_DATA_SIZE, self._share)
        return {
            "prepare": 1.0,
            "transform": lookup("include_cle", float) * lookup(CLE_STEPS, _cle_rounds)
            + 20.0 * lookup("include_sq", float),
            "statistics": lookup(CALIB_DATA_SIZE, self._share) * lookup("calibrate_method", _passes),
            "ranges": lookup("calibrate_method", _range_work),
            "insert": 1.0 + _MIXED_PRECISION * lookup("include_auto_mp", float),
            "finetune": lookup("include_fast_ft", float) * (iterations / 100.0 + 4.0 * finetune_passes),
            "evaluate": 1.0,
        }

    def expected(self, lookup: Lookup) -> dict[str, Amount]:
        """Seconds by stage."""
        return {stage: self.rates[stage] * work for stage, work in self.work(lookup).items()}

    def stage_seconds(self, effective: Flat) -> dict[str, float]:
        """Seconds by stage of one configuration."""
        return {stage: float(seconds) for stage, seconds in self.expected(_lookup_in(effective)).items()}

    def seconds(self, effective: Flat, done: Container[str] = ()) -> float:
        """Seconds of one configuration.

        Args:
            effective: Its effective form.
            done: Keys (see `stage_keys`) of the stages that are in the cache: they cost nothing.
        """
        keys = stage_keys(effective)
        return sum(
            seconds for stage, seconds in self.stage_seconds(effective).items() if keys.get(stage) not in done
        )

    def observe(self, effective: Flat, seconds: Mapping[str, float], done: Container[str] = ()) -> CostModel:
        """The model after one more trial.

        Args:
            effective: The configuration that ran.
            seconds: What its stages took; ``quantize`` stands for all stages before ``evaluate`` and
                is shared out among them as expected. Stages that this model does not know are left
                aside.
            done: Keys (see `stage_keys`) of the stages that came out of the cache.
        """
        keys = stage_keys(effective)
        work = {
            stage: float(amount)
            for stage, amount in self.work(_lookup_in(effective)).items()
            if amount and keys.get(stage) not in done
        }
        measured = {**self._shared_out(seconds.get("quantize"), work), **seconds}
        rates = dict(self.rates)
        for stage in work.keys() & measured.keys():
            weight = self.smoothing if stage in self.observed else 1.0
            rates[stage] += weight * (measured[stage] / work[stage] - rates[stage])
        return replace(self, rates=rates, observed=self.observed | (work.keys() & measured.keys()))

    def _shared_out(self, seconds: float | None, work: Mapping[str, float]) -> dict[str, float]:
        """One measurement of several stages, in proportion to what was expected of each.

        Where nothing was, because the trials so far took no time, in proportion to the static estimates.
        """
        stages = [stage for stage in _QUANTIZE if stage in work]
        if seconds is None or not stages:
            return {}
        rates = self.rates if any(self.rates[stage] for stage in stages) else static_rates()
        expected = {stage: rates[stage] * work[stage] for stage in stages}
        total = sum(expected.values())
        return {stage: seconds * own / total for stage, own in expected.items()}

    def _share(self, size: int | None) -> float:
        """Of the calibration set."""
        return 1.0 if size is None else min(1.0, size / self.samples)


def static_rates(model_macs: float = 1e7, samples: float = 100.0) -> dict[str, float]:
    """Seconds for a unit of work of each stage, from the size of model and data."""
    forward_pass = model_macs * samples * SECONDS_PER_MAC
    return {
        "prepare": 0.05,
        "transform": 0.02,
        "statistics": 0.05 + forward_pass,
        "ranges": 0.01,
        "insert": 0.01,
        "finetune": 0.05 + forward_pass,
        "evaluate": 0.05 + 2 * forward_pass,
    }


def stage_keys(effective: Flat) -> dict[str, str]:
    """For each shared stage, a text that is equal where its result can be shared."""
    return {
        stage: f"{stage}:{canonical_json([effective[key] for key in keys])}"
        for stage, keys in SHARED_STAGES.items()
    }


def sampling_weight(seconds: Amount) -> Amount:
    """How likely a configuration is drawn, relative to others: inversely to what it costs."""
    return 1.0 / np.maximum(seconds, 1e-6)


def _lookup_in(effective: Flat) -> Lookup:
    return lambda key, function: function(effective[key])
