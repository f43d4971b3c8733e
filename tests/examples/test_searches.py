"""The examples' commands, with few trials."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from autosearch import cli
from examples.jets import compare
from examples.lab3 import search as lab3
from examples.lm import search as lm

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_log(folder: Path) -> list[dict]:
    return list(json.loads((folder / "log.json").read_text("utf-8")).values())


def toml_search(example: str, output: Path) -> list[str]:
    folder = EXAMPLES / example
    command = ["search", str(folder / "search.toml"), "--model", str(folder / f"{example}.onnx")]
    return [*command, "--data", str(folder / "validation.npz"), "--output-dir", str(output)]


def test_the_toy_search(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(toml_search("toy", here / "out")) == 0
    printed = capsys.readouterr().out
    assert "Best trial(s):" in printed
    assert "'average_bitwidth': " in printed
    trials = read_log(here / "out")
    assert len(trials) == 20
    done = [trial for trial in trials if trial["state"] == "COMPLETE"]
    assert max(trial["user_attrs_software_metrics"]["accuracy"] for trial in done) > 0.95
    for trial in done:
        bits = trial["user_attrs_hardware_metrics"]["average_bitwidth"]
        assert 2 <= bits <= 8
        assert trial["user_attrs_scaled_metrics"]["average_bitwidth"] == pytest.approx(0.2 * bits)
        assert trial["user_attrs_sampled_config"]["seq_blocks_0"]["config"]["name"] == "integer"


def test_the_toy_search_in_yaml_samples_the_same_layers(here: Path) -> None:
    yaml_search = ["search", str(EXAMPLES / "toy" / "search.yaml"), "--output-dir", "out"]
    assert cli.main([*yaml_search, "--set", "search_stop_condition.iteration_limit=3"]) == 0
    for trial in read_log(here / "out"):
        assert set(trial["user_attrs_sampled_config"]) == {f"seq_blocks_{number}" for number in range(5)}


def test_the_jets_search_tries_all_18(here: Path) -> None:
    assert cli.main(toml_search("jets", here / "out")) == 0
    trials = read_log(here / "out")
    sampled = {json.dumps(trial["user_attrs_sampled_config"], sort_keys=True) for trial in trials}
    assert (len(trials), len(sampled)) == (18, 18)
    assert {trial["user_attrs_hardware_metrics"]["average_bitwidth"] for trial in trials} == {2, 4, 8}


def test_jets_compares_samplers_and_records_all_metrics(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = "search_space.layers.linear.data_in_width=4"  # 27 configurations
    arguments = ["--seeds", "1", "--set", narrow, "--set", "search_stop_condition.iteration_limit=12"]
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    monkeypatch.setattr(compare, "write_picture", lambda figure, path: path.touch())
    compare.main()
    printed = capsys.readouterr().out
    for name in ("brute force", "TPE", *compare.RECORDED):
        assert name in printed
    out = here / "results" / "jets_compare"
    assert len(read_log(out / "TPE" / "0")) == 12
    for trial in read_log(out / "BruteForce" / "0"):
        measured = {**trial["user_attrs_software_metrics"], **trial["user_attrs_hardware_metrics"]}
        assert set(compare.RECORDED) <= set(measured)
    assert (out / "compare.html").is_file()


def test_the_language_model_search(here: Path) -> None:
    arguments = ["--sequences", "2", "--length", "32", "--output-dir", "out"]
    assert lm.main([*arguments, "--set", "search_stop_condition.iteration_limit=2"]) == 0
    trials = read_log(here / "out")
    assert len(trials) == 2
    for trial in trials:
        assert trial["user_attrs_software_metrics"]["perplexity"] > 20
        assert trial["user_attrs_sampled_config"]["/lm_head/MatMul"]["config"]["weight_width"] in (
            2,
            4,
            8,
            10,
        )


def test_the_language_model_search_in_yaml_is_over_its_linear_layers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["space", str(EXAMPLES / "lm" / "search.yaml")]) == 0
    assert "/lm_head/MatMul" in capsys.readouterr().out


def test_a_language_model_that_is_not_there_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lm.main(["--model-dir", "absent"]) == 2
    assert "absent/tokenizer.json" in capsys.readouterr().err


def test_lab3_draws_a_curve_for_each_format(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["search", "--formats", "binary", "mxint", "--trials", "3"])
    drawn = []
    monkeypatch.setattr(lab3, "write_picture", lambda figure, path: drawn.append((figure, path.name)))
    lab3.main()
    assert [name for _, name in drawn] == ["widths.png", "formats.png"]
    assert [line.name for line in drawn[1][0].data] == ["mxint", "binary"]  # best first
    assert all(len(line.x) == 3 for line in drawn[1][0].data)
    assert "mxint" in capsys.readouterr().out
    for name in ("widths.html", "formats.html"):
        assert (here / "results" / "lab3" / name).is_file()


@pytest.mark.parametrize("name", lab3.format_tables())
def test_every_format_is_a_space_of_the_network(name: str, here: Path) -> None:
    layers = json.dumps(lab3.linear_layers(lab3.format_tables()[name]))
    changes = ["--set", f"search_space.layers={layers}"]
    assert cli.main(["space", str(EXAMPLES / "lab3" / "search.yaml"), *changes]) == 0
