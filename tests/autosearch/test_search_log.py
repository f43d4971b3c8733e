from __future__ import annotations

import logging
from pathlib import Path

import pytest

from autosearch import SearchResult
from autosearch.errors import OutputError
from autosearch.search_log import environment, log_result, search_log, trial_line
from evaluators import Metric
from tests.autosearch.trials import make_trial

L2 = Metric("L2", direction="minimize", against_float=True)
PSNR = Metric("L2", unit="dB", direction="maximize", against_float=True)
ACCURACY = Metric("L2", direction="maximize")


def test_a_trial_is_a_line() -> None:
    assert trial_line(make_trial(3, 0.125), "4/12", L2, 0.5) == (
        "Executing search 4/12 with config [configuration 3]: L2 0.125 (tolerance <= 0.5), candidate;"
        " quantize 0.25 s, evaluate 0.12 s"
    )
    assert "(tolerance >= 30)" in trial_line(make_trial(3, 40), "4", PSNR, 30)
    assert "L2 40 dB" in trial_line(make_trial(3, 40), "4", PSNR, None)
    assert "tolerance" not in trial_line(make_trial(3, 0.5), "4", L2, None)
    assert "not a candidate" in trial_line(make_trial(3, 0.5, is_candidate=False), "4", L2, 0.1)
    shown = trial_line(make_trial(3, 0.75, difference=0.25), "4", ACCURACY, 0.3)
    assert "L2 0.75 (difference 0.25)" in shown


def test_a_failure_says_why() -> None:
    shown = trial_line(make_trial(3), "4/12", L2, 0.5)
    assert shown.endswith("[configuration 3]: failed: RuntimeError: no luck; at once")
    assert "\n" not in shown


def test_the_end_is_sorted_with_failures_and_the_reason(tmp_path: Path) -> None:
    ranked = [make_trial(1, 0.1), make_trial(0, 0.2, is_candidate=False)]
    result = SearchResult((*ranked, make_trial(2)), (ranked[0],), ranked[0], "iteration_limit: 3", False, 1.5)
    with search_log(tmp_path / "log") as log:
        log_result(log, result, L2, ranked)
    lines = [line.split("INFO ", 1)[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[0] == "Sorted results, best first (2 of 3 trials):"
    assert lines[1].split() == ["0.", "candidate", "L2", "0.1", "[configuration", "1]", "trial", "1"]
    assert "candidate" not in lines[2]
    assert lines[3] == "  failed: trial 2 [configuration 2]: RuntimeError: no luck"
    assert lines[-2:] == ["Searched candidates: 1", "Stopped: iteration_limit: 3; 1.5 s"]


def test_warnings_of_the_packages_are_in_the_log_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "auto_search.log"
    with search_log(path):
        logging.getLogger("quant.cache").warning("an entry is damaged")
    logging.getLogger("quant.cache").warning("too late")
    assert path.read_text().endswith("WARNING an entry is damaged\n")


def test_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    for word in ("one", "two"):
        with search_log(tmp_path / "log") as log:
            log.info(word)
    assert [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["one", "two"]


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"search_log_path '.*file/log': cannot be written"),
        search_log(tmp_path / "file" / "log"),
    ):
        pass


def test_the_environment_is_a_line() -> None:
    assert "\n" not in environment()
    for name in ("Python 3.", "onnxruntime ", "optuna "):
        assert name in environment()
