import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import AccuracyEvaluator, EvaluationError, EvaluatorInputError, SessionSettings
from evaluators.accuracy import among_top_k
from tests.evaluators.graphs import affine, two_outputs

ONE_THREAD = SessionSettings(threads=1)


@pytest.fixture
def identity(tmp_path):
    """Returns its input, so that the feeds are the scores."""
    return affine(tmp_path / "identity.onnx")


def batches(scores, step=3):
    return [{"x": scores[start : start + step]} for start in range(0, len(scores), step)]


def scores_and_labels(samples=10, spatial=(), seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(samples, 4, *spatial)).astype(np.float32)
    return scores, rng.integers(0, 4, (samples, *spatial))


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_accuracy_agrees_with_sorting(identity, top_k):
    scores, labels = scores_and_labels()
    best = np.argsort(-scores, axis=1)[:, :top_k]
    expected = np.mean([label in row for label, row in zip(labels, best, strict=True)])
    evaluator = AccuracyEvaluator(batches(scores), labels, top_k=top_k, session_settings=ONE_THREAD)
    name = "accuracy" if top_k == 1 else f"top{top_k}_accuracy"
    assert evaluator.evaluate(identity) == {name: expected}
    (metric,) = evaluator.metrics
    assert (metric.name, metric.unit, metric.direction, metric.against_float) == (name, "", "maximize", False)


@pytest.mark.parametrize("top_k", [1, 2])
def test_every_position_of_a_segmentation_counts(tmp_path, top_k):
    model = affine(tmp_path / "m.onnx", shape=("N", 4, 5, 6))
    scores, labels = scores_and_labels(spatial=(5, 6))
    rank = np.argsort(np.argsort(-scores, axis=1), axis=1)
    expected = np.mean(np.take_along_axis(rank, labels[:, None], axis=1) < top_k)
    evaluator = AccuracyEvaluator(batches(scores), labels, top_k=top_k)
    assert list(evaluator.evaluate(model).values()) == [pytest.approx(expected)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_ties_go_to_the_lower_class_for_every_k(seed, k):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, (6, 4)), rng.integers(0, 4, 6)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert among_top_k(scores, labels, k).tolist() == [
        label in row for label, row in zip(labels, best, strict=True)
    ]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_larger_k_never_has_fewer_hits_and_all_classes_have_all(seed):
    scores, labels = scores_and_labels(seed=seed)
    hits = [among_top_k(scores, labels, k).sum() for k in range(1, 5)]
    assert hits == sorted(hits) and hits[-1] == len(labels)


def test_masked_classes_may_be_minus_infinity(identity):
    scores = np.array([[0, -np.inf, 1, -np.inf]], np.float32)
    assert AccuracyEvaluator(batches(scores), [2]).evaluate(identity) == {"accuracy": 1.0}


def test_one_of_several_outputs_is_named(tmp_path):
    model = two_outputs(tmp_path / "m.onnx", -1.0)
    scores, _ = scores_and_labels()
    labels = scores.argmin(axis=1)
    assert AccuracyEvaluator(batches(scores), labels, output="scaled").evaluate(model) == {"accuracy": 1.0}
    with pytest.raises(EvaluationError, match="output: the model has same, scaled; name the one"):
        AccuracyEvaluator(batches(scores), labels).evaluate(model)
    with pytest.raises(EvaluationError, match="no output 'scale'; did you mean 'scaled'"):
        AccuracyEvaluator(batches(scores), labels, output="scale").evaluate(model)


@pytest.mark.parametrize(
    ("count", "message"), [(9, "9 labels for more samples"), (11, "11 labels for 10 samples")]
)
def test_the_number_of_labels_is_that_of_the_samples(identity, count, message):
    scores, labels = scores_and_labels()
    with pytest.raises(EvaluationError, match=message):
        AccuracyEvaluator(batches(scores), np.resize(labels, count)).evaluate(identity)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((10, 2), int), r"shape \(3, 2\) for scores of shape \(3, 4\)"),
        (np.full(10, 4), "4 is none of the 4 classes"),
    ],
)
def test_labels_that_do_not_fit_the_scores(identity, labels, message):
    with pytest.raises(EvaluationError, match=message):
        AccuracyEvaluator(batches(scores_and_labels()[0]), labels).evaluate(identity)


def test_scores_that_are_none(tmp_path, identity):
    scores, labels = scores_and_labels()
    with pytest.raises(EvaluationError, match="always right"):
        AccuracyEvaluator(batches(scores), labels, top_k=5).evaluate(identity)
    flat = affine(tmp_path / "flat.onnx", shape=("N",))
    with pytest.raises(EvaluationError, match=r"'y' has shape \(3,\); scores are numbers, \(batch, classes"):
        AccuracyEvaluator(batches(scores[:, 0]), labels).evaluate(flat)
    scores[7, 2] = np.nan
    with pytest.raises(EvaluationError, match="'y' has NaN"):
        AccuracyEvaluator(batches(scores), labels).evaluate(identity)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0], "labels: must be integers"),
        ([True, False], "labels: must be integers"),
        ([], "at least one"),
        (3, "at least one"),
        ([0, -1], "classes count from 0"),
        ([[0, 1], [2]], "labels: not one array"),
    ],
)
def test_labels_are_checked_at_the_door(labels, message):
    with pytest.raises(EvaluatorInputError, match=message):
        AccuracyEvaluator([], labels)


def test_other_arguments_are_checked_at_the_door():
    with pytest.raises(EvaluatorInputError, match="top_k"):
        AccuracyEvaluator([], [1], top_k=0)
    with pytest.raises(EvaluatorInputError, match="feeds"):
        AccuracyEvaluator(iter([]), [1])


def test_other_labels_are_another_identity():
    scores, labels = scores_and_labels()
    same, again = (AccuracyEvaluator(batches(scores), labels).identity for _ in range(2))
    assert same == again
    assert AccuracyEvaluator(batches(scores), (labels + 1) % 4).identity != same
    assert AccuracyEvaluator(batches(scores), labels, top_k=2).identity != same
    assert AccuracyEvaluator(batches(scores), labels, average="macro").identity != same
