from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSIFIERS = {"toy": ("toy", 0.9975, 4), "jets": ("jets", 0.73, 16), "lab3": ("digits_mlp", 0.968, 64)}
"""File, accuracy as the README says, features."""


def session(model: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("example", CLASSIFIERS)
def test_a_classifier_is_as_right_as_its_readme_says(example: str) -> None:
    file, expected, features = CLASSIFIERS[example]
    folder = EXAMPLES / example
    data = np.load(folder / "validation.npz")
    assert data["input"].dtype == np.float32
    assert data["input"].shape == (len(data["labels"]), features)
    (logits,) = session(folder / f"{file}.onnx").run(["logits"], {"input": data["input"]})
    accuracy = float((logits.argmax(axis=1) == data["labels"]).mean())
    assert accuracy == pytest.approx(expected, abs=0.003)
    assert str(round(accuracy, 4)).rstrip("0") in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("example", CLASSIFIERS)
def test_calibration_data_are_not_those_of_validation(example: str) -> None:
    _, _, features = CLASSIFIERS[example]
    calibration = np.load(EXAMPLES / example / "calibration.npz")["input"]
    validation = np.load(EXAMPLES / example / "validation.npz")["input"]
    assert (calibration.dtype, calibration.shape[1]) == (np.float32, features)
    seen = {row.tobytes() for row in validation}
    assert not any(row.tobytes() in seen for row in calibration)


def test_layers_are_called_as_in_mase() -> None:
    for example, linear in (("toy", (0, 2, 4)), ("jets", (2, 5, 8))):
        nodes = onnx.load(EXAMPLES / example / f"{example}.onnx").graph.node
        gemms = [node.name for node in nodes if node.op_type == "Gemm"]
        assert gemms == [f"seq_blocks_{number}" for number in linear]
    assert [node.op_type for node in nodes].count("BatchNormalization") == 3


def mean_loss(logits: np.ndarray, input_ids: np.ndarray) -> float:
    """Of each token by those before it, in float64."""
    scores = logits[:, :-1].astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    log_sums = np.log(np.exp(scores).sum(axis=-1))
    targets = np.take_along_axis(scores, input_ids[:, 1:, None], axis=-1)[..., 0]
    return float((log_sums - targets).mean())


def test_the_language_model_is_as_good_as_its_readme_says() -> None:
    folder = EXAMPLES / "lm"
    input_ids = np.load(folder / "heldout.npz")["input_ids"]
    model = session(folder / "model.onnx")
    pieces = [input_ids[start : start + 64] for start in range(0, len(input_ids), 64)]
    losses = [
        mean_loss(model.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0], ids)
        for ids in pieces
    ]
    perplexity = np.exp(np.average(losses, weights=[len(piece) for piece in pieces]))
    assert perplexity < 30
    assert f"{perplexity:.1f}" in (folder / "README.md").read_text("utf-8")


def test_the_language_model_looks_at_earlier_tokens_alone_and_not_at_padding() -> None:
    folder = EXAMPLES / "lm"
    model = session(folder / "model.onnx")
    ids = np.load(folder / "heldout.npz")["input_ids"][:1, :12]

    def logits(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return model.run(["logits"], {"input_ids": tokens, "attention_mask": mask})[0]

    whole = logits(ids, np.ones_like(ids))
    np.testing.assert_allclose(logits(ids[:, :7], np.ones((1, 7), np.int64)), whole[:, :7], atol=1e-4)
    padded, mask = np.hstack([np.ones((1, 3), np.int64), ids]), np.repeat([[0, 1]], [3, 12], axis=1)
    np.testing.assert_allclose(logits(padded, mask)[:, 3:], whole, atol=1e-4)


def test_files_are_small() -> None:
    for path in EXAMPLES.rglob("*"):
        if path.is_file() and path.suffix in (".onnx", ".npz", ".txt", ".json"):
            assert path.stat().st_size < (2_000_000 if path.suffix == ".onnx" else 1_000_000), path
