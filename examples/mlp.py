"""Multilayer perceptrons trained in NumPy and written as ONNX, for the small examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # of Adam

Array = NDArray[np.float64]
Classes = NDArray[np.integer]


class Layer(Protocol):
    """A function of a batch, (samples, features), with parameters that gradient descent changes.

    `backward` takes the loss's gradient by the outputs of the last `forward`, stores those by the
    parameters in `gradients`, and returns that by the inputs.
    """

    op_type: str
    parameters: list[Array]
    gradients: list[Array]

    def forward(self, x: Array, training: bool) -> Array: ...

    def backward(self, gradient: Array) -> Array: ...

    def initializers(self) -> dict[str, Array]:
        """Inputs of its ONNX node after the first one, in their order."""


class Linear:
    """y = x W' + b, with W of shape (outputs, inputs), from He's normal distribution."""

    op_type = "Gemm"

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        self.parameters = [rng.normal(0, np.sqrt(2 / inputs), (outputs, inputs)), np.zeros(outputs)]
        self.gradients: list[Array] = []

    def forward(self, x: Array, training: bool) -> Array:
        self._x = x
        weight, bias = self.parameters
        return x @ weight.T + bias

    def backward(self, gradient: Array) -> Array:
        self.gradients = [gradient.T @ self._x, gradient.sum(axis=0)]
        return gradient @ self.parameters[0]

    def initializers(self) -> dict[str, Array]:
        return dict(zip(("weight", "bias"), self.parameters, strict=True))


class Relu:
    """max(x, 0)."""

    op_type = "Relu"

    def __init__(self) -> None:
        self.parameters: list[Array] = []
        self.gradients: list[Array] = []

    def forward(self, x: Array, training: bool) -> Array:
        self._positive = x > 0
        return x * self._positive

    def backward(self, gradient: Array) -> Array:
        return gradient * self._positive

    def initializers(self) -> dict[str, Array]:
        return {}


@dataclass
class BatchNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift, of the batch or, in inference, of the past.

    Ioffe and Szegedy, 2015, arXiv:1502.03167.
    """

    features: int
    momentum: float = 0.9
    epsilon: float = 1e-5
    op_type: str = "BatchNormalization"
    gradients: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = [np.ones(self.features), np.zeros(self.features)]
        self.mean, self.variance = np.zeros(self.features), np.ones(self.features)
        self._is_first = True

    def forward(self, x: Array, training: bool) -> Array:
        mean, variance = self.mean, self.variance
        if training:
            mean, variance = x.mean(axis=0), x.var(axis=0)
            kept = 0.0 if self._is_first else self.momentum
            self.mean = kept * self.mean + (1 - kept) * mean
            self.variance = kept * self.variance + (1 - kept) * variance
            self._is_first = False
        self._deviation = np.sqrt(variance + self.epsilon)
        self._normal = (x - mean) / self._deviation
        scale, shift = self.parameters
        return self._normal * scale + shift

    def backward(self, gradient: Array) -> Array:
        self.gradients = [(gradient * self._normal).sum(axis=0), gradient.sum(axis=0)]
        through = gradient * self.parameters[0]
        centred = through - through.mean(axis=0) - self._normal * (through * self._normal).mean(axis=0)
        return centred / self._deviation

    def initializers(self) -> dict[str, Array]:
        scale, shift = self.parameters
        return {"weight": scale, "bias": shift, "running_mean": self.mean, "running_var": self.variance}


def predict(layers: Sequence[Layer], x: Array, training: bool = False) -> Array:
    """Logits, (samples, classes)."""
    for layer in layers:
        x = layer.forward(x, training)
    return x


def train(
    layers: Sequence[Layer],
    x: Array,
    labels: Classes,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    rng: np.random.Generator,
    augment: Callable[[Array], Array] = lambda batch: batch,
) -> None:
    """Minimises the mean cross-entropy by Adam (Kingma and Ba, 2015), in place.

    The rate falls to zero along half a cosine. Every epoch goes over all samples in a new order.
    """
    moments = [[(np.zeros_like(p), np.zeros_like(p)) for p in layer.parameters] for layer in layers]
    total = epochs * -(-len(x) // batch_size)
    for step, batch in enumerate(_batches(len(x), epochs, batch_size, rng), start=1):
        logits = predict(layers, augment(x[batch]), training=True)
        gradient = softmax(logits)
        gradient[np.arange(len(batch)), labels[batch]] -= 1
        gradient /= len(batch)
        for layer in reversed(layers):
            gradient = layer.backward(gradient)
        rate = learning_rate * (1 + np.cos(np.pi * step / total)) / 2
        for layer, of_layer in zip(layers, moments, strict=True):
            for parameter, slope, (first, second) in zip(
                layer.parameters, layer.gradients, of_layer, strict=True
            ):
                first += (1 - _BETAS[0]) * (slope - first)
                second += (1 - _BETAS[1]) * (slope**2 - second)
                unbiased = first / (1 - _BETAS[0] ** step), second / (1 - _BETAS[1] ** step)
                parameter -= rate * unbiased[0] / (np.sqrt(unbiased[1]) + _EPSILON)


def _batches(
    samples: int, epochs: int, batch_size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    for _ in range(epochs):
        order = rng.permutation(samples)
        yield from (order[start : start + batch_size] for start in range(0, samples, batch_size))


def softmax(logits: Array) -> Array:
    """Probabilities, (samples, classes)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def accuracy(logits: Array, labels: Classes) -> float:
    """Share of the samples whose highest logit is that of their class."""
    return float((logits.argmax(axis=1) == labels).mean())


def export(named_layers: dict[str, Layer], features: int, classes: int, path: Path) -> None:
    """Writes `input` (N, features) float32 -> `logits` (N, classes), one node for each layer.

    Nodes are called as the layers, and their weights ``<layer>.weight`` and so on.
    """
    nodes, initializers = [], []
    value = "input"
    for number, (name, layer) in enumerate(named_layers.items(), start=1):
        arrays = {f"{name}.{role}": array for role, array in layer.initializers().items()}
        initializers += [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
        output = "logits" if number == len(named_layers) else f"{name}_output"
        attributes = {"transB": 1} if layer.op_type == "Gemm" else {}
        if isinstance(layer, BatchNorm):
            attributes = {"epsilon": layer.epsilon}
        nodes.append(helper.make_node(layer.op_type, [value, *arrays], [output], name=name, **attributes))
        value = output
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
