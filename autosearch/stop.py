"""When a search ends: pure functions of what has happened so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Stop conditions; None = off.

    Attributes:
        find_n_candidates: End when this many candidates are found.
        find_best_candidate: End after this many trials in a row without a better candidate, counted
            from the first candidate on.
        iteration_limit: End after this many trials.
        n_trials: The same, as the advanced FastFinetune search calls it.
        time_limit_s: End after this many seconds of wall-clock time, all of it counted.
    """

    find_n_candidates: int | None = None
    find_best_candidate: int | None = None
    iteration_limit: int | None = None
    time_limit_s: float | None = None
    n_trials: int | None = None

    @property
    def trials(self) -> int | None:
        """The least number of trials that ends the search."""
        return min(
            (limit for limit in (self.iteration_limit, self.n_trials) if limit is not None), default=None
        )


@dataclass(frozen=True)
class Progress:
    """What has happened so far.

    Attributes:
        trials: Trials that ended, failed ones included.
        candidates: Trials within tolerance.
        since_best: Trials since the best candidate so far; None before the first candidate.
        seconds: Wall-clock time since the search began, earlier runs of a resumed one included.
    """

    trials: int
    candidates: int
    since_best: int | None
    seconds: float


def stop_reason(limits: Limits, progress: Progress) -> str | None:
    """The limit that ends the search now, in words for the report, or None."""
    if limits.find_n_candidates is not None and progress.candidates >= limits.find_n_candidates:
        return f"find_n_candidates: {progress.candidates} candidates found"
    waited = progress.since_best
    if limits.find_best_candidate is not None and waited is not None and waited >= limits.find_best_candidate:
        return f"find_best_candidate: no better candidate in the last {waited} trials"
    if limits.iteration_limit is not None and progress.trials >= limits.iteration_limit:
        return f"iteration_limit: {progress.trials} trials"
    if limits.n_trials is not None and progress.trials >= limits.n_trials:
        return f"n_trials: {progress.trials} trials"
    if limits.time_limit_s is not None and progress.seconds >= limits.time_limit_s:
        return f"time_limit: {progress.seconds:.1f} s of {limits.time_limit_s:g} s"
    return None
