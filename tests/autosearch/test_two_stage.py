from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.search_space import IntersectionSearchSpace

from autosearch import AutoSearch, SearchResult, Trial
from autosearch.errors import ConfigError, StudyError
from autosearch.study import SearchStudy
from autosearch.two_stage import CALIBRATION, FINETUNE
from tests.autosearch.scores import ByConfiguration, Score, finetunes, whole_loss

CALIBRATIONS = {
    "calibrate_method": ["MinMax", "Percentile", "Entropy"],
    "per_channel": [False, True],
    "extra_options": {"Percentile": [99.0, 99.9]},
}
"""12 points, 8 distinct configurations."""
FINETUNES = {"NumIterations": [100, 200, 150], "LearningRate": [1e-3, 1e-5]}
SPACE = {
    **CALIBRATIONS,
    "include_fast_ft": [False, True],
    "extra_options": {"Percentile": [99.0, 99.9], "FastFinetune": FINETUNES},
}
CALIBRATED, FINETUNED = 8, 6


@pytest.fixture
def two_stage(model: Path, feeds: list[dict[str, np.ndarray]], settings: dict[str, Any]) -> Any:
    def make(score: Score = whole_loss, *, base: Any = None, **changes: Any) -> AutoSearch:
        given = {**settings, "search_space": SPACE, "two_stage_search": True, **changes}
        given.setdefault("search_evaluator", ByConfiguration(given["search_output_dir"], score))
        return AutoSearch(base, given, model, feeds)

    return make


def run(search: AutoSearch) -> SearchResult:
    search.search_model()
    assert search.result is not None
    return search.result


def of_stage(result: SearchResult, stage: str) -> list[Trial]:
    return [trial for trial in result.trials if trial.stage == stage]


def without_finetune(config: Any) -> dict[str, Any]:
    options = {key: value for key, value in config["extra_options"].items() if key != "FastFinetune"}
    return {**config, "include_fast_ft": False, "extra_options": options}


def log_of(settings: dict[str, Any]) -> str:
    return Path(settings["search_log_path"]).read_text()


def test_calibration_once_each_then_finetune_on_the_best(two_stage: Any, settings: dict[str, Any]) -> None:
    search = two_stage()
    result = run(search)
    first, second = of_stage(result, CALIBRATION), of_stage(result, FINETUNE)
    assert [trial.number for trial in first] == list(range(CALIBRATED))
    assert len({trial.digest for trial in first}) == CALIBRATED
    assert not any(trial.config["include_fast_ft"] for trial in first)
    (best,) = (trial for trial in first if trial.short == "Percentile 99.9, per_channel")
    assert {finetunes(trial) for trial in second} == {
        (iterations, rate) for iterations in FINETUNES["NumIterations"] for rate in FINETUNES["LearningRate"]
    }
    assert len(second) == FINETUNED
    for trial in second:
        assert trial.config["include_fast_ft"]
        assert without_finetune(trial.config) == without_finetune(best.config)
    assert result.best is not None
    assert finetunes(result.best) == (150, 1e-5)
    assert result.stop_reason == "every configuration of the space has been tried"
    entries = json.loads((Path(settings["search_output_dir"]) / "log.json").read_text())
    assert [entry["user_attrs_stage"] for entry in entries.values()] == [t.stage for t in result.trials]


def test_candidates_of_both_stages_come_sorted_in_files_of_their_own(two_stage: Any) -> None:
    candidates = two_stage().search_model()
    assert len(candidates) == CALIBRATED + FINETUNED
    differences = [candidate["difference"] for candidate in candidates]
    assert differences == sorted(differences)
    assert {candidate["config_index"] for candidate in candidates} == set(range(CALIBRATED + FINETUNED))
    paths = {candidate["model_path"] for candidate in candidates}
    assert len(paths) == len(candidates)
    assert all(Path(path).is_file() for path in paths)


def test_the_log_counts_both_stages(two_stage: Any, settings: dict[str, Any]) -> None:
    run(two_stage(search_algo="random"))
    lines = log_of(settings).splitlines()
    total = CALIBRATED + FINETUNED
    executed = [line for line in lines if "Executing search" in line]
    assert [f"Executing search {i + 1}/{total} with" in line for i, line in enumerate(executed)] == [
        True
    ] * total
    first = next(i for i, line in enumerate(lines) if "Stage 1 of 2, calibration" in line)
    second = next(i for i, line in enumerate(lines) if "Stage 2 of 2, fast_finetune by random" in line)
    assert "on the best of stage 1: trial" in lines[second]
    assert "[Percentile 99.9, per_channel]" in lines[second]
    assert first < lines.index(executed[0]) < lines.index(executed[7]) < second < lines.index(executed[8])
    assert "s left" in executed[0]


