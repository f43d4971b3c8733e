"""A stage of a search, and the plan that puts stages one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from autosearch.ledger import Ledger
from autosearch.samplers import Sampler, SeededSampler, learns_from_infeasible, make_sampler
from autosearch.samplers.by_name import STARTUP_TRIALS
from autosearch.space import Configuration, SearchSpace
from autosearch.stop import Limits

EXHAUSTED = "every configuration of the space has been tried"


@dataclass(frozen=True)
class Stage:
    """A space that is searched to its end, or to a limit.

    Attributes:
        space: What is varied.
        algorithm: Name of the sampler.
        limits: What ends the search within it.
        name: Recorded with its trials; None where it is the only stage.
        place: Where the algorithm is written, for errors.
        startup_trials: Of the sampler, see `make_sampler`.
        introduction: For the log.
        later: Spaces like those of the stages behind it, for estimates.
        seeds: Gives the configurations of its space that are tried before the sampler is asked, at most
            as many as it is given (None = as many as seem useful); called when the stage begins. None =
            there are none.
    """

    space: SearchSpace
    algorithm: str
    limits: Limits
    name: str | None = None
    place: str = "search_algo"
    startup_trials: int = STARTUP_TRIALS
    introduction: str | None = None
    later: tuple[SearchSpace, ...] = ()
    seeds: Callable[[int | None], Iterable[Configuration]] | None = None

    def sampler(self, seed: int, objectives: int = 1) -> Sampler:
        """A fresh one, without the seeds.

        Raises:
            ConfigError: If there is none of that name, or it cannot sample the space, or not for so many
                objectives.
        """
        return make_sampler(self.algorithm, self.space, seed, self.place, self.startup_trials, objectives)

    def seeded_sampler(self, seed: int, objectives: int = 1, seed_trials: int | None = None) -> Sampler:
        """A fresh one, which proposes the seeds first.

        Args:
            seed: Of all randomness.
            objectives: How many the study has.
            seed_trials: How many seeds; None = as many as seem useful, 0 = none.
        """
        sampler = self.sampler(seed, objectives)
        if self.seeds is None or seed_trials == 0:
            return sampler
        return SeededSampler(islice(self.seeds(seed_trials), seed_trials), sampler)

    def total(self, before: int) -> int | None:
        """How many trials the search can have in the end; None if nobody knows.

        Args:
            before: Trials of earlier stages.
        """
        sizes = [before, self.space.size, *(space.size for space in self.later)]
        known = [size for size in sizes if size is not None]
        bounds = [self.limits.trials, sum(known) if len(known) == len(sizes) else None]
        return min((bound for bound in bounds if bound is not None), default=None)


class Plan(Protocol):
    """Which stages a search has."""

    @property
    def space(self) -> SearchSpace:
        """All of what is varied."""
        ...

    @property
    def first(self) -> Stage:
        """Where it begins."""
        ...

    @property
    def described(self) -> str:
        """How it searches, for the log."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be the same for a study to be continued, beside space, data and metric."""
        ...

    @property
    def learns_from_infeasible(self) -> bool:
        """Whether its samplers make use of trials that were not evaluated; see `samplers`."""
        ...

    def check(self, seed: int, objectives: int = 1) -> None:
        """Refuses what would fail later, or never end.

        Raises:
            ConfigError: With the key and the remedy.
        """
        ...

    def after(self, stage: Stage, ledger: Ledger) -> Stage | str:
        """The stage behind one that was searched to its end, or why there is none, for the report."""
        ...


@dataclass(frozen=True)
class OneStage:
    """The plan of a search that has one stage."""

    first: Stage
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> SearchSpace:
        return self.first.space

    @property
    def described(self) -> str:
        return self.first.algorithm

    @property
    def learns_from_infeasible(self) -> bool:
        return learns_from_infeasible(self.first.algorithm)

    def check(self, seed: int, objectives: int = 1) -> None:
        self.first.sampler(seed, objectives)

    def after(self, stage: Stage, ledger: Ledger) -> str:
        return EXHAUSTED
