"""Histogram methods, whose bins are not onnxruntime's: ranges agree within one bin."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import CalibrationMethod, create_calibrator

from quant import ExtraOptions
from quant.calibration.collect import collect_statistics
from quant.calibration.distribution import moments
from quant.calibration.ranges import calibrated_range
from tests.parity.models import CASES
from tests.parity.reference import Reader, both, quantization_numbers

HISTOGRAMS: dict[str, tuple[dict[str, Any], int]] = {
    # onnxruntime's bins between zero and the largest magnitude of the first batch
    "Percentile": ({"calibrate_method": "Percentile", "extra_options": {"Percentile": 99.0}}, 2048),
    "Percentile, not symmetric": (
        {
            "calibrate_method": "Percentile",
            "extra_options": {"Percentile": 99.0, "CalibTensorRangeSymmetric": False},
        },
        1024,
    ),
    "Entropy": ({"calibrate_method": "Entropy"}, 64),
}
ALL = {"DistributionDeviations": 1e30, "CalibTensorRangeSymmetric": True}


def ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Real numbers at the ends of the grid of every activation, by name."""
    numbers = quantization_numbers(model)
    activations = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    found = {}
    for name in activations:
        scale, zero = (float(numbers[name]), float(numbers[name.removesuffix("scale") + "zero_point"]))
        limits = np.iinfo(numbers[name.removesuffix("scale") + "zero_point"].dtype)
        found[name] = (scale * (limits.min - zero), scale * (limits.max - zero))
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", HISTOGRAMS)
def test_ranges_are_within_one_bin(case: str, method: str, tmp_path: Path) -> None:
    arguments, bins = HISTOGRAMS[method]
    model, feeds = CASES[case]()
    if method == "Entropy":  # onnxruntime takes all batches for one, which leaves its extremes
        feeds = [{name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}]
    arguments = {"activation_type": "QUInt16"} | arguments
    mine, theirs = (ranges(result) for result in both(model, feeds, tmp_path, **arguments))
    extremes, _ = both(model, feeds, tmp_path, activation_type="QUInt16")
    assert mine.keys() == theirs.keys()
    for name, (low, high) in ranges(extremes).items():
        largest = max(-low, high)
        # one of theirs, one of ours (at least 1024 on the largest magnitude), and rounded zero points
        step = largest / bins + largest / 1024 + largest * 1e-4
        np.testing.assert_allclose(mine[name], theirs[name], rtol=0, atol=step, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_distribution_of_integers_is_the_largest_magnitude(case: str, tmp_path: Path) -> None:
    """onnxruntime's has no other range for them; its last bin may reach beyond the largest magnitude."""
    model, feeds = CASES[case]()
    onnx.save(model, tmp_path / "float.onnx")
    with contextlib.redirect_stdout(io.StringIO()):
        calibrater = create_calibrator(
            tmp_path / "float.onnx",
            augmented_model_path=tmp_path / "augmented.onnx",
            calibrate_method=CalibrationMethod.Distribution,
        )
        calibrater.collect_data(Reader(feeds))
        theirs = calibrater.compute_data()
    names = [name for name in theirs if name in {value.name for value in model.graph.output}]
    mine = collect_statistics(ir.from_proto(model), names, feeds, histograms=True)
    assert names
    for name in names:
        low, high = calibrated_range(mine[name], CalibrationMethod.Distribution, ExtraOptions(**ALL), 255)
        step = high / 1024
        np.testing.assert_allclose((low, high), theirs[name].range_value, rtol=0, atol=step)
        wanted = theirs[name].avg_std
        np.testing.assert_allclose(moments(mine[name]), wanted, rtol=1e-3, atol=step)