def test_the_best_few_are_finetuned(two_stage: Any) -> None:
    result = run(two_stage(two_stage_best_k=3))
    first, second = of_stage(result, CALIBRATION), of_stage(result, FINETUNE)
    assert len(second) == 3 * FINETUNED
    best = sorted(first, key=lambda trial: trial.difference or 0.0)[:3]
    bases = [without_finetune(trial.config) for trial in second]
    for trial in best:
        assert bases.count(without_finetune(trial.config)) == FINETUNED
    assert len({trial.digest for trial in result.trials}) == len(result.trials)


def test_more_best_ones_than_there_are(two_stage: Any) -> None:
    result = run(two_stage(two_stage_best_k=100))
    assert len(result.trials) == CALIBRATED * (1 + FINETUNED)


@pytest.mark.parametrize(
    "algorithm", ["random", "priority", "TPE", "RandomSampler", "NSGAII", "QMC", "CmaEs"]
)
def test_every_algorithm_ends_the_second_stage(two_stage: Any, algorithm: str) -> None:
    for package in {"QMC": ["scipy"], "CmaEs": ["cmaes"]}.get(algorithm, []):
        pytest.importorskip(package)
    result = run(two_stage(search_algo=algorithm, two_stage_best_k=2))
    assert len(of_stage(result, CALIBRATION)) == CALIBRATED
    assert len(of_stage(result, FINETUNE)) == 2 * FINETUNED


def test_parts_of_the_space_may_stand_apart(two_stage: Any) -> None:
    """FastFinetune from quantization_config or from the space, and lists that chose a part already."""
    apart = [
        {"calibrate_method": ["MinMax", "Entropy"]},
        {"calibrate_method": ["Percentile"], "extra_options": {"Percentile": [99.0, 99.9]}},
        {"include_fast_ft": [True], "extra_options": {"FastFinetune": {"NumIterations": [100, 150]}}},
        {
            "include_fast_ft": True,
            "extra_options": {"FastFinetune": {"NumIterLR": [[120, 1e-4], [150, 1e-5]]}},
        },
    ]
    result = run(two_stage(search_space=apart, search_algo="TPE", two_stage_best_k=2))
    assert len(of_stage(result, CALIBRATION)) == 4
    second = of_stage(result, FINETUNE)
    assert len(second) == 2 * 4
    assert {finetunes(trial) for trial in second} == {(100, 0.1), (150, 0.1), (120, 1e-4), (150, 1e-5)}


def test_finetune_options_of_the_base_hold(two_stage: Any) -> None:
    base = {
        "include_fast_ft": True,
        "extra_options": {"FastFinetune": {"OptimAlgorithm": "adaquant", "DataSize": 32}},
    }
    space = {key: value for key, value in SPACE.items() if key != "include_fast_ft"}
    result = run(two_stage(base=base, search_space=space))
    assert len(of_stage(result, CALIBRATION)) == CALIBRATED
    for trial in of_stage(result, FINETUNE):
        finetune = trial.config["extra_options"]["FastFinetune"]
        assert (finetune["OptimAlgorithm"], finetune["DataSize"]) == ("adaquant", 32)


def test_pairs_stay_pairs(two_stage: Any) -> None:
    pairs = [[100, 1e-4], [200, 1e-5], [150, 1e-5]]
    space = {**SPACE, "extra_options": {"FastFinetune": {"NumIterLR": pairs}}}
    second = of_stage(run(two_stage(search_space=space)), FINETUNE)
    assert sorted(map(list, map(finetunes, second))) == sorted(pairs)


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (CALIBRATIONS, "the search space has no key of extra_options.FastFinetune"),
        (
            {"include_fast_ft": [True, False], "extra_options": {"FastFinetune": FINETUNES}},
            "the search space has no key of calibration",
        ),
        ({**SPACE, "include_fast_ft": [False]}, "include_fast_ft is never true"),
        (
            [CALIBRATIONS, {"include_fast_ft": [True]}],
            "the search space has no key of extra_options.FastFinetune",
        ),
    ],
)
def test_without_a_part_the_standard_search_runs(
    two_stage: Any, settings: dict[str, Any], space: Any, reason: str
) -> None:
    result = run(two_stage(search_space=space))
    (line,) = [each for each in log_of(settings).splitlines() if "two_stage_search" in each]
    assert f"has no effect: {reason}" in line
    assert line.endswith("running the standard search")
    assert {trial.stage for trial in result.trials} == {None}
    standard = run(two_stage(search_space=space, two_stage_search=False))
    assert [(t.number, t.digest) for t in standard.trials] == [(t.number, t.digest) for t in result.trials]


