"""MASE's TOML files: what they come to, what is refused, and that they run as they stand."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from autosearch.cli import main
from autosearch.errors import ConfigError
from autosearch.job import Given, read_job
from autosearch.mase import load_toml, read_search

FILES = Path(__file__).parent / "mase"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a classifier and a language model, and their data."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write_classifier(tmp_path / "jets.onnx", rng)
    x = rng.normal(size=(120, 6)).astype(np.float32)
    scores = ort.InferenceSession(tmp_path / "jets.onnx").run(None, {"x": x})[0]
    np.savez(tmp_path / "jets.npz", x=x, classes=scores.argmax(1))
    write_language_model(tmp_path / "opt.onnx", rng)
    np.savez(tmp_path / "opt.npz", input_ids=rng.integers(0, 11, size=(20, 7)))
    return tmp_path


def write_classifier(path: Path, rng: np.random.Generator) -> None:
    """Layers by the names that MASE gives them."""
    shapes = {"w0": (6, 8), "b0": (8,), "w2": (8, 8), "b2": (8,), "w4": (8, 3), "b4": (3,)}
    constants = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h0"], "seq_blocks_0"),
        helper.make_node("Relu", ["h0"], ["h1"], "seq_blocks_1"),
        helper.make_node("Gemm", ["h1", "w2", "b2"], ["h2"], "seq_blocks_2"),
        helper.make_node("Relu", ["h2"], ["h3"], "seq_blocks_3"),
        helper.make_node("Gemm", ["h3", "w4", "b4"], ["y"], "seq_blocks_4"),
    ]
    write(path, nodes, constants, ("x", TensorProto.FLOAT, ["N", 6]), ("y", TensorProto.FLOAT, ["N", 3]))


def write_language_model(path: Path, rng: np.random.Generator) -> None:
    shapes = {"table": (11, 8), "w": (8, 8), "head": (8, 11)}
    constants = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"], "embed"),
        helper.make_node("MatMul", ["e", "w"], ["h"], "fc"),
        helper.make_node("MatMul", ["h", "head"], ["logits"], "lm_head"),
    ]
    tokens = ("input_ids", TensorProto.INT64, ["N", "T"])
    write(path, nodes, constants, tokens, ("logits", TensorProto.FLOAT, ["N", "T", 11]))


def write(path: Path, nodes: list[Any], constants: list[Any], given: Any, wanted: Any) -> None:
    infos = [[helper.make_tensor_value_info(*each)] for each in (given, wanted)]
    graph = helper.make_graph(nodes, "g", *infos, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def settings(name: str) -> dict[str, Any]:
    return dict(read_search(load_toml(FILES / name)).settings)


def changed(name: str, place: str, value: Any) -> dict[str, Any]:
    """A file's content with one key set."""
    content: dict[str, Any] = tomllib.loads((FILES / name).read_text())
    *parents, last = place.split("/")
    level = content
    for parent in parents:
        level = level.setdefault(parent, {})
    level[last] = value
    return content


def test_tables_below_config() -> None:
    found = settings("toy.toml")
    widths = [3, 4, 5, 6, 7, 8, 9]
    assert found["search_space"] == {
        "layers": {
            "by": "name",
            "default": {
                "name": ["integer"],
                "data_in_width": [4, 8],
                "data_in_frac_width": widths,
                "weight_width": [2, 4, 8],
                "weight_frac_width": widths,
                "bias_width": [2, 4, 8],
                "bias_frac_width": widths,
            },
        }
    }
    assert found["search_algo"] == "TPE"
    assert found["search_stop_condition"] == {"iteration_limit": 20, "time_limit": 20000}
    assert found["metrics"] == {
        "accuracy": {"scale": 1.0, "direction": "maximize"},
        "average_bitwidth": {"scale": 0.2, "direction": "minimize"},
    }
    assert found["metric_options"] == {"average_bitwidth": {"compare_to": 32}}
    assert found["sum_scaled_metrics"] is False
    assert read_search(load_toml(FILES / "toy.toml")).num_samples == 512


def test_flat_tables_and_runners_by_name() -> None:
    search = read_search(load_toml(FILES / "opt.toml"))
    assert search.settings["search_space"]["layers"]["default"]["weight_width"] == [2, 4, 8, 10]
    assert search.settings["metrics"]["average_bitwidth"]["scale"] == 0.0
    assert search.num_samples == 16
    assert "metric_options" not in search.settings


