"""From a float model as users have it to the one form that the other stages work on."""

from __future__ import annotations

import logging
from collections.abc import Callable

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from quant.errors import ModelError
from quant.graph.bodies import join_scopes
from quant.graph.insert import RESERVED_ENDINGS
from quant.transforms.batch_norm import fold_batch_norms
from quant.transforms.constant_folding import fold_constants
from quant.transforms.identities import drop_identities
from quant.transforms.skip import Skip

_log = logging.getLogger(__name__)

OPSET = 21
"""The first opset whose QuantizeLinear has 16-bit types and blocks; onnxruntime runs it everywhere."""
IR_VERSION = 10

_SMALL_BYTES = 1024
"""Constants up to this size are shown to onnx's converter and shape inference; these read values of
shapes, axes and pads, never of weights."""


def prepare(
    model: ir.Model, optimize: bool, opset: int = OPSET, *, subgraphs: bool = False
) -> tuple[ir.Model, tuple[Skip, ...]]:
    """A copy at opset 21 with every constant an initializer, every node named and every type known.

    Args:
        model: A float model, left as it is.
        optimize: Also fold constants and BatchNormalization, and drop identities and unused nodes.
        opset: The least that the result may have.
        subgraphs: Also make the bodies of If, Loop and Scan ready to be quantized (`join_scopes`).

    Returns:
        The copy, which shares the weights' memory, and the BatchNormalizations that stayed.

    Raises:
        ModelError: If onnx cannot convert the model to the opset.
    """
    model = model.clone()
    model.ir_version = max(model.ir_version, IR_VERSION)  # below 4, initializers must be inputs
    common.RemoveInitializersFromInputsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _name_nodes(model.graph)  # by the positions that they have in the user's model, whatever the opset
    if (model.opset_imports.get("") or 0) < opset:
        resized = _resized_before_opset_11(model)
        model = _convert(model, opset)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        _keep_coordinates(model, resized)
        _name_nodes(model.graph)  # those that the conversion added
    skipped: tuple[Skip, ...] = ()
    if optimize:
        drop_identities(model.graph)
        common.TopologicalSortPass()(model)
        model = fold_constants(model)
        model, skipped = fold_batch_norms(model)
        common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    if subgraphs:
        join_scopes(model)
    _free_names(model.graph, subgraphs)
    _infer_types(model)
    return model, skipped


def _convert(model: ir.Model, opset: int) -> ir.Model:
    """Onnx's version converter, fed with a model whose weights are inputs for the while."""

    def convert(proto: onnx.ModelProto) -> onnx.ModelProto:
        try:
            return onnx.version_converter.convert_version(proto, opset)
        except Exception as error:  # the converter raises RuntimeError and its own ConvertError
            raise ModelError(
                f"model: onnx cannot convert it from opset {model.opset_imports.get('')} to {opset}: {error}"
            ) from error

    return _without_weights(model, convert)


def _resized_before_opset_11(model: ir.Model) -> frozenset[str | None]:
    """Outputs of Upsample, and of Resize as it was at opset 10."""
    first = model.opset_imports.get("") == 10
    return frozenset(
        node.outputs[0].name
        for node in model.graph.all_nodes()
        if node.op_type == "Upsample" or (first and node.op_type == "Resize")
    )


def _keep_coordinates(model: ir.Model, resized: frozenset[str | None]) -> None:
    """Sets the attributes of Resize by which it does what it did before it had them, in place.

    Output i then lay at i / scale, and was rounded down where the tensor grows, up where it shrinks;
    onnx's converter leaves the newer defaults, (i + 1/2) / scale - 1/2 and to the nearest.
    """
    for node in model.graph.all_nodes():
        if node.op_type == "Resize" and node.outputs[0].name in resized:
            scales = node.inputs[2] if len(node.inputs) > 2 else None
            constant = None if scales is None else scales.const_value
            shrinks = constant is not None and bool((constant.numpy() <= 1).all())
            node.attributes["coordinate_transformation_mode"] = ir.AttrString(
                "coordinate_transformation_mode", "asymmetric"
            )
            node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "ceil" if shrinks else "floor")


def _infer_types(model: ir.Model) -> None:
    """Shapes and element types of every value, in place; what cannot be inferred stays unknown."""

    def infer(proto: onnx.ModelProto) -> onnx.ModelProto:
        return onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)

    inferred = ir.convenience.create_value_mapping(_without_weights(model, infer).graph)
    for name, value in ir.convenience.create_value_mapping(model.graph).items():
        if name in inferred:
            value.type = value.type or inferred[name].type
            value.shape = inferred[name].shape or value.shape
    unknown = [
        value.name for node in model.graph for value in node.outputs if value.name and value.dtype is None
    ]
    if unknown:
        _log.warning("%d tensors have no known type and stay float, first %r", len(unknown), unknown[0])


def _without_weights(model: ir.Model, function: Callable[[onnx.ModelProto], onnx.ModelProto]) -> ir.Model:
    """Applies a function of onnx's C++ library to a model of any size; `model` is left as it is.

    Large initializers travel as graph inputs, so that nothing of their size is ever serialised.
    """
    stripped = model.clone()
    graph = stripped.graph
    weights = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _SMALL_BYTES:
            weights[name] = tensor
            value.const_value = None
            value.shape, value.dtype = ir.Shape(tensor.numpy().shape), tensor.dtype
            del graph.initializers[name]
            graph.inputs.append(value)
        elif isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.tensor(tensor.numpy(), name=name)
    result = ir.from_proto(function(ir.to_proto(stripped)))
    assert isinstance(result, ir.Model)
    for value in list(result.graph.inputs):
        if value.name in weights:
            result.graph.inputs.remove(value)
            value.const_value = weights[value.name]
            result.graph.register_initializer(value)
    return result


def _free_names(graph: ir.Graph, subgraphs: bool) -> None:
    """Renames inner values that are called as the quantization parameters of another one will be."""
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=subgraphs)
    fixed = {value.name for value in (*graph.inputs, *graph.outputs)}
    for name, value in values.items():
        reserved = any(name.endswith(end) and name.removesuffix(end) in values for end in RESERVED_ENDINGS)
        if reserved and name not in fixed:
            if value.const_value is not None:  # its tensor, which would be renamed too, is shared
                value.const_value = ir.tensor(value.const_value.numpy(), name=name)
            while value.name in values:
                value.name = f"{value.name}_float"


def _name_nodes(graph: ir.Graph) -> None:
    """Gives every nameless node, and every second one of a name, a name that no node has."""
    given = {node.name for node in graph}
    taken: set[str] = set()
    for index, node in enumerate(graph):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken or (name in given and name != node.name):
            name = f"{name}_{index}"
        node.name = name
        taken.add(name)
