"""What is quantized in a graph, as values: the answer of `quant.graph.operators.place`."""

from __future__ import annotations

from dataclasses import dataclass, field

from quant.config import QuantConfig, TensorOverride
from quant.transforms.skip import Skip
from quant.types import ELEMENT_TYPES, Encoding, PowerOfTwoMethod


@dataclass(frozen=True)
class Conversion:
    """A second format of an activation, behind the first.

    Attributes:
        encoding: How it stands in the graph.
        readers: Names of the nodes that read it; None = all.
    """

    encoding: Encoding
    readers: tuple[str, ...] | None

    def reaches(self, node: str | None) -> bool:
        """Whether the node reads the second format."""
        return self.readers is None or node in self.readers


@dataclass(frozen=True)
class OverridePlacement:
    """The part of a tensor's override that decides on placement.

    Attributes:
        encoding: How the tensor stands in the graph; None = as others do.
        axis: Channel axis of a constant; None = one scale for all.
        keeps_clipping: Whether its range may let values through that a Relu or Clip would stop.
        conversion: Its second format, or None.
    """

    encoding: Encoding | None
    axis: int | None
    keeps_clipping: bool
    conversion: Conversion | None

    @classmethod
    def of(cls, overrides: tuple[TensorOverride, ...]) -> OverridePlacement:
        first = overrides[0]
        encoding = first.quant_type and ELEMENT_TYPES[first.quant_type].encoding
        range_given = any(
            value is not None for value in (first.symmetric, first.scale, first.rmin, first.rmax)
        )
        conversion = None
        if first.convert is not None:
            wanted = first.convert.quant_type
            target = ELEMENT_TYPES[wanted].encoding if wanted else encoding or Encoding.INTEGER
            conversion = Conversion(target, first.convert.recv_nodes)
        return cls(encoding, first.axis, range_given or conversion is not None, conversion)


@dataclass(frozen=True)
class PlacementOptions:
    """The part of a configuration that decides on placement; two equal ones place alike.

    Attributes:
        activation_encoding, weight_encoding: How activations and weights stand in the graph.
        block_size: Number of weights along the summed dimension that share a scale, or None.
        overrides: By tensor name, sorted.
        contrib_ops: Whether Q and DQ are those of the domain com.microsoft.
        float_nodes: Nodes that a transform put in front of others, which compute in float: what
            they alone read stays float, and of a quantized tensor they read the float value. The
            output of a pass-through operator is the exception: its values are rounded already, and
            onnxruntime fails on models with a QDQ pair on one side of such an operator.
        subgraphs: Whether the bodies of If, Loop and Scan are quantized.
        unseen: Tensors that the calibration data never gave a value; they stay float.
    """

    per_channel: bool
    activation_encoding: Encoding
    weight_encoding: Encoding
    block_size: int | None
    overrides: tuple[tuple[str, OverridePlacement], ...]
    contrib_ops: bool
    op_types_to_quantize: tuple[str, ...]
    op_types_to_exclude: tuple[str, ...]
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
    subgraphs: bool = False
    unseen: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: QuantConfig, float_nodes: tuple[str, ...] = ()) -> PlacementOptions:
        options = config.extra_options
        return cls(
            per_channel=config.per_channel,
            activation_encoding=ELEMENT_TYPES[config.activation_type].encoding,
            weight_encoding=ELEMENT_TYPES[config.weight_type].encoding,
            block_size=options.BlockSize,
            overrides=tuple(
                (name, OverridePlacement.of(overrides))
                for name, overrides in sorted(options.TensorQuantOverrides.items())
            ),
            contrib_ops=options.UseQDQContribOps and _in_contrib_domain(config),
            op_types_to_quantize=config.op_types_to_quantize,
            op_types_to_exclude=config.op_types_to_exclude,
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
            subgraphs=options.EnableSubgraph,
        )


def _in_contrib_domain(config: QuantConfig) -> bool:
    """Whether the domain com.microsoft has Q and DQ for every type of a configuration."""
    types = [ELEMENT_TYPES[name] for name in config.element_names()]
    return config.extra_options.BlockSize is None and all(
        element.encoding is Encoding.INTEGER and element.bits >= 4 for element in types
    )


def _kept_activations(config: QuantConfig) -> tuple[str, ...]:
    """Of Relu and Clip those that the range of a quantized output does not stand for.

    Symmetric ranges and floating-point types reach below a Relu's zero, power-of-two scales beyond a
    Clip's bounds.
    """
    options = config.extra_options
    clips = ELEMENT_TYPES[config.activation_type].encoding is Encoding.INTEGER
    symmetric = not clips or options.ActivationSymmetric or options.CalibTensorRangeSymmetric
    kept = ("Clip", "Relu") if symmetric or options.QDQKeepRemovableActivations else ()
    if not kept and isinstance(config.calibrate_method, PowerOfTwoMethod):
        return ("Clip",)
    return (*kept, *options.OpTypesToExcludeOutputQuantization)


@dataclass(frozen=True)
class Weight:
    """A constant operand.

    Attributes:
        name: Its initializer.
        axis: Channel axis, or axis of the blocks; None = one scale for all.
        typed_as_weight: False for constants of elementwise operators, which take the type and the
            symmetry of activations.
        block_size: Number of elements along the axis that share a scale, or None.
    """

    name: str
    axis: int | None
    typed_as_weight: bool
    block_size: int | None = None

    @property
    def key(self) -> tuple[str, int | None, bool, int | None]:
        """Everything, for the key of a stage."""
        return self.name, self.axis, self.typed_as_weight, self.block_size


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
        encodings: How every tensor with parameters of its own stands in the graph.
        conversions: Second formats, by activation.
        half: Names of the quantized tensors whose real numbers are float16.
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
    encodings: dict[str, Encoding] = field(default_factory=dict)
    conversions: dict[str, Conversion] = field(default_factory=dict)
    half: frozenset[str] = frozenset()

    def encoding(self, name: str) -> Encoding:
        """How a tensor stands in the graph."""
        return self.encodings.get(name, Encoding.INTEGER)

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Tensors whose statistics are read, without duplicates, in graph order."""
        sources = (
            self.range_source.get(name, name)
            for name, provider in self.activations.items()
            if provider == name and not (self.encoding(name).is_cast and name not in self.conversions)
        )
        return tuple(dict.fromkeys(source for source in sources if isinstance(source, str)))
