"""Two bits for three values: minus, zero and plus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats.contract import F32, Emulation, Format
from quant.formats.grids import StepGrid
from quant.formats.means import ROWS, by_rows, mean_magnitudes, per_output, row_count
from quant.formats.parameters import Family, Parameter

_THRESHOLD = 0.75
"""Of the mean magnitude; 0.7 in Li et al., 2016 (arXiv:1605.04711)."""

_BODY = f"""<per_row: int, scaled: int> (x) => (y)
{{
{ROWS}
    share = Constant <value_float = {_THRESHOLD}> ()
    threshold = Mul (mean, share)
    above = Greater (magnitudes, threshold)
    zero_64 = Cast <to = 11> (zero)
    counted = Where (above, magnitudes_64, zero_64)
    total = ReduceSum <keepdims = 1> (counted, axis)
    ones = Cast <to = 11> (above)
    number = ReduceSum <keepdims = 1> (ones, axis)
    one_64 = Cast <to = 11> (one)
    divisor = Max (number, one_64)
    scale_64 = Div (total, divisor)
    own_scale = Cast <to = 1> (scale_64)
    scaled = Constant <value_int: int = @scaled> ()
    has_scale = Cast <to = 9> (scaled)
    unit_scale = Cast <to = 1> (one)
    scale = Where (has_scale, own_scale, unit_scale)
    sign = Sign (rows)
    signed = Mul (sign, scale)
    chosen = Where (above, signed, zero)
    unknown = IsNaN (rows)
    result = Where (unknown, rows, chosen)
    y = Reshape (result, shape)
}}"""


@dataclass(frozen=True)
class Ternary(Format):
    """sign(x) s where abs x > d = 0.75 mean abs x, else 0; s is the mean of abs x above d, or 1.

    Means are those of each index of the first axis: an output channel of a weight, a sample of an
    activation; a tensor of one axis has a single one. NaN stays NaN.

    Attributes:
        scaling_factor: Whether there is s.
    """

    scaling_factor: bool = True

    @property
    def name(self) -> str:
        return "ternary"

    def _round_array(self, x: F32) -> F32:
        return by_rows(x, True, self._round)

    def _round(self, rows: F32) -> F32:
        threshold, scale = self._threshold_and_scale(rows)
        rounded = np.sign(rows)
        rounded *= scale
        rounded[~(np.abs(rows) > threshold)] = 0
        rounded[np.isnan(rows)] = np.nan
        return rounded

    def _threshold_and_scale(self, rows: F32) -> tuple[F32, F32]:
        threshold = mean_magnitudes(rows) * np.float32(_THRESHOLD)
        if not self.scaling_factor:
            return threshold, np.ones_like(threshold)
        return threshold, mean_magnitudes(rows, np.abs(rows) > threshold)

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return 2

    def emulation(self) -> Emulation:
        return Emulation("Ternary", _BODY, (("per_row", 1), ("scaled", int(self.scaling_factor))))

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        rows = weight.reshape(row_count(weight, True), -1)
        threshold, scale = (per_output(parameter, groups) for parameter in self._threshold_and_scale(rows))
        above = np.nextafter(threshold, np.float32(np.inf))
        return StepGrid(np.stack([-scale, 0 * scale, scale]), np.stack([-threshold, above]))


TERNARY = Family(
    "ternary",
    "minus, zero and plus",
    (Parameter("scaling_factor", bool, "times the mean of the magnitudes above the threshold", True),),
    lambda role, **parameters: Ternary(**parameters),
)
