"""What a sampler sees and answers; the search loop knows samplers by nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import optuna

from autosearch.space.configuration import Configuration


@dataclass(frozen=True)
class Known:
    """A trial of the study.

    Attributes:
        number: The trial's number.
        values: Its objectives; None while it runs, or if it was not evaluated to the end.
        violations: Of constraints, by their name, as far as known; positive where one is broken.
    """

    number: int
    values: tuple[float, ...] | None = None
    violations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """What has been tried.

    Attributes:
        trials: By digest of the configuration: evaluated, failed or in flight. May be a live
            view that grows while the search goes on.
        study: Their study; samplers that walk an order do without.
    """

    trials: Mapping[str, Known]
    study: optuna.Study | None = None


@dataclass(frozen=True)
class Proposal:
    """What to try next.

    Attributes:
        configuration: Neither refused by a rule nor in the history.
        trial: The study's running trial for it; None where the loop must add one itself, with
            `SearchSpace.trial_params`.
    """

    configuration: Configuration
    trial: optuna.Trial | None = None


class Sampler(Protocol):
    """Proposes configurations, each once.

    A sampler made with the same seed and asked with the same history proposes the same. A search is
    resumed by a fresh sampler and the history so far.
    """

    def propose(self, history: History) -> Proposal | None:
        """The next configuration that is not in the history; None when nothing is left."""
        ...

    def adopt(self, configuration: Configuration, history: History) -> Proposal | None:
        """The proposal of a configuration from elsewhere; None if another came before it."""
        ...
