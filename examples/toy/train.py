"""Make the toy data, train the toy network, and write both beside this script.

python -m examples.toy.train

Takes some seconds and needs nothing but autosearch's own dependencies. The seed fixes the result,
but for how a machine's linear algebra rounds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.mlp import Linear, Relu, accuracy, export, predict, train

FOLDER = Path(__file__).parent
SEED = 1
BITS, CLASSES = 4, 2
NOISE = 0.15  # all four features are on their own side with probability 0.998
SCALE = 0.25  # so that activations suit fixed-point numbers of a few bits with 3 and more after the point
HIDDEN = 100
TRAIN_SAMPLES, VALIDATION_SAMPLES, CALIBRATION_SAMPLES = 20_000, 2_000, 256
EPOCHS = 8


def noisy_parity(samples: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Bits with normal noise, centred and scaled, (samples, BITS), and whether the number of ones is odd.

    No feature by itself says anything of the class, so that a linear model is right half of the time.
    """
    bits = rng.integers(0, 2, (samples, BITS))
    features = SCALE * (bits - 0.5 + rng.normal(0, NOISE, bits.shape))
    return features.astype(np.float32), bits.sum(axis=1) % 2


def main() -> None:
    """Writes toy.onnx, validation.npz and calibration.npz."""
    rng = np.random.default_rng(SEED)
    features, labels = noisy_parity(TRAIN_SAMPLES, rng)
    validation, validation_labels = noisy_parity(VALIDATION_SAMPLES, rng)
    layers = {
        "seq_blocks_0": Linear(BITS, HIDDEN, rng),
        "seq_blocks_1": Relu(),
        "seq_blocks_2": Linear(HIDDEN, HIDDEN, rng),
        "seq_blocks_3": Relu(),
        "seq_blocks_4": Linear(HIDDEN, CLASSES, rng),
    }
    stack = tuple(layers.values())
    train(
        stack,
        features.astype(np.float64),
        labels,
        epochs=EPOCHS,
        batch_size=128,
        learning_rate=2e-3,
        rng=rng,
    )
    print(f"validation accuracy {accuracy(predict(stack, validation), validation_labels):.4f}")
    export(layers, BITS, CLASSES, FOLDER / "toy.onnx")
    np.savez_compressed(FOLDER / "validation.npz", input=validation, labels=validation_labels)
    np.savez_compressed(FOLDER / "calibration.npz", input=features[:CALIBRATION_SAMPLES])


if __name__ == "__main__":
    main()
