"""No transform changes the function of the float model, whatever the model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from quant import CalibrationData, Pipeline, QuantConfig
from tests.parity.models import CASES
from tests.quant.graphs import float_model, run

TRANSFORMS = {
    "prepared": QuantConfig(),
    "left alone": QuantConfig(optimize_model=False),
    "equalized": QuantConfig(include_cle=True, extra_options={"CLESteps": -1}),
    "smoothed": QuantConfig(include_sq=True, extra_options={"SmoothAlpha": 0.8}),
    "both": QuantConfig(include_cle=True, include_sq=True, extra_options={"CLEScaleAppendBias": True}),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", CASES)
def test_float_outputs_stay(case: str, transform: str) -> None:
    model, feeds = CASES[case]()
    stages = Pipeline(float_model(model), CalibrationData(feeds), threads=1)
    transformed = stages.transform(TRANSFORMS[transform])
    assert all(skip.node and skip.reason for skip in transformed.skipped)
    changed = ir.to_proto(transformed.model)
    feed = next(iter(CalibrationData(feeds)))
    for wanted, got in zip(run(model, feed), run(changed, feed), strict=True):
        largest = max(float(np.abs(wanted).max(initial=0)), 1e-3)
        np.testing.assert_allclose(got, wanted, atol=2e-4 * largest)
