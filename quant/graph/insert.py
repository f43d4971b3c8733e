"""Writing a placement into a graph: QuantizeLinear and DequantizeLinear nodes, named as onnxruntime's.

The graph and its numbers are kept apart: `insert_qdq` makes a skeleton, which depends on the placement
alone, and `fill` adds the scales, zero points and integers. A configuration that changes only ranges
or types reuses the skeleton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from quant.graph.bodies import owners
from quant.graph.placement import Bias, Placement, PlacementOptions, Weight
from quant.graph.shared_weights import SharedWeights, share_weights
from quant.types import Encoding

PRODUCER = "autosearch"

_CONTRIB = "com.microsoft"

_Use = tuple[ir.Node, int]
"""A reader, and at which of its inputs."""

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
        local: Of integers, scales and zero points that lie in bodies of If, Loop and Scan: name there ->
            name of the tensor. onnxruntime makes uint8 of int8 and MatMulNBits of 4-bit weights only
            where they lie beside the nodes that read them; elsewhere it fuses nothing, or fails.
    """

    graph: onnx.ModelProto
    weights: SharedWeights | None = None
    local: Mapping[str, str] = field(default_factory=dict)


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

    A tensor of the name of one that the skeleton has takes its place. Each is copied before the next
    one is asked for.
    """
    model = onnx.ModelProto()
    model.CopyFrom(skeleton.graph)
    given = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = _readers(model.graph, skeleton.local) if skeleton.local else {}
    for tensor in tensors:
        for body, name in readers.get(tensor.name, ()):
            body.initializer.add().CopyFrom(tensor)
            body.initializer[-1].name = name
        if tensor.name not in skeleton.local:
            target = given[tensor.name] if tensor.name in given else model.graph.initializer.add()
            target.CopyFrom(tensor)
    return model


def _readers(
    graph: onnx.GraphProto, local: Mapping[str, str]
) -> dict[str, list[tuple[onnx.GraphProto, str]]]:
    """By name of a tensor, the bodies that read a copy of it, and what they call it."""
    readers: dict[str, list[tuple[onnx.GraphProto, str]]] = {}
    for body in _bodies(graph):
        for name in dict.fromkeys(name for node in body.node for name in node.input if name in local):
            readers.setdefault(local[name], []).append((body, name))
    return readers


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield body
                yield from _bodies(body)


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
    return Skeleton(ir.to_proto(model), weights, inserter.local)


@dataclass(frozen=True)
class _Rounding:
    """What the nodes that round one tensor are like.

    Attributes:
        tensor: What the nodes are called after.
        provider: Whose scale and zero point they read.
        encoding: What kind of nodes.
        graph: Where they are.
        suffix: Of their names, where a tensor has several.
        axis, block_size: Attributes of QuantizeLinear and DequantizeLinear; None = absent.
    """

    tensor: str
    provider: str
    encoding: Encoding
    graph: ir.Graph
    suffix: str = ""
    axis: int | None = None
    block_size: int | None = None


class _Inserter:
    """Edits one graph in place, and where the options say so the bodies inside it.

    Each body that reads a quantized tensor of another scope has nodes of its own for it, because
    onnxruntime fuses within a scope: a pair behind the one outside, which changes no value, or the
    DequantizeLinear of a constant.
    """

    def __init__(self, graph: ir.Graph, placement: Placement, options: PlacementOptions) -> None:
        self.graph = graph
        self.placement = placement
        self.options = options
        subgraphs = options.subgraphs
        self.nodes = {node.name: node for node in (graph.all_nodes() if subgraphs else graph)}
        self.values = ir.convenience.create_value_mapping(graph, include_subgraphs=subgraphs)
        self.owners = owners(graph) if subgraphs else {}
        self.homes = {name: value.graph for name, value in self.values.items()}
        self.order = {
            inner: (node, index)
            for scope in (graph, *self.owners)
            for index, node in enumerate(scope)
            for inner in ((node,) if subgraphs else _with_subgraphs(node))
        }
        self.initializers: dict[str, ir.Value] = {}
        self.local: dict[str, str] = {}

    def remove_activations(self, names: Iterable[str]) -> None:
        """Takes out nodes whose output the quantization clips; the producer writes the output."""
        for name in names:
            node = self.nodes[name]
            source, output = node.inputs[0], node.outputs[0]
            assert source is not None and output.name is not None and node.graph is not None
            ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
            node.graph.remove(node, safe=True)
            del self.values[source.name or ""]
            source.name = output.name
            self.values[output.name] = source

    def activation(self, name: str, provider: str) -> None:
        """Rounds a tensor: one pair of nodes for all readers in a scope or one for each."""
        value = self.values[name]
        exempt = self.options.float_nodes if provider == name else ()
        scopes = self._by_scope((node, at) for node, at in value.uses() if node.name not in exempt)
        home = self._home(value)
        if self.options.dedicated_pairs and len(scopes.get(home, ())) > 1 and not value.is_graph_output():
            rounded = value
            self._dedicated(value, name, provider, home, scopes.pop(home))
        else:
            rounded = self._shared(value, name, provider, home, scopes.pop(home, ()))
        for scope, readers in scopes.items():
            if self.options.dedicated_pairs and len(readers) > 1:
                self._dedicated(rounded, name, provider, scope, readers)
            else:
                self._shared(rounded, name, provider, scope, readers)

    def _by_scope(self, uses: Iterable[_Use]) -> dict[ir.Graph, list[_Use]]:
        """Uses by the scope whose nodes serve them; all by the main graph where bodies stay as they are."""
        scopes: dict[ir.Graph, list[_Use]] = {}
        for reader, position in uses:
            scope = reader.graph if self.owners and isinstance(reader.graph, ir.Graph) else self.graph
            scopes.setdefault(scope, []).append((reader, position))
        return scopes

    def _home(self, value: ir.Value) -> ir.Graph:
        return value.graph if self.owners and value.graph is not None else self.graph

    def _dedicated(
        self, value: ir.Value, name: str, provider: str, scope: ir.Graph, readers: Iterable[_Use]
    ) -> None:
        conversion = self.placement.conversions.get(name)
        for index, (reader, position) in enumerate(readers, start=1):
            rounded = self._pair(value, name, provider, f"_{index}", scope)
            if conversion is not None and conversion.reaches(reader.name):
                rounded = self._pair(rounded, converted_name(name), converted_name(name), f"_{index}", scope)
            reader.replace_input_with(position, rounded)

    def _shared(
        self, value: ir.Value, name: str, provider: str, scope: ir.Graph, readers: Iterable[_Use]
    ) -> ir.Value:
        """One pair, and one for the second format; the first one's result."""
        conversion = self.placement.conversions.get(name)
        at_home = scope is self._home(value)
        rounded = converted = self._pair(value, name, provider, "", scope)
        if conversion is not None:
            converted = self._pair(rounded, converted_name(name), converted_name(name), "", scope)
        for reader, position in readers:
            reaches = conversion is not None and conversion.reaches(reader.name)
            reader.replace_input_with(position, converted if reaches else rounded)
        result = converted if conversion is not None and conversion.readers is None else rounded
        for index, output in enumerate(scope.outputs if at_home else ()):
            if output is value and value.producer() is not None:
                # the graph's output keeps its name, behind the pair
                scope.outputs[index] = result
                value.name, result.name = f"{name}_QuantizeLinear_Input", name
        return rounded

    def _pair(self, value: ir.Value, name: str, provider: str, suffix: str, scope: ir.Graph) -> ir.Value:
        """The nodes that round a tensor, in a scope: behind its producer, or first of all."""
        encoding = self.placement.encoding(provider)
        suffix = f"{self._place(name, scope)}{suffix}"
        rounding = _Rounding(name, provider, encoding, scope, suffix)
        narrow = self._narrow(value, rounding)
        wide = self._widen(narrow.outputs[0], value, rounding)
        producer = value.producer()
        if producer is not None and producer.graph is scope:
            scope.insert_after(producer, [narrow, wide])
        else:
            scope.insert_before(scope[0], [narrow, wide])
        return wide.outputs[0]

    def _place(self, name: str, scope: ir.Graph) -> str:
        """What tells the nodes and parameters of a tensor in one body from those where it comes from."""
        if scope not in self.owners:
            return ""
        home = self.homes.get(name) or self.homes.get(name.removesuffix(converted_name("")))
        return "" if scope is home else f"_in_{self.owners[scope].place}"

    def weight(self, weight: Weight) -> None:
        """Back from the codes of a constant to real numbers, or from and to the float, in each scope."""
        value, name = self.values[weight.name], weight.name
        scopes = self._by_scope(value.uses())
        self.homes[name] = self.graph if self.graph in scopes else next(iter(scopes))
        for scope, readers in scopes.items():
            rounding = _Rounding(
                name,
                name,
                self.placement.encoding(name),
                scope,
                self._place(name, scope),
                weight.axis,
                weight.block_size,
            )
            nodes = [self._narrow(value, rounding)] if self.options.float_weights else []
            codes = nodes[0].outputs[0] if nodes else self._beside(name, quantized_name, scope)
            nodes.append(self._widen(codes, value, rounding))
            for reader, position in readers:
                reader.replace_input_with(position, nodes[-1].outputs[0])
            first, _ = min((self.order[reader] for reader, _ in readers), key=lambda found: found[1])
            scope.insert_before(first, nodes)

    def _narrow(self, value: ir.Value, rounding: _Rounding) -> ir.Node:
        """From real numbers to codes."""
        if rounding.encoding.is_cast:
            return self._cast(value, rounding, "Narrow", ir.DataType[rounding.encoding.name])
        return self._node("QuantizeLinear", [value, *self._parameters(rounding)], rounding)

    def _widen(self, codes: ir.Value, value: ir.Value, rounding: _Rounding) -> ir.Node:
        """From codes back to numbers of the type and shape of `value`."""
        if rounding.encoding.is_cast:
            node = self._cast(codes, rounding, "Output", value.dtype or ir.DataType.FLOAT)
        else:
            node = self._node("DequantizeLinear", [codes, *self._parameters(rounding)], rounding)
        self._copy_shape(value, node.outputs[0])
        return node

    def bias(self, bias: Bias, weight: Weight | None) -> None:
        """DQ behind the int32 integers of a bias, for one reader; per channel if its weight is."""
        reader = self.nodes[bias.node]
        scope = reader.graph if isinstance(reader.graph, ir.Graph) else self.graph
        base = quantized_name(bias.quantized)
        self.homes[base] = self.homes[bias.quantized] = scope
        per_channel = weight is not None and weight.axis is not None
        shape = self.values[bias.name].shape
        axis = None if not per_channel else len(shape) - 1 if shape is not None else 0
        rounding = _Rounding(bias.quantized, base, Encoding.INTEGER, scope, axis=axis)
        codes = self._beside(bias.quantized, quantized_name, scope)
        dequantize = self._widen(codes, self.values[bias.name], rounding)
        reader.replace_input_with(2, dequantize.outputs[0])
        if reader.op_type == "Gemm":
            reader.attributes["beta"] = ir.AttrFloat32("beta", 1.0)  # it is in the integers' scale
        scope.insert_before(reader, dequantize)

    def drop_unused_initializers(self) -> None:
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]
            elif isinstance(value.const_value, ir.ExternalTensor):  # the result stands for itself
                value.const_value = ir.tensor(value.const_value.numpy(), name=name)

    def _parameters(self, rounding: _Rounding) -> tuple[ir.Value, ir.Value]:
        scale, zero_point = (
            self._beside(rounding.provider, name, rounding.graph) for name in (scale_name, zero_point_name)
        )
        return scale, zero_point

    def _beside(self, tensor: str, name: Callable[[str], str], scope: ir.Graph) -> ir.Value:
        """An initializer of a tensor, in the scope whose nodes read it."""
        here = name(f"{tensor}{self._place(tensor, scope)}")
        if scope in self.owners:
            self.local[here] = name(tensor)
        return self.initializers.setdefault(here, ir.Value(name=here))

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
