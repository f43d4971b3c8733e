"""Which kind of search a configuration asks for."""

from __future__ import annotations

from autosearch.advanced import advanced_plan
from autosearch.config import AutoSearchConfig
from autosearch.errors import ConfigError
from autosearch.space import SearchSpace
from autosearch.stage import OneStage, Plan, Seeds, Stage
from autosearch.two_stage import TwoStages, missing_part


def make_plan(
    settings: AutoSearchConfig, space: SearchSpace, seeds: Seeds | None = None
) -> tuple[Plan, tuple[str, ...]]:
    """The stages of the search, and what was decided on the way.

    Args:
        settings: How to search.
        space: As the user wrote it.
        seeds: What gives the first configurations of a search in one stage.

    Raises:
        ConfigError: If the space cannot be searched so, with the reason.
    """
    if settings.advanced_fastft_search and settings.two_stage_search:
        raise ConfigError(
            "advanced_fastft_search and two_stage_search exclude each other; set one to false: a two-stage"
            " search takes ranges, too, with search_algo TPE and a time_limit"
        )
    limits = settings.search_stop_condition.limits
    if settings.advanced_fastft_search:
        return advanced_plan(space, settings.advanced_fastft_params, limits), ()
    lacking = missing_part(space) if settings.two_stage_search else None
    if not settings.two_stage_search or lacking is not None:
        notes = (
            ()
            if lacking is None
            else (f"two_stage_search has no effect: {lacking}; running the standard search",)
        )
        return OneStage(Stage(space, settings.search_algo, limits, seeds=seeds)), notes
    return (
        TwoStages(space, settings.search_algo, settings.two_stage_best_k, limits.time_limit_s),
        _without_conditions(settings),
    )


def _without_conditions(settings: AutoSearchConfig) -> tuple[str, ...]:
    condition = settings.search_stop_condition
    names = ("find_n_candidates", "find_best_candidate", "iteration_limit")
    given = [name for name in names if getattr(condition, name) is not None]
    if not given:
        return ()
    return (
        f"two_stage_search tries everything: {', '.join(given)} of search_stop_condition"
        f" do{'es' if len(given) == 1 else ''} not apply, time_limit does",
    )
