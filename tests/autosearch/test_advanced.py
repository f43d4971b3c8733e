from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from autosearch import AutoSearch, SearchResult
from autosearch.advanced import advanced_space
from autosearch.errors import ConfigError
from autosearch.space import SearchSpace
from quant import QuantConfig
from tests.autosearch.scores import ByConfiguration, Score, finetune_loss, finetunes

FT = "extra_options.FastFinetune"
SEARCHED = {"NumIterations": [200, 100], "LearningRate": [1e-3, 1e-7, 1e-4]}
TRIALS = 8
SAMPLERS = ["TPE", "Random", "CmaEs", "GPS", "NSGAII", "QMC"]
NEEDS = {"CmaEs": "cmaes", "GPS": "torch", "QMC": "scipy"}


def space_of(finetune: dict[str, Any], **others: Any) -> dict[str, Any]:
    options = {**others.pop("extra_options", {}), "FastFinetune": finetune}
    return {"include_fast_ft": True, **others, "extra_options": options}


@pytest.fixture
def advanced(model: Path, feeds: list[dict[str, np.ndarray]], settings: dict[str, Any]) -> Any:
    def make(score: Score = finetune_loss, *, base: Any = None, **changes: Any) -> AutoSearch:
        params = {"n_trials": TRIALS, **changes.pop("advanced_fastft_params", {})}
        given = {
            **settings,
            "search_space": space_of(SEARCHED),
            "advanced_fastft_search": True,
            "advanced_fastft_params": params,
            **changes,
        }
        given.setdefault("search_evaluator", ByConfiguration(given["search_output_dir"], score))
        return AutoSearch(base, given, model, feeds)

    return make


def run(search: AutoSearch) -> SearchResult:
    search.search_model()
    assert search.result is not None
    return search.result


def losses(result: SearchResult) -> list[float]:
    return [trial.outcome.metrics["metric"] for trial in result.trials]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_fills_the_ranges(advanced: Any, sampler: str) -> None:
    if sampler in NEEDS and find_spec(NEEDS[sampler]) is None:
        pytest.skip(f"needs {NEEDS[sampler]}")
    search = advanced(advanced_fastft_params={"sampler_algo": sampler})
    result = run(search)
    assert len(result.trials) == TRIALS
    assert result.stop_reason == f"n_trials: {TRIALS} trials"
    iterations, rates = zip(*map(finetunes, result.trials), strict=True)
    assert all(100 <= each <= 200 for each in iterations)
    assert all(1e-7 <= each <= 1e-3 for each in rates)
    assert len(set(rates)) == TRIALS
    assert {each % 100 for each in iterations} != {0}
    assert sum(each < 1e-5 for each in rates) >= 1  # a hundredth of the range, half of its logarithm
    assert search.study is not None
    assert len(search.study.trials) == TRIALS
    for trial in search.study.trials:
        assert trial.distributions == {
            f"{FT}.NumIterations": IntDistribution(100, 200),
            f"{FT}.LearningRate": FloatDistribution(1e-7, 1e-3, log=True),
        }


