"""Running a model with other values in some of its tensors, without building anything anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from quant.graph.session import float_session
from quant.mixed_precision.noise import Noise, Outputs
from quant.mixed_precision.states import follow
from quant.mixed_precision.yardstick import Yardstick


@dataclass(frozen=True)
class Edge:
    """What one node reads at one of its inputs.

    Attributes:
        node: Name of the node, in the main graph.
        position: Of the input.
    """

    node: str
    position: int


@dataclass(frozen=True)
class Substitution:
    """A session of a model whose initializers and edges can be given other values for a run.

    Attributes:
        session: Of the model with its switches.
        yardstick: What its outputs are compared with.
        sources: Tensor that each edge reads.
    """

    session: ort.InferenceSession
    yardstick: Yardstick
    sources: Mapping[Edge, str]

    def values(self, edge: Edge) -> list[NDArray[Any]]:
        """What the float model has there, for each batch of the yardstick."""
        source, found = self.sources[edge], []
        for feed in self.yardstick.feeds:
            found.append(feed[source] if source in feed else self._run([source], feed)[0])
        return found

    def noise(
        self,
        initializers: Mapping[str, NDArray[Any]] | None = None,
        edges: Mapping[Edge, Sequence[NDArray[Any]]] | None = None,
    ) -> Noise:
        """The noise of the outputs with some values replaced.

        Args:
            initializers: Values by name.
            edges: For each batch of the yardstick a value.
        """
        yardstick, number = self.yardstick, iter(range(len(self.yardstick.feeds)))
        positions = [self.session.get_outputs()[position].name for position in yardstick.outputs]

        def run(feed: Mapping[str, NDArray[Any]]) -> Outputs:
            index = next(number)
            given = {edge: values[index] for edge, values in (edges or {}).items()}
            return self._run(positions, {**feed, **(initializers or {})}, given)

        return yardstick.reference.noise(follow(yardstick.feeds, yardstick.carried, run))

    def _run(
        self,
        names: Sequence[str],
        feed: Mapping[str, NDArray[Any]],
        given: Mapping[Edge, NDArray[Any]] | None = None,
    ) -> Outputs:
        switches: dict[str, NDArray[Any]] = {}
        for edge in self.sources:
            value = (given or {}).get(edge)
            switches[_flag(edge)] = np.asarray(value is not None)
            switches[_given(edge)] = _NOTHING if value is None else value
        outputs: Outputs = self.session.run(list(names), {**feed, **switches})
        return outputs


@contextmanager
def substitution(
    model: ir.Model,
    initializers: Sequence[str],
    edges: Sequence[Edge],
    yardstick: Yardstick,
    *,
    providers: Sequence[str],
    threads: int,
) -> Iterator[Substitution]:
    """Builds the session.

    Args:
        model: The float model; left as it is.
        initializers: Those that can be replaced.
        edges: Those that can be replaced; they read float32 tensors.
        yardstick: Of the float model.
        providers: onnxruntime's execution providers.
        threads: Of the session; 0 = all cores.

    Raises:
        ModelError: If onnxruntime cannot run the model.
    """
    model = model.clone()
    graph = model.graph
    for name in initializers:  # an input that has a default value may be given another one
        if all(value.name != name for value in graph.inputs):
            graph.inputs.append(graph.initializers[name])
    nodes = {node.name: node for node in graph}
    sources = {edge: _source(nodes[edge.node], edge) for edge in dict.fromkeys(edges)}
    for edge in sources:
        _insert_switch(graph, nodes[edge.node], edge)
    computed = {value.name for node in graph for value in node.outputs}
    shown = [name for name in dict.fromkeys(sources.values()) if name in computed]
    with float_session(model, shown, providers, threads) as session:
        yield Substitution(session, yardstick, sources)


_NOTHING = np.zeros(1, np.float32)


def _flag(edge: Edge) -> str:
    return f"{edge.node}_{edge.position}_is_given"


def _given(edge: Edge) -> str:
    return f"{edge.node}_{edge.position}_given"


def _source(node: ir.Node, edge: Edge) -> str:
    value = node.inputs[edge.position]
    assert value is not None and value.name is not None
    return value.name


def _insert_switch(graph: ir.Graph, node: ir.Node, edge: Edge) -> None:
    """An If in front of the input: what is given, or what the model computes."""
    value = node.inputs[edge.position]
    assert value is not None
    flag = ir.Value(name=_flag(edge), shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    given = ir.Value(name=_given(edge), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.extend([flag, given])
    branches = [
        ir.AttrGraph(branch, _identity(read, f"{given.name}_{branch}"))
        for branch, read in (("then_branch", given), ("else_branch", value))
    ]
    output = ir.Value(name=f"{given.name}_chosen", type=ir.TensorType(ir.DataType.FLOAT), shape=None)
    graph.insert_before(node, ir.Node("", "If", [flag], branches, outputs=[output], name=f"{given.name}_If"))
    node.replace_input_with(edge.position, output)


def _identity(value: ir.Value, name: str) -> ir.Graph:
    output = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Identity", [value], outputs=[output], name=f"{name}_Identity")
    return ir.Graph([], [output], nodes=[node], name=name)
