"""Writing a placement into a graph: QuantizeLinear and DequantizeLinear nodes, named as onnxruntime's.

The graph and its numbers are kept apart: `insert_qdq` makes a skeleton, which depends on the placement
alone, and `fill` adds the scales, zero points and integers. A configuration that changes only ranges
or types reuses the skeleton.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from quant.graph.placement import Bias, Placement, PlacementOptions, Weight
from quant.graph.shared_weights import SharedWeights, share_weights
from quant.types import Encoding

PRODUCER = "autosearch"

_CONTRIB = "com.microsoft"

RESERVED_ENDINGS = (
    "_scale",
    "_zero_point",
    "_quantized",
    "_quantized_scale",
    "_quantized_zero_point",
    "_QuantizeLinear_Input",
    "_QuantizeLinear_Output",
    "_DequantizeLinear_Output",
    "_convert",
    "_Cast_Narrow",
    "_Cast_Output",
)
"""What is appended to a tensor's name for the values that its quantization adds."""


@dataclass(frozen=True)
class Skeleton:
    """A graph with Q/DQ nodes whose quantization parameters and integers are still to be filled in.

    Attributes:
        graph: ModelProto without the initializers that `fill` adds.
        weights: Float weights that it refers to, where they are large.
    """

    graph: onnx.ModelProto
    weights: SharedWeights | None = None


def quantized_name(weight: str) -> str:
    """Initializer with a weight's or bias's integers."""
    return f"{weight}_quantized"


def scale_name(tensor: str) -> str:
    """Initializer with a tensor's scale."""
    return f"{tensor}_scale"


def zero_point_name(tensor: str) -> str:
    """Initializer with a tensor's zero point."""
    return f"{tensor}_zero_point"


def converted_name(tensor: str) -> str:
    """Base name of the parameters of an activation's second format."""
    return f"{tensor}_convert"


def fill(skeleton: Skeleton, tensors: Iterable[onnx.TensorProto]) -> onnx.ModelProto:
    """The quantized model: a copy of the skeleton with its integers, scales and zero points.

    A tensor of the name of one that the skeleton has takes its place.
    """
    model = onnx.ModelProto()
    model.CopyFrom(skeleton.graph)
    tensors = list(tensors)
    given = {tensor.name for tensor in tensors}
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name in given:
            del model.graph.initializer[index]
    model.graph.initializer.extend(tensors)
    return model


def insert_qdq(model: ir.Model, placement: Placement, options: PlacementOptions) -> Skeleton:
    """Inserts the nodes of a placement.

    Args:
        model: The prepared model that the placement was made for; left as it is.
        placement: What to quantize.
        options: How pairs are shared and whether weights stay float.

    Returns:
        The skeleton. Float initializers that are still read are part of it, or, where they are large,
        of its shared weights.
    """
    model = model.clone()
    inserter = _Inserter(model.graph, placement, options)
    inserter.remove_activations(placement.removed)
    for bias in placement.biases:
        inserter.bias(bias, placement.weights.get(bias.weight))
    for weight in placement.weights.values():
        inserter.weight(weight)
    for name, provider in placement.activations.items():
        inserter.activation(name, provider)
    inserter.drop_unused_initializers()
    if options.contrib_ops:
        model.opset_imports[_CONTRIB] = 1
    model.producer_name = PRODUCER
    weights = share_weights(model.graph)
    return Skeleton(ir.to_proto(model), weights)


@dataclass(frozen=True)
class _Rounding:
    """What the nodes that round one tensor are like.

    Attributes:
        tensor: What the nodes are called after.
        provider: Whose scale and zero point they read.
        encoding: What kind of nodes.
        suffix: Of their names, where a tensor has several.
        axis, block_size: Attributes of QuantizeLinear and DequantizeLinear; None = absent.
    """

    tensor: str
    provider: str
    encoding: Encoding
    suffix: str = ""
    axis: int | None = None
    block_size: int | None = None


