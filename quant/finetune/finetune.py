"""Finetuning a quantized model layer by layer: FastFinetune, and bias correction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quant.config import FastFinetuneConfig
from quant.finetune.algorithms import algorithm_for
from quant.finetune.bias import corrected_bias
from quant.finetune.blas import one_thread
from quant.finetune.device import Device, open_device
from quant.finetune.float_side import Keep
from quant.finetune.grid import Array, moved
from quant.finetune.judge import Judge
from quant.finetune.layer import Algorithm, LayerProblem, LayerResult, finetune_layer
from quant.finetune.layers import Layer
from quant.finetune.moments import InputMoments, OutputShift
from quant.finetune.numbers import Numbers
from quant.finetune.relu_aware import InputSample
from quant.finetune.walk import Twins, Wanted, groups_of, walk
from quant.transforms.skip import Skip

_log = logging.getLogger(__name__)

LAYERS_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ACTIVATION_FUNCTIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid")


@dataclass(frozen=True)
class Finetuned:
    """What takes the place of nearest rounding.

    Attributes:
        tensors: The initializers of the quantized model that changed, by name.
        skipped: Layers that stay as they were, with the reason.
        losses: (before, after) by layer: mean squared error of its outputs, summed over them.
    """

    tensors: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    skipped: tuple[Skip, ...] = ()
    losses: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Solve(Protocol):
    """Finetunes one layer, or looks the result up: `finetune_layer` with the arrays back in NumPy."""

    def __call__(
        self, problem: LayerProblem, algorithm: Algorithm, update_bias: bool, device: Device
    ) -> LayerResult: ...


def solve_layer(
    problem: LayerProblem, algorithm: Algorithm, update_bias: bool, device: Device
) -> LayerResult:
    """`finetune_layer` on a device, from and to NumPy arrays."""
    put, moments, sample = device.put, problem.moments, problem.sample
    gram, shift = put(moments.gram), moments.shift

    def optional(array: NDArray[Any] | None) -> Array | None:
        return None if array is None else put(array)

    on_device = LayerProblem(
        put(problem.weight),
        InputMoments(
            gram,
            gram if moments.cross is moments.gram else optional(moments.cross),
            put(moments.mean),
            put(moments.quantized_mean),
            optional(moments.float_gram),
            None if shift is None else OutputShift(put(shift.product), put(shift.mean), put(shift.power)),
        ),
        moved(problem.grid, put),
        optional(problem.bias),
        None
        if sample is None
        else InputSample(put(sample.inputs), put(sample.quantized_inputs), sample.high),
    )
    groups, outputs, inputs = problem.weight.shape
    with one_thread(groups * outputs * inputs * inputs):
        result = finetune_layer(on_device, algorithm, update_bias=update_bias)
    bias = None if result.bias is None else device.get(result.bias)
    return replace(result, weight=device.get(result.weight), bias=bias)


def finetune_model(
    twins: Twins,
    quantization: Numbers,
    config: FastFinetuneConfig,
    *,
    correct_biases: bool = False,
    solve: Solve = solve_layer,
    keep: Keep | None = None,
) -> Finetuned:
    """Finetunes the weights of the target layers, in topological order.

    Each layer's inputs come from the part of the quantized model that is finetuned already
    (`DropRatio` 1), from the float model (0), or from a mixture.

    Args:
        twins: The float model, and the quantized one with nearest rounding, whose initializers are
            changed as layers are done.
        quantization: Its numbers.
        config: Parameters.
        correct_biases: Update biases as with `UpdateBias`.
        solve: How one layer is finetuned.
        keep: How the float model's columns are kept for other configurations; None = not at all.

    Raises:
        ConfigError: If a parameter makes no sense, or the device is not there.
    """
    device = open_device(config.OptimDevice)
    algorithm = algorithm_for(config, partial(_log.debug, "iteration %d: loss %g"))
    layers, skipped = quantization.layers(twins.float_model.graph, twins.quantized.graph, config.TargetOpType)
    ratio = config.DropRatio
    wanted = Wanted(
        ratio > 0,
        float_gram=0 < ratio < 1 or bool(config.LRAdjust),
        shifts=ratio == 1,
        max_columns=config.MaxColumns,
        seed=config.FixedSeed,
        samples=config.ReluAware,
    )
    model, judges = _Updates(twins, quantization), _Judges(twins, quantization, config)
    losses, left = {}, list(skipped)
    for group in walk(twins, groups_of(layers), wanted, keep):
        for layer, moments, sample in group:
            weight = layer.matrix(quantization.constants)
            problem = LayerProblem(
                weight,
                moments.dropped(ratio),
                quantization.grid(layer),
                layer.bias_vector(quantization.constants),
                sample,
            )
            result = solve(problem, algorithm, config.UpdateBias or correct_biases, device)
            losses[layer.name] = (result.loss_before, result.loss_after)
            _log.debug("%s: loss %g -> %g", layer.name, result.loss_before, result.loss_after)
            if result.fell_back:
                left.append(Skip(layer.name, "no rounding better than the nearest was found"))
            judge = judges.of(layer)
            before = judge.error() if judge is not None else 0.0
            undo = model.update(layer, result.weight, result.bias)
            if judge is not None and judge.error() >= before:
                undo()
                left.append(Skip(layer.name, "its update does not lower the error behind it"))
    return Finetuned(model.tensors, tuple(left), losses)


def correct_biases(twins: Twins, quantization: Numbers) -> Finetuned:
    """Bias correction alone: b' = b + W x̄ − Q x̂̄ for every layer with nearest rounding, in order.

    The mean error of each layer's outputs becomes zero on the data, given the errors of all before it
    (Nagel et al., 2019, arXiv:1906.04721, section 4.2, measured on data).
    """
    layers, _ = quantization.layers(twins.float_model.graph, twins.quantized.graph, LAYERS_WITH_BIAS)
    layers = tuple(layer for layer in layers if layer.bias is not None)
    model = _Updates(twins, quantization)
    for group in walk(twins, groups_of(layers), Wanted(products=False)):
        for layer, moments, _ in group:
            weight = layer.matrix(quantization.constants)
            nearest, bias = quantization.grid(layer).round(weight), layer.bias_vector(quantization.constants)
            model.update(layer, None, corrected_bias(weight, nearest, bias, moments))
    return Finetuned(model.tensors)


class _Updates:
    """Writes finetuned layers into the quantized model, in place, and keeps them."""

    def __init__(self, twins: Twins, quantization: Numbers) -> None:
        self.initializers = twins.quantized.graph.initializers
        self.quantization = quantization
        self.tensors: dict[str, onnx.TensorProto] = {}

    def update(
        self, layer: Layer, weight: NDArray[Any] | None, bias: NDArray[Any] | None
    ) -> Callable[[], None]:
        """Takes a weight (groups, out, in) and a bias (groups, out), where given; returns the undoing."""
        given, tensors = self.quantization, list[onnx.TensorProto]()
        if weight is not None:
            tensors.append(given.weight_tensor(layer, weight))
        if bias is not None and layer.bias is not None:
            biases = {layer.bias: layer.bias_initializer(bias, given.constants)}
            tensors.append(given.bias_tensor(layer.bias, biases))
        self.tensors |= {tensor.name: tensor for tensor in tensors}
        changed = [self._replace(tensor) for tensor in tensors]

        def undo() -> None:
            for value, before in changed:
                value.const_value = before
            for tensor in tensors:
                del self.tensors[tensor.name]

        return undo

    def _replace(self, proto: onnx.TensorProto) -> tuple[ir.Value, ir.TensorProtocol | None]:
        value = self.initializers[proto.name]
        before, value.const_value = value.const_value, ir.serde.deserialize_tensor(proto)
        return value, before


class _Judges:
    """Where the effect of a layer's update is measured, if it is to be measured at all."""

    def __init__(self, twins: Twins, quantization: Numbers, config: FastFinetuneConfig) -> None:
        self.twins = twins
        self.quantization = quantization
        self.config = config
        self._outputs: Judge | None = None

    def of(self, layer: Layer) -> Judge | None:
        """At the model's outputs with `SelectiveUpdate`, behind the layer's own output with `OutputQDQ`."""
        if self.config.SelectiveUpdate:
            if self._outputs is None:
                names = [value.name or "" for value in self.twins.float_model.graph.outputs]
                self._outputs = Judge(self.twins, names, names)
            return self._outputs
        tensor = self._quantized_output(layer.node) if self.config.OutputQDQ else None
        return Judge(self.twins, [tensor[0]], [tensor[1]]) if tensor is not None else None

    def _quantized_output(self, node: ir.Node) -> tuple[str, str] | None:
        """The first quantized tensor behind a layer and its activation function, and its rounded twin."""
        value = node.outputs[0]
        while not self.quantization.rounding(value.name or ""):
            readers = value.consumers()
            if len(readers) != 1 or readers[0].op_type not in ACTIVATION_FUNCTIONS:
                return None
            value = readers[0].outputs[0]
        name = value.name or ""
        nodes = {other.name: other for other in self.twins.quantized.graph}
        found = next((nodes[wanted] for wanted in self.quantization.rounding(name) if wanted in nodes), None)
        return None if found is None else (name, found.outputs[0].name or "")
