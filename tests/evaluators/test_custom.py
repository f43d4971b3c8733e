import functools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from evaluators import (
    AccuracyEvaluator,
    CustomEvaluator,
    EvaluationError,
    EvaluatorInputError,
    Metric,
    SessionSettings,
    as_evaluator,
)

MODEL = Path("some") / "model.onnx"


def top1(model_path):
    return 0.5 if model_path == str(MODEL) else math.nan


def returning(value):
    return CustomEvaluator(lambda model_path: value)


class Perplexity:
    metrics = ("perplexity", Metric("latency", "ms", "minimize"))
    direction = "minimize"

    def evaluate(self, model_path):
        return {"latency": 3, "perplexity": 12.5}


class NeedsArguments:
    def __init__(self, data):
        self.data = data

    def __call__(self, model_path):
        return 1.0


def test_a_function_gives_its_name_and_is_called_with_a_string():
    evaluator = CustomEvaluator(top1)
    assert evaluator.metrics == (Metric("top1", "", "maximize", False),)
    assert evaluator.evaluate(MODEL) == {"top1": 0.5}
    assert evaluator.evaluate(MODEL, SessionSettings(threads=1)) == {"top1": 0.5}


@pytest.mark.parametrize("call", [lambda model_path: 1, functools.partial(lambda x, path: x, 1)])
def test_what_has_no_name_returns_a_metric(call):
    assert CustomEvaluator(call).evaluate(MODEL) == {"metric": 1.0}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_function_may_carry_a_direction(direction):
    def score(model_path):
        return 2.0

    score.direction = direction
    assert CustomEvaluator(score).metrics == (Metric("score", direction=direction),)


@pytest.mark.parametrize("user", [Perplexity, Perplexity()])
def test_an_object_or_its_class_may_have_several_metrics(user):
    evaluator = CustomEvaluator(user)
    assert evaluator.metrics == (
        Metric("perplexity", direction="minimize"),
        Metric("latency", "ms", "minimize"),
    )
    assert list(evaluator.evaluate(MODEL).items()) == [("perplexity", 12.5), ("latency", 3.0)]


def test_a_mapping_of_directions_declares_the_metrics():
    class Both:
        direction = {"wer": "minimize", "bleu": "maximize"}  # noqa: RUF012

        def __call__(self, model_path):
            return {"bleu": 30, "wer": 0.1}

    evaluator = CustomEvaluator(Both())
    assert evaluator.metrics == (Metric("wer", direction="minimize"), Metric("bleu", direction="maximize"))
    assert evaluator.evaluate(MODEL) == {"wer": 0.1, "bleu": 30.0}


def test_undeclared_metrics_are_learnt_from_the_first_evaluation():
    returned = [{"a": 1, "b": 2}, {"b": 3, "a": 4}, {"a": 1}, 2.0]
    evaluator = CustomEvaluator(lambda model_path: returned.pop(0))
    assert evaluator.evaluate(MODEL) == {"a": 1.0, "b": 2.0}
    assert [metric.name for metric in evaluator.metrics] == ["a", "b"]
    assert list(evaluator.evaluate(MODEL)) == ["a", "b"]
    for _ in range(2):
        with pytest.raises(EvaluationError, match="returned 'a'; its metrics are 'a', 'b'"):
            evaluator.evaluate(MODEL)


def test_one_metric_may_come_in_a_mapping():
    class One:
        metrics = "wer"

        def __call__(self, model_path):
            return {"wer": 0.25}

    assert CustomEvaluator(One).evaluate(MODEL) == {"wer": 0.25}


@pytest.mark.parametrize(
    "value",
    [1, 1.0, np.float32(1), np.int64(1), np.array(1.0), np.array([[1]]), np.array([1], np.float16)],
)
def test_numbers_of_any_kind_are_floats(value):
    (number,) = returning(value).evaluate(MODEL).values()
    assert number == 1 and type(number) is float


def test_infinity_is_a_value():
    assert returning(math.inf).evaluate(MODEL) == {"metric": math.inf}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        ("0.9", "'0.9'"),
        (True, "True"),
        ([0.9], r"\[0\.9\]"),
        (1j, "1j"),
        (np.zeros(2), r"an array of shape \(2,\)"),
        (np.array(["1"]), r"an array of shape \(1,\)"),
        (math.nan, "nan"),
        (np.float32(math.nan), "nan"),
        ({"a": None}, "None for 'a'"),
        ({}, "no metric"),
    ],
)
def test_anything_else_is_an_error_that_names_evaluator_and_value(value, shown):
    with pytest.raises(EvaluationError, match=f"evaluator '<lambda>' returned {shown}"):
        returning(value).evaluate(MODEL)


def test_an_exception_of_the_users_is_the_cause():
    def broken(model_path):
        raise KeyError("data")

    with pytest.raises(EvaluationError, match="evaluator 'broken' raised KeyError: 'data'") as caught:
        CustomEvaluator(broken).evaluate(MODEL)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_interruption_is_not_caught():
    def interrupted(model_path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CustomEvaluator(interrupted).evaluate(MODEL)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"direction": "minimise"}, "unknown direction 'minimise'; did you mean 'minimize'"),
        ({"direction": None}, "unknown direction None"),
        ({"direction": {"a": "down"}}, "unknown direction 'down'"),
        ({"metrics": ("aa", "bb"), "direction": {"ab": "minimize"}}, "unknown metric 'ab'"),
        ({"metrics": ("a", "a")}, "different names"),
        ({"metrics": ()}, "different names"),
        ({"metrics": (1,)}, "names or Metrics"),
        ({"metrics": 3}, "names or Metrics"),
    ],
)
def test_attributes_that_make_no_sense_are_refused(attributes, message):
    user = type("User", (), {**attributes, "__call__": lambda self, model_path: 1.0})
    with pytest.raises(EvaluatorInputError, match=f"evaluator 'User': .*{message}"):
        CustomEvaluator(user)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(EvaluatorInputError, match="neither callable nor"):
        CustomEvaluator("accuracy")


def test_a_class_that_needs_arguments_is_refused():
    with pytest.raises(
        EvaluatorInputError, match=r"NeedsArguments needs arguments .*'data'.* give an instance"
    ):
        CustomEvaluator(NeedsArguments)
    assert CustomEvaluator(NeedsArguments(1)).evaluate(MODEL) == {"metric": 1.0}


def test_a_class_that_fails_to_start_is_refused_with_its_reason():
    class Broken:
        def __init__(self):
            raise OSError("no data")

    with pytest.raises(EvaluatorInputError, match=r"Broken\(\) raised OSError: no data"):
        CustomEvaluator(Broken)


def test_an_evaluator_of_this_package_is_taken_as_it_is():
    accuracy = AccuracyEvaluator([], [1])
    assert as_evaluator(accuracy) is accuracy
    custom = as_evaluator(top1)
    assert isinstance(custom, CustomEvaluator)
    assert as_evaluator(custom) is custom


def test_a_custom_evaluator_travels_to_another_process():
    class_based = pickle.loads(pickle.dumps(CustomEvaluator(NeedsArguments(1))))
    assert class_based.evaluate(MODEL) == {"metric": 1.0}


def test_session_config_reaches_those_who_ask_for_it():
    entries = [("session.disable_quant_qdq", "1")]
    seen = []

    def asks(path, session_config):
        seen.append((path, session_config))
        return 1.0

    as_evaluator(asks).evaluate(Path("model.onnx"), entries)
    as_evaluator(lambda path: seen.append(path) or 1.0).evaluate(Path("model.onnx"), entries)
    assert seen == [("model.onnx", entries), "model.onnx"]
