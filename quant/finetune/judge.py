"""Whether a layer's update helps what lies behind it, by running the models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quant.finetune.walk import Twins
from quant.graph.parts import run_in_parts
from quant.graph.session import float_session


class Judge:
    """The error of the quantized model at some tensors, as its initializers are at the moment.

        sum over tensors of mean((y - ŷ)²) / mean(y²)

    so that outputs of any magnitude count alike. The float values are computed once.
    """

    def __init__(self, twins: Twins, tensors: Sequence[str], quantized_tensors: Sequence[str]) -> None:
        """Takes the tensors' names in either model, in the same order."""
        self.twins = twins
        self.quantized_tensors = tuple(quantized_tensors)
        self._floats = _run(twins, tuple(tensors), quantized=False)

    def error(self) -> float:
        """Of the quantized model as it is now."""
        total = 0.0
        others = _run(self.twins, self.quantized_tensors, quantized=True)
        for values, quantized in zip(self._floats, others, strict=True):
            squares = [np.square(x.astype(np.float64) - y) for x, y in zip(values, quantized, strict=True)]
            power = sum(float(np.square(x, dtype=np.float64).sum()) for x in values)
            total += sum(float(square.sum()) for square in squares) / (power or 1.0)
        return total


def _run(twins: Twins, names: tuple[str, ...], *, quantized: bool) -> list[list[NDArray[np.float32]]]:
    """Values of each tensor, batch by batch."""
    model, config = (twins.quantized, twins.config) if quantized else (twins.float_model, ())
    with float_session(model, names, twins.providers, twins.threads, config) as session:
        batches = [
            run_in_parts(lambda part: session.run(list(names), dict(part)), feed) for feed in twins.data.feeds
        ]
    return [[batch[index] for batch in batches] for index in range(len(names))]
