"""Devices, on a machine without a GPU: a list of providers and an onnxruntime that are made up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from autosearch import AutoSearch, AutoSearchConfig, Outcome
from autosearch.devices import Devices, check_devices, read_devices
from autosearch.errors import ConfigError
from autosearch.problem import Problem, pose
from autosearch.workers import Task, WorkerProcesses, check_isolation
from quant import QuantConfig
from tests.autosearch.models import make_feeds
from tests.autosearch.workers.objectives import FakeObjective
from tests.quant.graph.test_parts import MESSAGES

CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("text", "gpus"),
    [("cpu", ()), ("cuda", (0,)), ("CUDA:1", (1,)), ("cuda:0,1", (0, 1)), ("cuda:3, cuda:1", (3, 1))],
)
def test_names(text: str, gpus: tuple[int, ...]) -> None:
    assert read_devices(text) == Devices(gpus)


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "cpu,cuda:0", "cuda:0,0", ""])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^search_devices: "):
        read_devices(text)


def test_a_worker_for_each() -> None:
    assert Devices().jobs(3) == (3, None)
    assert Devices((0, 2)).jobs(2) == (2, None)
    assert Devices((0, 2)).jobs(1) == (2, "n_jobs: 2 instead of 1, a worker for each of search_devices")


def test_each_worker_sees_its_own() -> None:
    name = "CUDA_VISIBLE_DEVICES"
    assert Devices().environments({name: "5"}) == ()
    assert Devices((0, 1)).environments({}) == ({name: "0"}, {name: "1"})
    assert Devices((1, 0)).environments({name: "5,GPU-7"}) == ({name: "GPU-7"}, {name: "5"})
    with pytest.raises(ConfigError, match="no GPU 1 among the 1 of CUDA_VISIBLE_DEVICES='5'"):
        Devices((0, 1)).environments({name: "5"})


def test_configurations_follow_unless_they_say_otherwise() -> None:
    gpu = Devices((1,))
    followed = gpu.apply(QuantConfig(include_fast_ft=True))
    finetuning = followed.extra_options.FastFinetune
    assert followed.execution_providers == tuple(CUDA)
    assert (finetuning.OptimDevice, finetuning.InferDevice) == ("cuda:0", "cuda:0")
    given = {"FastFinetune": {"OptimDevice": "cpu"}}
    named = gpu.apply(QuantConfig(execution_providers=["CPUExecutionProvider"], extra_options=given))
    finetuning = named.extra_options.FastFinetune
    assert named.execution_providers == ("CPUExecutionProvider",)
    assert (finetuning.OptimDevice, finetuning.InferDevice) == ("cpu", "cuda:0")
    assert Devices().apply(named) is named


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Devices((0,))
    with pytest.raises(ConfigError, match=r"no CUDAExecutionProvider .*pip install 'autosearch\[gpu\]'"):
        check_devices(gpu, finetunes_on=())
    monkeypatch.setattr(ort, "get_available_providers", lambda: CUDA)
    monkeypatch.setattr("autosearch.devices.find_spec", lambda name: None)
    check_devices(gpu, finetunes_on=("cpu",))
    with pytest.raises(ConfigError, match=r"'cuda:0' needs CuPy or PyTorch; .*autosearch\[gpu\]"):
        check_devices(gpu, finetunes_on=("cpu", "cuda:0"))
    monkeypatch.setattr("autosearch.devices.find_spec", lambda name: name == "torch" or None)
    check_devices(gpu, finetunes_on=("cuda:0",))


@pytest.mark.parametrize(
    ("finetuning", "others", "complaint"),
    [
        (
            {"OptimDevice": ["cpu", "cuda:0"]},
            {},
            r"FastFinetune.OptimDevice: .*needs CuPy .*autosearch\[gpu\]",
        ),
        (
            {"InferDevice": ["cuda"]},
            {},
            r"FastFinetune.InferDevice: .*no CUDAExecutionProvider .*pip install",
        ),
        (
            {},
            {"execution_providers": [["CPUExecutionProvider"], ["CUDAExecutionProvider"]]},
            r"^execution_providers: .*no CUDAExecutionProvider .*pip install",
        ),
        ({}, {"execution_providers": [["NoneExecutionProvider"]]}, "has no NoneExecutionProvider"),
    ],
    ids=str,
)
def test_what_configurations_ask_for_must_be_there_before_the_search(
    finetuning: dict[str, Any],
    others: dict[str, Any],
    complaint: str,
    model: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autosearch.devices.find_spec", lambda name: None)
    space = {"extra_options": {"FastFinetune": {"NumIterations": [5], **finetuning}}, **others}
    with pytest.raises(ConfigError, match=complaint):
        AutoSearch({"include_fast_ft": True}, {**settings, "search_space": space}, model, make_feeds(1))


def test_the_search_is_posed_for_them(
    model: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: CUDA)
    config = AutoSearchConfig(**settings, search_devices="cuda:0,1")
    problem: Problem = pose(None, config, model, make_feeds())
    assert problem.settings.n_jobs == 2
    assert any(note.startswith("n_jobs: 2 instead of 1") for note in problem.notes)
    assert next(iter(problem.space)).config.execution_providers == tuple(CUDA)
    with pytest.raises(ConfigError, match=r"isolate_trials: false .* one for each GPU"):
        check_isolation(AutoSearchConfig(search_devices="cuda", isolate_trials=False))


def test_workers_get_their_environment() -> None:
    def compute(task: Task) -> Outcome:
        return Outcome(model_path=os.environ["CUDA_VISIBLE_DEVICES"])

    environments = Devices((3, 1)).environments({})
    executor = WorkerProcesses(FakeObjective(compute), 2, environments=environments)
    try:
        for number in (0, 1):
            executor.submit(Task(number, QuantConfig(), Path("any")))
        done = [executor.next(), executor.next()]
    finally:
        executor.close()
    assert {each.worker: each.outcome.model_path for each in done} == {1: "3", 2: "1"}


class SmallDevice:
    """onnxruntime's session, with memory for so many samples."""

    samples = 5

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._session = SESSION(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: Sequence[str], feed: dict[str, Any], *others: Any) -> Any:
        self._check(len(feed["x"]))
        return self._session.run(names, feed, *others)

    def run_with_iobinding(self, binding: Any) -> None:
        self._session.run_with_iobinding(binding)
        self._check(max((value.shape()[0] for value in binding.get_outputs()), default=0))

    def _check(self, samples: int) -> None:
        of_shapes = all(value.name.startswith("shape_") for value in self._session.get_outputs())
        if samples > self.samples and not of_shapes:  # those are found on the CPU
            raise RuntimeError(MESSAGES[0])


SESSION = ort.InferenceSession


@pytest.mark.parametrize("samples", [5, 0], ids=["some", "none"])
def test_too_little_memory(
    model: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    """Batches of 16 run in parts, with the same results; without memory for one, trials fail and say so."""
    whole = {**settings, "search_output_dir": str(model.parent / "whole")}
    expected = AutoSearch(None, whole, model, make_feeds()).search_model()
    monkeypatch.setattr(ort, "InferenceSession", SmallDevice)
    monkeypatch.setattr(SmallDevice, "samples", samples)
    own = {**settings, "search_cache_dir": str(model.parent / "other")}
    search = AutoSearch(None, own, model, make_feeds())
    found = search.search_model()
    assert search.result is not None
    if samples:
        assert [each["config_index"] for each in found] == [each["config_index"] for each in expected]
        for each, other in zip(found, expected, strict=True):
            assert each["metrics"] == pytest.approx(other["metrics"], rel=1e-5)
    else:
        assert not found
        errors = [trial.outcome.error or "" for trial in search.result.failed]
        assert errors
        assert all("even for a batch of one" in error for error in errors)
