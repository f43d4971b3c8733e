"""Small models on which plain int8 fails, for the reasons for which it fails on large ones."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx

from tests.quant.graphs import Array, Feed, build, floats, node, run, session

Case = tuple[onnx.ModelProto, list[Feed]]

WIDTH, TOKENS, CLASSES = 32, 8, 10
OUTLIERS = [5, 20]
"""Channels of the encoder's residual stream that are hundreds of times as large as the others."""

LARGE = 300.0
IMAGE, OBJECT_CLASSES = 16, 3
STATE = 16


RECORDED = floats(200, 4, STATE, seed=8)
"""What the recurrent cell is calibrated with: 200 steps of 4 sequences."""


class Layers:
    """Nodes and constants that grow layer by layer; weights are random but seeded."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.random = np.random.default_rng(seed)

    def add(self, op_type: str, inputs: str, output: str, **attributes: object) -> str:
        self.nodes.append(node(op_type, inputs, output, **attributes))
        return output

    def weight(self, name: str, *shape: int, scale: float) -> str:
        self.constants[name] = (self.random.normal(size=shape) * scale).astype(np.float32)
        return name

    def matmul(self, source: str, output: str, inputs: int, outputs: int) -> str:
        weight = self.weight(f"{output}_w", inputs, outputs, scale=inputs**-0.5)
        return self.add("MatMul", f"{source} {weight}", output)

    def convolution(self, source: str, output: str, inputs: int, outputs: int, kernel: int = 3) -> str:
        weight = self.weight(
            f"{output}_w", outputs, inputs, kernel, kernel, scale=(inputs * kernel**2) ** -0.5
        )
        bias = self.weight(f"{output}_b", outputs, scale=0.1)
        return self.add("Conv", f"{source} {weight} {bias}", output, pads=[kernel // 2] * 4)


@cache
def encoder() -> Case:
    """Three pre-normalised transformer layers, with outlier channels in the residual sums.

    As in large encoders, a bias of an early feed-forward layer makes two channels huge, every residual sum
    behind it carries them, and the gains of the LayerNormalizations make them small again.
    """
    layers, stream = Layers(seed=1), "x"
    for name in ("l0", "l1", "l2"):
        normalized = _normalization(layers, f"{name}_n1", stream, outliers=name != "l0")
        mixed = _attention(layers, name, normalized)
        total = layers.add("Add", f"{stream} {mixed}", f"{name}_sum")
        normalized = _normalization(layers, f"{name}_n2", total, outliers=name != "l0")
        active = layers.add(
            "Relu", layers.matmul(normalized, f"{name}_up", WIDTH, 2 * WIDTH), f"{name}_active"
        )
        bias = floats(WIDTH, seed=2, scale=0.1)
        if name == "l0":
            bias[OUTLIERS] = (300, -220)
        layers.constants[f"{name}_bias"] = bias
        forward = layers.matmul(active, f"{name}_down", 2 * WIDTH, WIDTH)
        layers.add("Add", f"{forward} {name}_bias", f"{name}_forward")
        stream = layers.add("Add", f"{total} {name}_forward", f"{name}_out")
    last = _normalization(layers, "last", stream, outliers=True)
    layers.add("Flatten", last, "flat")
    feeds = [{"x": floats(16, TOKENS, WIDTH, seed=seed)} for seed in range(8)]
    return _classifier(layers, TOKENS * WIDTH, ("N", TOKENS, WIDTH), feeds), feeds


def _classifier(
    layers: Layers, features: int, shape: tuple[int | str, ...], feeds: list[Feed]
) -> onnx.ModelProto:
    """Logits of `flat`, less their means: all classes occur."""
    layers.matmul("flat", "raw", features, CLASSES)
    model = build(layers.nodes, {"x": shape}, layers.constants, "raw")
    means = np.concatenate([run(model, feed)[0] for feed in feeds]).mean(axis=0)
    layers.constants["means"] = -means
    layers.add("Add", "raw means", "logits")
    return build(layers.nodes, {"x": shape}, layers.constants, "logits")


def _normalization(layers: Layers, name: str, source: str, *, outliers: bool) -> str:
    gain = 1 + floats(WIDTH, seed=3, scale=0.1)
    if outliers:  # they leave little of the others' variance, which the gains make up for
        gain *= 50
        gain[OUTLIERS] = 0.05
    layers.constants |= {f"{name}_gain": gain, f"{name}_shift": floats(WIDTH, seed=4, scale=0.1)}
    return layers.add("LayerNormalization", f"{source} {name}_gain {name}_shift", f"{name}_out", axis=-1)


def _attention(layers: Layers, name: str, source: str) -> str:
    queries, keys, values = (layers.matmul(source, f"{name}_{part}", WIDTH, WIDTH) for part in "qkv")
    layers.constants["root"] = np.float32(WIDTH**-0.5)
    turned = layers.add("Transpose", keys, f"{name}_turned", perm=[0, 2, 1])
    products = layers.add("MatMul", f"{queries} {turned}", f"{name}_products")
    scaled = layers.add("Mul", f"{products} root", f"{name}_scaled")
    weights = layers.add("Softmax", scaled, f"{name}_weights", axis=-1)
    mixed = layers.add("MatMul", f"{weights} {values}", f"{name}_mixed")
    return layers.matmul(mixed, f"{name}_projected", WIDTH, WIDTH)


@cache
def detector() -> Case:
    """Boxes from 0 to 640 and scores from 0 to 1 in one Concat, as in onnxruntime#14233."""
    layers = Layers(seed=5)
    x = "x"
    for index, (inputs, outputs) in enumerate(((3, 16), (16, 16), (16, 16))):
        x = layers.add("Relu", layers.convolution(x, f"c{index}", inputs, outputs), f"r{index}")
    x = layers.add("MaxPool", x, "pooled", kernel_shape=[2, 2], strides=[2, 2])
    layers.convolution(x, "box_map", 16, 4, kernel=1)
    layers.convolution(x, "score_map", 16, OBJECT_CLASSES, kernel=1)
    layers.constants["score_map_w"] *= 4
    layers.constants["score_map_b"] -= 1.5
    shapes = {"box_shape": np.array([0, 4, -1]), "score_shape": np.array([0, OBJECT_CLASSES, -1])}
    layers.constants |= {**shapes, "size": np.float32(640)}
    for part in ("box", "score"):
        layers.add("Reshape", f"{part}_map {part}_shape", f"{part}_flat")
        layers.add("Sigmoid", f"{part}_flat", f"{part}_unit")
    layers.add("Mul", "box_unit size", "boxes")
    layers.add("Concat", "boxes score_unit", "found", axis=1)
    layers.add("Transpose", "found", "y", perm=[0, 2, 1])
    model = build(layers.nodes, {"x": ["N", 3, IMAGE, IMAGE]}, layers.constants, "y")
    return model, [{"x": floats(4, 3, IMAGE, IMAGE, seed=seed)} for seed in range(8)]


