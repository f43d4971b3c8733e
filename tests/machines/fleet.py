"""Several processes that search in one study, as commands."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autosearch.storage import open_storage
from tests.autosearch.models import command, environment, write_job
from tests.faults.processes import PATIENCE_S, running_with, wait_until

MARK = "FLEET_OF_TEST"
SPACE = {
    "calibrate_method": ["MinMax", "Percentile"],
    "activation_type": ["QUInt8", "QInt8", "QInt16", "QUInt16"],
    "per_channel": [False, True],
    "extra_options": {"Percentile": [99.0, 99.5, 99.9, 99.99]},
}
DISTINCT = 40

EVALUATOR = """
import os, time
from pathlib import Path

HERE = Path(__file__).parent

def evaluate(path):
    name = Path(path).stem
    if name == "model":  # the float one: all begin together
        (HERE / f"ready-{os.getpid()}").touch()
        while len(list(HERE.glob("ready-*"))) < int(os.environ["TOGETHER"]):
            time.sleep(0.01)
        return 1.0
    with (HERE / "evaluated.txt").open("a") as record:
        record.write(f"{name} {os.getpid()}\\n")
    while (HERE / f"held-{os.getpid()}").exists():
        time.sleep(0.01)
    time.sleep(float(os.environ["EVALUATION_S"]))
    return 1.0 - int(name[:8], 16) / 2**32
"""


class Fleet:
    """Parents whose evaluations tell who did them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        self.storage = ""
        self.job = folder / "search.yaml"

    def write(self, storage: str, **changes: Any) -> None:
        self.storage = storage
        self.job = write_job(
            self.folder,
            **{
                "search_space": SPACE,
                "search_evaluator": "my_module:evaluate",
                "search_metric_tolerance": 0.5,
                "search_cache_dir": "cache",
                "search_output_dir": "out",
                "storage": storage,
                "heartbeat_interval": 0.5,
                **changes,
            },
        )
        (self.folder / "my_module.py").write_text(EVALUATOR)

    def start(
        self, *arguments: object, together: int = 1, evaluation_s: float = 0.02
    ) -> subprocess.Popen[str]:
        given = {"TOGETHER": str(together), "EVALUATION_S": str(evaluation_s), MARK: str(self.folder)}
        process = subprocess.Popen(
            command("worker", self.job, *arguments), cwd=self.folder, text=True, start_new_session=True,
            env={**environment(), **given}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> str:
        """Waits; what the process printed."""
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err + self.logs()
        return out

    def hold(self, process: subprocess.Popen[str]) -> None:
        """Its next evaluation does not end."""
        (self.folder / f"held-{process.pid}").touch()

    def go_on(self, process: subprocess.Popen[str]) -> None:
        (self.folder / f"held-{process.pid}").unlink()

    def evaluated(self) -> list[tuple[str, int]]:
        """Model and process of every evaluation that began, in order."""
        path = self.folder / "evaluated.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(name, int(process)) for name, process in (line.split() for line in lines)]

    def wait_for(self, evaluations: int, process: subprocess.Popen[str] | None = None) -> None:
        def count() -> int:
            return sum(process is None or pid == process.pid for _, pid in self.evaluated())

        wait_until(lambda: count() >= evaluations)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.folder.glob("auto_search*.log"))

    def log(self, process: subprocess.Popen[str]) -> str:
        (path,) = self.folder.glob(f"auto_search.*-{process.pid}.log")
        return path.read_text()

    def trials(self) -> list[FrozenTrial]:
        storage = open_storage(self.storage)
        (summary,) = optuna.get_all_study_summaries(storage)
        return optuna.load_study(study_name=summary.study_name, storage=storage).get_trials()

    def complete(self) -> list[str]:
        """The beginnings of the digests of the configurations of complete trials."""
        complete = (trial for trial in self.trials() if trial.state is TrialState.COMPLETE)
        return [trial.user_attrs["configuration"]["digest"][:16] for trial in complete]

    def record(self, name: str, folder: str = "out") -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / folder / name).read_text())
        return content

    def processes(self) -> set[int]:
        return running_with(MARK, str(self.folder)) - {os.getpid()}
