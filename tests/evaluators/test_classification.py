import math
import pickle

import numpy as np
import onnx
import pytest
from onnx import helper

from evaluators import (
    AccuracyEvaluator,
    ClassificationEvaluator,
    EvaluationError,
    EvaluatorInputError,
    SessionSettings,
)
from tests.evaluators.graphs import affine, one_node, save, tensor

ONE_THREAD = SessionSettings(threads=1)


@pytest.fixture
def identity(tmp_path):
    """Returns its input, so that the feeds are the scores."""
    return affine(tmp_path / "identity.onnx")


def batches(scores, step=3):
    return [{"x": scores[start : start + step]} for start in range(0, len(scores), step)]


def problem(samples=20, spatial=(), seed=0):
    """Logits of 4 classes, and labels among which class 2 is missing."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (samples, 4, *spatial)).astype(np.float32)
    return logits, rng.choice([0, 1, 1, 3], (samples, *spatial))


def softmax(logits):
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def mean_loss(probabilities, labels):
    right = np.take_along_axis(probabilities, np.expand_dims(labels, 1), axis=1)
    return -np.log(right).mean()


def recall(predicted, labels, label):
    return sum(p == label for p, own in zip(predicted, labels, strict=True) if own == label) / sum(
        own == label for own in labels
    )


@pytest.mark.parametrize("spatial", [(), (5, 6)], ids=["classes", "pixels"])
@pytest.mark.parametrize("from_logits", [True, None], ids=["said", "found"])
def test_accuracy_and_loss_of_logits(tmp_path, spatial, from_logits):
    model = affine(tmp_path / "m.onnx", shape=("N", 4, *spatial))
    logits, labels = problem(spatial=spatial)
    evaluator = ClassificationEvaluator(
        batches(logits), labels, from_logits=from_logits, session_settings=ONE_THREAD
    )
    values = evaluator.evaluate(model)
    assert list(values) == [metric.name for metric in evaluator.metrics] == ["accuracy", "loss"]
    assert values["accuracy"] == np.mean(logits.argmax(axis=1) == labels)
    assert values["loss"] == pytest.approx(mean_loss(softmax(logits), labels), rel=1e-6)
    assert [(m.unit, m.direction) for m in evaluator.metrics] == [("", "maximize"), ("nat", "minimize")]


@pytest.mark.parametrize("from_logits", [False, None], ids=["said", "found"])
def test_accuracy_and_loss_of_probabilities(tmp_path, from_logits):
    model = one_node(tmp_path / "m.onnx", "Softmax", onnx.TensorProto.FLOAT, ["N", 4], axis=1)
    logits, labels = problem()
    values = ClassificationEvaluator(batches(logits), labels, from_logits=from_logits).evaluate(model)
    assert values["loss"] == pytest.approx(mean_loss(softmax(logits), labels), rel=1e-5)
    logits_of = ClassificationEvaluator(batches(logits), labels, from_logits=True)
    assert logits_of.evaluate(model)["loss"] == pytest.approx(
        mean_loss(softmax(softmax(logits)), labels), rel=1e-5
    )


def test_one_pass_gives_both(identity):
    logits, labels = problem()
    readings = []

    class Feeds:
        def __iter__(self):
            readings.append(None)
            return iter(batches(logits))

    ClassificationEvaluator(Feeds(), labels).evaluate(identity)
    assert len(readings) == 1


def test_is_the_mean_over_the_classes_that_occur(identity):
    logits, labels = problem()
    predicted = logits.argmax(axis=1)
    expected = np.mean([recall(predicted, labels, label) for label in (0, 1, 3)])
    assert expected != pytest.approx(np.mean(predicted == labels))
    for kind in (ClassificationEvaluator, AccuracyEvaluator):
        evaluator = kind(batches(logits), labels, average="macro")
        assert evaluator.evaluate(identity)["accuracy"] == pytest.approx(expected)
    assert (
        np.mean(predicted == labels)
        == AccuracyEvaluator(batches(logits), labels).evaluate(identity)["accuracy"]
    )


def test_top_k_counts_per_class_too(identity):
    logits, labels = problem()
    best = np.argsort(-logits, axis=1)[:, :2]
    hit = np.array([label in row for label, row in zip(labels, best, strict=True)])
    expected = np.mean([hit[labels == label].mean() for label in (0, 1, 3)])
    evaluator = ClassificationEvaluator(batches(logits), labels, average="macro", top_k=2)
    assert evaluator.evaluate(identity)["top2_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64], ids=["uint8", "int32", "uint64"])
def test_labels_of_any_integer_type(identity, dtype):
    logits, labels = problem()
    evaluator = ClassificationEvaluator(batches(logits), labels.astype(dtype), average="macro")
    assert evaluator.evaluate(identity) == ClassificationEvaluator(
        batches(logits), labels, average="macro"
    ).evaluate(identity)


def test_a_second_evaluation_starts_afresh(identity, tmp_path):
    logits, labels = problem()
    evaluator = ClassificationEvaluator(batches(logits), labels)
    first = evaluator.evaluate(identity)
    assert evaluator.evaluate(affine(tmp_path / "m.onnx", -1.0)) != first
    assert evaluator.evaluate(identity) == first
    assert pickle.loads(pickle.dumps(evaluator)).evaluate(identity) == first


def quantized_softmax(path):
    """Softmax in 8 bits, so that probabilities no longer add up to one; reshaped, and cast."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], axis=1),
        helper.make_node("QuantizeLinear", ["p", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=onnx.TensorProto.DOUBLE),
    ]
    constants = {"scale": np.float32(1 / 64), "zero": np.uint8(0), "shape": np.array([0, -1])}
    outputs = [tensor("y", ["N", 4], onnx.TensorProto.DOUBLE)]
    return save(path, nodes, [tensor("x", ["N", 4])], outputs, constants)


