from __future__ import annotations

from pathlib import Path

from autosearch import Outcome
from autosearch.workers import Done, InProcess, Task
from autosearch.workers.executor import Distrustful
from quant import QuantConfig
from tests.autosearch.workers.objectives import FakeObjective


def tasks(*numbers: int) -> list[Task]:
    return [Task(number, QuantConfig(), Path(f"{number}.onnx")) for number in numbers]


def names(task: Task) -> Outcome:
    return Outcome(model_path=task.path.name)


def test_one_at_a_time_in_order() -> None:
    executor = InProcess(FakeObjective(names))
    assert executor.slots == 1
    for task in tasks(3, 1):
        executor.submit(task)
    assert executor.next() == Done(3, Outcome(model_path="3.onnx"))
    assert executor.next() == Done(1, Outcome(model_path="1.onnx"))


def test_a_line_of_the_log_names_the_worker_where_there_is_one() -> None:
    assert Done(7, Outcome()).prefix == ""
    assert Done(7, Outcome(), worker=2).prefix == "worker 2: "


def test_what_ended_the_search_again_and_again_has_failed() -> None:
    abandoned = {Path("1.onnx"): 2, Path("2.onnx"): 1}
    executor = Distrustful(InProcess(FakeObjective(names)), abandoned, most=2)
    outcomes = {}
    for task in tasks(0, 1, 2):
        executor.submit(task)
        outcomes[task.number] = executor.next().outcome
    assert outcomes[0] == Outcome(model_path="0.onnx")
    assert (outcomes[1].error or "").startswith("SearchDied: the search ended 2 times")
    assert outcomes[2] == Outcome(model_path="2.onnx")
