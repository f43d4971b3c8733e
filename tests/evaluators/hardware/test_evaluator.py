import pickle

import pytest

from evaluators import EvaluationError, EvaluatorInputError, float_cost, hardware_metrics, is_hardware_metric
from tests.evaluators.hardware.costs import Cost, Layer

MIXED = Cost(
    (
        Layer("a", weights=100, weight_bits=4),
        Layer("b", weights=300, weight_bits=8),
        Layer("c", weights=1000, weight_bits=32, searched=False),
        Layer("d", op_type="Add"),
    )
)


def test_metrics_of_a_family_come_together():
    for name in ("average_bitwidth", "memory_density"):
        evaluator = hardware_metrics([name])
        assert [(m.name, m.unit, m.direction) for m in evaluator.metrics] == [
            ("average_bitwidth", "bit", "minimize"),
            ("memory_density", "", "maximize"),
        ]
        assert evaluator.analytic == evaluator.metrics
        assert evaluator.evaluate(MIXED, "model.onnx") == {
            "average_bitwidth": 7.0,
            "memory_density": 32 / 7,
        }


@pytest.mark.parametrize("place", ["average_bitwidth", "memory_density"])
def test_options_may_stand_under_each_name_of_a_family(place):
    evaluator = hardware_metrics(["memory_density"], {place: {"compare_to": 16}})
    assert evaluator.from_cost(MIXED)["memory_density"] == 16 / 7
    assert evaluator.identity != hardware_metrics(["memory_density"]).identity


def test_the_float_model_has_32_bits():
    values = hardware_metrics(["average_bitwidth"]).from_cost(float_cost(MIXED))
    assert values == {"average_bitwidth": 32.0, "memory_density": 1.0}


def test_it_travels_to_other_processes():
    evaluator = hardware_metrics(["average_bitwidth"], {"average_bitwidth": {"compare_to": 8}})
    again = pickle.loads(pickle.dumps(evaluator))
    assert again.from_cost(MIXED) == evaluator.from_cost(MIXED)


def test_without_searched_weights_there_is_no_average():
    with pytest.raises(EvaluationError, match="no searched layer has weights"):
        hardware_metrics(["average_bitwidth"]).from_cost(Cost((Layer(weights=5, searched=False),)))


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "at least one"),
        (
            ["average_bitwith"],
            {},
            "no hardware metric is called 'average_bitwith'; did you mean 'average_bit",
        ),
        (
            ["average_bitwidth"],
            {"average_bitwidth": {"compare": 3}},
            r"metric_options.average_bitwidth.compare: unknown option; did you mean 'compare_to'\?",
        ),
        (
            ["average_bitwidth"],
            {"average_bitwidth": {"compare_to": 0}},
            "metric_options.average_bitwidth.compare_to: must be a positive number of bits, not 0",
        ),
        (
            ["average_bitwidth"],
            {"memory_density": {"compare_to": True}},
            "memory_density.compare_to: must be",
        ),
        (
            ["average_bitwidth"],
            {"memory_density": {"compare_to": 8}, "average_bitwidth": {"compare_to": 16}},
            "compare_to: 8, but metric_options.average_bitwidth.compare_to is 16; give it once",
        ),
        (
            ["average_bitwidth"],
            {"average_bitwidth": 32},
            "average_bitwidth: must be a table of options, not 32",
        ),
        (
            ["average_bitwidth"],
            {"latency": {}},
            "metric_options.latency: no such metric among those asked for",
        ),
    ],
    ids=["none", "name", "option", "value", "boolean", "twice", "table", "not-asked"],
)
def test_what_is_wrong_is_refused_with_its_place(names, options, message):
    with pytest.raises(EvaluatorInputError, match=message):
        hardware_metrics(names, options)


def test_names_of_hardware_metrics_are_known():
    assert is_hardware_metric("memory_density") and not is_hardware_metric("accuracy")
