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

PRODUCER = "autosearch"

RESERVED_ENDINGS = (
    "_scale",
    "_zero_point",
    "_quantized",
    "_quantized_scale",
    "_quantized_zero_point",
    "_QuantizeLinear_Input",
    "_QuantizeLinear_Output",
    "_DequantizeLinear_Output",
)
"""What is appended to a tensor's name for the values that its quantization adds."""


@dataclass(frozen=True)
class Skeleton:
    """A graph with Q/DQ nodes whose quantization parameters and integers are still to be filled in.

    Attributes:
        graph: ModelProto without the initializers that `fill` adds.
    """

    graph: onnx.ModelProto


def quantized_name(weight: str) -> str:
    """Initializer with a weight's or bias's integers."""
    return f"{weight}_quantized"


def scale_name(tensor: str) -> str:
    """Initializer with a tensor's scale."""
    return f"{tensor}_scale"


def zero_point_name(tensor: str) -> str:
    """Initializer with a tensor's zero point."""
    return f"{tensor}_zero_point"


def fill(skeleton: Skeleton, tensors: Iterable[onnx.TensorProto]) -> onnx.ModelProto:
    """The quantized model: a copy of the skeleton with its integers, scales and zero points."""
    model = onnx.ModelProto()
    model.CopyFrom(skeleton.graph)
    model.graph.initializer.extend(tensors)
    return model


def insert_qdq(model: ir.Model, placement: Placement, options: PlacementOptions) -> Skeleton:
    """Inserts the nodes of a placement.

    Args:
        model: The prepared model that the placement was made for; left as it is.
        placement: What to quantize.
        options: How pairs are shared and whether weights stay float.

    Returns:
        The skeleton. Float initializers that are still read are part of it.
    """
    model = model.clone()
    inserter = _Inserter(model.graph, options)
    inserter.remove_activations(placement.removed)
    for bias in placement.biases:
        inserter.bias(bias, placement.weights.get(bias.weight))
    for weight in placement.weights.values():
        inserter.weight(weight)
    for name, provider in placement.activations.items():
        inserter.activation(name, provider)
    inserter.drop_unused_initializers()
    model.producer_name = PRODUCER
    return Skeleton(ir.to_proto(model))


class _Inserter:
    """Edits one graph in place."""

    def __init__(self, graph: ir.Graph, options: PlacementOptions) -> None:
        self.graph = graph
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
        """Q and DQ behind a tensor, one pair for all readers or one for each."""
        value = self.values[name]
        exempt = self.options.float_nodes if provider == name else ()
        readers = tuple(use for use in value.uses() if use.node.name not in exempt)
        if self.options.dedicated_pairs and len(readers) > 1 and not value.is_graph_output():
            for index, (reader, position) in enumerate(readers, start=1):
                reader.replace_input_with(position, self._pair(value, name, provider, f"_{index}"))
            return
        dequantized = self._pair(value, name, provider, "")
        for reader, position in readers:
            reader.replace_input_with(position, dequantized)
        for index, output in enumerate(self.graph.outputs):
            if output is value and value.producer() is not None:
                # the graph's output keeps its name, behind the pair
                self.graph.outputs[index] = dequantized
                value.name, dequantized.name = f"{name}_QuantizeLinear_Input", name

    def _pair(self, value: ir.Value, name: str, provider: str, suffix: str) -> ir.Value:
        scale, zero_point = self._parameters(provider)
        quantize = self._node("QuantizeLinear", [value, scale, zero_point], name, suffix, {})
        dequantize = self._node(
            "DequantizeLinear", [quantize.outputs[0], scale, zero_point], name, suffix, {}
        )
        self._copy_shape(value, dequantize.outputs[0])
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, [quantize, dequantize])
        else:
            self.graph.insert_before(self.graph[0], [quantize, dequantize])
        return dequantize.outputs[0]

    def weight(self, weight: Weight) -> None:
        """DQ behind the integers of a constant, or Q and DQ behind the float."""
        value = self.values[weight.name]
        readers = tuple(value.uses())
        scale, zero_point = self._parameters(weight.name)
        attributes = {} if weight.axis is None else {"axis": weight.axis}
        integers, nodes = ir.Value(name=quantized_name(weight.name)), []
        if self.options.float_weights:
            nodes.append(
                self._node("QuantizeLinear", [value, scale, zero_point], weight.name, "", attributes)
            )
            integers = nodes[0].outputs[0]
        nodes.append(
            self._node("DequantizeLinear", [integers, scale, zero_point], weight.name, "", attributes)
        )
        dequantized = nodes[-1].outputs[0]
        self._copy_shape(value, dequantized)
        for reader, position in readers:
            reader.replace_input_with(position, dequantized)
        first = min(self.order[reader] for reader, _ in readers)
        self.graph.insert_before(self.nodes_in_order[first], nodes)

    def bias(self, bias: Bias, weight: Weight | None) -> None:
        """DQ behind the int32 integers of a bias, for one reader; per channel if its weight is."""
        reader = self.nodes[bias.node]
        base = quantized_name(bias.quantized)
        scale, zero_point = self._parameters(base)
        per_channel = weight is not None and weight.axis is not None
        shape = self.values[bias.name].shape
        attributes = {"axis": len(shape) - 1 if shape is not None else 0} if per_channel else {}
        dequantize = self._node(
            "DequantizeLinear", [ir.Value(name=base), scale, zero_point], bias.quantized, "", attributes
        )
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

    @staticmethod
    def _node(
        op_type: str, inputs: list[ir.Value], tensor: str, suffix: str, attributes: dict[str, int]
    ) -> ir.Node:
        output = ir.Value(name=f"{tensor}_{op_type}_Output{suffix}")
        name = f"{tensor}_{op_type}{suffix}"
        return ir.node(op_type, inputs, attributes=attributes, outputs=[output], name=name)

    @staticmethod
    def _copy_shape(source: ir.Value, target: ir.Value) -> None:
        target.shape, target.type = source.shape, source.type


def _with_subgraphs(node: ir.Node) -> Iterator[ir.Node]:
    """The node and those in its subgraphs, which may read the outer graph's values."""
    yield node
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
