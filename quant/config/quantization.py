"""Level 1, and the form of a configuration on one level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quant.config.base import ElementType, Format, Level, Method, Names
from quant.config.layers import Layers
from quant.config.mixed_precision import NARROW_BITS, PrecisionTarget, of_width
from quant.config.options import ExtraOptions
from quant.errors import ConfigError
from quant.types import ELEMENT_TYPES, CalibrationMethod, ElementName, QuantFormat, QuantType


class QuantConfig(Level):
    """One way to quantize a model (level 1).

    Attributes:
        calibrate_method: How the ranges of activations follow from their statistics. The
            power-of-two methods make the scales of weights powers of two as well.
        activation_type, weight_type: Integer types of 2 to 16 bits, float8, float16 and bfloat16.
        per_channel: Weights get a scale for each output channel.
        reduce_range: Weights use 7 of 8 (15 of 16) bits.
        quant_format: QDQ; the QOperator format is not written.
        op_types_to_quantize, op_types_to_exclude: Operator types; empty = all that have a placement
            rule, none.
        nodes_to_quantize, nodes_to_exclude: Node names; empty = all, none. ``*`` and ``?`` stand for
            any characters and any one; ``re:`` starts a regular expression for the whole name. The
            same holds for operator types.
        input_nodes, output_nodes: Names of nodes that bound what is quantized: what comes before
            the former or behind the latter stays float; empty = no bound.
        optimize_model: Fold BatchNormalization, constants and identities first.
        use_external_data_format: Weights in a file beside the model.
        execution_providers: Where the float model runs for calibration.
        include_cle: Cross-layer equalization first.
        include_sq: SmoothQuant, after it.
        include_auto_mp: Automatic mixed precision: a type of their own for sensitive tensors.
        include_fast_ft: FastFinetune last.
        layers: A number format for every layer, ``{by: name | type | pattern, default: {...}, <name, type or
            pattern>: {...}}``. Calibration, transforms and finetuning count as without it; what decides on
            types and placement (`activation_type`, `nodes_to_exclude`, `TensorQuantOverrides` ...) must
            be left at its default.
        extra_options: Level 2.

    Raises:
        ConfigError: For an unknown key, a wrong type or an option that is not available.
    """

    calibrate_method: Method = CalibrationMethod.MinMax
    activation_type: ElementType = QuantType.QInt8
    weight_type: ElementType = QuantType.QInt8
    per_channel: bool = False
    reduce_range: bool = False
    quant_format: Format = QuantFormat.QDQ
    op_types_to_quantize: Names = ()
    op_types_to_exclude: Names = ()
    nodes_to_quantize: Names = ()
    nodes_to_exclude: Names = ()
    input_nodes: Names = ()
    output_nodes: Names = ()
    optimize_model: bool = True
    use_external_data_format: bool = False
    execution_providers: Names = ("CPUExecutionProvider",)
    include_cle: bool = False
    include_sq: bool = False
    include_auto_mp: bool = False
    include_fast_ft: bool = False
    layers: Layers = None
    extra_options: ExtraOptions = ExtraOptions()

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.layers is not None:
            self._refuse_placement()
        if self.include_auto_mp and len({target.promotes for target in self.precision_targets()}) > 1:
            raise ConfigError(
                "extra_options.AutoMixprecision: ActTargetQuantType and WeightTargetQuantType: one is wider"
                " and one narrower than the configuration's type; give two wider or two narrower ones"
            )

    def _refuse_placement(self) -> None:
        """What `layers` takes the place of must not be said a second time, in another way."""
        for level, place, instead in (
            (self, "", _INSTEAD),
            (self.extra_options, "extra_options.", _OPTIONS_INSTEAD),
        ):
            for name, remedy in instead.items():
                given, default = (
                    getattr(level, name),
                    type(level).model_fields[name].get_default(call_default_factory=True),
                )
                if given != default:
                    shown = getattr(given, "name", given)
                    raise ConfigError(f"{place}{name}: {shown!r} has no meaning beside layers; {remedy}")

    def precision_targets(self) -> tuple[PrecisionTarget, ...]:
        """The changes of type that automatic mixed precision chooses from, for activations and weights."""
        options = self.extra_options.AutoMixprecision
        activations, weights = options.ActTargetQuantType, options.WeightTargetQuantType
        if activations is None and weights is None:
            wider = ELEMENT_TYPES[self.activation_type].bits <= NARROW_BITS
            activations, weights = (of_width(own, wider) for own in (self.activation_type, self.weight_type))
        pairs = ((self.activation_type, activations, False), (self.weight_type, weights, True))
        return tuple(
            PrecisionTarget(own, target, of_weights)
            for own, target, of_weights in pairs
            if target is not None and target is not own
        )

    def element_names(self) -> frozenset[ElementName]:
        """The types of activations and weights, and those of overrides and of mixed precision."""
        overrides = [each for given in self.extra_options.TensorQuantOverrides.values() for each in given]
        overrides += [given.convert for given in overrides if given.convert is not None]
        named = {given.quant_type for given in overrides if given.quant_type is not None}
        targets = self.precision_targets() if self.include_auto_mp else ()
        named |= {target.type for target in targets}
        return frozenset({self.activation_type, self.weight_type, *named})


_LEAVE_FLOAT = "leave nodes in float with the format none"
_GIVE_FORMAT = "give data_in_name, weight_name and bias_name there"
_NO_PLACEMENT = "formats lie on the inputs of layers alone; leave it out"

_INSTEAD = {
    "activation_type": _GIVE_FORMAT,
    "weight_type": _GIVE_FORMAT,
    "per_channel": "give weight_granularity there",
    "reduce_range": "give a format with fewer bits there",
    "op_types_to_quantize": _LEAVE_FLOAT,
    "op_types_to_exclude": _LEAVE_FLOAT,
    "nodes_to_quantize": _LEAVE_FLOAT,
    "nodes_to_exclude": _LEAVE_FLOAT,
    "input_nodes": _LEAVE_FLOAT,
    "output_nodes": _LEAVE_FLOAT,
    "include_auto_mp": "search over layers instead, or leave layers out",
}
_OPTIONS_INSTEAD = {
    "ActivationSymmetric": "give data_in_symmetric there",
    "WeightSymmetric": "give weight_symmetric there",
    "AddQDQPairToWeight": _NO_PLACEMENT,
    "DedicatedQDQPair": _NO_PLACEMENT,
    "QuantizeBias": "a bias is quantized where a key begins with bias_",
    "MatMulConstBOnly": _LEAVE_FLOAT,
    "OpTypesToExcludeOutputQuantization": _NO_PLACEMENT,
    "QDQOpTypePerChannelSupportToAxis": "give weight_granularity there",
    "QDQKeepRemovableActivations": _NO_PLACEMENT,
    "ForceQuantizeNoInputCheck": _NO_PLACEMENT,
    "BlockSize": "give weight_granularity and weight_block_size there",
    "TensorQuantOverrides": _GIVE_FORMAT,
    "ActivationRestrictedAsymmetric": "give data_in_symmetric there",
    "QDQDisableWeightAdjustForInt32Bias": _NO_PLACEMENT,
    "UseQDQContribOps": _NO_PLACEMENT,
    "EnableSubgraph": "layers are nodes of the main graph; leave it out",
}
"""What decides on ordinary placement, with the remedy; everything else counts with `layers` too."""

_LEVELS = ("extra_options", "extra_options.FastFinetune", "extra_options.AutoMixprecision")


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration -> one level, keys joined by dots.

    >>> flatten({"per_channel": True, "extra_options": {"Percentile": 99.9}})
    {'per_channel': True, 'extra_options.Percentile': 99.9}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        path = f"{prefix}{key}"
        if path in _LEVELS and isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, key = path.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[key] = value
    return nested
