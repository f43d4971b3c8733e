import pickle

import numpy as np
import pytest

from evaluators import (
    AccuracyEvaluator,
    ClassificationEvaluator,
    CombinedEvaluator,
    CustomEvaluator,
    DistanceEvaluator,
    EvaluationError,
    EvaluatorInputError,
    PerplexityEvaluator,
    as_evaluator,
)
from tests.evaluators.graphs import affine

SCORES = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
FEEDS = [{"x": SCORES[:4]}, {"x": SCORES[4:]}]
LABELS = np.arange(8) % 4


def size(model_path):
    return 3.0


def accuracy(model_path):
    return 1.0


def two(model_path):
    return {"loss": 1.0, "size": 2.0}


@pytest.fixture
def float_model(tmp_path):
    return affine(tmp_path / "float.onnx")


@pytest.fixture
def model(tmp_path):
    return affine(tmp_path / "m.onnx", 0.5)


def test_the_metrics_of_all_in_their_order(float_model, model):
    parts = [
        ClassificationEvaluator(FEEDS, LABELS),
        DistanceEvaluator(float_model, FEEDS, ("L2", "cos")),
        CustomEvaluator(size),
    ]
    with CombinedEvaluator(parts) as evaluator:
        values = evaluator.evaluate(model)
        alone = [part.evaluate(model) for part in parts]
    assert list(values) == ["accuracy", "loss", "L2", "cos", "size"]
    assert list(values) == [metric.name for metric in evaluator.metrics]
    assert values == {name: value for each in alone for name, value in each.items()}
    assert evaluator.metrics[0] == parts[0].metrics[0] and evaluator.metrics[2] == parts[1].metrics[0]


def test_session_config_reaches_all(model):
    seen = []

    class Listener:
        metrics = ("heard",)

        def evaluate(self, model_path, session_config):
            seen.append(session_config)
            return 0

    needs = (("session.disable_quant_qdq", "1"),)
    CombinedEvaluator([AccuracyEvaluator(FEEDS, LABELS), Listener()]).evaluate(model, needs)
    assert seen == [needs]


def test_names_are_unique(model):
    with pytest.raises(EvaluatorInputError, match="'accuracy' is a metric of more than one; leave one out"):
        CombinedEvaluator([AccuracyEvaluator(FEEDS, LABELS), accuracy])
    late = CombinedEvaluator([ClassificationEvaluator(FEEDS, LABELS), two])
    with pytest.raises(EvaluatorInputError, match="'loss' is a metric of more than one"):
        late.evaluate(model)
    with pytest.raises(EvaluatorInputError, match="at least one"):
        CombinedEvaluator([])
    with pytest.raises(EvaluatorInputError, match="neither callable"):
        CombinedEvaluator([size, 3])


def test_names_that_are_certain_after_the_first_evaluation_only(model):
    evaluator = CombinedEvaluator([AccuracyEvaluator(FEEDS, LABELS), two])
    assert list(evaluator.evaluate(model)) == ["accuracy", "loss", "size"]
    assert [metric.name for metric in evaluator.metrics] == ["accuracy", "loss", "size"]


def test_the_distances_are_reported_and_may_spare_the_others(float_model, model):
    calls = []

    def costly(model_path):
        calls.append(model_path)
        return 1.0

    readings = []

    class Feeds:
        def __iter__(self):
            readings.append(None)
            return iter(FEEDS)

    distance = DistanceEvaluator(float_model, Feeds())
    evaluator = CombinedEvaluator([costly, CombinedEvaluator([distance, size])])
    assert evaluator.reporting() is distance and evaluator.reporting("size") is None
    reports = []
    values = evaluator.evaluate(
        model, report=lambda percentage, metrics: reports.append((percentage, dict(metrics))), report_at=(50,)
    )
    assert list(values) == ["costly", "L2", "size"] and len(calls) == 1
    assert len(readings) == 2  # by the float model, by the candidate, and none again
    ((percentage, reported),) = reports
    half = np.mean((0.5 * SCORES[:4]) ** 2)
    assert percentage == 50 and reported == {"L2": pytest.approx(half, rel=1e-5)}

    def stop(percentage, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate(model, report=stop, report_at=(50,))
    assert len(calls) == 1


def test_the_metric_that_is_asked_for_is_reported(float_model, model):
    accuracy = AccuracyEvaluator(FEEDS, LABELS)
    evaluator = CombinedEvaluator([DistanceEvaluator(float_model, FEEDS), accuracy])
    assert evaluator.reporting("accuracy") is accuracy
    reports = []

    def report(percentage, metrics):
        reports.append((percentage, dict(metrics)))

    values = evaluator.evaluate(model, report=report, report_at=(50,), reported="accuracy")
    assert values == evaluator.evaluate(model)
    half = AccuracyEvaluator(FEEDS[:1], LABELS[:4]).evaluate(model)
    assert reports == [(50, half)]


def test_a_report_needs_someone_who_reports(model):
    evaluator = CombinedEvaluator([size])
    assert evaluator.reporting() is None
    with pytest.raises(EvaluatorInputError, match="report: none of the evaluators gives values"):
        evaluator.evaluate(model, report=lambda percentage, metrics: None, report_at=(50,))
    evaluator = CombinedEvaluator([AccuracyEvaluator(FEEDS, LABELS), size])
    with pytest.raises(EvaluatorInputError, match="report: none of the evaluators gives size"):
        evaluator.evaluate(model, report=lambda percentage, metrics: None, report_at=(50,), reported="size")


def test_float_outputs_are_prepared_and_freed_with_it(float_model, model):
    distance = DistanceEvaluator(float_model, FEEDS)
    evaluator = CombinedEvaluator([size, distance])
    evaluator.prepare()
    float_model.unlink()
    assert evaluator.evaluate(model)["L2"] > 0
    evaluator.close()
    with pytest.raises(EvaluatorInputError, match="float model"):
        evaluator.evaluate(model)


def test_a_failure_of_one_is_a_failure(model):
    def fails(model_path):
        raise OSError("no disk")

    with pytest.raises(EvaluationError, match="'fails' raised OSError: no disk"):
        CombinedEvaluator([AccuracyEvaluator(FEEDS, LABELS), fails]).evaluate(model)


def test_it_travels_and_is_told_apart(float_model, model):
    evaluator = CombinedEvaluator(
        [AccuracyEvaluator(FEEDS, LABELS), DistanceEvaluator(float_model, FEEDS), size]
    )
    again = pickle.loads(pickle.dumps(evaluator))
    assert again.evaluate(model) == evaluator.evaluate(model)
    assert again.identity == evaluator.identity and "0x" not in evaluator.identity
    assert CombinedEvaluator([AccuracyEvaluator(FEEDS, 3 - LABELS), size]).identity != evaluator.identity
    assert CombinedEvaluator([size]).identity != CombinedEvaluator([accuracy]).identity


@pytest.mark.parametrize(
    "evaluator",
    [
        ClassificationEvaluator([], [1]),
        PerplexityEvaluator([]),
        CombinedEvaluator([size]),
        CustomEvaluator(size),
    ],
    ids=lambda evaluator: type(evaluator).__name__,
)
def test_evaluators_of_the_package_are_used_as_they_are(evaluator):
    assert as_evaluator(evaluator) is evaluator
