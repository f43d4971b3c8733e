import pickle
from dataclasses import replace

import numpy as np
import pytest

from evaluators import EvaluationError, EvaluatorInputError, float_cost, hardware_metrics, is_hardware_metric
from evaluators.hardware import HARDWARE_METRICS
from tests.evaluators.graphs import affine
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
    assert is_hardware_metric("weights_above_8_bits") and is_hardware_metric("weights_above_4.5_bits")
    assert not is_hardware_metric("weights_above_n_bits")


ALL = [*HARDWARE_METRICS, "weights_above_8_bits"]
MEASURED = ["model_size", "latency", "latency_spread", "latency_ratio"]


@pytest.fixture
def model(tmp_path):
    return affine(tmp_path / "m.onnx")


def everything(model, **options):
    feeds = [{"x": np.zeros((2, 4), np.float32)}]
    options = {"latency": {"runs": 1, "warmup": 0, **options}}
    return hardware_metrics(ALL, options, float_model=model, feeds=feeds)


def test_all_metrics_in_the_order_asked_for(model):
    evaluator = everything(model)
    values = evaluator.evaluate(MIXED, model)
    assert list(values) == [metric.name for metric in evaluator.metrics] == ALL
    assert [metric.name for metric in evaluator.analytic] == [name for name in ALL if name not in MEASURED]
    assert evaluator.from_cost(MIXED).items() <= values.items()
    assert values["model_size"] == model.stat().st_size
    assert values["weights_above_8_bits"] == 1000 / 1400
    assert all(type(value) is float for value in values.values())
    shuffled = hardware_metrics(["macs", "memory_density", "model_size", "bitops"])
    names = [metric.name for metric in shuffled.metrics]
    assert names == list(shuffled.evaluate(MIXED, model))
    assert names == ["macs", "average_bitwidth", "memory_density", "model_size", "bitops"]


def test_more_is_better_for_density_alone(model):
    assert [m.name for m in everything(model).metrics if m.direction == "maximize"] == ["memory_density"]
    assert not any(metric.against_float for metric in everything(model).metrics)


def test_analytic_metrics_need_neither_file_nor_float_model():
    names = [name for name in ALL if name not in MEASURED]
    evaluator = hardware_metrics(names)
    assert evaluator.analytic == evaluator.metrics
    assert evaluator.evaluate(MIXED, "missing.onnx") == evaluator.from_cost(MIXED)


def test_latency_needs_something_to_compare_with(model):
    with pytest.raises(EvaluatorInputError, match="latency: needs float_model and feeds"):
        hardware_metrics(["latency_ratio"])
    with pytest.raises(EvaluatorInputError, match=r"metric_options.latency.runs: must be an integer from 1"):
        everything(model, runs=0)
    with pytest.raises(EvaluatorInputError, match=r"latency.thread: unknown option; did you mean 'threads'"):
        everything(model, thread=2)
    with pytest.raises(EvaluatorInputError, match=r"macs.x: unknown option; macs has no options"):
        hardware_metrics(["macs"], {"macs": {"x": 1}})


def test_timing_an_emulation_is_noted(model):
    emulated = replace(MIXED, emulated=True)
    (note,) = everything(model).notes(emulated)
    assert note.startswith("latency is that of an emulation")
    assert everything(model).notes(MIXED) == () == hardware_metrics(["macs"]).notes(emulated)


def test_identity_is_that_of_what_the_values_depend_on(model):
    same, again = everything(model).identity, pickle.loads(pickle.dumps(everything(model))).identity
    assert same == again and "0x" not in same
    assert everything(model, threads=2).identity != same
