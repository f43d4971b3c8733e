"""Samplers by the names that a configuration gives them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import optuna.samplers
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autosearch.samplers.contract import Sampler
from autosearch.samplers.grid import GridSampler
from autosearch.samplers.optuna import OptunaSampler
from autosearch.samplers.priority import PrioritySampler
from autosearch.samplers.random import RandomSampler
from autosearch.space import SearchSpace
from quant.errors import ConfigError, nearest

STARTUP_TRIALS = 10
"""Optuna's own choice."""


class _BruteForceSampler(optuna.samplers.BruteForceSampler):
    """Optuna's, without its call to `Study.stop`, which ask and tell have no use for."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: object) -> None:
        """Leaves it to the caller to find that nothing is left."""


OWN: Mapping[str, Callable[[SearchSpace, int | None], Sampler]] = {
    "grid_search": lambda space, seed: GridSampler(space),
    "random": RandomSampler,
    "priority": lambda space, seed: PrioritySampler(space),
}

_OPTUNA: Mapping[str, Callable[[int | None, int], BaseSampler]] = {
    "TPESampler": lambda seed, startup: optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=startup
    ),
    "RandomSampler": lambda seed, startup: optuna.samplers.RandomSampler(seed),
    "CmaEsSampler": lambda seed, startup: optuna.samplers.CmaEsSampler(
        seed=seed, warn_independent_sampling=False
    ),
    "GPSampler": lambda seed, startup: optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=startup, warn_independent_sampling=False
    ),
    "NSGAIISampler": lambda seed, startup: optuna.samplers.NSGAIISampler(seed=seed),
    "NSGAIIISampler": lambda seed, startup: optuna.samplers.NSGAIIISampler(seed=seed),
    "QMCSampler": lambda seed, startup: optuna.samplers.QMCSampler(
        seed=seed,
        scramble=True,
        warn_independent_sampling=False,
        warn_asynchronous_seeding=False,
    ),
    "BruteForceSampler": lambda seed, startup: _BruteForceSampler(seed),
}
"""By Optuna's class name; the short names of `SHORT_NAMES` mean the same."""

SHORT_NAMES: Mapping[str, str] = {
    "TPE": "TPESampler",
    "CmaEs": "CmaEsSampler",
    "GP": "GPSampler",
    "GPS": "GPSampler",
    "NSGAII": "NSGAIISampler",
    "NSGAIII": "NSGAIIISampler",
    "QMC": "QMCSampler",
    "BruteForce": "BruteForceSampler",
}

_ONE_OBJECTIVE = ("CmaEsSampler",)
_NEEDS_VALUES = ("NSGAIISampler", "NSGAIIISampler", "GPSampler")
"""Optuna's samplers that learn from violations, but only of trials that have values, too."""

_PACKAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "CmaEsSampler": ("samplers", ("cmaes",)),
    "GPSampler": ("gp", ("scipy", "torch")),
    "QMCSampler": ("samplers", ("scipy",)),
}
"""What Optuna's samplers import beyond Optuna's own dependencies, and the extra that brings it."""


def sampler_names() -> tuple[str, ...]:
    """Every name that `make_sampler` takes."""
    return (*OWN, *SHORT_NAMES, *_OPTUNA)


def learns_from_infeasible(name: str) -> bool:
    """Whether a sampler makes use of a trial that broke a constraint and was not evaluated.

    TPE does, and samplers that do not learn lose nothing; CmaEs, which knows no constraints, keeps away
    from trials without values. Those of the NSGA family and GP would never hear of such trials.
    """
    return _class_name(name) not in _NEEDS_VALUES


def make_sampler(
    name: str,
    space: SearchSpace,
    seed: int | None = None,
    place: str = "search_algo",
    startup_trials: int = STARTUP_TRIALS,
    objectives: int = 1,
) -> Sampler:
    """The sampler of that name, upper and lower case alike.

    ``random`` is this package's own; Optuna's is ``RandomSampler``.

    Args:
        name: ``grid_search``, ``random``, ``priority``, or one of Optuna's: ``TPE``, ``TPESampler``.
        space: What to sample from.
        seed: Of all randomness; None = from the operating system.
        place: Where the name is written, for errors.
        startup_trials: At random, before TPE and GP begin to learn.
        objectives: How many the study has.

    Raises:
        ConfigError: If there is no such sampler, if a package that it needs is missing, if it must
            enumerate the space and cannot, or if it takes one objective and there are several.
    """
    class_name = _class_name(name)
    if class_name is None:
        raise ConfigError(f"{place}: unknown sampler {name!r}{nearest(name, sampler_names())}")
    if class_name in OWN:
        return OWN[class_name](space, seed)
    if objectives > 1 and class_name in _ONE_OBJECTIVE:
        raise ConfigError(
            f"{place}: {name!r} optimises one objective, and there are {objectives}; set sum_scaled_metrics"
            " to true, give a scale of 0 to all metrics but one, or use TPE or NSGAII"
        )
    extra, packages = _PACKAGES.get(class_name, ("", ()))
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"{place}: {name!r} needs {' and '.join(missing)};"
            f" install with: pip install 'autosearch[{extra}]'"
        )
    if class_name == "BruteForceSampler":
        space.require_finite()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return OptunaSampler(space, _OPTUNA[class_name](seed, startup_trials), seed)


def _class_name(name: str) -> str | None:
    """A key of `OWN` or Optuna's name of the class; None if there is none."""
    known = {known.casefold(): known for known in sampler_names()}
    found = known.get(name.casefold())
    return None if found is None else SHORT_NAMES.get(found, found)
