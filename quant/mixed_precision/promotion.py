"""What automatic mixed precision decided on: which tensors have the target type, and what that brings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from quant.config import QuantConfig, TensorOverride
from quant.graph.placement import Placement
from quant.mixed_precision.costs import Shares
from quant.mixed_precision.groups import is_weight


@dataclass(frozen=True)
class Promotion:
    """The result.

    Attributes:
        changed: Names of the groups that got the target type, in graph order.
        promotes: Whether that is the wider one.
        tensors: Target type by tensor name.
        error_before: Error with the configuration's types alone.
        error: Error of the quantized model, measured with onnxruntime.
        target: What it was to be at most.
        narrow: Shares of the model that stay, or became, narrow.
        groups: Number of groups that could change.
    """

    changed: tuple[str, ...]
    promotes: bool
    tensors: Mapping[str, str]
    error_before: float
    error: float
    target: float
    narrow: Shares
    groups: int

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.error <= self.target

    def __str__(self) -> str:
        """A line for the log."""
        verb = "promoted" if self.promotes else "demoted"
        outcome = "at most" if self.reached else "not reached:"
        kinds = ", ".join(sorted(set(self.tensors.values()))) or "nothing"
        return (
            f"mixed precision: {len(self.changed)} of {self.groups} groups {verb} to {kinds}; error"
            f" {self.error_before:.3g} -> {self.error:.3g} ({outcome} {self.target:.3g}); narrow:"
            f" {self.narrow.macs:.1%} of MACs, {self.narrow.weights:.1%} of weights,"
            f" {self.narrow.activations:.1%} of activations"
        )


def overridden(config: QuantConfig, tensors: Iterable[str], placement: Placement) -> QuantConfig:
    """The configuration in which some tensors have the target types, without further search.

    Args:
        config: With automatic mixed precision.
        tensors: Names of tensors with scales of their own.
        placement: Made for the configuration.
    """
    by_kind = {target.of_weights: target.type for target in config.precision_targets()}
    overrides = dict(config.extra_options.TensorQuantOverrides)
    for name in tensors:
        site = placement.weights.get(name)
        axis = None if site is None or site.block_size is not None else site.axis
        target = by_kind[is_weight(name, placement)]
        overrides[name] = (TensorOverride(quant_type=target, axis=axis),)
    options = config.extra_options.replace(TensorQuantOverrides=overrides)
    return config.replace(include_auto_mp=False, extra_options=options)


def encode_promotion(promotion: Promotion) -> bytes:
    """As JSON."""
    return json.dumps(asdict(promotion)).encode()


def decode_promotion(data: memoryview) -> Promotion:
    """The inverse of `encode_promotion`."""
    content = json.loads(bytes(data))
    content["changed"] = tuple(content["changed"])
    content["narrow"] = Shares(**content["narrow"])
    return Promotion(**content)
