import pickle
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime import ExecutionOrder

from evaluators import EvaluationError, EvaluatorInputError, SessionSettings
from evaluators.hardware import latency
from evaluators.hardware.latency import Latency, LatencyOptions, batch_of, summary, time_in_turn
from tests.evaluators.graphs import affine


class Machine:
    """Two models on a clock of its own; the machine slows down from run to run, in pairs."""

    def __init__(self, seconds, float_seconds, slowdown=1.0):
        self.now = 0.0
        self.runs = []
        self.seconds = {"model": seconds, "float": float_seconds}
        self.slowdown = slowdown

    def clock(self):
        return self.now

    def run(self, which):
        self.now += self.seconds[which] * self.slowdown ** (len(self.runs) // 2)
        self.runs.append(which)

    def times(self, **options):
        return time_in_turn(
            lambda: self.run("model"), lambda: self.run("float"), LatencyOptions(**options), self.clock
        )


def test_models_run_in_turn_and_either_begins_every_second_pair():
    machine = Machine(2.0, 1.0)
    seconds, float_seconds = machine.times(runs=4, warmup=0)
    assert machine.runs == ["float", "model", "model", "float"] * 2
    assert seconds == [2.0] * 4 and float_seconds == [1.0] * 4


def test_warmup_runs_are_not_timed():
    machine = Machine(3.0, 5.0)
    seconds, float_seconds = machine.times(runs=2, warmup=7)
    assert machine.runs.count("model") == machine.runs.count("float") == 9
    assert len(seconds) == len(float_seconds) == 2


def test_a_machine_that_slows_down_changes_the_latency_and_not_the_ratio():
    steady, slowing = (Machine(1.5, 2.0, slowdown).times(runs=20, warmup=0) for slowdown in (1.0, 1.25))
    assert summary(*slowing)[0] > 2 * summary(*steady)[0]
    assert summary(*slowing)[2] == pytest.approx(0.75) == summary(*steady)[2]
    apart = statistics.median(slowing[0][10:]) / statistics.median(slowing[1][:10])
    assert abs(apart - 0.75) > 0.5  # one model after the other would not do


TIMES = st.lists(st.tuples(st.floats(1e-6, 10), st.floats(1e-6, 10)), min_size=2, max_size=30)


@settings(deadline=None)
@given(TIMES)
def test_the_summary_agrees_with_statistics(pairs):
    seconds, float_seconds = zip(*pairs, strict=True)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    expected = (
        1000 * statistics.median(seconds),
        1000 * (high - low),
        statistics.median(a / b for a, b in pairs),
    )
    assert summary(seconds, float_seconds) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_run_has_no_spread():
    assert summary([0.25], [0.5]) == (250.0, 0.0, 0.5)


@pytest.fixture
def opened(monkeypatch):
    """What sessions were opened with."""
    calls, orders = [], []

    def create_session(path, settings, config=(), **order):
        calls.append((path, settings, tuple(config)))
        session = real(path, settings, config, **order)
        orders.append(session.get_session_options().execution_order)
        return session

    real = latency.create_session
    monkeypatch.setattr(latency, "create_session", create_session)
    yield calls
    assert orders[-2:] == [ExecutionOrder.DEFAULT] * 2, "not as elsewhere"


def feeds(*sizes):
    return [{"x": np.arange(4 * n, dtype=np.float32).reshape(n, 4)} for n in sizes]


def test_both_models_run_with_the_same_settings(tmp_path, opened):
    float_model, model = affine(tmp_path / "float.onnx"), affine(tmp_path / "m.onnx", 2.0)
    settings = SessionSettings(threads=7, config_entries=(("session.disable_prepacking", "1"),))
    part = Latency(LatencyOptions(runs=2, warmup=1, threads=2), float_model, feeds(3), settings)
    opened.clear()
    needs = ("session.disable_quant_qdq", "1")
    values = part.measure(model, (needs,))
    spinning = ("session.force_spinning_stop", "1")
    expected = SessionSettings(threads=2, config_entries=settings.config_entries)
    assert opened == [(float_model, expected, (spinning,)), (model, expected, (spinning, needs))]
    assert [metric.name for metric in part.metrics] == ["latency", "latency_spread", "latency_ratio"]
    assert [metric.unit for metric in part.metrics] == ["ms", "ms", ""]
    assert {metric.direction for metric in part.metrics} == {"minimize"}
    assert values[0] > 0 and values[1] >= 0 and values[2] > 0


def test_every_model_runs_as_often_as_the_options_say(tmp_path, monkeypatch):
    runs = []

    class Session:
        def __init__(self, path):
            self.path = path

        def get_inputs(self):
            return []

        def run(self, names, feed):
            runs.append((self.path.name, names, feed["x"].shape))

    monkeypatch.setattr(latency, "create_session", lambda path, *_, **__: Session(path))
    part = Latency(LatencyOptions(runs=3, warmup=2, batch=6), tmp_path / "float", feeds(4, 8))
    part.measure(tmp_path / "model")
    assert runs.count(("float", None, (6, 4))) == runs.count(("model", None, (6, 4))) == 5
    assert len(runs) == 10


@pytest.mark.parametrize(
    ("batch", "rows"), [(None, [0]), (2, [0, 1]), (3, [0, 1, 2]), (7, [0, 1, 2, 0, 1, 2, 0])]
)
def test_a_batch_is_the_first_samples_again_and_again(batch, rows):
    (feed,) = feeds(3)
    mask, step = np.ones((5, 5)), np.array(3)
    cut = batch_of({**feed, "mask": mask, "step": step}, batch, {"mask": 5})
    np.testing.assert_array_equal(cut["x"], feed["x"][rows])
    assert cut["mask"] is mask and cut["step"] is step


def test_a_model_with_a_fixed_batch_keeps_it(tmp_path):
    model = affine(tmp_path / "m.onnx", shape=(3, 4))
    assert "(3, 4)" in repr(Latency(LatencyOptions(runs=1), model, feeds(3)))
    with pytest.raises(
        EvaluatorInputError,
        match=r"metric_options.latency.batch: 2, but input 'x' of the model takes 3",
    ):
        Latency(LatencyOptions(batch=2), model, feeds(3))


def test_a_feed_without_a_batch_axis_is_left_alone():
    step = np.array(3)
    assert batch_of({"step": step}, 4, {}) == {"step": step}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "runs: must be an integer from 1, not 0"),
        ({"warmup": -1}, "warmup: must be an integer from 0, not -1"),
        ({"threads": 1.5}, "threads: must be an integer from 1, not 1.5"),
        ({"batch": True}, "batch: must be an integer from 1, not True"),
        ({"batch": "all"}, "batch: must be an integer from 1, not 'all'"),
    ],
    ids=["runs", "warmup", "threads", "boolean", "word"],
)
def test_options_are_checked(options, message):
    with pytest.raises(EvaluatorInputError, match=message):
        LatencyOptions(**options)


def test_failures_are_told_apart_by_the_model(tmp_path):
    float_model = affine(tmp_path / "float.onnx")
    with pytest.raises(EvaluatorInputError, match="no feed"):
        Latency(LatencyOptions(), float_model, [])
    with pytest.raises(EvaluatorInputError, match=r"float model .*cannot load"):
        Latency(LatencyOptions(), tmp_path / "missing.onnx", feeds(1))
    part = Latency(LatencyOptions(runs=1), float_model, feeds(1))
    with pytest.raises(EvaluationError, match="cannot load the model"):
        part.measure(tmp_path / "missing.onnx")
    with pytest.raises(EvaluationError, match="latency: the model does not run"):
        part.measure(affine(tmp_path / "m.onnx", shape=("N", 5)))


def test_only_one_batch_travels_to_other_processes(tmp_path):
    part = Latency(LatencyOptions(runs=1, warmup=0), affine(tmp_path / "m.onnx"), feeds(1, *[100_000] * 5))
    message = pickle.dumps(part)
    assert len(message) < 10_000
    assert pickle.loads(message).measure(tmp_path / "m.onnx")[0] > 0
    assert repr(pickle.loads(message)) == repr(part)
