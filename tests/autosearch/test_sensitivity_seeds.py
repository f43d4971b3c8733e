from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from autosearch import AutoSearch
from autosearch.sensitivity_seeds import SHARE, Price, SensitivitySeeds
from autosearch.space import Configuration, SearchSpace, layer_sites
from quant import CalibrationData, Pipeline, QuantConfig, StageCache
from quant.layers.role_sites import FormatEffects, RoleFormats
from tests.quant.graphs import build, float_model, floats, node, pipeline, relative_error, run_quantized

LAYERS = 7
FEEDS = [{"x": floats(16, 12, seed=seed)} for seed in range(4)]
WEIGHTS = {"weight_name": ["mxint"], "weight_width": [3, 4, 8], "name": [None]}
BOTH = {"name": ["integer"], "data_in_width": [4, 8], "data_in_frac_width": [3], "weight_width": [2, 4, 8]}


def chain() -> onnx.ModelProto:
    """Seven Gemms in a row, of which the third has the largest weights."""
    nodes, constants = [], {}
    for i in range(LAYERS):
        source, target = ("x" if i == 0 else f"h{i}"), ("y" if i == LAYERS - 1 else f"h{i + 1}")
        constants[f"w{i}"] = floats(12, 12, seed=20 + i, scale=0.3)
        nodes.append(node("Gemm", f"{source} w{i}", target, name=f"g{i}"))
    return build(nodes, {"x": ["n", 12]}, constants, "y")


@pytest.fixture(scope="module")
def shared() -> Pipeline:
    return pipeline(chain(), FEEDS)


def space_of(entry: dict[str, Any], **others: Any) -> SearchSpace:
    sites = partial(layer_sites, float_model(chain()), QuantConfig())
    table = {"by": "type", "share": others.pop("share", "layer"), "Gemm": entry}
    return SearchSpace({**others, "layers": table}, layers=sites)


def seeds_of(
    shared: Pipeline, space: SearchSpace, count: int | None, metric: str = "average_bitwidth", **kwargs: Any
) -> list[Configuration]:
    return list(SensitivitySeeds(space, lambda: shared, [metric], **kwargs)(count))


def bits_and_error(shared: Pipeline, configuration: Configuration) -> tuple[float, float]:
    quantized = shared.quantize(configuration.config)
    outputs = [run_quantized(quantized, feed)[0] for feed in FEEDS]
    floats_ = [shared_float(feed["x"]) for feed in FEEDS]
    layers = quantized.cost.layers
    bits = sum(each.weights * each.weight_bits for each in layers) / sum(each.weights for each in layers)
    return bits, relative_error(np.concatenate(floats_), np.concatenate(outputs))


def shared_float(x: np.ndarray) -> np.ndarray:
    for i in range(LAYERS):
        x = x @ floats(12, 12, seed=20 + i, scale=0.3)
    return x


def test_they_lead_from_the_cheapest_to_the_most_accurate(shared: Pipeline) -> None:
    found = seeds_of(shared, space_of(WEIGHTS), 6)
    assert len({each.digest for each in found}) == 6
    bits, errors = zip(*(bits_and_error(shared, each) for each in found), strict=True)
    assert all(before < after for before, after in pairwise(bits))
    assert (min(bits), max(bits)) == pytest.approx((3 + 8 / 12, 8 + 8 / 12))  # one exponent for 12 weights
    assert errors[0] == max(errors) and errors[-1] == min(errors)


def test_mixtures_beat_draws_at_random(shared: Pipeline) -> None:
    """At the same bits, what sensitivities say is better than most of what chance says."""
    space, generator = space_of(WEIGHTS), np.random.default_rng(0)
    bits, error = bits_and_error(shared, seeds_of(shared, space, 3)[1])
    drawn = [bits_and_error(shared, space.draw(generator)) for _ in range(120)]
    alike = [other for width, other in drawn if width <= bits]
    assert len(alike) > 20
    assert np.mean([error < other for other in alike]) > 0.9


def test_data_gets_its_best_format_where_its_bits_cost_nothing(shared: Pipeline) -> None:
    found = seeds_of(shared, space_of(BOTH), 5)
    for each in found:
        assert {each.params[f"layers.g{i}.data_in_width"] for i in range(LAYERS)} == {8}
    total = seeds_of(shared, space_of(BOTH), 5, metric="average_bitwidth_total")
    assert {total[0].params[f"layers.g{i}.data_in_width"] for i in range(LAYERS)} == {4}


def test_layers_that_share_a_choice_keep_it(shared: Pipeline) -> None:
    found = seeds_of(shared, space_of(WEIGHTS, share="type"), 9)
    assert [each.params["layers.linear.weight_width"] for each in found] == [3, 4, 8]


def test_other_keys_have_their_first_choice(shared: Pipeline) -> None:
    found = seeds_of(shared, space_of(WEIGHTS, include_cle=[True, False]), 2)
    assert [each.effective["include_cle"] for each in found] == [True, True]


def test_without_a_metric_of_cost_the_most_accurate_comes_alone(shared: Pipeline) -> None:
    (found,) = seeds_of(shared, space_of(WEIGHTS), 5, metric="accuracy")
    assert {found.params[f"layers.g{i}.weight_width"] for i in range(LAYERS)} == {8}


