"""Searches of a model with an embedding of 20 MiB that stays float."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from autosearch.cli import main
from autosearch.compat import read_config
from autosearch.digest import model_digest
from autosearch.problem import pose
from quant import QuantConfig

ROWS, WIDTH = 5120, 1024
EXCLUDED = ["embed"]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search of four configurations, two of which quantize the embedding."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    constants = {"table": rng.normal(size=(ROWS, WIDTH)), "w": rng.normal(size=(WIDTH, 3)), "b": np.zeros(3)}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["h"], "embed"),
            helper.make_node("Gemm", ["h", "w", "b"], ["y"], "head"),
        ],
        "large",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    onnx.save_model(
        helper.make_model(graph, opset_imports=opsets, ir_version=10), str(tmp_path / "model.onnx")
    )
    np.savez(tmp_path / "calibration.npz", tokens=rng.integers(0, ROWS, size=64))
    path = tmp_path / "search.yaml"
    content = {
        "model_input": "model.onnx",
        "calibration_data": {"path": "calibration.npz", "batch_size": 32},
        "search_space": {"activation_type": ["QUInt8", "QInt16"], "nodes_to_exclude": [[], EXCLUDED]},
        "keep_models": "all",
        "search_output_dir": "out",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def search(job: Path, *arguments: object) -> dict[str, Any]:
    """The entries of log.json by their model's name."""
    assert main(["search", str(job), *map(str, arguments)]) == 0
    log = json.loads((job.parent / "out" / "log.json").read_text())
    assert {entry["state"] for entry in log.values()} == {"COMPLETE"}
    return {entry["user_attrs_config_digest"][:16]: entry for entry in log.values()}


def models(job: Path) -> list[Path]:
    return sorted((job.parent / "out" / "models").glob("*.onnx"))


def weights(job: Path) -> list[Path]:
    return sorted((job.parent / "out" / "models").glob("*.data"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_candidates_share_what_stays_float(
    job: Path, jobs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = search(job, "--n-jobs", jobs)
    assert len(entries) == len(models(job)) == 4
    (shared,) = weights(job)
    assert shared.stat().st_size == ROWS * WIDTH * 4
    for path in models(job):
        entry = entries[path.stem]
        excluded = entry["user_attrs_config"]["nodes_to_exclude"] == EXCLUDED
        assert (path.stat().st_size < 1 << 16) == excluded
        assert entry["user_attrs_model_digest"] == model_digest(path)
        ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    number, entry = next(
        (number, entry) for number, entry in json.loads((tmp_path / "out" / "log.json").read_text()).items()
        if entry["user_attrs_config"]["nodes_to_exclude"] == EXCLUDED
    )  # fmt: skip
    (tmp_path / "again").mkdir()
    replay = ("--config", f"out/log.json#{number}", "-o", "again/q.onnx")
    assert main(["quantize", "model.onnx", *replay]) == 0
    assert f"{Path('again') / shared.name}: its float weights" in capsys.readouterr().out
    original = tmp_path / "out" / "models" / f"{entry['user_attrs_config_digest'][:16]}.onnx"
    assert (tmp_path / "again" / "q.onnx").read_bytes() == original.read_bytes()
    assert (tmp_path / "again" / shared.name).read_bytes() == shared.read_bytes()
    assert model_digest(tmp_path / "again" / "q.onnx") == entry["user_attrs_model_digest"]


def test_weights_are_kept_as_long_as_a_kept_model_needs_them(job: Path) -> None:
    entries = search(job)
    keep_best = ("--set", "keep_models=best", "--set", "search_metric_tolerance=0")
    assert main(["search", str(job), *keep_best]) == 3
    (best,) = models(job)
    needed = entries[best.stem]["user_attrs_config"]["nodes_to_exclude"] == EXCLUDED
    assert needed, "the float embedding loses less"
    (shared,) = weights(job)
    shared.write_bytes(bytes(shared.stat().st_size))  # damaged: model and weights are made again
    assert main(["search", str(job), *keep_best]) == 3
    assert model_digest(best) == entries[best.stem]["user_attrs_model_digest"]
    assert "was deleted" not in (job.parent / "auto_search.log").read_text()


def test_weights_of_losing_models_are_deleted(job: Path) -> None:
    search(job)
    assert len(weights(job)) == 1
    for path in models(job):  # as if the quantized embedding had won
        if path.stat().st_size < 1 << 16:
            path.unlink()
    worst = {"search_space": {"activation_type": ["QUInt8"], "nodes_to_exclude": [[]]}}
    content = yaml.safe_load(job.read_text()) | worst | {"study_name": "second"}
    job.write_text(yaml.safe_dump(content))
    search(job)
    assert not weights(job)


def test_another_process_opens_the_model_from_the_cache(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.graph.mapped_model.LEAST_BYTES", 1 << 24)
    tokens = np.arange(32)
    settings = {"search_cache_dir": str(job.parent), "search_space": {}}
    problem = pose(None, read_config(settings), job.parent / "model.onnx", [{"tokens": tokens}])
    objective = problem.objective(problem.objectives)
    config = QuantConfig(nodes_to_exclude=EXCLUDED)
    first = objective.pipeline.quantize(config)
    assert objective.pipeline.cache.counts["float model"].computed == 1
    sent = pickle.loads(pickle.dumps(objective))
    (job.parent / "model.onnx").unlink()
    second = sent.pipeline.quantize(config)
    assert sent.pipeline.cache.counts["float model"].disk_hits == 1
    assert second.standalone() == first.standalone()


def test_external_data_of_its_own(job: Path) -> None:
    content = yaml.safe_load(job.read_text())
    content["quantization_config"] = {"use_external_data_format": True}
    job.write_text(yaml.safe_dump(content))
    entries = search(job)
    assert [path.name for path in weights(job)] == [f"{path.name}.data" for path in models(job)]
    for path in models(job):
        assert entries[path.stem]["user_attrs_model_digest"] == model_digest(path)
