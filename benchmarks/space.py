"""Time and peak memory of a search space of a million points, and of one of 10^12.

Run with ``python -m benchmarks.space``.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

from autosearch.samplers import History, Known, make_sampler
from autosearch.space import SearchSpace

MILLION = {
    "calibrate_method": ["MinMax", "Percentile", "Entropy", "MinMSE", "NonOverflow"],
    "activation_type": ["QInt8", "QUInt8", "QInt16", "QUInt16"],
    "weight_type": ["QInt8", "QInt16"],
    "per_channel": [False, True],
    "include_cle": [False, True],
    "extra_options": {
        "ActivationSymmetric": [False, True],
        "WeightSymmetric": [None, True, False],
        "CalibMovingAverage": [False, True],
        "CalibMovingAverageConstant": [0.001, 0.01, 0.1],
        "Percentile": {"type": "float", "low": 99.0, "high": 99.9, "step": 0.1},
        "CLESteps": [1, 2],
        "CalibDataSize": {"type": "int", "low": 10, "high": 180, "step": 10},
    },
}
"""2 073 600 points, of which few are distinct."""

DISTINCT_MILLION = {
    "activation_type": ["QInt8", "QUInt8", "QInt16", "QUInt16"],
    "weight_type": ["QInt8", "QUInt8", "QInt16", "QUInt16"],
    "calibrate_method": ["Percentile"],
    "per_channel": [False, True],
    "extra_options": {
        "Percentile": {"type": "float", "low": 99.0, "high": 99.99, "step": 0.01},
        "CalibDataSize": {"type": "int", "low": 10, "high": 3130, "step": 10},
    },
}
"""1 001 600 points, all distinct."""

TRILLION = {
    **MILLION,
    "extra_options": {
        **MILLION["extra_options"],  # type: ignore[dict-item]
        "Percentile": {"type": "float", "low": 99.0, "high": 99.999, "step": 0.001},
        "CalibDataSize": {"type": "int", "low": 1, "high": 180_000},
    },
}


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Prints seconds and how far the process's peak memory rose."""
    peak, start = peak_mb(), time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    print(f"{what:60} {seconds:8.3f} s   {peak_mb() - peak:+7.1f} MB")


def peak_mb() -> float:
    """Largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints the table."""
    print(f"after imports: {peak_mb():.0f} MB")
    for name, spec in (("merging", MILLION), ("distinct", DISTINCT_MILLION)):
        space = SearchSpace(spec)
        with measured(f"{name}: {space.raw_size} points counted, filtered, merged, priced"):
            found = len(space.enumeration)
        with measured(f"{name}: {found} distinct, report with grid order"):
            report = space.describe()
        with measured(f"{name}: random order and first proposal"):
            make_sampler("random", space, 0).propose(History({}))
        print(report)
        del space, report
    space = SearchSpace(TRILLION)
    sampler, trials = make_sampler("random", space, 0), dict[str, Known]()
    with measured(f"200 distinct configurations out of {space.raw_size} points"):
        while len(trials) < 200:
            proposal = sampler.propose(History(trials))
            assert proposal is not None
            trials[proposal.configuration.digest] = Known(len(trials))
    print(f"peak: {peak_mb():.0f} MB")


if __name__ == "__main__":
    main()