def test_a_whole_file_with_several_tables() -> None:
    search = read_search(load_toml(FILES / "brute.toml"))
    layers = search.settings["search_space"]["layers"]
    assert list(layers) == ["by", "default", "linear", "seq_blocks_2"]
    assert layers["default"] == {"name": ["NA"]}
    assert search.settings["search_algo"] == "BruteForce"
    assert search.notes[0].startswith("not used here: model, dataset, task, max_epochs")
    assert search.notes[0].endswith("passes")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("search/strategi", {}, r"search: unknown key 'strategi'; did you mean 'strategy'"),
        ("search/strategy", 3, r"search.strategy: must be a table, got 3"),
        ("search/search_space/name", "nas", r"search.search_space.name: 'nas' is no search space"),
        ("search/search_space/setup/buy", 1, r"setup: unknown key 'buy'; did you mean 'by'"),
        ("search/search_space/seed", {}, r"search.search_space.seed: says nothing of any layer"),
        ("search/search_space/seed/default/confg", 1, r"seed.default: unknown key 'confg'; did you mean"),
        ("search/search_space/seed/fc/one", {"name": ["integer"]}, r"seed.fc.one: is a table; quote a name"),
        ("search/strategy/name", "rl", r"search.strategy.name: 'rl' is not possible; write 'optuna'"),
        ("search/strategy/eval_mode", False, r"search.strategy.eval_mode: models are not trained"),
        ("search/strategy/sw_runner", "basic_train", r"sw_runner: 'basic_train' is not possible"),
        (
            "search/strategy/hw_runner/latancy",
            {},
            r"hw_runner: unknown metric 'latancy'; did you mean 'latency'",
        ),
        ("search/strategy/num_samples", "all", r"search.strategy.num_samples: takes int, got 'all'"),
        (
            "search/strategy/setup/sampler",
            "tpee",
            r"setup.sampler: unknown sampler 'tpee'; did you mean 'tpe'",
        ),
        ("search/strategy/setup/n_trails", 3, r"setup: unknown key 'n_trails'; did you mean 'n_trials'"),
        ("search/strategy/setup/runner_style", "gan", r"setup.runner_style: 'gan' is unknown"),
        ("search/strategy/metrics/accuracy", {"scal": 1}, r"metrics.accuracy: unknown key 'scal'"),
        ("search/strategy/metrics", {}, r"search.strategy.metrics: names no metric"),
    ],
)
def test_what_is_unknown_below_search_is_refused(place: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_search(changed("toy.toml", place, value))


def test_what_has_no_effect_is_noted() -> None:
    content = changed("toy.toml", "search/strategy/setup/model_parallel", True)
    content["search"]["strategy"]["setup"]["direction"] = "maximize"
    content["search"]["search_space"]["seed"]["relu"] = {"config": {"name": ["NA"], "data_in_width": [4]}}
    notes = "\n".join(read_search(content).notes)
    assert "search.strategy.setup.model_parallel has no effect" in notes
    assert "setup.direction has no effect: it is of the sum" in notes
    assert "seed.relu.config.data_in_width (name is NA)" in notes


def test_a_runner_records_its_metric() -> None:
    content = changed("toy.toml", "search/strategy/metrics", {"accuracy": {"scale": 1.0}})
    assert read_search(content).settings["metrics"]["average_bitwidth"] == {"scale": 0.0}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("random", "RandomSampler"),
        ("NSGAII", "NSGAII"),
        ("brute", "BruteForce"),
        ("qmc", "QMC"),
        ("gp", "GP"),
    ],
)
def test_samplers(name: str, ours: str) -> None:
    assert (
        read_search(changed("toy.toml", "search/strategy/setup/sampler", name)).settings["search_algo"]
        == ours
    )


def test_model_and_data_come_from_the_command_line(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"toy.toml: the file does not say which; give --model"):
        read_job(FILES / "toy.toml", (), Given(data="jets.npz"))
    changes = ("search.strategy.setup.n_trials=3", "search_seed=7", "calibration_data.batch_size=8")
    job = read_job(FILES / "toy.toml", changes, Given("jets.onnx", "jets.npz", "classes"))
    assert job.settings.search_stop_condition.iteration_limit == 3
    assert job.settings.search_seed == 7
    assert job.calibration_data.batch_size == 8
    assert job.eval_data is not None
    assert (job.eval_data.labels, job.eval_data.samples) == ("classes", 512)
    with pytest.raises(ConfigError, match=r"--model: is for TOML files of MASE's"):
        read_job(here / "job.yaml", (), Given(model="jets.onnx"))
    with pytest.raises(ConfigError, match=r"toy.toml: unknown key 'search_sed'; did you mean 'search_seed'"):
        read_job(FILES / "toy.toml", ("search_sed=7",), Given("jets.onnx", "jets.npz"))


