"""The result of quantizing, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from quant.graph.save import save_model
from quant.graph.shared_weights import SharedWeights
from quant.layers.cost import NO_COST, LayerCost, ModelCost
from quant.mixed_precision.promotion import Promotion
from quant.transforms.skip import Skip


@dataclass(frozen=True)
class QuantizedModel:
    """The result, and how many bits each tensor takes.

    Attributes:
        model: Standard ONNX with QuantizeLinear and DequantizeLinear. Large weights that stay float are
            references to `weights`; `save` writes both, `standalone` puts them together.
        bits: Width by tensor name, of weights (initializer names), biases and activations; tensors
            that are not listed stay float.
        skipped: What transforms and placement left alone, with the reasons.
        session_config: Session config entries (key, value) without which onnxruntime cannot run the
            model at every optimisation level; they are recorded in its metadata, too.
        weights: What the model's initializers refer to; None if it holds them all.
        promotion: What automatic mixed precision decided on, where it was asked for.
        cost: What its layers read, store and multiply, in how many bits.
    """

    model: onnx.ModelProto
    bits: Mapping[str, float]
    skipped: tuple[Skip, ...]
    session_config: tuple[tuple[str, str], ...] = ()
    weights: SharedWeights | None = None
    promotion: Promotion | None = None
    cost: ModelCost = NO_COST

    @property
    def layers(self) -> tuple[LayerCost, ...]:
        """What each layer costs."""
        return self.cost.layers

    def save(self, path: str | Path, *, external_data: bool = False) -> None:
        """Writes the model under a temporary name and renames it; the same model, the same bytes.

        Its `weights` go to a file of their own name beside it, if they are not there already; with
        `external_data` all weights go to a file named as the model with ``.data`` appended.
        """
        save_model(self.model, Path(path), external_data=external_data, weights=self.weights)

    def standalone(self) -> onnx.ModelProto:
        """A copy of the model that holds all of its weights."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        if self.weights is not None:
            self.weights.put_into(model)
        return model
