"""A search as a command, which can be hit by anything, and what must hold afterwards."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import onnxruntime as ort
import optuna
from optuna.trial import TrialState

from tests.autosearch.models import DISTINCT, command, environment, write_job
from tests.faults.processes import PATIENCE_S, running_with, wait_until

MARK = "SEARCH_OF_TEST"
"""In the environment of all processes."""

EVALUATOR = """
import fcntl, json, os, signal, time
from pathlib import Path

HERE = Path(__file__).parent

def evaluate(path):
    name = Path(path).stem
    if name == "model":  # the float one
        return 1.0
    with (HERE / "evaluated.txt").open("a") as record:
        record.write(f"{name} {os.getpid()}\\n")
    fault = fault_of(name)
    if fault == "raise":
        raise LookupError("no label")
    if fault == "hang":
        time.sleep(1000)
    if fault == "exit":
        os._exit(7)
    if fault == "abort":
        os.abort()
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ["EVALUATION_S"]))
    return 1.0 - int(name[:8], 16) / 2**32

def fault_of(name):
    if not (HERE / "faults.json").exists():
        return None
    with (HERE / "faults.json").open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        faults = json.load(stream)
        if name not in faults["of"] and faults["next"]:
            faults["of"][name] = faults["next"].pop(0)
            stream.seek(0)
            json.dump(faults, stream)
            stream.truncate()
        return faults["of"].get(name)
"""


class Search:
    """A search of 12 configurations as a command, half of which are candidates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = write_job(
            folder, search_evaluator="my_module:evaluate", search_metric_tolerance=0.5,
            search_output_dir="out", search_cache_dir="cache",
        )  # fmt: skip
        (folder / "my_module.py").write_text(EVALUATOR)
        self.started: list[subprocess.Popen[str]] = []

    def plant(self, *faults: str) -> None:
        """Gives faults to the evaluations of the first configurations that are tried, each time."""
        (self.folder / "faults.json").write_text(json.dumps({"next": faults, "of": {}}))

    def planted(self) -> dict[str, str]:
        """Fault by the first digits of a configuration's digest."""
        of: dict[str, str] = json.loads((self.folder / "faults.json").read_text())["of"]
        return of

    def start(self, *arguments: object, evaluation_s: float = 0.05) -> subprocess.Popen[str]:
        """In a session of its own, so that it can be signalled like a terminal does."""
        process = subprocess.Popen(
            command("search", self.job, *arguments), cwd=self.folder, text=True, start_new_session=True,
            env={**environment(), "EVALUATION_S": str(evaluation_s), MARK: str(self.folder)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def finish(self, *arguments: object) -> None:
        """The same command until it is done."""
        process = self.start(*arguments, evaluation_s=0)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err

    def evaluated(self) -> list[tuple[str, int]]:
        """Model and process of every evaluation that began, in order."""
        path = self.folder / "evaluated.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(name, int(process)) for name, process in (line.split() for line in lines)]

    def wait_for(self, evaluations: int) -> None:
        wait_until(lambda: len(self.evaluated()) >= evaluations)

    def study(self) -> optuna.Study | None:
        """As it is on disk; None if nothing is yet."""
        path = self.folder / "out" / "study.db"
        if not path.exists():
            return None
        url = f"sqlite:///{path}"
        names = optuna.get_all_study_names(url)
        return optuna.load_study(study_name=names[0], storage=url) if names else None

    def complete(self) -> dict[int, str]:
        """Digests of the complete trials by number."""
        study = self.study()
        trials = [] if study is None else study.get_trials(states=(TrialState.COMPLETE,))
        return {trial.number: trial.user_attrs["configuration"]["digest"] for trial in trials}

    def record(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "out" / name).read_text())
        return content

    def check_records(self) -> None:
        """Whatever is listed is there, whole."""
        models = set()
        for entry in self.record("best.json").values():
            path = self.folder / entry["model_path"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["model_digest"]
            ort.InferenceSession(path)
            models.add(path)
        assert models
        assert set((self.folder / "out" / "models").glob("*.onnx")) >= models

    def processes(self) -> set[int]:
        """All that the commands started, and what those started, if they run."""
        return running_with(MARK, str(self.folder))

    def failures(self) -> dict[str, str]:
        """Error of the failed trials by the first digits of their configuration's digest."""
        entries = [entry for entry in self.record("log.json").values() if entry["state"] == "FAIL"]
        return {entry["user_attrs_config_digest"][:16]: entry["user_attrs_error"] for entry in entries}

    def check_end(self, failed: int = 0) -> None:
        """Each configuration has one trial of its own, and nothing lies about."""
        self.check_records()
        study = self.study()
        assert study is not None
        assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.FAIL}
        complete = self.complete()
        assert len(complete) == len(set(complete.values())) == DISTINCT - failed
        assert len(self.failures()) == failed
        assert len(self.record("log.json")) == DISTINCT
        listed = {self.folder / entry["model_path"] for entry in self.record("best.json").values()}
        assert set((self.folder / "out" / "models").iterdir()) == listed
        hidden = {path.name for folder in ("out", "cache") for path in (self.folder / folder).rglob(".*")}
        assert hidden == {".autosearch.lock"}
