"""Searches of other kinds than a grid, by several processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.machines.fleet import Fleet

pytestmark = pytest.mark.faults

CALIBRATIONS, FINETUNINGS = 4, 3
TWO_STAGES = {
    "calibrate_method": ["MinMax"],
    "activation_type": ["QUInt8", "QInt8"],
    "per_channel": [False, True],
    "include_fast_ft": [False, True],
    "extra_options": {"FastFinetune": {"NumIterations": [1, 2, 3]}},
}
LAYERS = {
    "layers": {
        "by": "type",
        "default": {"name": ["integer"], "data_in_width": [6, 8], "weight_width": [4, 6, 8]},
    }
}


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return f"journal:{tmp_path / 'study.journal'}"


def test_a_second_stage_begins_with_the_same_best_everywhere(fleet: Fleet, journal: str) -> None:
    fleet.write(journal, search_space=TWO_STAGES, two_stage_search=True)
    processes = [fleet.start("--output-dir", f"out{i}", together=2, evaluation_s=0.1) for i in range(2)]
    for process in processes:
        fleet.end(process)
    evaluations = Counter(name for name, _ in fleet.evaluated())
    assert set(evaluations.values()) == {1}
    assert len({pid for _, pid in fleet.evaluated()}) == 2
    complete = [trial for trial in fleet.trials() if trial.state is TrialState.COMPLETE]
    stages = Counter(trial.user_attrs["stage"] for trial in complete)
    assert sorted(stages.values()) == [FINETUNINGS, CALIBRATIONS]
    calibration, finetuning = (name for name, _ in stages.most_common())
    ended = [t.datetime_complete for t in complete if t.user_attrs["stage"] == calibration]
    began = [t.datetime_start for t in complete if t.user_attrs["stage"] == finetuning]
    assert max(filter(None, ended)) <= min(filter(None, began))
    best = [fleet.record("best.json", f"out{i}") for i in range(2)]
    assert [each["number"] for each in best[0].values()] == [each["number"] for each in best[1].values()]


def test_objectives_and_workers_of_several_processes(fleet: Fleet, journal: str) -> None:
    """Formats per layer, TPE, a Pareto front, two workers each: one front, and no configuration twice."""
    fleet.write(
        journal,
        search_space=LAYERS,
        search_algo="TPE",
        metrics={"evaluate": {}, "average_bitwidth": {}},
        search_metric_tolerance=None,
        search_stop_condition={"iteration_limit": 14},
        n_jobs=2,
    )
    processes = [fleet.start("--output-dir", f"out{i}", together=2, evaluation_s=0.05) for i in range(2)]
    for process in processes:
        assert "14 trials" in fleet.end(process)
    assert len(fleet.complete()) == len(set(fleet.complete())) == 14
    fronts = [fleet.record("best.json", f"out{i}") for i in range(2)]
    assert len(fronts[0]) > 0
    assert [each["number"] for each in fronts[0].values()] == [each["number"] for each in fronts[1].values()]
