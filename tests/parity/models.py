"""Models at opset 21 on which both quantizers start from the same graph.

Five are built here node by node, two more for sharing and for chains of constants; the others are
exports of PyTorch models, written by `make_models.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from quant import load_float_model
from quant.calibration.data import InputSpec
from quant.graph.prepare import prepare
from tests.quant.graphs import Feed, build, floats, node

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
EXPORTED = Path(__file__).parent / "models"

Case = tuple[onnx.ModelProto, list[Feed]]


def digits_cnn() -> Case:
    """The shipped example, with its BatchNormalizations folded by us."""
    model, _ = prepare(load_float_model(EXAMPLE / "digits_cnn.onnx").model, optimize=True)
    with np.load(EXAMPLE / "calibration.npz") as archive:
        images = archive[next(name for name in archive.files if archive[name].ndim == 4)]
    name = model.graph.inputs[0].name
    assert name is not None
    return ir.to_proto(model), [{name: images[i : i + 16]} for i in range(0, 48, 16)]


def residual_cnn() -> Case:
    """Conv-Relu-Conv + skip, two outputs, a shared bias, Clip, grouped and transposed convolutions."""
    nodes = [
        node("Conv", "x w1 b", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b", "c2", pads=[1, 1, 1, 1]),
        node("Add", "c2 c1", "a"),
        node("Relu", "a", "r2"),
        node("Conv", "r2 w3", "c3", group=4),
        node("Clip", "c3 low high", "k"),
        node("LeakyRelu", "k", "l", alpha=0.1),
        node("ConvTranspose", "l w4 offset", "t", strides=[2, 2]),
        node("Sigmoid", "t", "s"),
        node("Mul", "s t", "m"),
        node("GlobalAveragePool", "m", "g"),
        node("Flatten", "g", "f"),
    ]
    constants = {
        "w1": floats(4, 3, 3, 3, seed=1),
        "w2": floats(4, 4, 3, 3, seed=2, scale=0.3),
        "w3": floats(8, 1, 3, 3, seed=3),
        "w4": floats(8, 5, 2, 2, seed=4),
        "b": floats(4, seed=5),
        "offset": floats(5, seed=6),
        "low": np.float32(0),
        "high": np.float32(6),
    }
    model = build(nodes, {"x": ["N", 3, 8, 8]}, constants, "f r2")
    return model, [{"x": floats(4, 3, 8, 8, seed=seed)} for seed in range(3)]


def mlp() -> Case:
    nodes = [
        node("Gemm", "x w1 b1", "h1", transB=1),
        node("Relu", "h1", "r1"),
        node("Gemm", "r1 w2 b2", "h2"),
        node("Relu", "h2", "r2"),
        node("Gemm", "r2 w3", "h3", transB=1, alpha=0.5),
        node("Softmax", "h3", "y", axis=-1),
    ]
    constants = {
        "w1": floats(16, 8, seed=1),
        "b1": floats(16, seed=2),
        "w2": floats(16, 12, seed=3),
        "b2": floats(12, seed=4),
        "w3": floats(5, 12, seed=5),
    }
    return build(nodes, {"x": ["N", 8]}, constants, "y"), [{"x": floats(32, 8, seed=s)} for s in range(3)]


def attention() -> Case:
    """One pre-normalised attention block with a residual connection."""
    nodes = [
        node("LayerNormalization", "x gamma beta", "n", axis=-1),
        node("MatMul", "n wq", "q0"),
        node("Add", "q0 bq", "q"),
        node("MatMul", "n wk", "k"),
        node("MatMul", "n wv", "v"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "scores"),
        node("Mul", "scores factor", "scaled"),
        node("Softmax", "scaled", "p", axis=-1),
        node("MatMul", "p v", "o"),
        node("MatMul", "o wo", "projected"),
        node("Add", "x projected", "y"),
    ]
    constants = {name: floats(16, 16, seed=i, scale=0.3) for i, name in enumerate(("wq", "wk", "wv", "wo"))}
    constants |= {
        "gamma": floats(16, seed=9) + 1,
        "beta": floats(16, seed=8),
        "bq": floats(16, seed=7),
        "factor": np.float32(0.25),
    }
    model = build(nodes, {"x": ["N", 6, 16]}, constants, "y")
    return model, [{"x": floats(4, 6, 16, seed=seed)} for seed in range(3)]


def plumbing() -> Case:
    """Operators that move values about."""
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("MaxPool", "c", "m", kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", "m", "a", kernel_shape=[2, 2]),
        node("Resize", "a - scales", "z", mode="nearest"),
        node("Pad", "z pads", "p"),
        node("Pad", "z pads one", "p1"),
        node("Pad", "z pads", "pe", mode="edge"),
        node("Concat", "p p1 pe", "cat", axis=1),
        node("Split", "cat", "s1 s2", num_outputs=2, axis=1),
        node("Transpose", "s1", "t", perm=[0, 2, 3, 1]),
        node("Reshape", "t shape", "r"),
        node("Slice", "s2 starts ends axes", "sl"),
        node("Squeeze", "sl axes", "sq"),
        node("Unsqueeze", "sq axes", "u"),
        node("Gather", "table indices", "g"),
        node("MatMul", "r g", "y"),
        node("Where", "mask u s2", "wh"),
        node("TopK", "wh k", "values places", axis=-1),
        node("InstanceNormalization", "wh gamma beta", "i"),
    ]
    constants = {
        "w": floats(4, 3, 3, 3, seed=1),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "one": np.float32(1.5),
        "shape": np.array([0, -1, 6]),
        "starts": np.array([0]),
        "ends": np.array([1]),
        "axes": np.array([1]),
        "table": floats(9, 5, seed=2),
        "indices": np.array([8, 3, 1, 0, 4, 4]),
        "mask": np.arange(8) % 2 == 0,
        "k": np.array([3]),
        "gamma": floats(6, seed=3) + 1,
        "beta": floats(6, seed=4),
    }
    model = build(nodes, {"x": ["N", 3, 8, 8]}, constants, "y values i")
    return model, [{"x": floats(4, 3, 8, 8, seed=seed)} for seed in range(3)]


def shared() -> Case:
    """One weight for four operators, biases and constants with many readers."""
    nodes = [
        node("Gemm", "x w b", "g1"),
        node("Relu", "g1", "r1"),
        node("Gemm", "r1 w b", "g2", alpha=0.5),
        node("MatMul", "g2 w", "m"),
        node("Add", "m offset", "a"),
        node("Mul", "a half", "scaled"),
        node("Add", "scaled half", "shifted"),
        node("Add", "g1 shifted", "s"),
        node("Gemm", "s w b", "g3"),
        node("Concat", "g3 g2 g2", "c", axis=1),
        node("Sigmoid", "c", "y"),
    ]
    constants = {"w": floats(8, 8, seed=1, scale=0.4), "b": floats(8, seed=2), "half": np.float32(0.5)}
    constants["offset"] = floats(8, seed=3)
    return build(nodes, {"x": ["N", 8]}, constants, "y s"), [{"x": floats(16, 8, seed=s)} for s in range(3)]


def constant_chain() -> Case:
    """Weights that are computed from constants, and identities on the way."""
    nodes = [
        node("Transpose", "w1", "w1t", perm=[1, 0]),
        node("Identity", "w1t", "weight"),
        node("MatMul", "x weight", "h"),
        node("Identity", "b1", "bias"),
        node("Add", "h bias", "hb"),
        node("Relu", "hb", "r"),
        node("Reshape", "w2 shape", "w2s"),
        node("Mul", "w2s two", "w2m"),
        node("Identity", "r", "ri"),
        node("MatMul", "ri w2m", "y"),
    ]
    constants = {
        "w1": floats(12, 8, seed=1, scale=0.4),
        "b1": floats(12, seed=2),
        "w2": floats(6, 10, seed=3),
        "shape": np.array([12, 5]),
        "two": np.float32(2),
    }
    return build(nodes, {"x": ["N", 8]}, constants, "y"), [{"x": floats(16, 8, seed=s)} for s in range(3)]


def exported(path: Path) -> Case:
    """A file of `make_models.py`, prepared by us, with random feeds."""
    model = load_float_model(path)
    prepared, _ = prepare(model.model, optimize=True)
    return ir.to_proto(prepared), [random_feed(model.inputs, seed) for seed in range(3)]


def random_feed(inputs: tuple[InputSpec, ...], seed: int, batch: int = 4) -> Feed:
    """Normal numbers for inputs of real numbers, token numbers below 20 for those of integers."""
    generator = np.random.default_rng(seed)
    feed = {}
    for spec in inputs:
        assert spec.shape is not None
        shape = [batch if size is None else size for size in spec.shape]
        real = np.issubdtype(spec.dtype, np.floating)
        values = generator.normal(size=shape) if real else generator.integers(20, size=shape)
        feed[spec.name] = values.astype(spec.dtype)
    return feed


_BUILT = (digits_cnn, residual_cnn, mlp, attention, plumbing, shared, constant_chain)
CASES: dict[str, Callable[[], Case]] = {make.__name__: cache(make) for make in _BUILT}
"""Name -> model and feeds, made once; not to be edited."""

CASES |= {path.stem: cache(partial(exported, path)) for path in sorted(EXPORTED.glob("*.onnx"))}