def test_stop_conditions_do_not_apply(two_stage: Any, settings: dict[str, Any]) -> None:
    condition = {"find_n_candidates": 1, "iteration_limit": 3, "time_limit": 3600}
    result = run(two_stage(search_stop_condition=condition))
    assert len(result.trials) == CALIBRATED + FINETUNED
    assert "find_n_candidates, iteration_limit of search_stop_condition do not apply" in log_of(settings)


def test_the_time_limit_does(two_stage: Any) -> None:
    result = run(two_stage(search_stop_condition={"time_limit": 1e-6}))
    assert result.trials == ()
    assert result.stop_reason.startswith("time_limit")


class Stopped(KeyboardInterrupt):
    """As the second Ctrl-C."""


@pytest.mark.parametrize("algorithm", ["grid_search", "TPE"])
@pytest.mark.parametrize("killed_at", [3, CALIBRATED, CALIBRATED + 1, CALIBRATED + 4])
def test_an_interrupted_search_goes_on(two_stage: Any, killed_at: int, algorithm: str) -> None:
    def interrupted(config: dict[str, Any]) -> float:
        if len(evaluator.calls) == killed_at:
            raise Stopped
        return whole_loss(config)

    uninterrupted = run(two_stage(search_algo=algorithm, study_name="other"))
    search = two_stage(interrupted, search_algo=algorithm)
    evaluator = search.problem.settings.search_evaluator
    with pytest.raises(Stopped):
        search.search_model()
    assert len(evaluator.calls) == killed_at
    search = two_stage(search_algo=algorithm)
    result = run(search)
    again = search.problem.settings.search_evaluator.calls
    assert len(again) == CALIBRATED + FINETUNED - (killed_at - 1)
    assert not {*again} & {*evaluator.calls[:-1]}
    for stage in (CALIBRATION, FINETUNE):
        assert {t.digest for t in of_stage(result, stage)} == {
            t.digest for t in of_stage(uninterrupted, stage)
        }
    assert run(two_stage(search_algo=algorithm)).trials == result.trials


def test_another_number_of_best_ones_is_another_search(two_stage: Any) -> None:
    run(two_stage(study_name="mine"))
    with pytest.raises(StudyError, match=r"its two_stage_search differs"):
        run(two_stage(study_name="mine", two_stage_best_k=2))
    with pytest.raises(StudyError, match=r"its two_stage_search differs"):
        run(two_stage(study_name="mine", two_stage_search=False))


def test_failures_of_the_first_stage_are_passed_over(two_stage: Any) -> None:
    def fails(config: dict[str, Any]) -> float:
        if config["calibrate_method"] == "Percentile":
            raise RuntimeError(f"no luck with {config['extra_options']['Percentile']}")
        return whole_loss(config)

    result = run(two_stage(fails))
    assert len(result.failed) == 4
    second = of_stage(result, FINETUNE)
    assert len(second) == FINETUNED
    assert {(t.config["calibrate_method"], t.config["per_channel"]) for t in second} == {("Entropy", True)}


def test_a_first_stage_of_failures_ends_the_search_with_their_cause(two_stage: Any) -> None:
    def fails(config: dict[str, Any]) -> float:
        raise RuntimeError(f"no luck with {config['calibrate_method']} {config['per_channel']}")

    result = run(two_stage(fails))
    assert of_stage(result, FINETUNE) == []
    assert result.stop_reason.startswith("every calibration configuration failed, the first with ")
    assert "no luck with" in result.stop_reason
    assert result.stop_reason.endswith("and 5 other causes")


def test_a_first_stage_that_breaks_a_constraint_ends_the_search_with_it(two_stage: Any) -> None:
    def fails(config: dict[str, Any]) -> float:
        raise AssertionError("such models are not evaluated")

    result = run(two_stage(fails, constraints={"model_size": {"max": 1}}))
    assert of_stage(result, FINETUNE) == []
    assert result.failed == ()
    assert result.stop_reason.startswith("no calibration configuration was evaluated to the end, ")
    assert result.stop_reason.endswith(f": {CALIBRATED} break model_size <= 1")


def test_trials_are_called_by_what_the_space_varies(two_stage: Any) -> None:
    """Of two calibration configurations, rules make different ranges symmetric."""
    space = {**SPACE, "calibrate_method": ["MinMax", "Percentile"], "per_channel": [True]}
    for trial in of_stage(run(two_stage(search_space=space, two_stage_best_k=3)), FINETUNE):
        assert "CalibTensorRangeSymmetric" not in trial.short
        assert set(trial.params) <= {
            "calibrate_method",
            "include_fast_ft",
            "extra_options.Percentile",
            "extra_options.FastFinetune.NumIterations",
            "extra_options.FastFinetune.LearningRate",
        }


