"""What wider types cost: shares of the multiplications, of the weights and of the activations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from quant.graph.macs import Shapes, graph_macs, operands, shapes_read
from quant.graph.placement import Placement
from quant.mixed_precision.groups import own_tensors

_EIGHT_BITS = 8


@dataclass(frozen=True)
class Shares:
    """Parts of a model, each from 0 to 1.

    Attributes:
        macs: Of its multiply-accumulate operations.
        weights: Of the elements of its weights.
        activations: Of the elements of its quantized activations.
    """

    macs: float
    weights: float
    activations: float


@dataclass(frozen=True)
class Costs:
    """Sizes of a model's parts, from which shares follow.

    Attributes:
        macs: For every node with MACs: their number, and the tensors whose types decide on theirs.
        weights: Elements of every constant that is multiplied or quantized, by name.
        activations: Elements of every quantized activation that has a scale of its own, in one batch.
    """

    macs: tuple[tuple[int, tuple[str, ...]], ...]
    weights: Mapping[str, int]
    activations: Mapping[str, int]

    def wide(self, tensors: Collection[str]) -> Shares:
        """What becomes wide with some tensors.

        A multiplication is as wide as the wider of its operands, whatever its result becomes.
        """
        macs = sum(count for count, names in self.macs if any(name in tensors for name in names))
        total = sum(count for count, _ in self.macs)
        return Shares(
            macs / total if total else 0.0, _share(self.weights, tensors), _share(self.activations, tensors)
        )

    def narrow(self, bits: Mapping[str, float], at_most: int = _EIGHT_BITS) -> Shares:
        """What a quantized model computes and keeps with few bits.

        Args:
            bits: Of every quantized tensor, by name.
            at_most: How many are few.
        """
        few = {name for name, width in bits.items() if width <= at_most}
        macs = sum(count for count, names in self.macs if all(name in few for name in names))
        total = sum(count for count, _ in self.macs)
        return Shares(
            macs / total if total else 1.0, _share(self.weights, few), _share(self.activations, few)
        )


def _share(sizes: Mapping[str, int], chosen: Collection[str]) -> float:
    total = sum(sizes.values())
    return sum(size for name, size in sizes.items() if name in chosen) / total if total else 0.0


def tensors_measured(graph: ir.Graph, placement: Placement) -> tuple[str, ...]:
    """Names of the tensors whose shapes `costs_of` looks at."""
    return tuple(dict.fromkeys((*shapes_read(graph), *own_tensors(placement))))


def costs_of(graph: ir.Graph, placement: Placement, shapes: Shapes) -> Costs:
    """The costs of a graph.

    Args:
        graph: What the placement was made for.
        placement: What is quantized; a tensor that follows another has that one's type.
        shapes: Of `tensors_measured`.
    """
    sizes = {name: _elements(shape) for name, shape in shapes.items()}
    macs = graph_macs(graph, shapes)
    multiplied = {node.name or "": operands(node) for node in graph if operands(node)}
    constants = {name for names in multiplied.values() for name in names if name in graph.initializers}
    return Costs(
        tuple(
            (macs[node], tuple(placement.activations.get(name, name) for name in names))
            for node, names in multiplied.items()
        ),
        {name: sizes[name] for name in dict.fromkeys((*placement.weights, *sorted(constants)))},
        {name: sizes[name] for name, provider in placement.activations.items() if name == provider},
    )


def _elements(shape: Iterable[int]) -> int:
    elements = 1
    for size in shape:
        elements *= size
    return elements
