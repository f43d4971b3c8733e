"""Finetuning a quantized model layer by layer: FastFinetune, and bias correction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quant.config import FastFinetuneConfig
from quant.constant_params import Constants, code_bounds, code_tensor
from quant.finetune.algorithms import algorithm_for
from quant.finetune.bias import corrected_bias
from quant.finetune.blas import one_thread
from quant.finetune.device import Device, open_device
from quant.finetune.grid import UniformGrid
from quant.finetune.judge import Judge
from quant.finetune.layer import Algorithm, LayerProblem, LayerResult, finetune_layer
from quant.finetune.layers import Layer, target_layers
from quant.finetune.moments import InputMoments
from quant.finetune.relu_aware import InputSample
from quant.finetune.walk import Twins, Wanted, groups_of, walk
from quant.graph.insert import quantized_name
from quant.graph.placement import Placement
from quant.grids import Grids
from quant.parameters import quantized_bias
from quant.qparams import QuantParams, dequantize
from quant.transforms.skip import Skip

_log = logging.getLogger(__name__)

LAYERS_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")
ACTIVATION_FUNCTIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid")


@dataclass(frozen=True)
class Finetuned:
    """What takes the place of nearest rounding.

    Attributes:
        codes: Integers of weights, by initializer.
        biases: Corrected float biases, by initializer.
        skipped: Layers that stay as they were, with the reason.
        losses: (before, after) by layer: mean squared error of its outputs, summed over them.
    """

    codes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    biases: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    skipped: tuple[Skip, ...] = ()
    losses: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantization:
    """One configuration's numbers before finetuning.

    Attributes:
        placement: What is quantized.
        params: Of every tensor.
        constants: Float initializers.
        grids: Of every tensor.
    """

    placement: Placement
    params: Mapping[str, QuantParams]
    constants: Constants
    grids: Grids

    def grid(self, layer: Layer) -> UniformGrid:
        """The values that a layer's weights may take."""
        own = self.grids.weight(layer.site)
        bounds = own.bounds if own.reduce_range else code_bounds(own, self.grids.config)
        return layer.grid(self.params[layer.site.name], bounds, self.constants[layer.site.name].shape)


class Solve(Protocol):
    """Finetunes one layer, or looks the result up: `finetune_layer` with the arrays back in NumPy."""

    def __call__(
        self, problem: LayerProblem, algorithm: Algorithm, update_bias: bool, device: Device
    ) -> LayerResult: ...


