from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from examples.mlp import BatchNorm, Layer, Linear, Relu, accuracy, export, predict, softmax, train


def stack(rng: np.random.Generator) -> dict[str, Layer]:
    norm = BatchNorm(6)
    norm.parameters[0][:] = rng.normal(size=6)
    return {"a": Linear(3, 6, rng), "b": norm, "c": Relu(), "d": Linear(6, 4, rng)}


def loss(layers: list[Layer], x: np.ndarray, labels: np.ndarray) -> float:
    probabilities = softmax(predict(layers, x, training=True))
    return float(-np.log(probabilities[np.arange(len(x)), labels]).mean())


def test_gradients_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    layers = list(stack(rng).values())
    x, labels = rng.normal(size=(20, 3)), rng.integers(0, 4, 20)
    gradient = softmax(predict(layers, x, training=True))
    gradient[np.arange(20), labels] -= 1
    gradient /= 20
    for layer in reversed(layers):
        gradient = layer.backward(gradient)
    step = 1e-6
    for layer in layers:
        slopes = [slope.copy() for slope in layer.gradients]
        for parameter, slope in zip(layer.parameters, slopes, strict=True):
            for index in np.ndindex(parameter.shape):
                parameter[index] += step
                above = loss(layers, x, labels)
                parameter[index] -= 2 * step
                below = loss(layers, x, labels)
                parameter[index] += step
                assert slope[index] == pytest.approx((above - below) / (2 * step), abs=1e-7)


def test_training_learns_and_the_file_computes_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    layers = stack(rng)
    x = rng.normal(5, 2, size=(600, 3))
    labels = (x > 5)[:, :2] @ (1, 2)
    train(list(layers.values()), x, labels, epochs=30, batch_size=60, learning_rate=0.02, rng=rng)
    logits = predict(list(layers.values()), x)
    assert accuracy(logits, labels) > 0.95
    export(layers, 3, 4, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (written,) = session.run(None, {"input": x.astype(np.float32)})
    np.testing.assert_allclose(written, logits, rtol=1e-4, atol=1e-4)


def test_the_same_seed_trains_the_same() -> None:
    results = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        layers = list(stack(rng).values())
        x = rng.normal(size=(50, 3))
        train(layers, x, rng.integers(0, 4, 50), epochs=2, batch_size=16, learning_rate=0.01, rng=rng)
        results.append(predict(layers, x))
    np.testing.assert_array_equal(*results)
