"""Train the network of Lab 3 and write the model, calibration and validation files beside this script.

    pip install -e '.[train]'
    python -m examples.lab3.train

Takes some seconds; scikit-learn is needed for its digits alone. The seed fixes the result, but for how
a machine's linear algebra rounds.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from examples.mlp import Layer, Linear, Relu, accuracy, export, predict, train

FOLDER = Path(__file__).parent
SEED = 1
TRAIN_IMAGES, CALIBRATION_IMAGES = 1297, 256  # the last 500 of the 1797 images are for validation
SIDE, CLASSES = 8, 10
WIDTHS = (SIDE * SIDE, 128, 96, 64, 48, CLASSES)
EPOCHS = 300


def shifted(images: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Each image moved by up to a pixel in either direction, with zeros moving in, and noise."""
    square = images.reshape(-1, SIDE, SIDE)
    padded = np.pad(square, ((0, 0), (1, 1), (1, 1)))
    rows, columns = rng.integers(0, 3, (2, len(square), 1, 1))
    steps = np.arange(SIDE)
    moved = padded[np.arange(len(square))[:, None, None], rows + steps[:, None], columns + steps]
    return moved.reshape(images.shape) + rng.normal(0, 1.5, images.shape)


def main() -> None:
    """Writes digits_mlp.onnx, calibration.npz and validation.npz."""
    digits = load_digits()
    images, labels = digits.data.astype(np.float32), digits.target.astype(np.int64)  # 0 to 16
    rng = np.random.default_rng(SEED)
    layers: dict[str, Layer] = {}
    for number, (inputs, outputs) in enumerate(pairwise(WIDTHS), start=1):
        layers[f"linear{number}"] = Linear(inputs, outputs, rng)
        layers[f"relu{number}"] = Relu()
    layers.pop(f"relu{len(WIDTHS) - 1}")
    stack = tuple(layers.values())
    train(
        stack,
        images[:TRAIN_IMAGES].astype(np.float64),
        labels[:TRAIN_IMAGES],
        epochs=EPOCHS,
        batch_size=64,
        learning_rate=2e-3,
        rng=rng,
        augment=lambda batch: shifted(batch, rng),
    )
    validation, validation_labels = images[TRAIN_IMAGES:], labels[TRAIN_IMAGES:]
    print(f"validation accuracy {accuracy(predict(stack, validation), validation_labels):.3f}")
    export(layers, SIDE * SIDE, CLASSES, FOLDER / "digits_mlp.onnx")
    np.savez_compressed(FOLDER / "validation.npz", input=validation, labels=validation_labels)
    chosen = np.sort(rng.permutation(TRAIN_IMAGES)[:CALIBRATION_IMAGES])
    np.savez_compressed(FOLDER / "calibration.npz", input=images[chosen])


if __name__ == "__main__":
    main()
