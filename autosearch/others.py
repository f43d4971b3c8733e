"""What other processes do that search in the same study, taken up into what this one has seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from optuna.trial import FixedTrial, FrozenTrial

from autosearch.kept_models import KeptModels
from autosearch.ledger import Ledger
from autosearch.samplers import Known
from autosearch.space import Configuration
from autosearch.stage import Stage
from autosearch.stop import Limits
from autosearch.study import Claim, SearchStudy
from autosearch.trial import Trial
from autosearch.trial_records import digest_of, is_abandoned, stage_of


class Others:
    """The other processes of a search.

    Attributes:
        running: What they are at, by the number of the trial.
        abandoned: How often a configuration's trial was abandoned, by the path of its model; a live view.
        displaced: Trials whose models were given up for theirs; whoever deletes the files empties it.
    """

    def __init__(
        self, study: SearchStudy, ledger: Ledger, models: KeptModels, abandoned: dict[Path, int]
    ) -> None:
        """Looks at nothing yet.

        Args:
            study: That is shared.
            ledger: Gets their trials.
            models: Of this process.
            abandoned: What is known of that by now.
        """
        self.running: Mapping[int, Claim] = {}
        self.abandoned = abandoned
        self.displaced: list[Trial] = []
        self._study = study
        self._ledger = ledger
        self._models = models
        self._freed = deque[FrozenTrial]()
        self._stop: tuple[str, Mapping[str, object]] | None = None

    def look(self) -> list[Trial]:
        """Takes up what happened; returns the trials that ended."""
        news = self._study.look()
        for number, claim in self.running.items():
            if number not in news.running:
                self.forget(number, claim.digest)
        for number, claim in news.running.items():
            self._ledger.known.setdefault(claim.digest, Known(number))
        self.running, self._stop = news.running, news.stop
        for frozen in news.freed:
            self._freed.append(frozen)
            if is_abandoned(frozen):
                path = self._models.files.path(digest_of(frozen))
                self.abandoned[path] = self.abandoned.get(path, 0) + 1
        return [self._add(trial) for trial in news.ended]

    def forget(self, number: int, digest: str) -> None:
        """A claim that came to nothing."""
        known = self._ledger.known.get(digest)
        if known is not None and known.number == number and number not in self._ledger.trials:
            del self._ledger.known[digest]

    def freed(self, stage: Stage) -> Iterator[Configuration]:
        """Configurations of a stage that were claimed and are free again, each once."""
        while self._freed:
            frozen = self._freed.popleft()
            if digest_of(frozen) in self._ledger.known or stage_of(frozen) != stage.name:
                continue
            configuration = stage.space.suggest(FixedTrial(dict(frozen.params)))
            if configuration.digest == digest_of(frozen):
                yield configuration

    def at_stage(self, name: str | None) -> int:
        """How many of their trials are of this stage."""
        return sum(claim.stage == name for claim in self.running.values())

    def stop_reason(self, limits: Limits) -> str | None:
        """Why another process with the same limits ended the search, if one did."""
        if self._stop is None or self._stop[1] != asdict(limits):
            return None
        return self._stop[0]

    def _add(self, trial: Trial) -> Trial:
        self._ledger.add(trial)
        newest = self._ledger.trials[trial.number]
        self.displaced += self._models.take_off((newest, *self._ledger.displaced))
        return self._ledger.trials[trial.number]