def test_quantized_probabilities_are_still_probabilities(tmp_path):
    logits, labels = problem()
    rounded = np.rint(softmax(logits) * 64) / 64
    shares = np.maximum(rounded / rounded.sum(axis=1, keepdims=True), 1e-7)
    assert not np.allclose(rounded.sum(axis=1), 1)
    values = ClassificationEvaluator(batches(logits), labels).evaluate(quantized_softmax(tmp_path / "m.onnx"))
    assert values["loss"] == pytest.approx(mean_loss(shares, labels), rel=1e-5)


def test_a_function_that_rounds_a_softmax_is_seen_through(tmp_path):
    body = [helper.make_node("Identity", ["a"], ["b"])]
    opset = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Round", ["a"], ["b"], body, opset[:1])
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], axis=1),
        helper.make_node("Round", ["p"], ["y"], domain="own"),
    ]
    graph = helper.make_graph(nodes, "graph", [tensor("x", ["N", 4])], [tensor("y", ["N", 4])])
    model = helper.make_model(graph, functions=[function], opset_imports=opset, ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    logits, labels = problem()
    values = ClassificationEvaluator(batches(logits), labels).evaluate(tmp_path / "m.onnx")
    assert values["loss"] == pytest.approx(mean_loss(softmax(logits), labels), rel=1e-5)


def test_what_may_be_either_is_asked_for(identity):
    probabilities, labels = softmax(problem()[0]).astype(np.float32), problem()[1]
    with pytest.raises(
        EvaluationError, match=r"all scores are between 0 and 1, .*from_logits: true or false"
    ):
        ClassificationEvaluator(batches(probabilities), labels).evaluate(identity)
    said = ClassificationEvaluator(batches(probabilities), labels, from_logits=False).evaluate(identity)
    assert said["loss"] == pytest.approx(mean_loss(probabilities.astype(np.float64), labels), rel=1e-6)


@pytest.fixture
def squashed(tmp_path):
    """A candidate of `identity`, whose logits all lie between 0 and 1."""
    return affine(tmp_path / "squashed.onnx", scale=0.01, shift=0.5)


@pytest.mark.parametrize("first", ["float model", "candidate"])
def test_the_float_model_decides_for_its_candidates(identity, squashed, first):
    logits, labels = problem()
    with pytest.raises(EvaluationError, match="from_logits: true or false"):
        ClassificationEvaluator(batches(logits), labels).evaluate(squashed)
    evaluator = ClassificationEvaluator(batches(logits), labels, float_model=str(identity))
    if first == "float model":
        assert evaluator.evaluate(identity)["loss"] == pytest.approx(mean_loss(softmax(logits), labels))
        evaluator = pickle.loads(pickle.dumps(evaluator))  # as workers get it
        identity.unlink()  # and is not run again
    expected = mean_loss(softmax(logits * 0.01 + 0.5), labels)
    assert evaluator.evaluate(squashed)["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_float_model_that_ends_in_softmax_decides_by_its_graph(tmp_path, squashed):
    float_model = one_node(tmp_path / "m.onnx", "Softmax", onnx.TensorProto.FLOAT, ["N", 4], axis=1)
    logits, labels = problem()
    evaluator = ClassificationEvaluator(batches(logits), labels, float_model=float_model)
    scores = logits.astype(np.float64) * 0.01 + 0.5
    shares = scores / scores.sum(axis=1, keepdims=True)
    assert evaluator.evaluate(squashed)["loss"] == pytest.approx(mean_loss(shares, labels), rel=1e-5)


def test_an_ambiguous_float_model_is_asked_about(identity, squashed):
    evaluator = ClassificationEvaluator(
        batches(softmax(problem()[0]).astype(np.float32)), problem()[1], float_model=identity
    )
    for model in (squashed, identity):
        with pytest.raises(EvaluationError, match="from_logits: true or false"):
            evaluator.evaluate(model)


def test_logits_are_no_probabilities(identity):
    logits, labels = problem()
    with pytest.raises(EvaluationError, match="are no probabilities; from_logits is to be true"):
        ClassificationEvaluator(batches(logits), labels, from_logits=False).evaluate(identity)


def test_infinite_scores(identity):
    masked = np.array([[0, -np.inf, 1, -np.inf]], np.float32)
    assert ClassificationEvaluator(batches(masked), [1]).evaluate(identity)["loss"] == math.inf
    values = ClassificationEvaluator(batches(masked), [2]).evaluate(identity)
    assert values["loss"] == pytest.approx(math.log(1 + math.exp(-1)))
    with pytest.raises(EvaluationError, match="infinite scores have no loss"):
        ClassificationEvaluator(batches(-masked), [2]).evaluate(identity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"average": "makro"}, "average: unknown 'makro'; did you mean 'macro'"),
        ({"top_k": 0}, "top_k: must be at least 1"),
        ({"from_logits": "yes"}, "from_logits: must be true, false or None, not 'yes'"),
        ({"from_logits": 1}, "from_logits: must be true, false or None, not 1"),
    ],
    ids=["average", "top_k", "word", "number"],
)
def test_arguments_are_checked_at_the_door(arguments, message):
    with pytest.raises(EvaluatorInputError, match=message):
        ClassificationEvaluator([], [1], **arguments)


def test_other_options_are_another_identity():
    ways = [{}, {"from_logits": True}, {"average": "macro"}, {"top_k": 2}, {"output": "y"}]
    identities = {ClassificationEvaluator([], [1], **way).identity for way in ways}
    assert len(identities) == len(ways)
    assert ClassificationEvaluator([], [2]).identity not in identities
