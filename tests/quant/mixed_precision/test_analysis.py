"""Options of automatic mixed precision, the table and its cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quant import (
    CalibrationData,
    ConfigError,
    ModelQuantizer,
    Pipeline,
    QuantConfig,
    QuantizationError,
    StageCache,
)
from quant.config import flatten, unflatten
from quant.mixed_precision.blocks import blocks
from quant.mixed_precision.promotion import Promotion, decode_promotion, encode_promotion
from quant.mixed_precision.sensitivity import decode_table, encode_table
from tests.quant.graphs import build, float_model, floats, node, pipeline
from tests.quant.mixed_precision.models import detector, encoder, swish


@pytest.fixture(scope="module")
def shared() -> Pipeline:
    return pipeline(*swish())


def mixed(shared: Pipeline, **options: Any) -> Promotion:
    extra = {"AutoMixprecision": options}
    return shared.promotion(QuantConfig(per_channel=True, include_auto_mp=True, extra_options=extra))


def test_a_budget_bounds_what_becomes_wide(shared: Pipeline) -> None:
    free = mixed(shared, ErrorTarget=1e-4)
    assert free.reached and free.narrow.macs < 0.8
    for budget in (0.0, 0.1):
        bound = mixed(shared, ErrorTarget=1e-4, MaxPromoted=budget)
        assert min(bound.narrow.macs, bound.narrow.weights) >= 1 - budget
        assert free.error < bound.error < bound.error_before


def test_a_number_bounds_what_changes(shared: Pipeline) -> None:
    found = mixed(shared, NumTarget=6)
    assert 1 < len(found.changed) <= 6 and not found.reached and found.error < found.error_before / 2
    assert "not reached" in str(found)
    down = shared.promotion(
        QuantConfig(
            activation_type="QInt16",
            weight_type="QInt16",
            per_channel=True,
            include_auto_mp=True,
            extra_options={"AutoMixprecision": {"NumTarget": 3}},
        )
    )
    assert len(down.changed) == 3 and down.reached


def test_only_named_operators_change(shared: Pipeline) -> None:
    found = mixed(shared, TargetOpType=("Mul", "Conv"), ActTargetQuantType="QInt16")
    assert found.changed and not any("pooled" in name or "gate" in name for name in found.changed)
    with pytest.raises(ConfigError, match=r"TargetOpType: the model has no operator 'LSTM'"):
        mixed(shared, TargetOpType="LSTM")


def test_the_mean_square_is_another_target(shared: Pipeline) -> None:
    found = mixed(shared, L2Target=1e-3)
    assert found.error <= 1e-3 < found.error_before


def test_tensors_with_overrides_keep_what_these_say(shared: Pipeline) -> None:
    options = {"TensorQuantOverrides": {"b0_pooled": {"quant_type": "QUInt8"}}}
    result = shared.quantize(QuantConfig(per_channel=True, include_auto_mp=True, extra_options=options))
    assert result.bits["b0_pooled"] == 8
    assert result.promotion is not None and "b0_expand" in result.promotion.changed


def test_fewer_may_be_measured_and_the_others_follow_by_their_noise(shared: Pipeline) -> None:
    options = {"AutoMixprecision": {"MaxMeasured": 5}}
    table = shared.sensitivity(QuantConfig(per_channel=True, extra_options=options))
    measured = [row for row in table.rows if row.error is not None]
    assert len(measured) == 5
    limit = max(row.sqnr_db or math.inf for row in measured)
    assert all(row.sqnr_db is None or row.sqnr_db >= limit for row in table.rows if row.error is None)
    assert mixed(shared, MaxMeasured=5).reached


def test_ratios_of_signal_to_noise_are_those_of_the_values() -> None:
    x = floats(64, 50)
    x[0, 0] = 40
    model = build([node("MatMul", "x w", "y")], {"x": ["N", 50]}, {"w": floats(50, 4, seed=1)}, "y")
    table = pipeline(model, {"x": x}).sensitivity(QuantConfig())
    ratios = {row.group.name: row.sqnr_db for row in table.rows}
    for name, values, symmetric in (("x", x, False), ("w", floats(50, 4, seed=1), True)):
        scale = 2 * np.abs(values).max() / 254 if symmetric else (values.max() - values.min()) / 255
        noise = values - np.rint(values / scale) * scale
        wanted = 10 * np.log10(np.sum(values.astype(float) ** 2) / np.sum(noise.astype(float) ** 2))
        assert ratios[name] == pytest.approx(wanted, abs=0.15)


def test_the_table_goes_through_json(shared: Pipeline) -> None:
    table = shared.sensitivity(QuantConfig(extra_options={"AutoMixprecision": {"MaxMeasured": 9}}))
    assert decode_table(memoryview(encode_table(table))) == table
    promotion = mixed(shared)
    assert decode_promotion(memoryview(encode_promotion(promotion))) == promotion


def test_what_was_found_is_kept_on_disk(tmp_path: Path) -> None:
    model, feeds = detector()
    counts = []
    for target in (0.01, 0.01, 0.02):
        again = Pipeline(float_model(model), CalibrationData(feeds), StageCache(tmp_path), threads=1)
        options = {"AutoMixprecision": {"ErrorTarget": target}}
        assert again.quantize(QuantConfig(include_auto_mp=True, extra_options=options)).promotion is not None
        counts.append([again.cache.counts[stage].computed for stage in ("statistics", "promotion")])
        counts[-1].append(getattr(again.cache.counts.get("sensitivity"), "computed", 0))
    assert counts == [[1, 1, 1], [0, 0, 0], [0, 1, 0]]


def test_the_table_by_itself(tmp_path: Path) -> None:
    model, feeds = detector()
    onnx.save(model, tmp_path / "m.onnx")
    table = ModelQuantizer(QuantConfig()).sensitivity(tmp_path / "m.onnx", feeds)
    worst = table.ranked[0]
    assert worst.group.name == "found" and worst.group.op_type == "Concat"
    assert worst.shares.macs == 0 and worst.error is not None and worst.error > 1 > table.wide.worst


def test_contradicting_targets_are_refused() -> None:
    options = {"AutoMixprecision": {"ActTargetQuantType": "QInt16", "WeightTargetQuantType": "QInt4"}}
    with pytest.raises(ConfigError, match="AutoMixprecision: ActTargetQuantType and WeightTargetQuantType"):
        QuantConfig(include_auto_mp=True, extra_options=options)
    QuantConfig(extra_options=options)


def test_nothing_to_change_is_said() -> None:
    options = {"AutoMixprecision": {"ActTargetQuantType": "QInt8"}}
    with pytest.raises(QuantizationError, match="include_auto_mp: no tensor may change its type"):
        pipeline(*detector()).quantize(QuantConfig(include_auto_mp=True, extra_options=options))


def test_options_are_a_level_of_their_own() -> None:
    nested = QuantConfig(extra_options={"AutoMixprecision": {"NumTarget": 3}}).to_dict()
    assert flatten(nested)["extra_options.AutoMixprecision.NumTarget"] == 3
    assert unflatten(flatten(nested)) == nested


def test_blocks_end_where_one_tensor_passes() -> None:
    model, _ = encoder()
    found = blocks(tuple(ir.from_proto(model).graph))
    ends = [block[-1].outputs[0].name for block in found]
    assert ends == [f"l{layer}_{end}" for layer in range(3) for end in ("sum", "out")] + ["logits"]
    assert sum(map(len, found)) == len(model.graph.node)
