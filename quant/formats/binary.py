"""One bit: the sign, with or without a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.contract import F32, Emulation, Format, KnownShape
from quant.formats.grids import StepGrid
from quant.formats.means import by_rows, mean_magnitudes, per_output, row_count, with_means
from quant.formats.parameters import Family, Parameter

_SCALED = f"""{functions.NAN_KEEPING_SIGN}{functions.nan_keeping_sign("rows", "sign")}
    y = Mul (sign, mean)
"""

_BIPOLAR = f"""(x) => (y)
{{
{functions.NAN_KEEPING_SIGN}{functions.nan_keeping_sign("x", "y")}
}}"""


@dataclass(frozen=True)
class Binary(Format):
    """x >= 0 ? g : −g with g = 1 (bipolar), else g = mean abs x of each index of the first axis.

    That is an output channel of a weight, and a sample of an activation; a tensor of one axis has a
    single mean. NaN stays NaN, and makes the scale that it takes part in NaN.

    Attributes:
        bipolar: Without a scale.
    """

    bipolar: bool = True

    @property
    def name(self) -> str:
        return "binary"

    def _round_array(self, x: F32) -> F32:
        return self._sign(x) if self.bipolar else by_rows(x, True, self._sign)

    def _sign(self, rows: F32) -> F32:
        scale = self._scale(rows)
        signed = np.where(rows >= 0, scale, -scale)
        signed[np.isnan(rows)] = np.nan
        return signed

    def _scale(self, rows: F32) -> F32:
        return np.ones((), np.float32) if self.bipolar else mean_magnitudes(rows)

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return 1

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        if self.bipolar:
            return Emulation("Bipolar", _BIPOLAR)
        return with_means("ScaledBinary", _SCALED, per_row=True, shape=shape)

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        scale = per_output(self._scale(weight.reshape(row_count(weight, True), -1)), groups)
        return StepGrid(np.stack([-scale, scale]), np.zeros((1, 1, 1, 1), np.float32))


BINARY = Family(
    "binary",
    "the sign of a number",
    (
        Parameter("bipolar", bool, "−1 and 1; else plus or minus the mean magnitude of the channel", True),
        Parameter(
            "stochastic",
            bool,
            "random signs are refused: a model must give the same numbers each time",
            False,
            choices=(False,),
        ),
    ),
    lambda role, *, bipolar, stochastic: Binary(bipolar),
)
