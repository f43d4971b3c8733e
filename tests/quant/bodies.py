"""Small models with If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.quant.graphs import Array, Feed, build, floats, node

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(
    name: str, element: int = FLOAT, shape: Sequence[int | str | None] | None = None
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def body(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    constants: Mapping[str, Array] = {},
) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs), tensors)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, Array],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """A checked model, of whose outputs the shapes need not be known beforehand."""
    opset = [helper.make_opsetid("", 21)]
    made = helper.make_model(body(nodes, outputs, inputs, constants), opset_imports=opset, ir_version=10)
    onnx.checker.check_model(made)
    return made


def branch(*nodes: onnx.NodeProto, **constants: Array) -> onnx.GraphProto:
    """A branch of an If: its output is the last node's."""
    return body(nodes, [value(nodes[-1].output[0])], constants=constants)


def sign_test(source: str, prefix: str = "") -> list[onnx.NodeProto]:
    """Whether the sum of a tensor is positive: ``{prefix}positive``; reads the constant `zero`."""
    return [
        node("ReduceSum", source, f"{prefix}total", keepdims=0),
        node("Greater", f"{prefix}total zero", f"{prefix}positive"),
    ]


def conditional() -> onnx.ModelProto:
    """Convolutions in both branches of an If, one weight for the main graph and a branch."""
    then = branch(
        node("Conv", "r shared sb", "same", pads=[1, 1, 1, 1]),
        node("Relu", "same", "same_relu"),
    )
    other = branch(
        node("Conv", "r own ob", "same", pads=[1, 1, 1, 1]),  # a name that the other branch has too
        node("Sigmoid", "same", "bent"),
        own=floats(6, 6, 3, 3, seed=5, scale=0.2),
        ob=floats(6, seed=6),
    )
    return build(
        [
            node("Conv", "x shared sb", "c", pads=[1, 1, 1, 1]),
            node("Relu", "c", "r"),
            *sign_test("x"),
            helper.make_node("If", ["positive"], ["i"], "decide", then_branch=then, else_branch=other),
            node("GlobalAveragePool", "i", "g"),
            node("Flatten", "g", "f"),
            node("Gemm", "f head hb", "y"),
        ],
        {"x": ["n", 6, 6, 6]},
        {
            "shared": floats(6, 6, 3, 3, seed=1, scale=0.2),
            "sb": floats(6, seed=2),
            "zero": np.zeros((), np.float32),
            "head": floats(6, 4, seed=3),
            "hb": floats(4, seed=4),
        },
        "y",
        output_shape=["n", 4],
    )


