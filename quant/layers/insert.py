"""Formats written into a graph: on the edges into layers, and in place of weights and biases."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quant.constant_params import code_tensor
from quant.formats import DOMAIN, Emulation, Format, Native
from quant.layers.assignment import Constant, Edge
from quant.layers.base_model import BaseModel
from quant.layers.constants import RoundedConstant, renamed
from quant.types import ElementType

_FUNCTIONS_VERSION = 1


@dataclass
class FormatWriter:
    """Puts a model together; every tensor is rounded once for all readers that have the same format of it.

    Attributes:
        base: What the models of one graph have in common.
        opset: Of the model.
        roundings: Name of the node that gives a tensor rounded, by the tensor's name; of the first format
            only, where a tensor has several.
        elements: Types of all Q/DQ nodes.
        emulates: Whether some format is not a type of its own in the model.
        constants: Name of the initializer with a rounded constant, by layer and role.
    """

    base: BaseModel
    opset: int
    roundings: dict[str, str] = field(default_factory=dict)
    constants: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._taken = set(self.base.names)
        self._inputs: dict[str, dict[int, str]] = {}
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._functions: dict[str, onnx.FunctionProto] = {}
        self._rounded: dict[tuple[object, ...], tuple[str, str]] = {}
        self.elements: set[ElementType] = set()
        self.emulates = False

    def activation(self, edge: Edge, bound: Format) -> None:
        """Rounds a computed tensor where one node reads it.

        Args:
            edge: Where; edges come in graph order.
            bound: Its format, with the scale if it needs one.
        """
        tensor, wanted, reader = edge.tensor, edge.format, edge.reader
        key = (tensor, wanted)
        if key not in self._rounded:
            native = bound.native(packed=False)
            nodes = self._before.setdefault(reader, [])
            base = tensor if tensor not in self.roundings else f"{tensor}_{wanted.name}"
            if native is not None and native.params is not None:
                output = self._pair(tensor, base, native, nodes)
                self.emulates |= native.clip is not None
            else:
                self.emulates = True
                emulation = bound.emulation(self.base.shapes.get(tensor))
                assert emulation is not None, wanted.name
                output = self._call(tensor, base, emulation, nodes)
            self._rounded[key] = (output, nodes[-1].name)
            self.roundings.setdefault(tensor, nodes[-1].name)
        self._inputs.setdefault(reader, {})[edge.position] = self._rounded[key][0]

    def constant(self, constant: Constant, rounded: RoundedConstant) -> None:
        """Puts a rounded weight or bias in the place of the float one, for one node.

        Args:
            constant: Which; they come in graph order.
            rounded: The same in its format.
        """
        name, reader = constant.name, constant.reader
        key = (name, constant.format, rounded.arrangement)
        if key not in self._rounded:
            codes = self._add(rounded.codes, f"{name}_rounded" if rounded.is_float else f"{name}_quantized")
            nodes = self._before.setdefault(reader, [])
            self._rounded[key] = (self._real(codes, name, rounded, nodes), codes)
        output, codes = self._rounded[key]
        self._inputs.setdefault(reader, {})[constant.position] = output
        self.constants[constant.layer, constant.role] = codes

    def float_constant(self, name: str, values: NDArray[np.generic]) -> None:
        """Keeps a constant that belongs to layers as it is, for those that do not round it."""
        if name in self.base.own and name not in self._initializers:
            self._initializers[name] = onnx.numpy_helper.from_array(values, name)

    def model(self) -> onnx.ModelProto:
        """All of it."""
        model = onnx.ModelProto()
        model.CopyFrom(self.base.head)
        for node in self.base.nodes:
            model.graph.node.extend(self._before.get(node.name, ()))
            added = model.graph.node.add()
            added.CopyFrom(node)
            for position, name in self._inputs.get(node.name, {}).items():
                added.input[position] = name
        model.graph.initializer.extend(self._initializers.values())
        if self._functions:
            model.functions.extend(self._functions.values())
            model.opset_import.add(domain=DOMAIN, version=_FUNCTIONS_VERSION)
        return model

    def _pair(self, tensor: str, base: str, native: Native, nodes: list[onnx.NodeProto]) -> str:
        """Clip, if need be, QuantizeLinear and DequantizeLinear."""
        assert native.params is not None
        source = tensor
        if native.clip is not None:
            bounds = [self._scalar(np.float32(bound), f"{base}_{end}") for bound, end in _ends(native.clip)]
            source = self._node("Clip", [tensor, *bounds], base, nodes)
        self.elements.add(native.element)
        scale = self._scalar(native.params.scale, f"{base}_scale")
        zero_point = self._add(
            code_tensor(native.params.zero_point, native.element, ""), f"{base}_zero_point"
        )
        codes = self._node("QuantizeLinear", [source, scale, zero_point], base, nodes)
        return self._node("DequantizeLinear", [codes, scale, zero_point], base, nodes)

    def _call(self, tensor: str, base: str, emulation: Emulation, nodes: list[onnx.NodeProto]) -> str:
        """A call of the function that stands for a format."""
        name = self._free(f"{base}_{emulation.op_type}")
        output = self._free(f"{name}_Output")
        nodes.append(emulation.node(tensor, output, name))
        self._functions[emulation.op_type] = _function(emulation.op_type, emulation.body, self.opset)
        return output

    def _real(self, codes: str, name: str, rounded: RoundedConstant, nodes: list[onnx.NodeProto]) -> str:
        """Real numbers of a constant's codes."""
        self.emulates |= rounded.is_emulated
        if rounded.cast:
            return self._node("Cast", [codes], name, nodes, to=onnx.TensorProto.FLOAT)
        if rounded.params is None or rounded.zero_point is None:
            return codes
        params = rounded.params
        if rounded.element is not None:
            self.elements.add(rounded.element)
        scale = self._scalar(params.scale, f"{name}_scale")
        zero_point = self._add(rounded.zero_point, f"{name}_zero_point")
        given = {"axis": params.axis, "block_size": params.block_size}
        attributes = {key: value for key, value in given.items() if value is not None}
        return self._node("DequantizeLinear", [codes, scale, zero_point], name, nodes, **attributes)

    def _node(
        self, op_type: str, inputs: list[str], base: str, nodes: list[onnx.NodeProto], **attributes: Any
    ) -> str:
        """One more node; the name of its output."""
        name = self._free(f"{base}_{op_type}")
        output = self._free(f"{name}_Output")
        nodes.append(onnx.helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def _scalar(self, value: NDArray[np.generic] | np.generic, name: str) -> str:
        return self._add(onnx.numpy_helper.from_array(np.asarray(value), ""), name)

    def _add(self, tensor: onnx.TensorProto, wanted: str) -> str:
        """One more initializer."""
        name = self._free(wanted)
        self._initializers[name] = renamed([(tensor, name)])[0]
        return name

    def _free(self, wanted: str) -> str:
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted


def _ends(clip: tuple[float, float]) -> tuple[tuple[float, str], tuple[float, str]]:
    return (clip[0], "low"), (clip[1], "high")


@lru_cache(maxsize=256)
def _function(op_type: str, body: str, opset: int) -> onnx.FunctionProto:
    """Parsing takes longer than all else that is done for a small model."""
    return Emulation(op_type, body).function(opset)
