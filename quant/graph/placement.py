"""What is quantized in a graph, as values: the answer of `quant.graph.operators.place`."""

from __future__ import annotations

from dataclasses import dataclass

from quant.config import QuantConfig
from quant.transforms.skip import Skip
from quant.types import PowerOfTwoMethod


@dataclass(frozen=True)
class PlacementOptions:
    """The part of a configuration that decides on placement; two equal ones place alike.

    Attributes:
        float_nodes: Nodes that a transform put in front of others, which compute in float: what
            they alone read stays float, and of a quantized tensor they read the float value. The
            output of a pass-through operator is the exception: its values are rounded already, and
            onnxruntime fails on models with a QDQ pair on one side of such an operator.
    """

    per_channel: bool
    op_types_to_quantize: tuple[str, ...]
    nodes_to_quantize: tuple[str, ...]
    nodes_to_exclude: tuple[str, ...]
    input_nodes: tuple[str, ...]
    output_nodes: tuple[str, ...]
    kept_activations: tuple[str, ...]
    excluded_outputs: tuple[str, ...]
    channel_axes: tuple[tuple[str, int], ...]
    force_passthrough: bool
    constant_matmul_only: bool
    quantize_bias: bool
    dedicated_pairs: bool
    float_weights: bool
    float_nodes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: QuantConfig, float_nodes: tuple[str, ...] = ()) -> PlacementOptions:
        options = config.extra_options
        return cls(
            per_channel=config.per_channel,
            op_types_to_quantize=config.op_types_to_quantize,
            nodes_to_quantize=config.nodes_to_quantize,
            nodes_to_exclude=config.nodes_to_exclude,
            input_nodes=config.input_nodes,
            output_nodes=config.output_nodes,
            kept_activations=_kept_activations(config),
            excluded_outputs=options.OpTypesToExcludeOutputQuantization,
            channel_axes=tuple(sorted(options.QDQOpTypePerChannelSupportToAxis.items())),
            force_passthrough=options.ForceQuantizeNoInputCheck,
            constant_matmul_only=options.MatMulConstBOnly,
            quantize_bias=options.QuantizeBias,
            dedicated_pairs=options.DedicatedQDQPair,
            float_weights=options.AddQDQPairToWeight,
            float_nodes=float_nodes,
        )


def _kept_activations(config: QuantConfig) -> tuple[str, ...]:
    """Of Relu and Clip those that the range of a quantized output does not stand for.

    Symmetric ranges reach below a Relu's zero, power-of-two scales beyond a Clip's bounds.
    """
    options = config.extra_options
    symmetric = options.ActivationSymmetric or options.CalibTensorRangeSymmetric
    kept = ("Clip", "Relu") if symmetric or options.QDQKeepRemovableActivations else ()
    if not kept and isinstance(config.calibrate_method, PowerOfTwoMethod):
        return ("Clip",)
    return (*kept, *options.OpTypesToExcludeOutputQuantization)


@dataclass(frozen=True)
class Weight:
    """A constant operand.

    Attributes:
        name: Its initializer.
        axis: Channel axis; None = one scale for all.
        typed_as_weight: False for constants of elementwise operators, which take the type and the
            symmetry of activations.
    """

    name: str
    axis: int | None
    typed_as_weight: bool


@dataclass(frozen=True)
class Bias:
    """A bias that becomes int32 with scale = input scale x weight scale.

    Attributes:
        node: Name of its reader; every reader has a quantized bias of its own.
        name: Its float initializer.
        quantized: Base name of the tensors made from it.
        input, weight: The tensors whose scales make its scale.
        multiplier: What the operator multiplies the bias by (Gemm's beta).
    """

    node: str
    name: str
    quantized: str
    input: str
    weight: str
    multiplier: float = 1.0


Range = tuple[float, float]


@dataclass(frozen=True)
class Placement:
    """The answer: what to quantize in one graph.

    Attributes:
        activations: Tensor name -> the tensor whose scale and zero point it uses: itself, or the
            activation or weight that it takes them from; in the order of insertion.
        weights: By initializer name.
        biases: In graph order.
        removed: Names of Relu and Clip nodes that the quantization of their output makes redundant.
        range_source: For tensors whose range is not their own: the tensor that has it, or the
            fixed range.
        skipped: Nodes left in float that a user may ask about, with the reason.
    """

    activations: dict[str, str]
    weights: dict[str, Weight]
    biases: tuple[Bias, ...]
    removed: tuple[str, ...]
    range_source: dict[str, str | Range]
    skipped: tuple[Skip, ...]

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Tensors whose statistics are read, without duplicates, in graph order."""
        sources = (
            self.range_source.get(name, name)
            for name, provider in self.activations.items()
            if provider == name
        )
        return tuple(dict.fromkeys(source for source in sources if isinstance(source, str)))
