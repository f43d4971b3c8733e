"""Small networks, and what they compute when every number is rounded by hand."""

from __future__ import annotations

import numpy as np
import onnx

from tests.quant.graphs import Array, Feed, build, floats, node

WIDTHS = (12, 16, 5)


def mlp() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Gemm, Relu, MatMul and Add, with the constants by name."""
    constants = {
        "w": floats(WIDTHS[1], WIDTHS[0], seed=1, scale=0.4),
        "b": floats(WIDTHS[1], seed=2, scale=0.3),
        "v": floats(WIDTHS[1], WIDTHS[2], seed=3, scale=0.4),
        "c": floats(WIDTHS[2], seed=4, scale=0.3),
    }
    nodes = [
        node("Gemm", "x w b", "h", transB=1),
        node("Relu", "h", "r"),
        node("MatMul", "r v", "m"),
        node("Add", "m c", "y"),
    ]
    return build(nodes, {"x": ["n", WIDTHS[0]]}, constants, "y"), constants


def network() -> onnx.ModelProto:
    """A layer of every kind."""
    return build(
        [
            node("Conv", "x c b", "a", pads=[1, 1, 1, 1]),
            node("Conv", "a d", "e", group=8),
            node("ConvTranspose", "e t tb", "f", group=2),
            node("GlobalAveragePool", "f", "g"),
            node("Flatten", "g", "h"),
            node("Gemm", "h w wb", "k", beta=0.5),
            node("Gemm", "k v", "l", transB=1),
            node("MatMul", "l m", "o"),
            node("Add", "o ob", "y"),
        ],
        {"x": [4, 3, 8, 8]},
        {
            "c": floats(8, 3, 3, 3, seed=1) / 4,
            "b": floats(8, seed=2),
            "d": floats(8, 1, 3, 3, seed=3),
            "t": floats(8, 5, 2, 2, seed=4) / 4,
            "tb": floats(10, seed=5),
            "w": floats(10, 24, seed=6) / 3,
            "wb": floats(24, seed=7),
            "v": floats(40, 24, seed=8) / 5,
            "m": floats(40, 6, seed=9) / 6,
            "ob": floats(6, seed=10),
        },
        "y",
    )


def images(count: int = 2) -> list[Feed]:
    """What `network` reads."""
    return [{"x": floats(4, 3, 8, 8, seed=20 + index)} for index in range(count)]


def batches(count: int = 2) -> list[Feed]:
    return [{"x": floats(8, WIDTHS[0], seed=10 + index)} for index in range(count)]


def fixed_point(x: Array, width: int, frac_width: int) -> Array:
    """clip(round(x 2^f), -2^(w-1), 2^(w-1) - 1) / 2^f, in float64."""
    codes = np.clip(
        np.rint(x.astype(np.float64) * 2.0**frac_width), -(2 ** (width - 1)), 2 ** (width - 1) - 1
    )
    return codes / 2.0**frac_width


def symmetric_int8(x: Array, low: float, high: float) -> Array:
    """round(x / s) s with 254 steps over a range symmetric about zero, saturated at -128 and 127."""
    scale = np.float64(np.float32(2 * max(-low, high) / 254))
    return np.clip(np.rint(x / scale), -128, 127) * scale
