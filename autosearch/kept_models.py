"""Which quantized models stay on disk, as trials come and lose their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from logging import Logger
from typing import Literal

from autosearch.ledger import Ledger
from autosearch.model_files import ModelFiles
from autosearch.trial import Trial
from quant import Pipeline, QuantConfig

Keep = Literal["candidates", "all", "best"]


class KeptModels:
    """The models of one search, by what was asked for."""

    def __init__(self, files: ModelFiles, ledger: Ledger, keep: Keep, machine: str | None = None) -> None:
        """Touches nothing yet.

        Args:
            files: Where they are.
            ledger: Their trials.
            keep: ``candidates``, ``all`` or only the ``best``; of a Pareto front, all of it is the best.
            machine: This one, where other machines search, too: their models are left alone, and so are
                those in other folders of this one. None = all models are here.
        """
        self._machine = machine
        self.files = files
        self._ledger = ledger
        self._keep = keep

    def is_kept(self, trial: Trial) -> bool:
        """Whether its model was asked for; the best one always is, candidate or not."""
        best = self._ledger.best
        return self.would_keep(trial, best is not None and trial.number == best.number)

    def would_keep(self, trial: Trial, is_best: bool) -> bool:
        """The same of any trial."""
        if trial.state != "complete":
            return False
        by_verdict = self._keep == "candidates" or not self._ledger.objectives.is_single
        return self._keep == "all" or (by_verdict and trial.is_candidate) or is_best

    def take_off(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those whose models are not kept, in the ledger without a model from now on.

        Their files are still there, until the records no longer name them: see `delete`.
        """
        unwanted = [trial for trial in trials if not self.is_kept(trial)]
        for trial in unwanted:
            self._ledger.set_model(trial.number, None)
        return unwanted

    def delete(self, trials: Iterable[Trial]) -> None:
        """Removes the files of their models."""
        for trial in trials:
            if self.is_here(trial):
                self.files.delete(trial.digest)

    def is_here(self, trial: Trial) -> bool:
        """Whether its model is, or was, in the folder of this process."""
        if self._machine is None:
            return True
        path = trial.outcome.model_path
        return trial.machine == self._machine and (path is None or path == str(self.files.path(trial.digest)))

    def delete_dropped(self, digests: Iterable[str]) -> None:
        """Removes models whose trials this process had to leave to others, unless they are in use."""
        paths = {trial.outcome.model_path for trial in self._ledger.trials.values()}
        for digest in digests:
            if str(self.files.path(digest)) not in paths:
                self.files.delete(digest)

    def take_up(self) -> None:
        """After a resumption: deletes what is not kept, and notes which models are still there."""
        for trial in self._ledger.by_number():
            if not self.is_here(trial):
                if not self.is_kept(trial):
                    self._ledger.set_model(trial.number, None)
                continue
            if not self.is_kept(trial):
                self.files.delete(trial.digest)
            path = str(self.files.path(trial.digest)) if self.files.holds(trial) else None
            self._ledger.set_model(trial.number, path)

    def restore(self, open_pipeline: Callable[[], Pipeline], log: Logger) -> None:
        """Models of an earlier run that are wanted and gone are quantized again, to the same bytes."""
        pipeline = None
        for trial in self._ledger.ranked():
            if trial.outcome.model_path is not None or not self.is_kept(trial) or not self.is_here(trial):
                continue
            pipeline = pipeline or open_pipeline()
            config = QuantConfig(**trial.config)
            path = self.files.path(trial.digest)
            pipeline.quantize(config).save(path, external_data=config.use_external_data_format)
            if self.files.holds(trial):
                self._ledger.set_model(trial.number, str(path))
                continue
            self.files.delete(trial.digest)
            log.warning(
                "trial %d: its model, made again, is not the one evaluated, and was deleted", trial.number
            )
