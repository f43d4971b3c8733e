"""Train the jet classifier, and write it and its data beside this script, or elsewhere for real jets.

    python -m examples.jets.train
    python -m examples.jets.train --data hls4ml_jets.csv --output-dir results/jets_real

Takes about half a minute and needs nothing but autosearch's own dependencies. The seed fixes the
result, but for how a machine's linear algebra rounds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from examples.jets.data import CLASSES, FEATURES, read_jets, synthetic_jets
from examples.mlp import BatchNorm, Layer, Linear, Relu, accuracy, export, predict, train

FOLDER = Path(__file__).parent
SEED = 1
SYNTHETIC_SAMPLES = 30_000
VALIDATION_SAMPLES, CALIBRATION_SAMPLES = 4_000, 512
HIDDEN = (64, 32)
EPOCHS = 12


def jet_layers(rng: np.random.Generator) -> dict[str, Layer]:
    """Numbers are those of MASE's jet models, of BatchNorm, ReLU and Linear in turn.

    Their ReLU of the features themselves, number 1, is left out: it would drop half of what they say.
    """
    return {
        "seq_blocks_0": BatchNorm(len(FEATURES)),
        "seq_blocks_2": Linear(len(FEATURES), HIDDEN[0], rng),
        "seq_blocks_3": BatchNorm(HIDDEN[0]),
        "seq_blocks_4": Relu(),
        "seq_blocks_5": Linear(HIDDEN[0], HIDDEN[1], rng),
        "seq_blocks_6": BatchNorm(HIDDEN[1]),
        "seq_blocks_7": Relu(),
        "seq_blocks_8": Linear(HIDDEN[1], len(CLASSES), rng),
    }


def main() -> None:
    """Writes jets.onnx, validation.npz and calibration.npz."""
    options = _options()
    rng = np.random.default_rng(SEED)
    made = options.data is None
    features, labels = synthetic_jets(SYNTHETIC_SAMPLES, rng) if made else read_jets(options.data)
    if len(features) < 4 * VALIDATION_SAMPLES:
        raise SystemExit(f"{options.data}: {len(features)} samples; give at least {4 * VALIDATION_SAMPLES}")
    order = rng.permutation(len(features))
    held_out, used = order[:VALIDATION_SAMPLES], order[VALIDATION_SAMPLES:]
    layers = jet_layers(rng)
    stack = tuple(layers.values())
    train(
        stack,
        features[used].astype(np.float64),
        labels[used],
        epochs=EPOCHS,
        batch_size=256,
        learning_rate=5e-3,
        rng=rng,
    )
    print(f"validation accuracy {accuracy(predict(stack, features[held_out]), labels[held_out]):.4f}")
    folder = options.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    export(layers, len(FEATURES), len(CLASSES), folder / "jets.onnx")
    np.savez_compressed(folder / "validation.npz", input=features[held_out], labels=labels[held_out])
    np.savez_compressed(folder / "calibration.npz", input=features[used[:CALIBRATION_SAMPLES]])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the jet classifier.")
    parser.add_argument("--data", type=Path, metavar="FILE", help="real jets: .csv, .arff, .h5 or .z")
    parser.add_argument("--output-dir", type=Path, metavar="D", default=FOLDER)
    options = parser.parse_args()
    if options.data is not None and options.output_dir == FOLDER:
        parser.error("--data: name an --output-dir, so that the shipped files stay")
    return options


if __name__ == "__main__":
    main()