class _Inserter:
    """Edits one graph in place."""

    def __init__(self, graph: ir.Graph, placement: Placement, options: PlacementOptions) -> None:
        self.graph = graph
        self.placement = placement
        self.options = options
        self.nodes = {node.name: node for node in graph}
        self.values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
        self.order = {inner: index for index, node in enumerate(graph) for inner in _with_subgraphs(node)}
        self.nodes_in_order = tuple(graph)
        self.parameters: dict[str, tuple[ir.Value, ir.Value]] = {}

    def remove_activations(self, names: Iterable[str]) -> None:
        """Takes out nodes whose output the quantization clips; the producer writes the output."""
        for name in names:
            node = self.nodes[name]
            source, output = node.inputs[0], node.outputs[0]
            assert source is not None and output.name is not None
            ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
            self.graph.remove(node, safe=True)
            del self.values[source.name or ""]
            source.name = output.name
            self.values[output.name] = source

    def activation(self, name: str, provider: str) -> None:
        """Rounds a tensor: one pair of nodes for all readers or one for each."""
        value = self.values[name]
        exempt = self.options.float_nodes if provider == name else ()
        readers = tuple(use for use in value.uses() if use.node.name not in exempt)
        conversion = self.placement.conversions.get(name)
        if self.options.dedicated_pairs and len(readers) > 1 and not value.is_graph_output():
            for index, (reader, position) in enumerate(readers, start=1):
                rounded = self._pair(value, name, provider, f"_{index}")
                if conversion is not None and conversion.reaches(reader.name):
                    rounded = self._pair(rounded, converted_name(name), converted_name(name), f"_{index}")
                reader.replace_input_with(position, rounded)
            return
        rounded = self._pair(value, name, provider, "")
        converted = rounded
        if conversion is not None:
            converted = self._pair(rounded, converted_name(name), converted_name(name), "")
        for reader, position in readers:
            reaches = conversion is not None and conversion.reaches(reader.name)
            reader.replace_input_with(position, converted if reaches else rounded)
        result = converted if conversion is not None and conversion.readers is None else rounded
        for index, output in enumerate(self.graph.outputs):
            if output is value and value.producer() is not None:
                # the graph's output keeps its name, behind the pair
                self.graph.outputs[index] = result
                value.name, result.name = f"{name}_QuantizeLinear_Input", name

    def _pair(self, value: ir.Value, name: str, provider: str, suffix: str) -> ir.Value:
        """The nodes that round a tensor, behind its producer."""
        rounding = _Rounding(name, provider, self.placement.encoding(provider), suffix)
        narrow = self._narrow(value, rounding)
        wide = self._widen(narrow.outputs[0], value, rounding)
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, [narrow, wide])
        else:
            self.graph.insert_before(self.graph[0], [narrow, wide])
        return wide.outputs[0]

    def weight(self, weight: Weight) -> None:
        """Back from the codes of a constant to real numbers, or from and to the float."""
        value, name = self.values[weight.name], weight.name
        readers = tuple(value.uses())
        rounding = _Rounding(name, name, self.placement.encoding(name), "", weight.axis, weight.block_size)
        codes, nodes = ir.Value(name=quantized_name(name)), []
        if self.options.float_weights:
            nodes.append(self._narrow(value, rounding))
            codes = nodes[0].outputs[0]
        nodes.append(self._widen(codes, value, rounding))
        for reader, position in readers:
            reader.replace_input_with(position, nodes[-1].outputs[0])
        first = min(self.order[reader] for reader, _ in readers)
        self.graph.insert_before(self.nodes_in_order[first], nodes)

    def _narrow(self, value: ir.Value, rounding: _Rounding) -> ir.Node:
        """From real numbers to codes."""
        if rounding.encoding.is_cast:
            return self._cast(value, rounding, "Narrow", ir.DataType[rounding.encoding.name])
        return self._node("QuantizeLinear", [value, *self._parameters(rounding.provider)], rounding)

    def _widen(self, codes: ir.Value, value: ir.Value, rounding: _Rounding) -> ir.Node:
        """From codes back to numbers of the type and shape of `value`."""
        if rounding.encoding.is_cast:
            node = self._cast(codes, rounding, "Output", value.dtype or ir.DataType.FLOAT)
        else:
            node = self._node("DequantizeLinear", [codes, *self._parameters(rounding.provider)], rounding)
        self._copy_shape(value, node.outputs[0])
        return node

    def bias(self, bias: Bias, weight: Weight | None) -> None:
        """DQ behind the int32 integers of a bias, for one reader; per channel if its weight is."""
        reader = self.nodes[bias.node]
        base = quantized_name(bias.quantized)
        scale, zero_point = self._parameters(base)
        per_channel = weight is not None and weight.axis is not None
        shape = self.values[bias.name].shape
        axis = None if not per_channel else len(shape) - 1 if shape is not None else 0
        rounding = _Rounding(bias.quantized, base, Encoding.INTEGER, "", axis)
        dequantize = self._node("DequantizeLinear", [ir.Value(name=base), scale, zero_point], rounding)
        self._copy_shape(self.values[bias.name], dequantize.outputs[0])
        reader.replace_input_with(2, dequantize.outputs[0])
        if reader.op_type == "Gemm":
            reader.attributes["beta"] = ir.AttrFloat32("beta", 1.0)  # it is in the integers' scale
        self.graph.insert_before(reader, dequantize)

    def drop_unused_initializers(self) -> None:
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]
            elif isinstance(value.const_value, ir.ExternalTensor):  # the result stands for itself
                value.const_value = ir.tensor(value.const_value.numpy(), name=name)

    def _parameters(self, tensor: str) -> tuple[ir.Value, ir.Value]:
        if tensor not in self.parameters:
            self.parameters[tensor] = (
                ir.Value(name=scale_name(tensor)),
                ir.Value(name=zero_point_name(tensor)),
            )
        return self.parameters[tensor]

    def _node(self, op_type: str, inputs: list[ir.Value], rounding: _Rounding) -> ir.Node:
        attributes = {"axis": rounding.axis, "block_size": rounding.block_size}
        return ir.node(
            op_type,
            inputs,
            attributes={name: value for name, value in attributes.items() if value is not None},
            outputs=[ir.Value(name=f"{rounding.tensor}_{op_type}_Output{rounding.suffix}")],
            name=f"{rounding.tensor}_{op_type}{rounding.suffix}",
            domain=_CONTRIB if self.options.contrib_ops else "",
        )

    @staticmethod
    def _cast(value: ir.Value, rounding: _Rounding, what: str, to: ir.DataType) -> ir.Node:
        name = f"{rounding.tensor}_Cast_{what}{rounding.suffix}"
        return ir.node("Cast", [value], attributes={"to": int(to)}, outputs=[ir.Value(name=name)], name=name)

    @staticmethod
    def _copy_shape(source: ir.Value, target: ir.Value) -> None:
        target.shape, target.type = source.shape, source.type


def _with_subgraphs(node: ir.Node) -> Iterator[ir.Node]:
    """The node and those in its subgraphs, which may read the outer graph's values."""
    yield node
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