def solve_layer(
    problem: LayerProblem, algorithm: Algorithm, update_bias: bool, device: Device
) -> LayerResult:
    """`finetune_layer` on a device, from and to NumPy arrays."""
    put, moments, grid, sample = device.put, problem.moments, problem.grid, problem.sample
    assert isinstance(grid, UniformGrid)
    gram = put(moments.gram)
    on_device = LayerProblem(
        put(problem.weight),
        InputMoments(
            gram,
            gram if moments.cross is moments.gram else put(moments.cross),
            put(moments.mean),
            put(moments.quantized_mean),
            None if moments.float_gram is None else put(moments.float_gram),
        ),
        UniformGrid(put(grid.scale), put(grid.zero_point), grid.qmin, grid.qmax),
        None if problem.bias is None else put(problem.bias),
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
    quantization: Quantization,
    config: FastFinetuneConfig,
    *,
    correct_biases: bool = False,
    solve: Solve = solve_layer,
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

    Raises:
        ConfigError: If a parameter makes no sense, or the device is not there.
    """
    device = open_device(config.OptimDevice)
    algorithm = algorithm_for(config, partial(_log.debug, "iteration %d: loss %g"))
    layers, skipped = target_layers(
        twins.float_model.graph, twins.quantized.graph, quantization.placement, config.TargetOpType
    )
    ratio = config.DropRatio
    wanted = Wanted(
        ratio > 0,
        float_gram=0 < ratio < 1 or bool(config.LRAdjust),
        max_columns=config.MaxColumns,
        seed=config.FixedSeed,
        samples=config.ReluAware,
    )
    model, judges = _Updates(twins, quantization), _Judges(twins, quantization.placement, config)
    losses, left = {}, list(skipped)
    for group in walk(twins, groups_of(layers), wanted):
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
    return Finetuned(model.codes, model.biases, tuple(left), losses)


def correct_biases(twins: Twins, quantization: Quantization) -> Finetuned:
    """Bias correction alone: b' = b + W x̄ − Q x̂̄ for every layer with nearest rounding, in order.

    The mean error of each layer's outputs becomes zero on the data, given the errors of all before it
    (Nagel et al., 2019, arXiv:1906.04721, section 4.2, measured on data).
    """
    layers, _ = target_layers(
        twins.float_model.graph, twins.quantized.graph, quantization.placement, LAYERS_WITH_BIAS
    )
    layers = tuple(layer for layer in layers if layer.bias is not None)
    model = _Updates(twins, quantization)
    for group in walk(twins, groups_of(layers), Wanted(products=False)):
        for layer, moments, _ in group:
            weight = layer.matrix(quantization.constants)
            nearest, bias = quantization.grid(layer).round(weight), layer.bias_vector(quantization.constants)
            model.update(layer, None, corrected_bias(weight, nearest, bias, moments))
    return Finetuned({}, model.biases)


def finetuned_tensors(finetuned: Finetuned, given: Quantization) -> Iterator[onnx.TensorProto]:
    """The initializers of the quantized model that finetuning changed."""
    for name, codes in finetuned.codes.items():
        yield _weight_tensor(name, codes, given)
    for name in finetuned.biases:
        yield _bias_tensor(name, finetuned.biases, given)


def _weight_tensor(name: str, codes: NDArray[Any], given: Quantization) -> onnx.TensorProto:
    """A finetuned weight as the model has it: codes, or the float number behind a Q/DQ pair."""
    if not given.grids.config.extra_options.AddQDQPairToWeight:
        element = given.grids.weight(given.placement.weights[name]).type
        return code_tensor(codes, element, quantized_name(name))
    values = dequantize(codes, given.params[name]).astype(given.constants[name].dtype)
    return onnx.numpy_helper.from_array(values, name)


def _bias_tensor(name: str, biases: Constants, given: Quantization) -> onnx.TensorProto:
    """A corrected bias as the model has it: int32 with the same scale, or float."""
    own = next((bias for bias in given.placement.biases if bias.name == name), None)
    if own is None:
        return onnx.numpy_helper.from_array(biases[name], name)
    integers, _ = quantized_bias(own, given.placement, given.params, biases)
    return onnx.numpy_helper.from_array(integers, quantized_name(own.quantized))


class _Updates:
    """Writes finetuned layers into the quantized model, in place, and keeps them."""

    def __init__(self, twins: Twins, quantization: Quantization) -> None:
        self.initializers = twins.quantized.graph.initializers
        self.quantization = quantization
        self.codes: dict[str, NDArray[Any]] = {}
        self.biases: dict[str, NDArray[Any]] = {}

    def update(
        self, layer: Layer, weight: NDArray[Any] | None, bias: NDArray[Any] | None
    ) -> Callable[[], None]:
        """Takes a weight (groups, out, in) and a bias (groups, out), where given; returns the undoing."""
        given, changed = self.quantization, list[tuple[ir.Value, ir.TensorProtocol | None]]()
        name, element = layer.site.name, given.grids.weight(layer.site).type
        if weight is not None:
            self.codes[name] = layer.codes(given.grid(layer).integers(weight), element)
            changed.append(self._replace(_weight_tensor(name, self.codes[name], given)))
        if bias is not None and layer.bias is not None:
            self.biases[layer.bias] = layer.bias_initializer(bias, given.constants)
            changed.append(self._replace(_bias_tensor(layer.bias, self.biases, given)))

        def undo() -> None:
            for value, tensor in changed:
                value.const_value = tensor
            self.codes.pop(name, None)
            self.biases.pop(layer.bias or "", None)

        return undo

    def _replace(self, proto: onnx.TensorProto) -> tuple[ir.Value, ir.TensorProtocol | None]:
        value = self.initializers[proto.name]
        before, value.const_value = value.const_value, ir.serde.deserialize_tensor(proto)
        return value, before


class _Judges:
    """Where the effect of a layer's update is measured, if it is to be measured at all."""

    def __init__(self, twins: Twins, placement: Placement, config: FastFinetuneConfig) -> None:
        self.twins = twins
        self.placement = placement
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
        while value.name not in self.placement.activations:
            readers = value.consumers()
            if len(readers) != 1 or readers[0].op_type not in ACTIVATION_FUNCTIONS:
                return None
            value = readers[0].outputs[0]
        name = value.name or ""
        rounding = (name + ending for ending in ("_DequantizeLinear", "_DequantizeLinear_1", "_Cast_Output"))
        nodes = {other.name: other for other in self.twins.quantized.graph}
        found = next((nodes[wanted] for wanted in rounding if wanted in nodes), None)
        return None if found is None else (name, found.outputs[0].name or "")
