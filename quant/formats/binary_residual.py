"""Sums of binary approximations, each of what the ones before have left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats.contract import F32, Emulation, Format
from quant.formats.grids import ResidualGrid
from quant.formats.means import ROWS, by_rows, mean_magnitudes, per_output, row_count
from quant.formats.parameters import Family, Parameter

MOST_LEVELS = 8

_HEAD = f"""<per_row: int> (x) => (y)
{{
{ROWS}
    unknown = IsNaN (rows)
    rest_0 = Identity (rows)
    sum_0 = Mul (rows, zero)
"""


def _level(index: int) -> str:
    """One more level; the names carry its number."""
    return f"""
    absolute_{index} = Abs (rest_{index})
    absolute_64_{index} = Cast <to = 11> (absolute_{index})
    mean_64_{index} = ReduceMean <keepdims = 1> (absolute_64_{index}, axis)
    mean_{index} = Cast <to = 1> (mean_64_{index})
    minus_{index} = Neg (mean_{index})
    positive_{index} = GreaterOrEqual (rest_{index}, zero)
    step_{index} = Where (positive_{index}, mean_{index}, minus_{index})
    rest_{index + 1} = Sub (rest_{index}, step_{index})
    sum_{index + 1} = Add (sum_{index}, step_{index})
"""


@dataclass(frozen=True)
class BinaryResidual(Format):
    """Σ_l sign(r_l) g_l with r_1 = x, g_l = mean abs r_l, r_(l+1) = r_l − sign(r_l) g_l; sign(0) = 1.

    NaN stays NaN. (Li et al., 2017, arXiv:1708.08687.) The values are those that the levels lead to, not
    the nearest of all sums: where an element is far greater than the mean, a sum may lie nearer.

    Attributes:
        levels: How many, 1 to 8.
        per_sample: Means of each index of the first axis instead of the whole tensor: for activations,
            so that a sample does not depend on the others of its batch.
    """

    levels: int = 2
    per_sample: bool = False

    @property
    def name(self) -> str:
        return "binary_residual"

    def _round_array(self, x: F32) -> F32:
        return by_rows(x, self.per_sample, self._round)

    def _round(self, rows: F32) -> F32:
        total, rest = np.zeros_like(rows), rows
        for _ in range(self.levels):
            scale = mean_magnitudes(rest)
            step = np.where(rest >= 0, scale, -scale)
            total += step
            rest = rest - step
        total[np.isnan(rows)] = np.nan
        return total

    def bits_per_element(self, shape: Sequence[int]) -> float:
        return self.levels

    def emulation(self) -> Emulation:
        levels = "".join(_level(index) for index in range(self.levels))
        tail = f"    result = Where (unknown, rows, sum_{self.levels})\n    y = Reshape (result, shape)\n}}"
        body = f"{_HEAD}{levels}{tail}"
        return Emulation(f"BinaryResidual{self.levels}", body, (("per_row", int(self.per_sample)),))

    def grid(self, weight: F32, groups: int = 1) -> RoundingGrid:
        rest = weight.reshape(row_count(weight, self.per_sample), -1)
        scales = []
        for _ in range(self.levels):
            scale = mean_magnitudes(rest)
            rest = rest - np.where(rest >= 0, scale, -scale)
            scales.append(per_output(scale, groups))
        return ResidualGrid(np.stack(scales))


BINARY_RESIDUAL = Family(
    "binary_residual",
    "sums of binary approximations",
    (Parameter("levels", int, "number of approximations", 2, low=1, high=MOST_LEVELS),),
    lambda role, levels: BinaryResidual(levels, per_sample=role == "data_in"),
)
