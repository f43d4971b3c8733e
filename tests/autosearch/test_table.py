from __future__ import annotations

from autosearch import Outcome
from autosearch.table import best_table, table, trials_table
from evaluators import Metric
from tests.autosearch.trials import make_trial

L2 = Metric("L2", direction="minimize", against_float=True)


def test_numbers_to_the_right_and_words_to_the_left() -> None:
    assert table(["name", "n"], [["a", "1"], ["long name", "12.5"]]).splitlines() == [
        "name          n",
        "---------  ----",
        "a             1",
        "long name  12.5",
    ]


def test_columns_without_numbers_alone_are_words() -> None:
    assert table(["n"], [["1"], ["-"]]).splitlines() == ["n", "-", "1", "-"]
    assert table(["empty"], []).splitlines() == ["empty", "-----"]


def test_the_ten_best_trials() -> None:
    lines = trials_table([make_trial(number, number / 10) for number in range(12)], L2).splitlines()
    assert lines[0].split() == ["rank", "trial", "L2", "configuration", "seconds", "model"]
    assert len(lines) == 12
    assert lines[3].split() == ["1", "1", "0.1", "configuration", "1", "0.38", "models/1.onnx"]


def test_a_difference_has_a_column_where_it_is_another_number() -> None:
    accuracy = Metric("L2", unit="%", direction="maximize")
    header, _, row = trials_table([make_trial(0, 0.25)], accuracy).splitlines()
    assert "L2 (%)" in header
    assert header.index("difference") < header.index("configuration")
    assert row.split()[2:4] == ["0.25", "0.25"]


def test_a_model_that_is_gone_is_a_dash() -> None:
    trial = make_trial(0, 0.5)
    outcome = type(trial.outcome)(trial.outcome.metrics, trial.outcome.seconds)
    assert trials_table([make_trial(0, 0.5, outcome=outcome)], L2).endswith("  -")


def test_best_trials_are_shown_as_mase_shows_them() -> None:
    rows = [
        (0, {"loss": 0.66801, "accuracy": 0.6679}, {"average_bitwidth": 2.0377}, {"accuracy": 0.6679}),
        (19, {"loss": 0.563, "accuracy": 0.66349}, {"average_bitwidth": 2.0}, {"accuracy": 0.66349}),
    ]
    trials = [
        make_trial(number, 0.0, outcome=Outcome(software, hardware=hardware), scaled=scaled)
        for number, software, hardware, scaled in rows
    ]
    assert best_table(trials).splitlines() == [
        "|    |   number | software_metrics                   | hardware_metrics            "
        "| scaled_metrics      |",
        "|----+----------+------------------------------------+-----------------------------"
        "+---------------------|",
        "|  0 |        0 | {'loss': 0.668, 'accuracy': 0.668} | {'average_bitwidth': 2.038} "
        "| {'accuracy': 0.668} |",
        "|  1 |       19 | {'loss': 0.563, 'accuracy': 0.663} | {'average_bitwidth': 2.0}   "
        "| {'accuracy': 0.663} |",
    ]