def test_worker_processes_find_the_same(two_stage: Any, tmp_path: Path) -> None:
    alone = run(two_stage())
    together = run(two_stage(n_jobs=2, search_output_dir=str(tmp_path / "parallel")))
    for stage in (CALIBRATION, FINETUNE):
        assert {t.digest for t in of_stage(alone, stage)} == {t.digest for t in of_stage(together, stage)}
    last = max(trial.number for trial in of_stage(together, CALIBRATION))
    assert last < min(trial.number for trial in of_stage(together, FINETUNE))


@pytest.mark.parametrize("algorithm", ["random", "TPE"])
def test_the_same_seed_gives_the_same_trials(two_stage: Any, tmp_path: Path, algorithm: str) -> None:
    def digests(name: str, seed: int) -> list[str]:
        changes = {"search_algo": algorithm, "search_seed": seed, "search_output_dir": str(tmp_path / name)}
        return [trial.digest for trial in run(two_stage(**changes)).trials]

    assert digests("a", 3) == digests("b", 3)
    assert digests("c", 4) != digests("d", 3)


def test_samplers_of_the_second_stage_see_its_trials_alone(two_stage: Any) -> None:
    search = two_stage(search_algo="TPE")
    result = run(search)
    assert search.study is not None
    shared = IntersectionSearchSpace().calculate(search.study)
    assert shared == {}  # of all trials: what a sampler would fall back to chance for
    problem = search.problem
    study = SearchStudy(
        search.study._storage, problem.fingerprint, problem.objectives.directions, search.study.study_name
    )
    second = study.begin_stage(FINETUNE)
    assert {*IntersectionSearchSpace().calculate(second)} == {
        f"extra_options.FastFinetune.{name}" for name in FINETUNES
    }
    shown, recorded = second.get_trials(), search.study.trials[CALIBRATED:]
    assert [trial.params for trial in shown] == [trial.params for trial in recorded]
    assert [trial.values for trial in shown] == [trial.values for trial in recorded]
    assert len(of_stage(result, FINETUNE)) == FINETUNED


def test_what_never_ends_is_refused(two_stage: Any) -> None:
    continuous = {"type": "float", "low": 1e-6, "high": 1e-3, "log": True}
    options = {"FastFinetune": {"NumIterations": [100], "LearningRate": continuous}}
    space = {**SPACE, "extra_options": options}
    with pytest.raises(ConfigError, match=r"two_stage_search: a continuous range .*time_limit alone"):
        two_stage(search_space=space, search_algo="TPE")
    with pytest.raises(ConfigError, match="LearningRate: a continuous range cannot be enumerated"):
        two_stage(search_space=space)
    two_stage(search_space=space, search_algo="TPE", search_stop_condition={"time_limit": 5})
    percentiles = {"type": "float", "low": 99, "high": 99.9}
    space = {**SPACE, "extra_options": {"Percentile": percentiles, "FastFinetune": FINETUNES}}
    with pytest.raises(
        ConfigError, match=r"two_stage_search tries every calibration configuration: .*Percentile"
    ):
        two_stage(search_space=space, search_algo="TPE")


def test_two_kinds_of_search_exclude_each_other(two_stage: Any) -> None:
    with pytest.raises(ConfigError, match="advanced_fastft_search and two_stage_search exclude each other"):
        two_stage(advanced_fastft_search=True)


def test_a_journal_file_serves_as_well(two_stage: Any, tmp_path: Path) -> None:
    """Of the built-in evaluator; the second stage's sampler sees a view of that storage."""
    changes = {"search_evaluator": None, "search_algo": "TPE", "search_pruner": "median"}
    result = run(two_stage(storage=f"journal:{tmp_path / 'journal.log'}", **changes))
    assert len(of_stage(result, CALIBRATION)) == CALIBRATED
    assert len(of_stage(result, FINETUNE)) == FINETUNED
    assert run(two_stage(storage=f"journal:{tmp_path / 'journal.log'}", **changes)).trials == result.trials


def test_a_sampler_of_all_parameters_works_in_the_second_stage(two_stage: Any) -> None:
    """CmaEs leaves its mark on the trials that it proposed itself, not by chance."""
    pytest.importorskip("cmaes")
    finetune = {
        "NumIterations": {"type": "int", "low": 1, "high": 4},
        "RegParam": {"type": "float", "low": 0.01, "high": 0.03, "step": 0.01},
    }
    space = {**SPACE, "extra_options": {"FastFinetune": finetune}}
    search = two_stage(search_space=space, search_algo="CmaEs")
    run(search)
    assert search.study is not None
    marked = [t.number for t in search.study.trials if any(key.startswith("cma") for key in t.system_attrs)]
    assert marked
    assert min(marked) >= CALIBRATED - 2  # without Percentile
