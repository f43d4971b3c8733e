"""Any of Optuna's samplers, asked until it proposes something new."""

from __future__ import annotations

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from autosearch.samplers.contract import History, Known, Proposal
from autosearch.samplers.random import RandomSampler
from autosearch.space import SearchSpace

REPEAT_OF = "repeat_of"
"""User attribute of a trial that proposed a known configuration: the number of the known trial."""
EXCLUDED = "excluded"
"""User attribute of a trial that proposed a refused configuration: the reason."""

_MAX_REPEATED = 20
"""Proposals in a row that may be refused or known; then an unseen one is drawn at random."""


class OptunaSampler:
    """Asks a study whose sampler is Optuna's.

    A known configuration is told its known values at once and the study asked again; one that is
    still running or has failed is told as failed, one that a rule refuses as pruned. Such trials
    carry the user attribute `REPEAT_OF` or `EXCLUDED` and are no evaluations.

    Args:
        space: Any.
        sampler: Seeded by the caller.
        seed: Of the draws that replace repeated proposals.
    """

    def __init__(self, space: SearchSpace, sampler: BaseSampler, seed: int | None = None) -> None:
        self.sampler = sampler
        self._space = space
        self._seed = seed
        self._unseen: RandomSampler | None = None
        self._exhausted = False

    def propose(self, history: History) -> Proposal | None:
        """The study's next proposal that is not in the history; None when nothing is left.

        Sets the sampler of the history's study.

        Raises:
            ValueError: If the history has no study.
        """
        if history.study is None:
            raise ValueError("Optuna's samplers need History.study")
        history.study.sampler = self.sampler
        for _ in range(_MAX_REPEATED):
            if self._exhausted:
                return None
            proposal = self._ask(history.study, history)
            if proposal is not None:
                return proposal
            self._exhausted = self._random().peek(history) is None
        return self._propose_at_random(history.study, history)

    def _ask(self, study: optuna.Study, history: History) -> Proposal | None:
        """One proposal; None if it was no use, and the study has been told so."""
        trial = study.ask()
        configuration = self._space.suggest(trial)
        if configuration.excluded is not None:
            trial.set_user_attr(EXCLUDED, configuration.excluded)
            study.tell(trial, state=TrialState.PRUNED)
            return None
        known = history.trials.get(configuration.digest)
        if known is not None:
            _tell_again(study, trial, known)
            return None
        return Proposal(configuration, trial)

    def _propose_at_random(self, study: optuna.Study, history: History) -> Proposal | None:
        """Through the study's queue; what another process has put there first is as good."""
        while (drawn := self._random().propose(history)) is not None:
            study.enqueue_trial(self._space.trial_params(drawn.configuration)[0])
            proposal = self._ask(study, history)
            if proposal is not None:
                return proposal
        self._exhausted = True
        return None

    def _random(self) -> RandomSampler:
        """Made when first needed: it enumerates the space."""
        if self._unseen is None:
            self._unseen = RandomSampler(self._space, self._seed)
        return self._unseen


def _tell_again(study: optuna.Study, trial: optuna.Trial, known: Known) -> None:
    trial.set_user_attr(REPEAT_OF, known.number)
    if known.values is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, list(known.values))
