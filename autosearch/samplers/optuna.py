"""Any of Optuna's samplers, asked until it proposes something new."""

from __future__ import annotations

import optuna
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import TrialState

from autosearch.samplers.contract import History, Known, Proposal
from autosearch.samplers.random import RandomSampler
from autosearch.space import SearchSpace
from autosearch.space.configuration import Configuration

REPEAT_OF = "repeat_of"
"""User attribute of a trial that proposed a known configuration: the number of the known trial."""
EXCLUDED = "excluded"
"""User attribute of a trial that proposed a refused configuration: the reason."""

_MAX_REPEATED = 20
"""Proposals in a row that may be refused or known; then an unseen one is drawn at random."""


class OptunaSampler:
    """Asks a study whose sampler is Optuna's.

    A known configuration is told its known values and violations at once and the study asked again; one
    that was not evaluated because of its violations is told as pruned with them, one that is still
    running or has failed as failed, one that a rule refuses as pruned. Such trials carry the user
    attribute `REPEAT_OF` or `EXCLUDED` and are no evaluations.

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
        return self._propose_at_random(history)

    def adopt(self, configuration: Configuration, history: History) -> Proposal | None:
        """The proposal of a configuration from elsewhere, through the study's queue.

        So it is a trial that the sampler learns from like any other of its own; a genetic one counts it to
        its population. None if it is known.
        """
        assert history.study is not None
        history.study.sampler = self.sampler
        history.study.enqueue_trial(self._space.trial_params(configuration)[0])
        proposal = self._ask(history.study, history)
        if proposal is not None and proposal.trial is not None and isinstance(self.sampler, BaseGASampler):
            frozen = history.study.get_trials(deepcopy=False)[proposal.trial.number]
            self.sampler.get_trial_generation(history.study, frozen)  # which it notes when it samples
        return proposal

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

    def _propose_at_random(self, history: History) -> Proposal | None:
        """Through the study's queue."""
        while (drawn := self._random().propose(history)) is not None:
            proposal = self.adopt(drawn.configuration, history)
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
    for name, violation in known.violations.items():
        trial.set_constraint(name, violation)
    if known.values is not None:
        study.tell(trial, list(known.values))
    elif any(violation > 0 for violation in known.violations.values()):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, state=TrialState.FAIL)
