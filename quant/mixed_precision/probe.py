"""Measuring a model's error with any choice of types, without building anything anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx_ir as ir
import onnxruntime as ort

from quant.graph.session import float_session
from quant.mixed_precision.noise import Noise
from quant.mixed_precision.switched_model import Precision, Switch, settings, switched_model
from quant.mixed_precision.yardstick import Yardstick


@dataclass
class Probe:
    """A session of the switched model; what was measured once is remembered.

    Attributes:
        session: Of the switched model.
        yardstick: What its outputs are compared with.
        sources: Names of all tensors with a switch of their own.
        runs: How many choices were measured.
    """

    session: ort.InferenceSession
    yardstick: Yardstick
    sources: frozenset[str]
    runs: int = 0
    _known: dict[frozenset[tuple[str, Precision]], Noise] = field(default_factory=dict)

    def noise(self, precisions: Mapping[str, Precision]) -> Noise:
        """The noise of a choice.

        Args:
            precisions: By name; tensors that are not listed stay float.
        """
        key = frozenset(precisions.items())
        if key not in self._known:
            self.runs += 1
            taken = {value.name for value in self.session.get_inputs()}
            flags = settings(dict.fromkeys(self.sources, Precision.FLOAT) | dict(precisions))
            used = {name: flag for name, flag in flags.items() if name in taken}
            self._known[key] = self.yardstick.noise(self.session, used)
        return self._known[key]


@contextmanager
def probe(
    model: ir.Model,
    switches: Mapping[str, Switch],
    float_nodes: frozenset[str],
    yardstick: Yardstick,
    *,
    providers: Sequence[str],
    threads: int,
) -> Iterator[Probe]:
    """Builds the session.

    Args:
        model: The float model; left as it is.
        switches, float_nodes: As `switched_model` takes them.
        yardstick: Of the float model.
        providers: onnxruntime's execution providers.
        threads: Of the session; 0 = all cores.

    Raises:
        ModelError: If onnxruntime cannot run the model.
    """
    sources = frozenset(switch.source for switch in switches.values())
    switched = switched_model(model, switches, float_nodes)
    with float_session(switched, (), providers, threads) as session:
        yield Probe(session, yardstick, sources)