def test_unless_asked_few_layers_get_none_and_few_trials_few(shared: Pipeline) -> None:
    few = SearchSpace(
        {"layers": {"g0": WEIGHTS, "g1": WEIGHTS}},
        layers=partial(layer_sites, float_model(chain()), QuantConfig()),
    )
    assert seeds_of(shared, few, None) == []
    assert len(seeds_of(shared, few, 3)) == 3
    assert len(seeds_of(shared, space_of(WEIGHTS), None, trials=2 * SHARE)) == 2
    assert seeds_of(shared, space_of(WEIGHTS), None, trials=SHARE - 1) == []


@pytest.mark.parametrize(
    ("metric", "prices"),
    [
        ("average_bitwidth", {"data_in": 0, "weight": 10, "bias": 0}),
        ("weights_above_8_bits", {"data_in": 0, "weight": 10, "bias": 0}),
        ("packed_size", {"data_in": 0, "weight": 10, "bias": 10}),
        ("average_bitwidth_total", {"data_in": 10, "weight": 10, "bias": 10}),
        ("bitops", {"data_in": 7, "weight": 7, "bias": 0}),
        ("latency", {"data_in": 0, "weight": 0, "bias": 0}),
    ],
)
def test_bits_cost_what_the_metrics_count(metric: str, prices: dict[str, float]) -> None:
    effects = FormatEffects(np.zeros(1), np.zeros(1), elements=10, macs=7)
    assert {role: Price(frozenset([metric])).of(role, effects) for role in prices} == prices


def test_effects_are_those_of_the_quantized_model(shared: Pipeline) -> None:
    """A format of one weight alone: the outputs of the model that has it nowhere else."""
    entry = {"weight_name": "mxint", "weight_width": 3, "name": "none"}
    config = QuantConfig(layers={"g2": entry})
    (formats,) = (layer.formats for layer in config.layers.resolved(shared.layers(config)).values())
    candidate = RoleFormats("g2", "weight", [formats.weight, None])
    (effects,) = shared.format_effects(QuantConfig(), [candidate], runs=10)
    quantized = shared.quantize(config)
    outputs = np.concatenate([run_quantized(quantized, feed)[0] for feed in FEEDS])
    exact = np.concatenate([shared_float(feed["x"]) for feed in FEEDS])
    wanted = np.sum((outputs - exact) ** 2) / np.sum((exact - exact.mean(axis=0)) ** 2)
    assert effects.errors[0] == pytest.approx(wanted, rel=0.05)
    assert effects.errors[1] == 0
    np.testing.assert_allclose(effects.bits, [3 + 8 / 12, 32])
    assert (effects.elements, effects.macs) == (144, 144)


def test_effects_are_measured_once(tmp_path: Path) -> None:
    candidates = [RoleFormats("g1", "weight", [None]), RoleFormats("g2", "data_in", [None])]
    found = []
    for _ in range(2):
        stages = Pipeline(float_model(chain()), CalibrationData(FEEDS), StageCache(tmp_path))
        found.append(stages.format_effects(QuantConfig(), candidates, runs=1))
        count = stages.cache.counts["format effects"]
    assert (count.computed, count.disk_hits) == (0, 1)
    for first, again in zip(*found, strict=True):
        np.testing.assert_array_equal(first.errors, again.errors)
        assert (first.bits, first.elements, first.macs) == (again.bits, again.elements, again.macs)


@pytest.mark.parametrize(
    ("algorithm", "seed_trials", "seeded"), [("TPE", None, 2), ("TPE", 0, 0), ("TPE", 3, 3)]
)
def test_a_search_begins_with_them(
    tmp_path: Path, shared: Pipeline, algorithm: str, seed_trials: int | None, seeded: int
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(chain(), path)
    settings = {
        "search_space": {"layers": {"Gemm": WEIGHTS}},
        "search_algo": algorithm,
        "metrics": {"L2": {}, "average_bitwidth": {}},
        "seed_trials": seed_trials,
        "search_stop_condition": {"iteration_limit": 8},
        "search_output_dir": str(tmp_path / "out"),
        "search_cache_dir": str(tmp_path),
        "search_log_path": str(tmp_path / "search.log"),
    }
    search = AutoSearch(None, settings, path, FEEDS)
    search.search_model()
    assert search.result is not None
    first = [trial.digest for trial in search.result.trials]
    wanted = [each.digest for each in seeds_of(shared, search.problem.space, seeded)] if seeded else []
    assert len(first) == 8
    assert first[:seeded] == wanted
    said = "formats of single layers" in (tmp_path / "search.log").read_text()
    assert said is bool(seeded)


@pytest.mark.parametrize(
    ("trials", "evaluated", "asked"),
    [(None, 500, (4 * 14, 32)), (100, 500, (4 * 14, 32)), (20, 50, (2 * 14, 32)), (10, 16, (14, 8))],
)
def test_measuring_takes_no_longer_than_the_trials(
    shared: Pipeline,
    trials: int | None,
    evaluated: int,
    asked: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two tensors of each of seven layers, and so many runs over so many samples."""
    seen: list[tuple[int, int]] = []
    measure = shared.format_effects

    def watched(config: QuantConfig, candidates: Any, runs: int, samples: int) -> Any:
        seen.append((runs, samples))
        return measure(config, candidates, runs, samples)

    monkeypatch.setattr(shared, "format_effects", watched)
    seeds_of(shared, space_of(BOTH), 2, trials=trials, samples=evaluated)
    assert seen == [asked]
