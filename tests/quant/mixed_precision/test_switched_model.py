from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quant import Pipeline, QuantConfig
from quant.graph.session import float_session
from quant.mixed_precision.analysis import PrecisionAnalysis
from quant.mixed_precision.groups import own_tensors
from quant.mixed_precision.switched_model import Precision, settings, switched_model
from tests.parity.models import CASES
from tests.quant.graphs import Array, Feed, pipeline, relative_error, run, session

TYPES: list[dict[str, Any]] = [
    {"per_channel": True},
    {"activation_type": "QUInt8", "extra_options": {"AddQDQPairToWeight": True}},
    {
        "activation_type": "QUInt8",
        "weight_type": "QInt4",
        "extra_options": {
            "BlockSize": 4,
            "AutoMixprecision": {"ActTargetQuantType": "QUInt16", "WeightTargetQuantType": "QInt8"},
        },
    },
    {
        "activation_type": "QFLOAT8E4M3FN",
        "extra_options": {"AutoMixprecision": {"ActTargetQuantType": "QFloat16"}},
    },
]


def switched_outputs(shared: Pipeline, config: QuantConfig, feed: Feed, precision: Precision) -> list[Array]:
    """With every tensor at one precision."""
    subject = shared._subject(config)
    switches = dict(PrecisionAnalysis(subject)._switches())
    model = switched_model(subject.model, switches)
    flags = settings(dict.fromkeys(own_tensors(subject.placement), precision))
    with float_session(model, (), ("CPUExecutionProvider",), 1) as found:
        taken = {value.name for value in found.get_inputs()}
        outputs: list[Array] = found.run(None, feed | {name: flags[name] for name in taken - feed.keys()})
    return outputs


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("types", TYPES, ids=["int8", "float weights", "int4 blocks", "float8"])
def test_every_setting_is_a_model_of_its_own(case: str, types: dict[str, Any]) -> None:
    """Float: the float model. Narrow and wide: the model with these Q/DQ nodes, run node by node.

    Biases are no matter of precision, and stay float here.
    """
    model, feeds = CASES[case]()
    extra = {"QuantizeBias": False, **types.get("extra_options", {})}
    shared = pipeline(model, feeds)
    config = QuantConfig(**{**types, "include_auto_mp": True, "extra_options": extra})
    subject = shared._subject(config)
    plain = shared.quantize(subject.changed(()))
    every = {name for group in PrecisionAnalysis(subject).groups for name in group.tensors}
    wide = shared.quantize(subject.changed(every))
    floats = run(model, feeds[0])
    for precision, wanted in (
        (Precision.FLOAT, run(model, feeds[0], optimized=False)),
        (Precision.NARROW, session(plain.standalone(), optimized=False).run(None, feeds[0])),
        (Precision.WIDE, session(wide.standalone(), optimized=False).run(None, feeds[0])),
    ):
        got = switched_outputs(shared, config, feeds[0], precision)
        for f, w, g in zip(floats, wanted, got, strict=True):
            if f.dtype.kind != "f":
                continue
            assert g.shape == w.shape
            close = np.isclose(g, w, rtol=1e-5, atol=2e-5 * np.abs(f).max())
            assert close.mean() > 0.75  # a sum in another order may reach the next code


@pytest.mark.parametrize("case", CASES)
def test_mixed_precision_on_every_model(case: str) -> None:
    model, feeds = CASES[case]()
    shared = pipeline(model, feeds)
    options = {"AutoMixprecision": {"ErrorTarget": 1e-4}}
    mixed = shared.quantize(QuantConfig(include_auto_mp=True, extra_options=options))
    assert mixed.promotion is not None
    assert mixed.promotion.error <= mixed.promotion.error_before * 1.01
    table = shared.sensitivity(QuantConfig(extra_options=options))
    assert mixed.promotion.reached or mixed.promotion.error <= 3 * table.wide.worst
    for wanted, got in zip(run(model, feeds[0]), run(mixed.model, feeds[0]), strict=True):
        if wanted.dtype.kind == "f" and mixed.promotion.reached:
            assert relative_error(wanted, got) < 0.05
