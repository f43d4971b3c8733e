"""Two bits for three values: minus, zero and plus."""

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

_THRESHOLD = 0.75
"""Of the mean magnitude; 0.7 in Li et al., 2016 (arXiv:1605.04711)."""

_ABOVE = f"""
    share = Constant <value_float = {_THRESHOLD}> ()
    threshold = Mul (mean, share)
    is_above = Greater (magnitudes, threshold)
    above = Cast <to = 1> (is_above)
"""

_SIGN = f"""{functions.NAN_KEEPING_SIGN}
    raised = Mul (rows, up)
    far = Mul (raised, again)
    sign = Clip (far, minus_one_float, one_float)
"""

_UNSCALED = f"""{_ABOVE}{_SIGN}
    y = Mul (sign, above)
"""

_SCALED = f"""{_ABOVE}{_SIGN}
    zero_64 = Constant <value = double {{0.0}}> ()
    counted = Mul (magnitudes, above)
    counted_64 = Cast <to = 11> (counted)
    total = ReduceSum <keepdims = 1> (counted_64, axes)
    ones = Cast <to = 11> (above)
    number = ReduceSum <keepdims = 1> (ones, axes)
    mean_above = Div (total, number)
    has_mean = Greater (number, zero_64)
    scale_64 = Where (has_mean, mean_above, zero_64)
    scale = Cast <to = 1> (scale_64)
    chosen = Mul (sign, above)
    y = Mul (chosen, scale)
"""


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

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        op_type, result = ("ScaledTernary", _SCALED) if self.scaling_factor else ("Ternary", _UNSCALED)
        return with_means(op_type, result, per_row=True, shape=shape)

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
