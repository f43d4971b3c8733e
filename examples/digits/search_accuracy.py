"""Searches the digits CNN for 8-bit models that keep their accuracy, with an evaluator of one's own.

python examples/digits/search_accuracy.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationMethod

from autosearch import AutoSearch, AutoSearchConfig, StopCondition
from quant import PowerOfTwoMethod, QuantConfig, QuantType

HERE = Path(__file__).parent


def accuracy(model_path: str) -> float:
    """Share of the test images that a model recognises; higher is better unless said otherwise."""
    test = np.load(HERE / "test.npz")
    logits = ort.InferenceSession(model_path).run(None, {"input": test["input"]})[0]
    return float((logits.argmax(axis=1) == test["labels"]).mean())


def main() -> None:
    """Prints what was found."""
    images = np.load(HERE / "calibration.npz")["input"]
    batches = [{"input": images[start : start + 32]} for start in range(0, len(images), 32)]
    config = AutoSearchConfig(
        search_space={
            "calibrate_method": [
                CalibrationMethod.MinMax,
                CalibrationMethod.Entropy,
                PowerOfTwoMethod.MinMSE,
            ],
            "activation_type": [QuantType.QUInt8, QuantType.QInt8],
            "per_channel": [False, True],
            "include_cle": [False, True],
            "extra_options": {"ActivationSymmetric": [False, True]},
        },
        search_algo="random",
        search_evaluator=accuracy,
        search_metric_tolerance=0.002,  # one image of 500
        search_stop_condition=StopCondition(find_n_candidates=5),
        search_output_dir="results/digits_accuracy",
    )
    search = AutoSearch(QuantConfig(weight_type=QuantType.QInt8), config, HERE / "digits_cnn.onnx", batches)
    for candidate in search.search_model():
        print(f"{candidate['metrics']['accuracy']:.3f}  {candidate['model_path']}")
    assert search.result is not None
    print(search.result.stop_reason)


if __name__ == "__main__":
    main()