def detections(output: Array, threshold: float = 0.5) -> set[tuple[int, int, int]]:
    """Image, anchor and class of what is found."""
    return {tuple(map(int, where)) for where in np.argwhere(output[..., 4:] > threshold)}


@cache
def swish() -> Case:
    """Swish and squeeze-and-excite blocks whose gates tame channels that are far larger than the others."""
    layers = Layers(seed=6)
    x = _swish(layers, layers.convolution("x", "stem", 3, 16))
    for name in ("b0", "b1"):
        hidden = layers.convolution(x, f"{name}_expand", 16, 24, kernel=1)
        layers.constants[f"{name}_expand_w"][:2] *= LARGE
        active = _swish(layers, hidden)
        gate = _gate(layers, name, active)
        gated = layers.add("Mul", f"{active} {gate}", f"{name}_gated")
        x = layers.add("Add", f"{x} {layers.convolution(gated, f'{name}_project', 24, 16)}", f"{name}_out")
    layers.add("Flatten", layers.add("GlobalAveragePool", x, "pooled"), "flat")
    feeds = [{"x": floats(8, 3, 8, 8, seed=seed)} for seed in range(8)]
    return _classifier(layers, 16, ("N", 3, 8, 8), feeds), feeds


def _swish(layers: Layers, source: str) -> str:
    sigmoid = layers.add("Sigmoid", source, f"{source}_sigmoid")
    return layers.add("Mul", f"{source} {sigmoid}", f"{source}_swish")


def _gate(layers: Layers, name: str, source: str) -> str:
    """Squeeze and excite; the two large channels are made small again."""
    pooled = layers.add("GlobalAveragePool", source, f"{name}_pooled")
    squeezed = layers.convolution(pooled, f"{name}_squeeze", 24, 8, kernel=1)
    layers.constants[f"{name}_squeeze_w"][:, :2] /= LARGE
    excited = layers.convolution(_swish(layers, squeezed), f"{name}_excite", 8, 24, kernel=1)
    layers.constants[f"{name}_excite_b"][:2] -= np.log(LARGE)
    return layers.add("Sigmoid", excited, f"{name}_gate")


@cache
def recurrent() -> Case:
    """A cell that is called step by step, with states that grow slowly to many times its inputs.

    The feeds are the float model's own trajectories, one step of all sequences each.
    """
    layers = Layers(seed=7)
    both = layers.add("Concat", "x h", "both", axis=1)
    gates = {}
    for gate in ("forget", "input", "output", "candidate"):
        mapped = layers.matmul(both, f"{gate}_mapped", 2 * STATE, STATE)
        layers.constants[f"{gate}_bias"] = np.full(STATE, 8.0 if gate == "forget" else 0.0, np.float32)
        biased = layers.add("Add", f"{mapped} {gate}_bias", f"{gate}_biased")
        gates[gate] = layers.add("Tanh" if gate == "candidate" else "Sigmoid", biased, f"{gate}_gate")
    layers.constants["rate"] = np.float32(0.01)
    kept = layers.add("Mul", f"c {gates['forget']}", "kept")
    step = layers.add("Mul", f"{gates['input']} {gates['candidate']}", "step")
    slow = layers.add("Mul", f"{step} rate", "slow")
    layers.add("Add", f"{kept} {slow}", "next_c")
    squashed = layers.add("Tanh", "next_c", "squashed")
    layers.add("Mul", f"{gates['output']} {squashed}", "next_h")
    shapes = {name: ["N", STATE] for name in ("x", "h", "c")}
    model = build(layers.nodes, shapes, layers.constants, "next_h next_c")
    return model, [feed for feed, _ in trajectory(model, RECORDED)]


def trajectory(model: onnx.ModelProto, inputs: Array) -> list[tuple[Feed, list[Array]]]:
    """Feeds and results of a cell that is called step by step with its own states.

    Args:
        model: The cell.
        inputs: Shape (steps, sequences, STATE).
    """
    runner, steps = session(model), []
    h = np.zeros(inputs.shape[1:], np.float32)
    c = np.zeros_like(h)
    for x in inputs:
        feed = {"x": x, "h": h, "c": c}
        h, c = runner.run(None, feed)
        steps.append((feed, [h, c]))
    return steps
