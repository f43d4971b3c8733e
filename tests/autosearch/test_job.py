from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from autosearch import AutoSearch
from autosearch.cli import make_search
from autosearch.errors import ConfigError
from autosearch.job import DataSource, load_data, load_labels, read_job
from autosearch.problem import threads_per_worker
from evaluators import AccuracyEvaluator, SessionSettings
from quant import CalibrationData, DataError
from quant.calibration.data import InputSpec
from tests.autosearch.models import make_feeds, write_job

GPU = ("CUDAExecutionProvider",)
X = InputSpec("x", np.dtype(np.float32), (None, 2))
Y = InputSpec("y", np.dtype(np.int64), (None,))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Ten samples of two inputs, with labels and an array that is neither."""
    path = tmp_path / "data.npz"
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.savez(path, x=x, y=np.arange(10), labels=np.arange(10) % 2, names=np.array(["a", "b"]))
    return path


def sizes(data: CalibrationData) -> list[int]:
    return [len(feed["x"]) for feed in data]


def test_batches_in_order_the_last_one_smaller(archive: Path) -> None:
    data = load_data(DataSource(path=archive, batch_size=4), (X, Y))
    assert sizes(data) == [4, 4, 2]
    assert np.array_equal(np.concatenate([feed["y"] for feed in data]), np.arange(10))


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(None, [4, 4, 2]), (10, [4, 4, 2]), (99, [4, 4, 2]), (5, [4, 1]), (4, [4]), (1, [1])],
)
def test_the_first_samples_alone(archive: Path, samples: int | None, expected: list[int]) -> None:
    assert sizes(load_data(DataSource(path=archive, batch_size=4, samples=samples), (X, Y))) == expected


def test_what_is_no_input_is_left_out(archive: Path) -> None:
    assert {*load_data(DataSource(path=archive), (X,)).feeds[0]} == {"x"}
    assert {*load_data(DataSource(path=archive), (X, Y)).feeds[0]} == {"x", "y"}


def test_labels_by_name(archive: Path) -> None:
    assert load_labels(DataSource(path=archive)).tolist() == [0, 1] * 5
    assert load_labels(DataSource(path=archive, labels="y", samples=3)).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="no array 'truth'; there are x, y, labels, names"):
        load_labels(DataSource(path=archive, labels="truth"))


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "ragged.npz", x=np.zeros((3, 2), np.float32), y=np.zeros(4, np.int64))
    with pytest.raises(DataError, match=r"one number of samples.*'x': 3, 'y': 4"):
        load_data(DataSource(path=tmp_path / "ragged.npz"), (X, Y))
    for empty in (np.zeros((0, 2), np.float32), np.float32(3)):
        np.savez(tmp_path / "empty.npz", x=empty)
        with pytest.raises(DataError, match="more than none"):
            load_data(DataSource(path=tmp_path / "empty.npz"), (X,))


def test_missing_inputs_are_named(archive: Path) -> None:
    z = InputSpec("z", np.dtype(np.float32), None)
    with pytest.raises(DataError, match="arrays x, y, labels, names; the model takes x, z"):
        load_data(DataSource(path=archive), (X, z))


def test_archives_that_are_none_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "single.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", x=np.array([{}, []], dtype=object))
    (tmp_path / "text.npz").write_text("x")
    for name in ("single.npy", "objects.npz", "text.npz"):
        with pytest.raises(DataError, match=f"{name}: not an .npz archive of arrays"):
            load_data(DataSource(path=tmp_path / name), (X,))


def test_paths_of_inputs_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_job(tmp_path / "job", eval_data={"path": "calibration.npz"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    job = read_job("../job/search.yaml")
    assert job.eval_data is not None
    for path in (job.model_input, job.calibration_data.path, job.eval_data.path):
        assert path is not None
        assert path.parent == tmp_path / "job"
    assert job.settings.search_output_dir == "./"  # what is written goes to the current directory


READER = """
import numpy as np

class Reader:
    def __init__(self):
        self.left = 3

    def get_next(self):
        self.left -= 1
        return {"x": np.full((8, 6), self.left, np.float32)} if self.left >= 0 else None

def feeds():
    return [{"x": np.zeros((8, 6), np.float32)}]

ready = feeds()
nothing = None

def broken():
    raise FileNotFoundError("labels.txt")
