"""The command, in a process of its own where that makes a difference."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import yaml

import autosearch
from autosearch.cli import main
from tests.autosearch.models import ROOT, command, environment, run_command, write_job, write_model

DIGITS = ROOT / "examples" / "digits"
FEW = ("--set", "search_stop_condition.iteration_limit=4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, for calls in this process."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shipped example was searched."""
    cwd = tmp_path_factory.mktemp("digits")
    done = run_command(
        "search", DIGITS / "search.yaml", *FEW, "--set", "search_metric_tolerance=0.03",
        "--output-dir", cwd / "out", cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar, no warnings
    (cwd / "stdout").write_text(done.stdout)
    return cwd


def entries(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that says why the command does not run."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
    return err


def test_the_example_is_searched(digits: Path) -> None:
    shown = (digits / "stdout").read_text()
    header, rule, *rows = shown.splitlines()
    assert header.split() == ["rank", "trial", "L2", "configuration", "seconds", "model"]
    assert set(rule) == {"-", " "}
    best = entries(digits / "out" / "best.json")
    assert 0 < len(best) <= 4
    assert len(rows) > len(best)
    for rank, row in zip(best, rows, strict=False):
        assert best[rank]["model_path"] in row
    for name in ("best.json", "log.json", "study.db", "auto_search.log", "models"):
        assert name in shown
    assert (digits / "auto_search.log").is_file()
    assert (digits / "out" / "study.db").is_file()
    assert len(entries(digits / "out" / "log.json")) == 4
    models = {str(path) for path in (digits / "out" / "models").iterdir()}
    assert models == {entry["model_path"] for entry in best.values()}
    for entry in best.values():
        assert sha256(Path(entry["model_path"])) == entry["model_digest"]
        ort.InferenceSession(entry["model_path"])


def test_the_same_command_runs_nothing_again_and_says_when_nothing_is_within_tolerance(
    digits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits)
    before = entries(digits / "out" / "log.json")
    search = ["search", str(DIGITS / "search.yaml"), *FEW, "--output-dir", "out"]
    assert main([*search, "--set", "search_metric_tolerance=1e-9"]) == 3
    out = capsys.readouterr().out
    assert "None is within the tolerance of 1e-09; the best trial is shown." in out
    assert len(list((digits / "out" / "models").iterdir())) == 1  # of the best
    assert main([*search, "--set", "search_metric_tolerance=0.03"]) == 0
    after = entries(digits / "out" / "log.json")
    assert [after[key]["datetime_start"] for key in after] == [
        before[key]["datetime_start"] for key in before
    ]
    assert [after[key]["user_attrs_model_digest"] for key in after] == [
        before[key]["user_attrs_model_digest"] for key in before
    ]


def test_a_recorded_configuration_is_replayed_byte_for_byte(digits: Path, tmp_path: Path) -> None:
    best = entries(digits / "out" / "best.json")["0"]
    model = DIGITS / "digits_cnn.onnx"
    output = tmp_path / "again.onnx"
    done = run_command(
        "quantize", model, "--config", digits / "out" / "best.json#0", "-o", output, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "tensors quantized" in done.stdout
    assert sha256(output) == best["model_digest"]


def test_any_trial_can_be_replayed_and_from_moved_data(
    digits: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = here / "elsewhere.npz"
    data.write_bytes((DIGITS / "calibration.npz").read_bytes())
    model = str(DIGITS / "digits_cnn.onnx")
    trials = entries(digits / "out" / "log.json")
    for number in ("0", "2"):
        reference = f"{digits}/out/log.json#{number}"
        assert main(["quantize", model, "--config", reference, "-o", "o.onnx", "--data", str(data)]) == 0
        assert capsys.readouterr().err == ""
        assert sha256(here / "o.onnx") == trials[number]["user_attrs_model_digest"]
    first = f"{digits}/out/best.json"  # without an entry: the best
    assert main(["quantize", model, "--config", first, "-o", "o.onnx"]) == 0
    assert sha256(here / "o.onnx") == entries(digits / "out" / "best.json")["0"]["model_digest"]


def test_replaying_with_another_model_or_data_is_noted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(write_job(here)), *FEW]) == 0
    capsys.readouterr()
    other = write_model(here / "other.onnx", seed=5)
    np.savez(here / "other.npz", x=np.ones((8, 6), np.float32))
    replay = ["--config", "best.json#0", "-o", "o.onnx"]
    assert main(["quantize", str(other), *replay]) == 0
    assert capsys.readouterr().err == "note: this is not the model that was searched\n"
    assert main(["quantize", "model.onnx", *replay, "--data", "other.npz"]) == 0
    assert capsys.readouterr().err == "note: these are not the data that the search calibrated with\n"
    assert main(["quantize", "model.onnx", *replay, "--batch-size", "7"]) == 0
    assert "not the data" in capsys.readouterr().err  # other batches, other moving averages


def test_data_from_a_reader_are_replayed_from_any_directory(here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    job = write_job(folder, calibration_data={"reader": "my_feeds:make", "samples": 20})
    (folder / "my_feeds.py").write_text(
        "import numpy as np\n"
        "def make():\n"
        "    rng = np.random.default_rng(0)\n"
        "    return [{'x': rng.normal(size=(8, 6)).astype('float32')} for _ in range(4)]\n"
    )
    done = run_command("search", job, *FEW, "--output-dir", "out", cwd=here)
    assert done.returncode == 0, done.stderr
    replay = ["quantize", folder / "model.onnx", "--config", here / "out" / "best.json#0", "-o", "o.onnx"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run_command(*replay, cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert sha256(elsewhere / "o.onnx") == entries(here / "out" / "best.json")["0"]["model_digest"]


def test_space_says_what_would_be_searched_and_runs_nothing(tmp_path: Path) -> None:
    done = run_command("space", DIGITS / "search.yaml", "--first", "3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    points = yaml.safe_load((DIGITS / "search.yaml").read_text())["search_space"]
    size = 1
    for choices in [
        *(v for k, v in points.items() if k != "extra_options"),
        *points["extra_options"].values(),
    ]:
        size *= len(choices)
    assert lines[0].startswith(f"search space: {size} points, ")
    assert "distinct configurations, about" in lines[0]
    assert any("Percentile only with calibrate_method Percentile; merged" in line for line in lines)
    listed = [line for line in lines if line.lstrip().startswith("#")]
    assert len(listed) == 3
    assert all("about" in line for line in listed)
    assert not list(tmp_path.iterdir())


def test_pruned_trials_are_counted(tmp_path: Path) -> None:
    changes = ("search_pruner=threshold", "search_pruner_params.upper=0.0")
    done = run_command(
        "search", write_job(tmp_path), *(x for c in changes for x in ("--set", c)), cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert "12 trials were pruned" in done.stdout


def test_the_space_of_a_two_stage_search_is_shown_stage_by_stage(tmp_path: Path) -> None:
    finetune = {"NumIterations": [10, 20, 30]}
    space = {
        "per_channel": [True, False],
        "include_fast_ft": True,
        "extra_options": {"FastFinetune": finetune},
    }
    job = write_job(tmp_path / "job", search_space=space, two_stage_search=True)
    done = run_command("space", job, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Stage 1 of 2, calibration" in done.stdout
    assert "search space: 2 points, 2 distinct configurations" in done.stdout
    assert "search space: 3 points, 3 distinct configurations" in done.stdout
    done = run_command("space", job, "--set", "search_space.include_fast_ft=false", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("note: two_stage_search has no effect: include_fast_ft is never true")


def test_worker_processes(tmp_path: Path) -> None:
    done = run_command(
        "search", write_job(tmp_path), "--n-jobs", "2", "--set", "keep_models=best", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 candidates of 12 trials" in done.stdout
    assert "2 job(s)" in (tmp_path / "auto_search.log").read_text()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_details_are_logged_if_they_are_asked_for(n_jobs: int, tmp_path: Path) -> None:
    finetune = {"NumIterations": 6, "LogPeriod": 2, "OptimAlgorithm": "adaquant"}
    space = {"include_fast_ft": True, "extra_options": {"FastFinetune": finetune}}
    job = write_job(tmp_path, search_space=space)
    lines = {}
    for name, arguments in (("quiet", []), ("verbose", ["--verbose"])):
        folder = tmp_path / name  # with a cache of its own
        folder.mkdir()
        done = run_command("search", job, "--n-jobs", n_jobs, *arguments, cwd=folder)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        log = (folder / "auto_search.log").read_text().splitlines()
        lines[name] = [line for line in log if " DEBUG " in line]
    assert lines["quiet"] == []
    iterations = [line for line in lines["verbose"] if "iteration " in line]
    assert {line.partition("iteration ")[2].partition(":")[0] for line in iterations} == {"2", "4", "6"}
    assert all(("worker 1, trial 0: " in line) == (n_jobs > 1) for line in iterations)


def test_one_bar_on_a_terminal(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        command("search", write_job(tmp_path)),
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=child,
    )  # fmt: skip
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    os.close(parent)
    text = shown.decode()
    assert text.count("\n") == 1  # a bar that is drawn over and over, on one line
    assert "12/12" in text
    assert "best L2" in text
    assert process.stdout is not None
    assert b"\r" not in process.stdout.read()


def test_help_has_examples_and_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    shown = run_command("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for word in ("examples:", "autosearch search", "autosearch space", "autosearch quantize", "exit codes:"):
        assert word in shown.stdout
    assert run_command("--version", cwd=tmp_path).stdout == f"autosearch {autosearch.__version__}\n"


def test_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    err = capsys.readouterr().err
    assert "usage: autosearch" in err
    assert "COMMAND" in err


def test_bad_input_is_one_line_in_a_process_of_its_own_too(tmp_path: Path) -> None:
    done = run_command("search", "absent.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: configuration: no file 'absent.yaml'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("search_space: [\n  }", ["search.yaml: not YAML", "line 2"]),
        ("just words", ["must be a mapping of keys"]),
        ("", ["must be a mapping of keys"]),
        ("calibration_data: x.npz", ["model_input is missing"]),
        ("model_input: model.onnx", ["calibration_data is missing"]),
    ],
)
def test_files_that_are_no_search_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str]
) -> None:
    path = write_job(here)
    path.write_text(text)
    error = refusal(capsys, "search", path)
    assert all(word in error for word in words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search_metrik": "L1"}, ["unknown key 'search_metrik'", "did you mean 'search_metric'"]),
        ({"search_stop_condition": {"time": 3}}, ["search_stop_condition", "key 'time'", "time_limit"]),
        ({"n_jobs": "many"}, ["n_jobs", "'many'"]),
        ({"n_jobs": 0}, ["n_jobs", "greater than 0"]),
        ({"n_jobs": "many", "search_seed": -1}, ["n_jobs", "search_seed"]),
        ({"quantization_config": {"weight_tipe": "QInt8"}}, ["quantization_config", "weight_type"]),
        ({"quantization_config": "QInt8"}, ["quantization_config", "str"]),
        ({"model_input": "absent.onnx"}, ["model_input", "no file", "absent.onnx"]),
        ({"model_input": "search.yaml"}, ["not a valid ONNX model"]),
        ({"calibration_data": "absent.npz"}, ["calibration_data", "no file", "absent.npz"]),
        ({"calibration_data": "search.yaml"}, ["not an .npz archive"]),
        ({"calibration_data": 3}, ["calibration_data", "got 3"]),
        ({"calibration_data": {"path": "calibration.npz", "batchsize": 3}}, ["batchsize", "batch_size"]),
        ({"calibration_data": {"path": "calibration.npz", "batch_size": 0}}, ["calibration_data.batch_size"]),
        ({"calibration_data": {"batch_size": 3}}, ["give either a path or a reader"]),
        ({"calibration_data": {"reader": "nonsense"}}, ["module:attribute"]),
        ({"calibration_data": {"reader": "absent_module:make"}}, ["absent_module", "cannot be imported"]),
        ({"calibration_data": {"reader": "json:absent"}}, ["json:absent", "cannot be imported"]),
        ({"calibration_data": {"reader": "json:loads"}}, ["json:loads", "raised TypeError"]),
        ({"search_evaluator": "absent_module:evaluate"}, ["search_evaluator", "cannot be imported"]),
        ({"search_evaluator": "syntax_error:evaluate"}, ["search_evaluator", "SyntaxError"]),
        ({"search_space": {"per_channel": []}}, ["per_channel", "empty"]),
        ({"search_metric": "accuracy"}, ["eval_data", "labels"]),
        ({"search_output_dir": "search.yaml/out"}, ["search_output_dir", "cannot be written"]),
        ({"search_log_path": "search.yaml/log"}, ["search_log_path", "cannot be written"]),
        ({"storage": "nonsense"}, ["storage 'nonsense'", "cannot be opened"]),
        ({"search_cache_size": "big"}, ["error: search_cache_size: write a number of bytes", "got 'big'"]),
        ({"constraints": {"model_size": {"max": "big"}}}, ["model_size.max: write a number", "got 'big'"]),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_is_one_clear_line(
    here: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: list[str]
) -> None:
    (here / "syntax_error.py").write_text("def evaluate(:\n")
    error = refusal(capsys, "search", write_job(here, **changes))
    missing = [word for word in words if word not in error]
    assert not missing, error
    assert not (here / "study.db").exists() or "storage" in changes


def test_arrays_must_be_the_models_inputs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = write_job(here)
    np.savez(here / "calibration.npz", images=np.zeros((4, 6), np.float32))
    error = refusal(capsys, "search", job)
    assert "arrays images; the model takes x" in error


def test_a_damaged_study_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "study.db").write_bytes(b"not a database, and longer than the header of one " * 100)
    error = refusal(capsys, "search", write_job(here))
    assert "study.db" in error
    assert "not a database" in error


@pytest.mark.parametrize("change", ["nonsense", "=3", "search_metric.name=3", "search_space=[", "absent=3"])
def test_nonsense_changes_are_refused(here: Path, capsys: pytest.CaptureFixture[str], change: str) -> None:
    error = refusal(capsys, "search", write_job(here, search_metric="L2"), "--set", change)
    assert "absent" in error if change.startswith("absent") else f"--set {change!r}" in error


@pytest.mark.parametrize(
    ("record", "reference", "words"),
    [
        (None, "best.json#0", ["no file 'best.json'"]),
        ("{", "best.json#0", ["'best.json': not JSON"]),
        ("[]", "best.json#0", ["no entry '0'"]),
        ("{}", "best.json", ["no entry '0'"]),
        ('{"0": {"config": {}}, "1": {}}', "best.json#7", ["no entry '7'", "there are: 0, 1"]),
        ('{"0": 3}', "best.json#0", ["not a record of a trial"]),
        ('{"0": {}}', "best.json#0", ["no configuration"]),
        ('{"0": {"config": [1]}}', "best.json#0", ["no configuration"]),
        ('{"0": {"config": {}, "source": 3}}', "best.json#0", ["no configuration"]),
        ('{"0": {"config": {"per_chanel": true}}}', "best.json#0", ["best.json#0", "per_channel"]),
        ('{"0": {"config": {}}}', "best.json#0", ["--data", "does not say where"]),
        ('{"0": {"config": {}, "source": {"calibration_data": 3}}}', "best.json", ["calibration_data"]),
        (
            '{"0": {"config": {}, "source": {"calibration_data": {"path": "gone.npz"}}}}',
            "best.json",
            ["gone.npz", "name them"],
        ),
        (
            '{"0": {"config": {}, "source": {"calibration_data": {"path": "a.npz", "batch_size": "x"}}}}',
            "best.json",
            ["calibration_data.batch_size"],
        ),
    ],
)
def test_records_that_cannot_be_replayed_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], record: str | None, reference: str, words: list[str]
) -> None:
    write_model(here / "model.onnx")
    if record is not None:
        (here / "best.json").write_text(record)
    error = refusal(capsys, "quantize", "model.onnx", "--config", reference, "-o", "o.onnx")
    assert all(word in error for word in words), error
    assert not (here / "o.onnx").exists()


def test_replaying_into_nowhere_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(here)
    (here / "best.json").write_text('{"0": {"config": {}}}')
    replay = ["quantize", "model.onnx", "--config", "best.json", "--data"]
    assert "absent.npz" in refusal(capsys, *replay, "absent.npz", "-o", "o.onnx")
    assert "no directory 'absent'" in refusal(capsys, *replay, "calibration.npz", "-o", "absent/o.onnx")
