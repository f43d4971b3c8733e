"""Formats with several parameters each, data of many magnitudes, and models of one format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from quant.formats import DOMAIN, Emulation, Format, make_format
from quant.requirements import session_config

F32 = NDArray[np.float32]

RANGE = np.float32(-3), np.float32(5)
"""What calibrated formats are bound to."""


@dataclass(frozen=True)
class Case:
    """A format by its name and the parameters of its role."""

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        values = (str(value).strip("()[]").replace(", ", "x") for _, value in self.parameters)
        return "-".join((self.name, *values))

    def of(self, role: str) -> Format:
        config = {"name": self.name, **{f"{role}_{key}": value for key, value in self.parameters}}
        if role == "bias" and not self.parameters:
            config = {"bias_name": self.name}
        made = make_format(role, config)
        assert made is not None
        return made

    @cached_property
    def format(self) -> Format:
        """For activations."""
        made = self.of("data_in")
        return made.bound(*RANGE) if made.calibrated else made


def case(name: str, **parameters: Any) -> Case:
    return Case(name, tuple(parameters.items()))


ELEMENTWISE = (
    *(case("integer", width=width) for width in (1, 2, 5, 8, 16)),
    case("fixed", width=6, frac_width=9),
    case("integer", width=7, frac_width=-3, is_signed=False),
    case("integer", width=24, frac_width=4),
    case("integer", width=32),
    *(case("minifloat_ieee", width=w, exponent_width=e) for w, e in ((4, 2), (6, 3), (8, 4), (8, 5), (3, 2))),
    case("minifloat_ieee", width=7, exponent_width=3, exponent_bias=-4),
    case("minifloat_ieee", width=12, exponent_width=8),
    case("minifloat_ieee", width=32, exponent_width=4),
    *(case("minifloat_denorm", width=w, exponent_width=e) for w, e in ((4, 2), (6, 3), (8, 4), (16, 5))),
    case("minifloat_denorm", width=7, exponent_width=3, exponent_bias=9),
    case("minifloat_denorm", width=16, exponent_width=8),
    case("minifloat_denorm", width=32, exponent_width=4),
    *(case("log", width=width) for width in (2, 4, 8, 12, 32)),
    case("log", width=5, exponent_bias=3),
    case("binary"),
    case("bfloat16"),
    case("float16"),
)
"""Each element by itself."""

BLOCKS = (
    case("block_fp"),
    case("block_fp", width=4, exponent_width=3, block_size=[1, 7]),
    case("block_fp", width=6, block_size=[4, 16]),
    case("block_fp", width=32, block_size=[64]),
    case("block_minifloat", width=8, exponent_width=4, exponent_bias_width=8),
    case("block_minifloat", width=6, exponent_width=3, exponent_bias_width=4, block_size=[3, 5]),
    case("block_minifloat", width=4, exponent_width=2, exponent_bias_width=3, block_size=[8]),
    case("block_log", width=4, exponent_bias_width=6),
    case("block_log", width=3, exponent_bias_width=3, block_size=[2, 4]),
    case("block_log", width=12, exponent_bias_width=8),
    case("mxint", width=8),
    case("mxint", width=4, block_size=[1, 16]),
    case("mxint", width=2, scale_bits=4),
    *(case("mxfp", exponent_width=e, frac_width=m) for e, m in ((4, 3), (5, 2), (2, 3), (3, 2), (2, 1))),
    case("mxfp", exponent_width=3, frac_width=2, block_size=[2, 9]),
    case("float4e2m1"),
)
"""Blocks that share something."""

MEANS = (
    case("binary", bipolar=False),
    case("binary_residual"),
    case("binary_residual", levels=4),
    case("ternary"),
    case("ternary", scaling_factor=False),
)
"""Scales from means of magnitudes."""

CALIBRATED = (
    *(case(f"{sign}int{bits}") for sign in ("", "u") for bits in (2, 4, 8, 16)),
    case("int8", symmetric=False),
    case("uint4", symmetric=True),
    case("float8e4m3fn"),
    case("float8e5m2"),
    case("float4e2m1", block_size=16),
)
"""With a range."""

CASES = (*ELEMENTWISE, *BLOCKS, *MEANS, *CALIBRATED)


def values(*shape: int, seed: int = 0, exponents: tuple[int, int] = (-24, 24)) -> F32:
    """Numbers of many magnitudes, powers of two, halves between small integers, zeros and subnormals."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp2(rng.integers(*exponents, shape))
    flat = x.reshape(-1)
    quarter = flat.size // 4
    flat[:quarter] = np.exp2(rng.integers(*exponents, quarter)) * rng.choice([-1, 1], quarter)
    flat[quarter : 2 * quarter] = rng.integers(-40, 40, quarter) / 8
    special = [0.0, -0.0, 1e-40, -1.4e-45, 2.0**-126, 3.4e38, -1.0, np.sqrt(2), 1.9999999]
    flat[-len(special) :] = special
    flat[:] = flat[rng.permutation(flat.size)]
    return x.astype(np.float32)


def weights(*shape: int, seed: int = 0) -> F32:
    """Of a layer: near to each other, some zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    x[rng.random(shape) < 0.05] = 0
    return x


@lru_cache(maxsize=256)
def emulated(emulation: Emulation, opset: int) -> ort.InferenceSession:
    """A model of one call, for inputs of any rank."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b"]) for name in ("x", "y")]
    graph = helper.make_graph([emulation.node("x", "y", "call")], "graph", value[:1], value[1:])
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)],
        functions=[emulation.function(opset)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    for value_info in (*model.graph.input, *model.graph.output):
        value_info.type.tensor_type.ClearField("shape")
    return session(model)


def session(model: onnx.ModelProto, config: tuple[tuple[str, str], ...] = ()) -> ort.InferenceSession:
    """On one thread, with all optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in config:
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


__all__ = [
    "BLOCKS",
    "CALIBRATED",
    "CASES",
    "ELEMENTWISE",
    "MEANS",
    "Case",
    "case",
    "emulated",
    "session",
    "session_config",
    "values",
    "weights",
]