"""


@pytest.mark.parametrize(("name", "samples"), [("Reader", 24), ("feeds", 8), ("ready", 8)])
def test_readers_are_imported_from_the_files_folder(tmp_path: Path, name: str, samples: int) -> None:
    (tmp_path / "my_readers_1.py").write_text(READER)
    job = read_job(write_job(tmp_path, calibration_data={"reader": f"my_readers_1:{name}"}))
    assert load_data(job.calibration_data, ()).samples == samples


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_readers_2:broken", "'my_readers_2:broken' raised FileNotFoundError: labels.txt"),
        ("my_readers_2:nothing", "calibration data: got NoneType"),
        ("my_readers_2:absent", "'my_readers_2:absent' cannot be imported"),
        ("my_readers_2", "write module:attribute"),
        (":feeds", "write module:attribute"),
    ],
)
def test_readers_that_do_not_read_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "my_readers_2.py").write_text(READER)
    job = read_job(write_job(tmp_path, calibration_data={"reader": name}))
    with pytest.raises(ValueError, match=message):
        load_data(job.calibration_data, ())


@pytest.mark.parametrize("name", ["accuracy", "Accuracy"])
def test_accuracy_on_labelled_data(tmp_path: Path, settings: dict[str, Any], name: str) -> None:
    data = {"path": "calibration.npz", "batch_size": 16}
    changes = {**settings, "search_metric": name, "search_metric_tolerance": 0.5, "eval_data": data}
    search = make_search(read_job(write_job(tmp_path, **changes)))
    assert isinstance(search.problem.evaluator, AccuracyEvaluator)
    candidates = search.search_model()
    assert candidates
    labels = np.arange(64) % 3
    for candidate in candidates[:2]:
        correct = candidate["metrics"]["accuracy"] * len(labels)
        assert correct == pytest.approx(round(correct))


def test_accuracy_is_evaluated_as_other_metrics_are(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the threads and on the devices of the search."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*GPU, "CPUExecutionProvider"])
    data = {"path": "calibration.npz", "batch_size": 16}
    changes = {"search_metric": "accuracy", "eval_data": data, "search_devices": "cuda:0,1"}
    search = make_search(read_job(write_job(tmp_path, **settings | changes)))
    found = search.problem.evaluator._data._session_settings  # type: ignore[attr-defined]
    assert found == SessionSettings((*GPU, "CPUExecutionProvider"), threads_per_worker(2))


def test_accuracy_needs_labels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="search_metric: needs labels; give eval_data"):
        make_search(read_job(write_job(tmp_path, search_metric="accuracy")))
    data = {"path": "calibration.npz", "labels": "truth"}
    with pytest.raises(DataError, match="no array 'truth'; there are x, labels"):
        make_search(read_job(write_job(tmp_path, search_metric="accuracy", eval_data=data)))


def test_evaluators_are_imported_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "my_evaluators_1.py").write_text("def score(path):\n    return 0.5\n")
    search = make_search(read_job(write_job(tmp_path, search_evaluator="my_evaluators_1:score")))
    assert search.problem.evaluator.evaluate(Path("model.onnx")) == {"score": 0.5}


def test_a_path_as_configuration_of_the_python_interface(
    tmp_path: Path, settings: dict[str, Any], model: Path
) -> None:
    folder = tmp_path / "job"
    path = write_job(folder, **settings, search_evaluator="my_evaluators_2:score")
    (folder / "my_evaluators_2.py").write_text("def score(path):\n    return 0.5\n")
    for given in (path, str(path)):
        search = AutoSearch(None, given, model, make_feeds())
        assert search.problem.metric.name == "score"
    assert search.search_model()[0]["metrics"] == {"score": 0.5}


def test_a_named_evaluator_in_a_mapping(
    tmp_path: Path, settings: dict[str, Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_evaluators_3.py").write_text("def score(path):\n    return 0.5\n")
    monkeypatch.chdir(tmp_path)
    named = {**settings, "search_evaluator": "my_evaluators_3:score"}
    assert AutoSearch(None, named, model, make_feeds()).problem.metric.name == "score"
    with pytest.raises(ConfigError, match="search_evaluator: 'my_evaluators_3:scores' cannot be imported"):
        AutoSearch(None, {**named, "search_evaluator": "my_evaluators_3:scores"}, model, make_feeds())