def taken(model: onnx.ModelProto, attribute: str) -> onnx.ModelProto:
    """The same model with one branch of `decide` in place of the If."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    nodes = []
    for each in model.graph.node:
        if each.name != "decide":
            nodes.append(each)
            continue
        graph = next(given.g for given in each.attribute if given.name == attribute)
        nodes += [*graph.node, node("Identity", graph.output[0].name, each.output[0])]
        plain.graph.initializer.extend(graph.initializer)
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    return plain


STEP = (
    ("Gemm", "{h} w b", "{a}"),
    ("Relu", "{a}", "{r}"),
    ("Add", "{r} {h}", "{s}"),
    ("Gemm", "{s} w2 b2", "{n}"),
)
STEP_CONSTANTS = {
    "w": floats(8, 8, seed=1, scale=0.3),
    "b": floats(8, seed=2, scale=0.3),
    "w2": floats(8, 8, seed=3, scale=0.3),
    "b2": floats(8, seed=4, scale=0.3),
}


def step(h: str, n: str, suffix: str = "") -> list[onnx.NodeProto]:
    """One round of a recurrent cell, from `h` to `n`."""
    names = {"h": h, "n": n} | {name: f"{name}{suffix}" for name in "ars"}
    return [node(kind, reads.format(**names), gives.format(**names)) for kind, reads, gives in STEP]


def loop(trips: int | None) -> onnx.ModelProto:
    """A recurrent cell in a Loop, with a scan output; None = the input `trips` says how often."""
    cell = body(
        [*step("h", "next"), node("Identity", "go", "go_on"), node("Tanh", "next", "seen")],
        [value("go_on", BOOL, []), value("next", shape=["n", 8]), value("seen", shape=["n", 8])],
        [value("index", INT64, []), value("go", BOOL, []), value("h", shape=["n", 8])],
        STEP_CONSTANTS,
    )
    given = {} if trips is None else {"trips": np.array(trips)}
    return model(
        [helper.make_node("Loop", ["trips", "yes", "x"], ["y", "all"], "recur", body=cell)],
        [value("x", shape=["n", 8]), *([value("trips", INT64, [])] if trips is None else [])],
        {"yes": np.array(True), **given},
        [value("y", shape=["n", 8]), value("all", shape=["t", "n", 8])],
    )


def unrolled(trips: int) -> onnx.ModelProto:
    names = ["x", *(f"h{index}" for index in range(1, trips)), "y"]
    nodes = [each for i in range(trips) for each in step(names[i], names[i + 1], str(i))]
    return build(nodes, {"x": ["n", 8]}, STEP_CONSTANTS, "y")


def nested() -> onnx.ModelProto:
    """An If in a Loop, whose branches read the loop's, the body's and the main graph's values."""
    then = branch(node("MatMul", "h w", "up"), node("Sigmoid", "up", "up_out"))
    other = branch(node("MatMul", "h v", "down"), node("Add", "down r", "down_out"), v=floats(8, 8, seed=6))
    cell = body(
        [
            *sign_test("h", "in_"),
            helper.make_node("If", ["in_positive"], ["n"], "choose", then_branch=then, else_branch=other),
            node("Neg", "n", "next"),
            node("Identity", "go", "go_on"),
        ],
        [value("go_on", BOOL, []), value("next", shape=["n", 8])],
        [value("index", INT64, []), value("go", BOOL, []), value("h", shape=["n", 8])],
    )
    return model(
        [
            node("Gemm", "x w b", "g"),
            node("Relu", "g", "r"),
            helper.make_node("Loop", ["trips", "yes", "r"], ["l"], "recur", body=cell),
            node("MatMul", "l w", "y"),
        ],
        [value("x", shape=["n", 8])],
        {
            "w": floats(8, 8, seed=1, scale=0.4),
            "b": floats(8, seed=2),
            "trips": np.array(4),
            "yes": np.array(True),
            "zero": np.zeros((), np.float32),
        },
        [value("y", shape=["n", 8])],
    )


def scan() -> onnx.ModelProto:
    """A recurrent cell over the columns of a sequence."""
    cell = body(
        [
            node("MatMul", "x_t wx", "px"),
            node("MatMul", "h wh", "ph"),
            node("Add", "px ph", "p"),
            node("Sigmoid", "p", "next"),
            node("Identity", "next", "given"),
        ],
        [value("next", shape=["n", 8]), value("given", shape=["n", 8])],
        [value("h", shape=["n", 8]), value("x_t", shape=["n", 4])],
        {"wx": floats(4, 8, seed=1), "wh": floats(8, 8, seed=2, scale=0.5)},
    )
    return build(
        [
            node("MatMul", "first start", "h0"),
            helper.make_node(
                "Scan",
                ["h0", "x"],
                ["last", "steps"],
                "recur",
                body=cell,
                num_scan_inputs=1,
                scan_input_axes=[1],
                scan_output_axes=[1],
            ),
            node("MatMul", "steps head", "y"),
        ],
        {"x": ["n", 5, 4], "first": ["n", 3]},
        {"start": floats(3, 8, seed=3), "head": floats(8, 2, seed=4)},
        "y last",
    )


def feeds(count: int, *shape: int, shift: float = 0.0) -> list[Feed]:
    return [{"x": floats(*shape, seed=seed) + np.float32(shift)} for seed in range(count)]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all that are inside it."""
    yield graph
    for each in graph.node:
        for attribute in each.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
