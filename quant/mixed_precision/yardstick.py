"""What the outputs of a quantized model are compared with: the data, and the float model's outputs on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from quant.calibration.data import CalibrationData, Feed
from quant.graph.session import float_session
from quant.mixed_precision.noise import Labels, Noise, Outputs, Reference
from quant.mixed_precision.output_parts import label_outputs
from quant.mixed_precision.states import Carried, carried_states, follow, spread

_SAMPLES = 32
"""To measure with, unless another number is asked for."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Yardstick:
    """Measures models that have the float model's inputs and outputs.

    Attributes:
        feeds: Batches.
        carried: The states that each of them carries on.
        reference: The float outputs.
        outputs: Positions of the outputs that count: those of real numbers, or all if there are none.
        parts: Names of their parts.
    """

    feeds: tuple[Feed, ...]
    carried: tuple[Carried, ...]
    reference: Reference
    outputs: tuple[int, ...]
    parts: tuple[str, ...]

    def noise(self, session: ort.InferenceSession, extra: Feed | None = None) -> Noise:
        """The noise of a model's outputs.

        Args:
            session: Of the model.
            extra: What it reads besides, the same for every batch.
        """
        names = [session.get_outputs()[position].name for position in self.outputs]
        further = {} if extra is None else extra

        def run(feed: Feed) -> Outputs:
            outputs: Outputs = session.run(names, {**feed, **further})
            return outputs

        return self.reference.noise(follow(self.feeds, self.carried, run))


def yardstick(
    model: ir.Model, data: CalibrationData, samples: int | None, *, providers: Sequence[str], threads: int
) -> Yardstick:
    """Runs the float model.

    Args:
        model: The float model; left as it is.
        data: What to measure with.
        samples: How many of it, from all over the data; of a model with states the first steps, each of
            them a feed. None = 32 samples, or all steps.
        providers: onnxruntime's execution providers.
        threads: Of the session; 0 = all cores.

    Raises:
        ModelError: If onnxruntime cannot run the model.
    """
    model = model.clone()
    found = model.graph.outputs
    real = tuple(position for position, value in enumerate(found) if value.dtype in _FLOATS)
    positions = real or tuple(range(len(found)))
    names = [found[position].name or "" for position in positions]
    labelled, parts = label_outputs(model.graph, [found[position] for position in positions])
    extra = [value.name or "" for value in labelled if isinstance(value, ir.Value)]
    with float_session(model, extra, providers, threads) as session:
        run = _Run(session, names, labelled)
        first = data.feeds[:2]
        stateful = any(carried_states(first, [outputs for outputs, _ in run.all(first)]))
        feeds = data.feeds[:samples] if stateful else spread(data.feeds, samples or _SAMPLES, data.samples)
        outputs, labels = zip(*run.all(feeds), strict=True)
    carried = carried_states(feeds, outputs) if stateful else ({},) * len(feeds)
    states = {name for each in carried for name in each}
    reference = Reference(outputs, labels, len(parts), feeds, states)
    return Yardstick(tuple(feeds), carried, reference, positions, parts)


@dataclass(frozen=True)
class _Run:
    """Runs the labelled float model."""

    session: ort.InferenceSession
    names: Sequence[str]
    labelled: Sequence[ir.Value | int]

    def all(self, feeds: Sequence[Feed]) -> Iterator[tuple[Outputs, Labels]]:
        """Outputs and labels of each batch."""
        asked = [*self.names, *(value.name or "" for value in self.labelled if isinstance(value, ir.Value))]
        for feed in feeds:
            found = dict(zip(asked, self.session.run(asked, dict(feed)), strict=True))
            yield [found[name] for name in self.names], [_labels(found, value) for value in self.labelled]


def _labels(found: Mapping[str, NDArray[Any]], labelled: ir.Value | int) -> NDArray[np.int64]:
    """What the model computed, or the number of the only part."""
    if isinstance(labelled, int):
        return np.asarray(labelled, np.int64)
    return found[labelled.name or ""].astype(np.int64)
