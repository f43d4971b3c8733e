from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autosearch import Outcome
from autosearch.errors import ConfigError
from autosearch.files import MOST_BEST, finite, read_entry, write_best, write_log
from quant import QuantConfig
from tests.autosearch.trials import START, make_trial

SOURCE = {"model": "model.onnx", "model_digest": "abc"}


def strictly(path: Path) -> dict[str, Any]:
    """JSON as the standard has it: neither Infinity nor NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return content


def test_log_has_the_keys_of_mase(tmp_path: Path) -> None:
    write_log(tmp_path, [make_trial(0, 0.5), make_trial(1, None)], 1, SOURCE)
    log = strictly(tmp_path / "log.json")
    assert list(log) == ["0", "1"]
    complete, failed = log["0"], log["1"]
    milliseconds = round(START.timestamp() * 1000)
    expected = {
        "number": 0,
        "value": 0.5,
        "user_attrs_hardware_metrics": {},
        "user_attrs_sampled_config": {"per_channel": True},
        "user_attrs_scaled_metrics": {"L2": 0.5},
        "user_attrs_software_metrics": {"L2": 0.5},
        "state": "COMPLETE",
        "datetime_start": milliseconds,
        "datetime_complete": milliseconds + 500,
        "duration": 500,
    }
    assert {key: complete[key] for key in expected} == expected
    assert all(key.startswith("user_attrs_") for key in complete.keys() - expected.keys())
    assert complete["user_attrs_config"] == QuantConfig(per_channel=True).to_dict()
    assert failed["state"] == "FAIL"
    assert failed["value"] is None
    assert failed["user_attrs_error"] == "RuntimeError: no luck"


def test_several_objectives_and_layers_are_written_as_mase_does(tmp_path: Path) -> None:
    chosen = {"name": "integer", "data_in_width": 4, "weight_width": 2, "bias_width": 8}
    trial = make_trial(
        3,
        0.5,
        params={"per_channel": True, "layers.fc.weight_width": 2, "layers.fc.name": "integer"},
        config={"per_channel": True, "layers": {"by": "name", "fc": chosen, "relu": {"name": None}}},
        values=(0.5, 0.785),
        scaled={"accuracy": 0.5, "average_bitwidth": 0.785},
        violations={"accuracy >= 0.4": -0.25},
        outcome=Outcome({"loss": 0.69, "accuracy": 0.5}, hardware={"average_bitwidth": 3.925}),
    )
    skipped = replace(trial, number=4, values=None, outcome=Outcome(infeasible=True))
    write_log(tmp_path, [trial, skipped], 2, SOURCE)
    write_best(tmp_path, [trial], SOURCE)
    log, best = (strictly(tmp_path / name) for name in ("log.json", "best.json"))
    nodes = {"fc": {"config": chosen}, "relu": {"config": {"name": None}}}
    expected = {
        "number": 3,
        "values_0": 0.5,
        "values_1": 0.785,
        "user_attrs_hardware_metrics": {"average_bitwidth": 3.925},
        "user_attrs_sampled_config": {"per_channel": True, **nodes},
        "user_attrs_scaled_metrics": {"accuracy": 0.5, "average_bitwidth": 0.785},
        "user_attrs_software_metrics": {"loss": 0.69, "accuracy": 0.5},
        "state": "COMPLETE",
    }
    assert {key: log["3"][key] for key in expected} == expected
    assert "value" not in log["3"]
    assert log["4"]["state"] == "INFEASIBLE"
    assert (log["4"]["values_0"], log["4"]["values_1"]) == (None, None)
    assert best["0"]["value"] == [0.5, 0.785]
    assert best["0"]["sampled_config"] == expected["user_attrs_sampled_config"]
    assert best["0"]["violations"] == {"accuracy >= 0.4": -0.25}


def test_best_has_ranks(tmp_path: Path) -> None:
    ranked = [make_trial(number, value) for number, value in [(7, 0.1), (2, 0.2), (5, 0.3)]]
    write_best(tmp_path, ranked, SOURCE)
    best = strictly(tmp_path / "best.json")
    assert {rank: entry["number"] for rank, entry in best.items()} == {"0": 7, "1": 2, "2": 5}
    keys = ("value", "software_metrics", "hardware_metrics", "scaled_metrics", "sampled_config")
    assert [best["0"][key] for key in keys] == [0.1, {"L2": 0.1}, {}, {"L2": 0.1}, {"per_channel": True}]
    assert best["0"]["model_digest"] == ranked[0].outcome.model_digest
    assert best["0"]["source"] == SOURCE


def test_best_ends_somewhere(tmp_path: Path) -> None:
    write_best(tmp_path, [make_trial(number, 0.5) for number in range(MOST_BEST + 5)], SOURCE)
    assert len(strictly(tmp_path / "best.json")) == MOST_BEST


def test_trials_that_changed_are_written_anew(tmp_path: Path) -> None:
    first, second = make_trial(0, 0.1), make_trial(1, 0.2)
    written = write_best(tmp_path, [first, second], SOURCE)
    changed = replace(first, outcome=replace(first.outcome, model_path=None))
    again = write_best(tmp_path, [make_trial(2, 0.05), changed], SOURCE, written)
    best = strictly(tmp_path / "best.json")
    assert [(entry["number"], entry["model_path"]) for entry in best.values()] == [
        (2, make_trial(2, 0.05).outcome.model_path),
        (0, None),
    ]
    assert set(again) == {2, 0}


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinities_are_words(tmp_path: Path, value: float) -> None:
    write_log(tmp_path, [make_trial(0, value)], 1, SOURCE)
    write_best(tmp_path, [make_trial(0, value)], SOURCE)
    for name in ("log.json", "best.json"):
        entry = strictly(tmp_path / name)["0"]
        assert entry["value"] == str(value)
        assert float(entry["value"]) == value


def test_finite_values_stay_numbers() -> None:
    assert [finite(value) for value in (0.5, None, math.inf, -math.inf)] == [0.5, None, "inf", "-inf"]


def test_no_trials_is_an_empty_object(tmp_path: Path) -> None:
    write_log(tmp_path, [], 1, SOURCE)
    assert strictly(tmp_path / "log.json") == {}


def test_entries_are_read_from_both_files(tmp_path: Path) -> None:
    write_best(tmp_path, [make_trial(7, 0.1)], SOURCE)
    write_log(tmp_path, [make_trial(7, 0.1)], 1, SOURCE)
    for reference in ("best.json#0", "best.json", "log.json#7"):
        entry = read_entry(f"{tmp_path}/{reference}")
        assert entry["config"] == QuantConfig(per_channel=True)
        assert entry["source"] == SOURCE


def test_an_entry_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    write_log(tmp_path, [make_trial(3, 0.1), make_trial(4, 0.2)], 1, SOURCE)
    with pytest.raises(ConfigError, match="no entry '9'; there are: 3, 4"):
        read_entry(f"{tmp_path}/log.json#9")
    with pytest.raises(ConfigError, match="no file"):
        read_entry(f"{tmp_path}/absent.json#0")


def test_records_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_best(tmp_path, [make_trial(0, 0.5)], SOURCE)
    before = (tmp_path / "best.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        write_best(tmp_path, [make_trial(1, 0.1)], SOURCE)
    assert (tmp_path / "best.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["best.json"]
