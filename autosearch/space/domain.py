"""Values as small integer codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosearch.space.effective import canonical_json

Codes = NDArray[np.int32]
Columns = dict[str, Codes]
"""By key, for many configurations; an array of shape () where all have the same value."""


class Domain:
    """The values that one key takes anywhere in the space, and their codes."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._codes: dict[Any, int] = {}

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, value: Any) -> int:
        """The code of a value; a new one is taken in."""
        name = canonical_json(value) if isinstance(value, list | dict) else value
        code = self._codes.setdefault(name, len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code
