"""The sensitivity table: what every group costs: in accuracy if narrow, and otherwise if wide."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from quant.mixed_precision.costs import Shares
from quant.mixed_precision.groups import Group
from quant.mixed_precision.noise import Noise


@dataclass(frozen=True)
class Sensitivity:
    """A row.

    Attributes:
        group: What has one type together.
        noise: Of the model's outputs with this group narrow and all else float; None = not measured.
        sqnr_db: Least ratio of signal to quantization noise among its tensors, in decibels; None = unknown.
        shares: What becomes wide with it.
    """

    group: Group
    noise: Noise | None
    sqnr_db: float | None
    shares: Shares

    @property
    def error(self) -> float | None:
        """Relative error of the part of the outputs that suffers most."""
        return None if self.noise is None else self.noise.worst

    @property
    def cost(self) -> float:
        """What the greedy choice divides by."""
        return self.shares.macs + self.shares.weights + self.shares.activations


@dataclass(frozen=True)
class SensitivityTable:
    """Rows for all groups, in graph order.

    Attributes:
        rows: One for each group.
        parts: Names of the parts of the outputs, in the order of `Noise.relative`.
        narrow: Noise with everything narrow.
        wide: Noise with everything wide.
    """

    rows: tuple[Sensitivity, ...]
    parts: tuple[str, ...]
    narrow: Noise
    wide: Noise

    @property
    def ranked(self) -> tuple[Sensitivity, ...]:
        """The most sensitive first; those that were not measured last, by their SQNR."""
        return tuple(
            sorted(
                self.rows,
                key=lambda row: (-(-1.0 if row.error is None else row.error), row.sqnr_db or math.inf),
            )
        )


def encode_table(table: SensitivityTable) -> bytes:
    """As JSON; infinite numbers are written as Python's json does."""
    return json.dumps(asdict(table)).encode()


def decode_table(data: memoryview) -> SensitivityTable:
    """The inverse of `encode_table`."""
    content = json.loads(bytes(data))
    rows = tuple(
        Sensitivity(
            Group(row["group"]["name"], row["group"]["op_type"], tuple(row["group"]["tensors"])),
            None if row["noise"] is None else _noise(row["noise"]),
            row["sqnr_db"],
            Shares(**row["shares"]),
        )
        for row in content["rows"]
    )
    return SensitivityTable(rows, tuple(content["parts"]), _noise(content["narrow"]), _noise(content["wide"]))


def _noise(content: dict[str, object]) -> Noise:
    relative, mean_square = content["relative"], content["mean_square"]
    assert isinstance(relative, list) and isinstance(mean_square, float)
    return Noise(tuple(relative), mean_square)
