"""Trials and results in the words of auto_search.log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from autosearch.objectives import SUM, Objectives
from autosearch.table import best_table
from autosearch.trial import SearchResult, Trial
from evaluators import Metric

_SHOWN = 20


def trial_line(trial: Trial, position: str, objectives: Objectives) -> str:
    """A trial on a line.

    Args:
        trial: One that ended.
        position: Its place, out of the total where that is known.
        objectives: Of the search.
    """
    head = f"Executing search {position} with config [{trial.short}]"
    times = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in trial.outcome.seconds.items())
    if trial.outcome.error is not None:
        return f"{head}: failed: {trial.outcome.error}; {times or 'at once'}"
    if trial.outcome.pruned_at is not None:
        assert objectives.searched is not None
        value = trial.outcome.intermediate[trial.outcome.pruned_at]
        part = f"after {trial.outcome.pruned_at} % of the evaluation data"
        return f"{head}: {objectives.searched.name} {value:.6g} {part}, pruned; {times}"
    if trial.outcome.infeasible:
        return f"{head}: {broken(trial, objectives)}, infeasible, not evaluated; {times}"
    promotion = "" if trial.outcome.promotion is None else f"; {trial.outcome.promotion}"
    bound = _tolerance(objectives)
    return f"{head}: {measured(trial, objectives)}{bound}, {_verdict(trial, objectives)}; {times}{promotion}"


def measured(trial: Trial, objectives: Objectives) -> str:
    """The objectives of a trial, as they were measured; beside the searched metric its difference."""
    searched, values = objectives.searched, trial.outcome.measured
    if searched is not None:
        shown = _amount(searched, values[searched.name])
        return shown if searched.against_float else f"{shown} (difference {trial.difference:.6g})"
    shown = ", ".join(_amount(term.metric, values[term.metric.name]) for term in objectives.optimised)
    if objectives.sum_direction is None:
        return shown
    assert trial.values is not None
    return f"{SUM} {trial.values[0]:.6g} ({shown})"


def broken(trial: Trial, objectives: Objectives) -> str:
    """The constraints that a trial breaks, with what it has."""
    values = trial.outcome.measured
    parts = [
        f"{each.metric.name} is {values[each.metric.name]:.6g}, not {each.relation} {each.limit}"
        for each in objectives.constraints
        if str(each) in trial.violated
    ]
    return "; ".join(parts)


def best_so_far(best: Trial | None, front: int, objectives: Objectives) -> str:
    """The best trial in a few words.

    Args:
        best: None = there is no result yet.
        front: Trials on the Pareto front; 0 where it is empty.
        objectives: Of the search.
    """
    if best is None:
        return "no result yet"
    if objectives.is_single or not front:
        return f"best {measured(best, objectives)} (trial {best.number})"
    return f"{front} on the Pareto front"


def aim(objectives: Objectives) -> str:
    """What is searched for."""
    searched = objectives.searched
    if searched is None:
        return f"objectives: {objectives}"
    tolerance = objectives.tolerance
    within = "none: every configuration is a candidate" if tolerance is None else f"{tolerance:g}"
    limits = f", constraints: {', '.join(map(str, objectives.constraints))}" if objectives.constraints else ""
    return f"metric {searched.name} ({searched.direction}), tolerance {within}{limits}"


def float_line(float_values: Mapping[str, float]) -> str:
    """The float model's own values."""
    return "Float model: " + ", ".join(f"{name} {value:.6g}" for name, value in float_values.items())


def result_lines(result: SearchResult, objectives: Objectives, ranked: list[Trial]) -> Iterator[str]:
    """The end of the log: results sorted, candidates, reason."""
    shown = min(len(ranked), _SHOWN)
    yield f"Sorted results, best first ({shown} of {len(result.trials)} trials):"
    for rank, trial in enumerate(ranked[:_SHOWN]):
        mark = "candidate" if trial.is_candidate else "         "
        text = measured(trial, objectives)
        if trial.violated:
            text += f", {broken(trial, objectives)}"
        yield f"  {rank:3d}. {mark} {text}  [{trial.short}]  trial {trial.number}"
    for trial in result.failed[:_SHOWN]:
        yield f"  failed: trial {trial.number} [{trial.short}]: {trial.outcome.error}"
    if result.pruned:
        saved = sum(trial.outcome.seconds_saved for trial in result.pruned)
        yield f"Pruned: {len(result.pruned)} trials, which saved about {saved:.2f} s of evaluation"
    if result.infeasible:
        yield infeasible_line(result, objectives)
    for stage, count in result.stages.items():
        computed, found = _times(count.computed), _times(count.memory_hits + count.disk_hits)
        yield f"Stage {stage}: computed {computed} in {count.seconds:.2f} s, found {found}"
    if objectives.searched is None and result.candidates:
        yield f"Best trial(s):\n{best_table(result.front)}"
    yield f"Searched candidates: {len(result.candidates)}"
    yield f"Stopped: {result.stop_reason}; {result.seconds:.1f} s"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def infeasible_line(result: SearchResult, objectives: Objectives) -> str:
    """How many trials broke constraints, and which came nearest to keeping to them."""
    nearest = min(result.infeasible, key=lambda trial: sum(trial.violated.values()))
    saved = sum(trial.state == "infeasible" for trial in result.infeasible)
    return (
        f"Infeasible: {len(result.infeasible)} trials, {saved} of them not evaluated; the nearest is trial"
        f" {nearest.number}: {broken(nearest, objectives)}"
    )


def _verdict(trial: Trial, objectives: Objectives) -> str:
    if trial.violated:
        return f"infeasible: {broken(trial, objectives)}"
    if objectives.is_single:
        return "candidate" if trial.is_candidate else "not a candidate"
    return "on the Pareto front" if trial.is_candidate else "dominated"


def _tolerance(objectives: Objectives) -> str:
    searched, tolerance = objectives.searched, objectives.tolerance
    if searched is None or tolerance is None:
        return ""
    return f" (tolerance {'>=' if searched.is_similarity else '<='} {tolerance:g})"


def _amount(metric: Metric, value: float) -> str:
    return f"{metric.name} {value:.6g}{f' {metric.unit}' if metric.unit else ''}"