def search(name: str, *more: str) -> dict[str, Any]:
    stem = "opt" if name == "opt.toml" else "jets"
    given = ("--model", f"{stem}.onnx", "--data", f"{stem}.npz", "--output", "out")
    assert main(["search", str(FILES / name), *given, *more]) == 0
    log: dict[str, Any] = json.loads(Path("out/log.json").read_text())
    return log


@pytest.mark.parametrize("name", ["toy.toml", "brute.toml"])
def test_a_classifier_is_searched(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = search(name, "--labels", "classes", "--set", "search.strategy.setup.n_trials=3")
    assert len(log) == 3
    first = log["0"]
    assert set(first["user_attrs_software_metrics"]) == {"accuracy", "loss"}
    hardware = first["user_attrs_hardware_metrics"]
    assert hardware["memory_density"] == pytest.approx(32 / hardware["average_bitwidth"])
    assert first["values_1"] == pytest.approx(0.2 * hardware["average_bitwidth"])
    searched = {"seq_blocks_0", "seq_blocks_2", "seq_blocks_4"}
    searched |= {"seq_blocks_1", "seq_blocks_3"} if name == "toy.toml" else set()
    assert set(first["user_attrs_sampled_config"]) == searched
    assert "Best trial(s):\n|    |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["seq_blocks_2", "/seq_blocks/seq_blocks.2/Gemm"], ids=["mase", "torch.onnx"]
)
def test_average_bitwidth_is_of_the_searched_layers(name: str, here: Path) -> None:
    """One searched layer of three, by MASE's name: its own width, not a mean with the float ones."""
    model = onnx.load(here / "jets.onnx")
    model.graph.node[2].name = name
    onnx.save(model, here / "jets.onnx")
    content = (FILES / "brute.toml").read_text().split("[search.search_space.seed.linear.config]")
    kept = content[1][content[1].index("[search.search_space.seed.seq_blocks_2") :]
    kept = kept.replace("data_in_width = [4, 8]", "data_in_width = 8").replace(
        "bias_width = [2, 4, 8]", "bias_width = 8"
    )
    (here / "one.toml").write_text(content[0] + kept)
    arguments = ["--model", "jets.onnx", "--data", "jets.npz", "--labels", "classes", "--output", "out"]
    assert main(["search", "one.toml", *arguments]) == 0
    log = json.loads((here / "out" / "log.json").read_text())
    assert len(log) == 3
    widths = {
        (
            each["user_attrs_sampled_config"][name]["config"]["weight_width"],
            each["user_attrs_hardware_metrics"]["average_bitwidth"],
        )
        for each in log.values()
    }
    assert widths == {(2, 2.0), (4, 4.0), (8, 8.0)}


def test_a_language_model_is_searched(here: Path) -> None:
    log = search("opt.toml", "--set", "search.strategy.setup.n_trials=3")
    metrics = log["0"]["user_attrs_software_metrics"]
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["loss"]))
    assert log["0"]["value"] == metrics["perplexity"]
    assert log["0"]["user_attrs_hardware_metrics"]["average_bitwidth"] >= 2


def test_logged_configurations_replay_exactly(here: Path) -> None:
    log = search("brute.toml", "--labels", "classes", "--set", "search.strategy.setup.n_trials=3",
                 "--set", "keep_models=all")  # fmt: skip
    for number, each in log.items():
        recorded = ["--config", "out/log.json", "--trial", number]
        assert main(["quantize", "jets.onnx", *recorded, "-o", f"{number}.onnx"]) == 0
        digest = hashlib.sha256((here / f"{number}.onnx").read_bytes()).hexdigest()
        assert digest == each["user_attrs_model_digest"]
        (here / "sampled.json").write_text(json.dumps(each["user_attrs_sampled_config"]))
        sampled = ["--config", "sampled.json", "--data", "jets.npz"]
        assert main(["quantize", "jets.onnx", *sampled, "-o", "sampled.onnx"]) == 0
        assert (here / "sampled.onnx").read_bytes() == (here / f"{number}.onnx").read_bytes()


def test_the_space_of_a_file_is_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "jets.onnx", "--data", "jets.npz", "--first", "1"]
    assert main(["space", str(FILES / "toy.toml"), *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("search space: about 10^14 points") or "points, too many" in lines[0]
    assert "layers seq_blocks_0, seq_blocks_2, seq_blocks_4: 6174 choices each" in lines[1]
    assert "    weight_frac_width 3, 4, 5, 6, 7, 8, 9" in lines
