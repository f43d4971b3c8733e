"""Two-stage search: every calibration configuration, then FastFinetune on the best of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from autosearch.errors import ConfigError
from autosearch.ledger import Ledger
from autosearch.samplers import learns_from_infeasible
from autosearch.space import SearchSpace
from autosearch.space.parts import Part
from autosearch.space.rules import Flat
from autosearch.stage import EXHAUSTED, Stage
from autosearch.stop import Limits
from autosearch.trial import State, Trial
from quant.config import flatten

CALIBRATION, FINETUNE = "calibration", "fast_finetune"
"""Names of the stages."""

_SWITCH = "include_fast_ft"
_LEVEL = "extra_options.FastFinetune."
_CHOOSER = "fast_finetune_space"


@dataclass(frozen=True)
class TwoStages:
    """The plan of a two-stage search.

    The space is taken apart: `calibration` has everything but FastFinetune and tries it once each; the
    choices of FastFinetune are then tried on the best of what it found, whichever dict of a list of
    search spaces they stand in.

    Attributes:
        space: The whole space.
        algorithm: Of the second stage; the first one is exhaustive.
        best: How many calibration configurations are finetuned.
        time_limit_s: Of both stages together.
    """

    space: SearchSpace
    algorithm: str
    best: int
    time_limit_s: float | None

    @cached_property
    def first(self) -> Stage:
        """Calibration."""
        space = self.space.with_parts([_calibration(part) for part in self.space.parts if _calibrates(part)])
        stage = self._stage(CALIBRATION, space, "grid_search")
        chosen = [each.effective for each, _ in zip(space, range(self.best), strict=False)]
        return replace(
            stage,
            later=(self._finetune_space(chosen),) if chosen else (),
            introduction=f"Stage 1 of 2, {CALIBRATION}: every configuration once, without FastFinetune",
        )

    @property
    def described(self) -> str:
        """Both algorithms."""
        return f"two-stage search, grid_search then {self.algorithm}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """The stages decide on the parameters of trials."""
        return {"two_stage_search": {"best_k": self.best}}

    def after(self, stage: Stage, ledger: Ledger) -> Stage | str:
        """FastFinetune, of what the ledger holds of the first stage; a function of these trials alone."""
        if stage.name == FINETUNE:
            return EXHAUSTED
        best = [trial for trial in ledger.ranked() if trial.stage == CALIBRATION][: self.best]
        if not best:
            return _nothing_to_finetune(ledger.by_number())
        bases = [flatten(trial.config) for trial in best]
        on = "; ".join(f"trial {trial.number} [{trial.short}]" for trial in best)
        introduction = f"Stage 2 of 2, {FINETUNE} by {self.algorithm}, on the best of stage 1: {on}"
        finetune = self._stage(FINETUNE, self._finetune_space(bases), self.algorithm)
        return replace(finetune, introduction=introduction)

    @property
    def learns_from_infeasible(self) -> bool:
        """Of the second stage; the first one does not learn."""
        return learns_from_infeasible(self.algorithm)

    def check(self, seed: int, objectives: int = 1) -> None:
        """Refuses what would fail later, or never end.

        Raises:
            ConfigError: With the key and the remedy.
        """
        try:
            self.first.sampler(seed, objectives)
        except ConfigError as error:
            raise ConfigError(f"two_stage_search tries every calibration configuration: {error}") from None
        for space in self.first.later:
            self._stage(FINETUNE, space, self.algorithm).sampler(seed, objectives)
            if space.raw_size is None and self.time_limit_s is None:
                raise ConfigError(
                    "two_stage_search: a continuous range of FastFinetune has no end, and of the stop"
                    " conditions time_limit alone applies: set it, or give the range a step or choices"
                )

    def _stage(self, name: str, space: SearchSpace, algorithm: str) -> Stage:
        return Stage(space, algorithm, Limits(time_limit_s=self.time_limit_s), name)

    def _finetune_space(self, calibrations: Sequence[Flat]) -> SearchSpace:
        parts = [
            _finetuned(part, calibration)
            for calibration in calibrations
            for part in self.space.parts
            if _finetunes(part)
        ]
        return self.space.with_parts(parts, _CHOOSER)


def missing_part(space: SearchSpace) -> str | None:
    """What a space lacks for a two-stage search, in words; None if nothing."""
    keys = {dimension.key for part in space.parts for dimension in part.dimensions}
    if not any(_calibrates(part) for part in space.parts):
        return "the search space has no key of calibration"
    if not any(key.startswith(_LEVEL) for key in keys):
        return "the search space has no key of extra_options.FastFinetune"
    if not any(_finetunes(part) for part in space.parts):
        return (
            "include_fast_ft is never true beside extra_options.FastFinetune;"
            " set it in quantization_config or in the search space"
        )
    return None


def _calibrates(part: Part) -> bool:
    return bool(part.groups) or any(
        dimension.key != _SWITCH and not dimension.key.startswith(_LEVEL) for dimension in part.dimensions
    )


def _finetunes(part: Part) -> bool:
    switch = next((each.extremes for each in part.dimensions if each.key == _SWITCH), (part.base[_SWITCH],))
    return True in switch and any(each.key.startswith(_LEVEL) for each in part.dimensions)


def _calibration(part: Part) -> Part:
    """A part without FastFinetune."""
    kept = [each for each in part.dimensions if each.key != _SWITCH and not each.key.startswith(_LEVEL)]
    return Part(tuple(kept), {**part.base, _SWITCH: False}, part.groups)


def _finetuned(part: Part, calibration: Flat) -> Part:
    """The choices that a part has for FastFinetune, on one calibration configuration."""
    kept = [each for each in part.dimensions if each.key.startswith(_LEVEL)]
    finetune = {key: value for key, value in part.base.items() if key.startswith(_LEVEL)}
    return Part(tuple(kept), {**calibration, **finetune, _SWITCH: True})


def _nothing_to_finetune(trials: Sequence[Trial]) -> str:
    """Why no trial of the first stage has a result."""
    causes = list(dict.fromkeys(trial.outcome.error for trial in trials if trial.outcome.error is not None))
    others = f", and {len(causes) - 1} other causes" if len(causes) > 1 else ""
    if all(trial.state == "failed" for trial in trials):
        return f"every calibration configuration failed, the first with {causes[0]}{others}"
    broken = dict.fromkeys(name for trial in trials for name in trial.violated)
    states = Counter(trial.state for trial in trials)
    reasons: dict[State, str] = {
        "infeasible": f"break {', '.join(broken)}",
        "pruned": "were pruned",
        "failed": f"failed, the first with {causes[0]}{others}" if causes else "",
    }
    counts = "; ".join(f"{states[state]} {reason}" for state, reason in reasons.items() if states[state])
    return f"no calibration configuration was evaluated to the end, so that none is finetuned: {counts}"
