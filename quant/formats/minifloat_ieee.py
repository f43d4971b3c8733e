"""Small floating-point numbers with a hidden bit and subnormal numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.contract import F32, Emulation, Format, KnownShape
from quant.formats.grids import FloatGrid
from quant.formats.parameters import Derived, Family, Parameter
from quant.formats.rounding import FloatShape, check_range, check_widths, float_shape


def _body(constants: tuple[str, ...], text: str) -> str:
    return f"""<{", ".join(f"{name}: float" for name in constants)}> (x) => (y)
{{
{functions.constants(**dict.fromkeys(constants, "float"))}
{text.replace("(scaled", "(x").replace("rounded", "y")}
}}"""


@dataclass(frozen=True)
class MinifloatIeee(Format):
    """(−1)^s 2^(max(e, 1) − b) ([e > 0] + m / 2^M) for all codes s, e, m: none for infinity and NaN.

    Attributes:
        width: w bits: sign, exponent and M = w − E − 1 mantissa bits.
        exponent_width: E.
        exponent_bias: b.
    """

    width: int
    exponent_width: int
    exponent_bias: int

    def __post_init__(self) -> None:
        check_widths(self.width, self.exponent_width, mantissa_bits=0)
        check_range(1 - self.exponent_bias, (1 << self.exponent_width) - 1 - self.exponent_bias)

    @property
    def name(self) -> str:
        return "minifloat_ieee"

    @property
    def shape(self) -> FloatShape:
        """The numbers, as far as float32 has them."""
        least, greatest = 1 - self.exponent_bias, (1 << self.exponent_width) - 1 - self.exponent_bias
        return float_shape(self.width - self.exponent_width - 1, least, greatest)

    def _round_array(self, x: F32) -> F32:
        return self.shape.round(x)

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.width

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        constants = shape_constants(self.shape)
        if self.shape.is_wide:
            op_type, text = "WideMinifloatIeee", functions.ROUND_TO_WIDE_FLOAT
        else:
            op_type, text = "MinifloatIeee", functions.ROUND_TO_FLOAT
        return Emulation(op_type, _body(tuple(constants), text), tuple(constants.items()))

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        return FloatGrid(np.ones((1, 1, 1), np.float32), self.shape)


def shape_constants(shape: FloatShape) -> dict[str, float]:
    """The constants of `functions.ROUND_TO_FLOAT`, or of `functions.ROUND_TO_WIDE_FLOAT` for wide shapes."""
    lift = 2.0 ** (24 - shape.mantissa_bits) if shape.is_wide else 1.0
    constants = {
        "lowest": -shape.largest,
        "largest": shape.largest,
        "phi_unit": functions.PHI * 2.0**-shape.mantissa_bits / lift,
        "least_spacing": shape.least_spacing,
    }
    return constants | {"lift": lift} if shape.is_wide else constants


WIDTH = Parameter("width", int, "bits of a value", low=2, high=32)
EXPONENT_WIDTH = Parameter("exponent_width", int, "bits of the exponent", low=1, high=8)
EXPONENT_BIAS = Parameter(
    "exponent_bias",
    int,
    "what is subtracted from the exponent's code",
    Derived("2^(exponent_width - 1) - 1", lambda given: (1 << (given["exponent_width"] - 1)) - 1),
    low=-126,
    high=127,
)

MINIFLOAT_IEEE = Family(
    "minifloat_ieee",
    "floating-point numbers with a hidden bit and subnormal numbers",
    (WIDTH, EXPONENT_WIDTH, EXPONENT_BIAS),
    lambda role, **parameters: MinifloatIeee(**parameters),
)
