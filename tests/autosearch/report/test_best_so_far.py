from __future__ import annotations

import json
import math
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosearch.errors import ConfigError
from autosearch.report.best_so_far import best_so_far, logged_values, mean_curve

VALUES = st.lists(st.floats(allow_nan=False))


@given(VALUES)
def test_without_failures_it_is_the_running_extreme(values: list[float]) -> None:
    assert list(best_so_far("x", values, "maximize").best) == list(accumulate(values, max))
    assert list(best_so_far("x", values, "minimize").best) == list(accumulate(values, min))


def test_failed_trials_count_and_change_nothing() -> None:
    curve = best_so_far("mine", [None, 0.5, math.nan, 0.4, 0.7], "maximize")
    assert curve.name == "mine"
    assert curve.values == (None, 0.5, None, 0.4, 0.7)
    assert curve.best == (None, 0.5, 0.5, 0.5, 0.7)


@pytest.mark.parametrize(("value", "trials"), [(0.5, 2), (0.6, 5), (0.7, 5), (0.71, None)])
def test_trials_to_reach(value: float, trials: int | None) -> None:
    curve = best_so_far("x", [None, 0.5, None, 0.4, 0.7], "maximize")
    assert curve.trials_to_reach(value, "maximize") == trials


def test_trials_to_reach_downwards() -> None:
    assert best_so_far("x", [3.0, 2.0, 1.0], "minimize").trials_to_reach(2.5, "minimize") == 2


def write_log(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def test_values_come_in_the_trials_order_and_unscaled(tmp_path: Path) -> None:
    entries = {
        "10": {"number": 10, "user_attrs_software_metrics": {"accuracy": 0.9}},
        "2": {
            "number": 2,
            "user_attrs_software_metrics": {"accuracy": 0.5},
            "user_attrs_scaled_metrics": {"accuracy": 1.0, "average_bitwidth": 0.8},
            "user_attrs_hardware_metrics": {"average_bitwidth": 4.0},
        },
        "3": {"number": 3, "user_attrs_software_metrics": {}, "state": "FAIL"},
        "4": {"number": 4, "user_attrs_software_metrics": {"accuracy": "-inf"}},
    }
    log = write_log(tmp_path / "log.json", entries)
    assert logged_values(log, "accuracy") == [0.5, None, -math.inf, 0.9]
    assert logged_values(log, "average_bitwidth") == [4.0, None, None, None]


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.json", {"0": {"number": 0, "user_attrs_software_metrics": {"loss": 1}}})
    with pytest.raises(ConfigError, match=r"log\.json: no trial has the metric 'los'.*'loss'"):
        logged_values(log, "los")


@pytest.mark.parametrize("entries", [[], 3, {"0": 3}, {"0": {}}, {"0": {"number": "a"}}])
def test_other_files_are_refused(tmp_path: Path, entries: object) -> None:
    with pytest.raises(ConfigError, match=r"not a log\.json"):
        logged_values(write_log(tmp_path / "log.json", entries), "loss")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json: not a log\.json"):
        logged_values(tmp_path / "nowhere.json", "loss")


def test_the_mean_of_runs_goes_on_with_the_last_of_those_that_ended() -> None:
    runs = [best_so_far("a", [1.0, 3.0, 2.0], "maximize"), best_so_far("b", [None, 2.0], "maximize")]
    mean = mean_curve("both", runs)
    assert mean.best == (None, 2.5, 2.5)
    assert mean.values == (None, 2.5, 2.0)
