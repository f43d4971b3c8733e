"""Sums of binary approximations, each of what the ones before have left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant.finetune.grid import RoundingGrid
from quant.formats import functions
from quant.formats.contract import F32, Emulation, Format, KnownShape
from quant.formats.grids import ResidualGrid
from quant.formats.means import by_rows, mean_magnitudes, per_output, row_count, with_means
from quant.formats.parameters import Family, Parameter

MOST_LEVELS = 8


def _level(index: int) -> str:
    """One more level, of what the one before has left; the names carry its number."""
    rest, total, sign = f"rest_{index}", f"sum_{index}", f"sign_{index}"
    return f"""
    absolute_{index} = Abs ({rest})
    absolute_64_{index} = Cast <to = 11> (absolute_{index})
    mean_64_{index} = ReduceMean <keepdims = 1> (absolute_64_{index}, axes)
    mean_{index} = Cast <to = 1> (mean_64_{index})
{functions.nan_keeping_sign(rest, sign)}
    step_{index} = Mul ({sign}, mean_{index})
    rest_{index + 1} = Sub ({rest}, step_{index})
    sum_{index + 1} = Add ({total}, step_{index})
"""


def _result(levels: int) -> str:
    return f"""{functions.NAN_KEEPING_SIGN}{functions.nan_keeping_sign("rows", "sign_0")}
    sum_1 = Mul (sign_0, mean)
    rest_1 = Sub (rows, sum_1)
{"".join(_level(index) for index in range(1, levels))}
    y = Identity (sum_{levels})
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

    def emulation(self, shape: KnownShape | None = None) -> Emulation:
        op_type = f"BinaryResidual{self.levels}"
        return with_means(op_type, _result(self.levels), self.per_sample, shape)

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