def test_candidates_come_sorted(advanced: Any) -> None:
    candidates = advanced().search_model()
    assert len(candidates) == TRIALS
    differences = [candidate["difference"] for candidate in candidates]
    assert differences == sorted(differences)
    assert all(candidate["config"]["include_fast_ft"] for candidate in candidates)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_sampler_learns_from_all_trials(advanced: Any, jobs: int) -> None:
    """The second half of one study scores better than the first, which begins at random."""
    trials = 40
    result = run(advanced(n_jobs=jobs, advanced_fastft_params={"n_trials": trials}))
    scores = losses(result)
    assert len(scores) == trials
    assert np.median(scores[trials // 2 :]) < 0.5 * np.median(scores[:10])
    assert min(scores) < 0.3


def test_few_trials_are_enough_to_learn_from(advanced: Any) -> None:
    """Of the ten trials that are made if nothing is said, more than half are not at random."""
    random = run(advanced(advanced_fastft_params={"n_trials": 10, "sampler_algo": "Random"}, study_name="r"))
    learned = run(advanced(advanced_fastft_params={"n_trials": 10}, study_name="l"))
    assert losses(random)[:4] == losses(learned)[:4]
    assert np.median(losses(learned)[4:]) < np.median(losses(random)[4:])


def test_the_same_seed_gives_the_same_trials(advanced: Any, tmp_path: Path) -> None:
    def tried(name: str, seed: int) -> list[tuple[int, float]]:
        search = advanced(search_seed=seed, search_output_dir=str(tmp_path / name))
        return [finetunes(trial) for trial in run(search).trials]

    assert tried("a", 3) == tried("b", 3)
    assert tried("c", 4) != tried("d", 3)


def test_a_larger_budget_goes_on(advanced: Any) -> None:
    first = run(advanced(advanced_fastft_params={"n_trials": 5}))
    search = advanced(advanced_fastft_params={"n_trials": 12})
    result = run(search)
    assert result.trials[:5] == first.trials
    assert len(result.trials) == 12
    assert len(search.problem.settings.search_evaluator.calls) == 7
    assert run(advanced(advanced_fastft_params={"n_trials": 12})).trials == result.trials


def test_repeated_proposals_cost_no_budget(advanced: Any, settings: dict[str, Any]) -> None:
    search = advanced(
        search_space=space_of({"NumIterations": [1, 6]}), advanced_fastft_params={"n_trials": 6}
    )
    result = run(search)
    assert sorted(finetunes(trial)[0] for trial in result.trials) == [1, 2, 3, 4, 5, 6]
    more = advanced(
        search_space=space_of({"NumIterations": [1, 6]}), advanced_fastft_params={"n_trials": 100}
    )
    assert len(run(more).trials) == 6
    assert more.result.stop_reason == "every configuration of the space has been tried"


def test_other_stop_conditions_apply_as_well(advanced: Any, settings: dict[str, Any]) -> None:
    result = run(advanced(search_stop_condition={"iteration_limit": 3}))
    assert result.stop_reason == "iteration_limit: 3 trials"
    log = Path(settings["search_log_path"]).read_text()
    assert "Executing search 3/3 with config [NumIterations " in log
    assert f"Advanced FastFinetune search by TPE, {TRIALS} trials" in log


def test_fixed_keys_are_a_base(advanced: Any) -> None:
    space = space_of(
        {"LearningRate": [1e-6, 1e-4], "OptimAlgorithm": ["adaquant"], "NumIterations": [120]},
        calibrate_method=["Percentile"],
        extra_options={"Percentile": [99.5]},
    )
    for trial in run(advanced(search_space=space)).trials:
        assert trial.config["calibrate_method"] == "Percentile"
        assert trial.config["extra_options"]["Percentile"] == 99.5
        assert trial.config["extra_options"]["FastFinetune"]["OptimAlgorithm"] == "adaquant"
        assert finetunes(trial)[0] == 120


def test_ranges_are_taken_as_written() -> None:
    base = QuantConfig(include_fast_ft=True)
    stepped = {"type": "int", "low": 100, "high": 500, "step": 100}
    linear = {"type": "float", "low": 1e-4, "high": 1e-2}
    given = {"extra_options": {"FastFinetune": {"NumIterations": stepped, "LearningRate": linear}}}
    (part,) = advanced_space(SearchSpace(given, base)).parts
    iterations, rate = part.dimensions
    assert list(iterations.values) == [100, 200, 300, 400, 500]
    assert (rate.low, rate.high, rate.step, rate.log) == (1e-4, 1e-2, None, True)


REFUSED: list[tuple[Any, str]] = [
    (
        space_of(SEARCHED, per_channel=[True, False]),
        r"search_space\.per_channel: .*alone; give it one choice",
    ),
    (space_of({**SEARCHED, "DataSize": [1, 2]}), r"FastFinetune\.DataSize: "),
    (space_of(SEARCHED, include_fast_ft=[True, False]), r"search_space\.include_fast_ft: "),
    (
        space_of(SEARCHED, extra_options={"SmoothAlpha": {"type": "float", "low": 0.1, "high": 0.5}}),
        r"SmoothAlpha: ",
    ),
    (space_of({"NumIterLR": [[100, 1e-4], [200, 1e-5]]}), "NumIterLR: pairs cannot be searched as ranges"),
    (space_of({"NumIterLR": [[100, 1e-4]]}), "NumIterLR: pairs cannot be searched as ranges"),
    ([space_of(SEARCHED), space_of(SEARCHED)], "takes one search space, not a list of 2"),
    (space_of(SEARCHED, include_fast_ft=False), "include_fast_ft is false"),
    (space_of({"NumIterations": [100]}), "nothing to search; give NumIterations or LearningRate"),
    ({"per_channel": [True]}, "include_fast_ft is false"),
    (
        space_of({"LearningRate": [0.1, 0.2], "OptimAlgorithm": "gptq"}),
        r"LearningRate: has no effect here: .*gptq",
    ),
]


@pytest.mark.parametrize(("space", "message"), REFUSED)
def test_anything_else_in_the_space_is_refused(
    advanced: Any, settings: dict[str, Any], space: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        advanced(search_space=space)
    assert not Path(settings["search_output_dir"], "study.db").exists()


def test_a_list_of_one_space_is_one_space(advanced: Any) -> None:
    assert len(run(advanced(search_space=[space_of(SEARCHED)])).trials) == TRIALS


@pytest.mark.parametrize("name", ["grid_search", "priority", "TPA", "BruteForce"])
def test_samplers_that_cannot_sample_ranges_are_refused(advanced: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=r"advanced_fastft_params\.sampler_algo|cannot be enumerated"):
        advanced(advanced_fastft_params={"sampler_algo": name})


def test_a_missing_package_is_named_with_its_extra(advanced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autosearch.samplers.by_name.find_spec", lambda name: None)
    message = r"advanced_fastft_params\.sampler_algo: 'GPS' needs scipy and torch; .*'autosearch\[gp\]'"
    with pytest.raises(ConfigError, match=message):
        advanced(advanced_fastft_params={"sampler_algo": "GPS"})


@pytest.mark.parametrize(
    ("metric", "fits", "contradicts"),
    [("L2", "minimize", "maximize"), ("cos", "maximize", "minimize"), ("sqnr", "maximize", "minimize")],
)
def test_the_direction_is_that_of_the_metric(advanced: Any, metric: str, fits: str, contradicts: str) -> None:
    built_in = {"search_evaluator": None, "search_metric": metric}
    advanced(**built_in)
    advanced(**built_in, advanced_fastft_params={"direction": fits})
    with pytest.raises(ConfigError, match=rf"direction: '{contradicts}' contradicts the metric .*'{fits}'"):
        advanced(**built_in, advanced_fastft_params={"direction": contradicts})


def accuracy(path: str) -> float:
    return 0.5


def test_the_difference_of_a_score_is_minimized(advanced: Any) -> None:
    """Quark's direction is that of the difference; that of the score itself is understood, too."""
    for direction in ("minimize", "maximize"):
        advanced(search_evaluator=accuracy, advanced_fastft_params={"direction": direction})
    with pytest.raises(ConfigError, match="contradicts the metric"):
        advanced(advanced_fastft_params={"direction": "maximize"})
