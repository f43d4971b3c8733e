"""Models on which plain int8 fails, before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from quant import QuantConfig, QuantizedModel
from tests.quant.graphs import Array, Feed, pipeline, relative_error, run
from tests.quant.mixed_precision.models import (
    RECORDED,
    Case,
    detections,
    detector,
    encoder,
    recurrent,
    swish,
    trajectory,
)

MIXED: dict[str, Any] = {"per_channel": True, "include_auto_mp": True}


def before_and_after(case: Case, **options: Any) -> tuple[QuantizedModel, QuantizedModel]:
    model, feeds = case
    shared = pipeline(model, feeds)
    plain = shared.quantize(QuantConfig(per_channel=True))
    return plain, shared.quantize(QuantConfig(**MIXED, extra_options={"AutoMixprecision": options}))


def outputs(model: onnx.ModelProto, feeds: list[Feed]) -> Array:
    return np.concatenate([run(model, feed)[0] for feed in feeds])


def agreement(case: Case, quantized: QuantizedModel) -> float:
    """Share of samples that get the class that the float model gives them."""
    model, feeds = case
    wanted, got = (outputs(each, feeds).argmax(axis=-1) for each in (model, quantized.model))
    return float((wanted == got).mean())


def narrow_shares(quantized: QuantizedModel) -> tuple[float, float]:
    assert quantized.promotion is not None
    return quantized.promotion.narrow.macs, quantized.promotion.narrow.weights


def test_outliers_in_residual_sums_of_an_encoder() -> None:
    plain, mixed = before_and_after(encoder(), ErrorTarget=0.005)
    assert agreement(encoder(), plain) < 0.5
    assert agreement(encoder(), mixed) > 0.9
    assert min(narrow_shares(mixed)) > 0.95
    assert {"l0_out", "l1_sum", "l1_out"} <= {name for name, bits in mixed.bits.items() if bits == 16}


def test_boxes_beside_scores_in_the_last_concat_of_a_detector() -> None:
    model, feeds = detector()
    plain, mixed = before_and_after(detector())
    wanted = detections(outputs(model, feeds))
    assert len(wanted) > 50
    assert not detections(outputs(plain.model, feeds))
    found = detections(outputs(mixed.model, feeds))
    assert len(found ^ wanted) < 0.05 * len(wanted)
    boxes = outputs(model, feeds)[..., :4] - outputs(mixed.model, feeds)[..., :4]
    assert np.abs(boxes).max() < 0.02 * 640
    assert mixed.promotion is not None and mixed.promotion.changed == ("found",)
    assert narrow_shares(mixed) == (1.0, 1.0)


def test_swish_and_squeeze_and_excite() -> None:
    plain, mixed = before_and_after(swish())
    assert agreement(swish(), plain) < 0.5
    assert agreement(swish(), mixed) > 0.9
    assert min(narrow_shares(mixed)) > 0.95


def test_states_of_a_recurrent_cell() -> None:
    model, _ = recurrent()
    plain, mixed = before_and_after(recurrent(), ErrorTarget=0.004)
    wanted, narrow, rescued = (
        np.array([state for _, (_, state) in trajectory(each, RECORDED)])
        for each in (model, plain.model, mixed.model)
    )
    assert relative_error(wanted[-1], narrow[-1]) > 0.1
    assert relative_error(wanted[-1], rescued[-1]) < 0.05
    assert min(narrow_shares(mixed)) > 0.95
    assert {"c", "kept", "next_c"} <= {name for name, bits in mixed.bits.items() if bits == 16}


@pytest.mark.parametrize("granularity", ["node", "block"])
def test_coarser_granularities_reach_the_target(granularity: str) -> None:
    for case in (encoder(), detector(), swish()):
        _, mixed = before_and_after(case, Granularity=granularity)
        assert mixed.promotion is not None and mixed.promotion.reached
        assert mixed.promotion.error <= 0.01 < mixed.promotion.error_before


def test_demotion_ends_where_promotion_does() -> None:
    """From 16 bits down as from 8 bits up: the same tensors are wide."""
    model, feeds = detector()
    shared = pipeline(model, feeds)
    up = shared.quantize(QuantConfig(**MIXED))
    down = shared.quantize(QuantConfig(**MIXED, activation_type="QInt16", weight_type="QInt16"))
    assert up.promotion is not None and down.promotion is not None
    assert not down.promotion.promotes and down.promotion.error_before < 0.002
    assert up.bits == down.bits
    assert up.promotion.error == down.promotion.error


def test_promotion_is_the_same_in_every_pipeline() -> None:
    model, feeds = swish()
    results = [pipeline(model, feeds).quantize(QuantConfig(**MIXED)).model for _ in range(2)]
    assert results[0] == results[1]
