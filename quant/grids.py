"""The grid of codes of every tensor: the configuration's defaults, and what is overridden for one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from quant.config import QuantConfig, TensorOverride
from quant.errors import ConfigError
from quant.graph.placement import Placement, Weight
from quant.qparams import Grid, QuantParams
from quant.transforms.skip import Skip
from quant.types import ELEMENT_TYPES, ElementType, Encoding, PowerOfTwoMethod

_NO_OVERRIDE = TensorOverride()


@dataclass(frozen=True)
class Grids:
    """Answers for one configuration.

    Attributes:
        config: The configuration.
    """

    config: QuantConfig

    @cached_property
    def default(self) -> Grid:
        """Of an activation without an override."""
        options = self.config.extra_options
        element = ELEMENT_TYPES[self.config.activation_type]
        return Grid(
            element,
            symmetric=options.ActivationSymmetric,
            power_of_two=isinstance(self.config.calibrate_method, PowerOfTwoMethod),
            minimum_real_range=options.MinimumRealRange,
            restricted=options.ActivationRestrictedAsymmetric and element.bits == 8 and not element.signed,
        )

    def overrides(self, name: str) -> tuple[TensorOverride, ...]:
        """What is said of one tensor: an entry for all of it, or one for each channel."""
        return self.config.extra_options.TensorQuantOverrides.get(name, ())

    def activation(self, name: str) -> Grid:
        """Of a computed tensor."""
        return self._overridden(self.default, next(iter(self.overrides(name)), _NO_OVERRIDE))

    def conversion(self, name: str) -> Grid:
        """Of the second format of an activation."""
        convert = self.overrides(name)[0].convert
        assert convert is not None
        return self._overridden(self.activation(name), convert)

    def weight(self, site: Weight) -> Grid:
        """Of a constant.

        Scales for each channel imply a symmetric grid: onnxruntime's kernels need one zero point.
        Scales for each block do not.
        """
        grid = self._typed_as_weight if site.typed_as_weight else self._typed_as_activation
        grid = self._overridden(grid, next(iter(self.overrides(site.name)), _NO_OVERRIDE))
        per_channel = site.axis is not None and site.block_size is None
        return replace(grid, symmetric=True) if per_channel and not grid.symmetric else grid

    @cached_property
    def _typed_as_activation(self) -> Grid:
        """Of a constant of an elementwise operator."""
        return replace(self.default, reduce_range=self.config.reduce_range, restricted=False)

    @cached_property
    def _typed_as_weight(self) -> Grid:
        wanted = self.config.extra_options.WeightSymmetric
        element = ELEMENT_TYPES[self.config.weight_type]
        symmetric = element.signed if wanted is None else wanted
        return replace(self._typed_as_activation, type=element, symmetric=symmetric)

    def _overridden(self, grid: Grid, override: TensorOverride) -> Grid:
        if override is _NO_OVERRIDE:
            return grid
        element, symmetric = grid.type, grid.symmetric
        if override.quant_type is not None:
            element = ELEMENT_TYPES[override.quant_type]
            if grid is self._typed_as_weight and self.config.extra_options.WeightSymmetric is None:
                symmetric = element.signed  # as that type would be if all weights had it
        return replace(
            grid,
            type=element,
            symmetric=symmetric if override.symmetric is None else override.symmetric,
            reduce_range=grid.reduce_range if override.reduce_range is None else override.reduce_range,
        )

    def activation_types(self, placement: Placement) -> frozenset[ElementType]:
        """All types that activations have."""
        own = (name for name, provider in placement.activations.items() if name == provider)
        types = [self.activation(name).type for name in own]
        return frozenset([*types, *(self.conversion(name).type for name in placement.conversions)])

    def constant_types(self, placement: Placement) -> frozenset[ElementType]:
        """All types that constants have."""
        return frozenset(self.weight(site).type for site in placement.weights.values())

    def block_types(self, placement: Placement) -> frozenset[ElementType]:
        """All types of constants that have a scale for each block."""
        blocks = (site for site in placement.weights.values() if site.block_size is not None)
        return frozenset(self.weight(site).type for site in blocks)

    def check(self, placement: Placement) -> tuple[Skip, ...]:
        """Refuses overrides that do not fit their tensors; the answer are those without effect.

        Raises:
            ConfigError: With the tensor's name.
        """
        unused = []
        for name, overrides in self.config.extra_options.TensorQuantOverrides.items():
            place = f"extra_options.TensorQuantOverrides.{name}"
            if name in placement.weights and overrides[0].convert is not None:
                raise ConfigError(f"{place}.convert: is for activations, and this is a constant")
            if name in placement.activations and (len(overrides) > 1 or overrides[0].axis is not None):
                raise ConfigError(f"{place}: channels and axis are for constants, and this is an activation")
            if name in placement.weights and len(overrides) > 1 and overrides[0].axis is None:
                raise ConfigError(f"{place}: entries for channels need the axis in the first of them")
            if name not in placement.weights and placement.activations.get(name) != name:
                unused.append(Skip(name, "TensorQuantOverrides: the tensor is not quantized"))
        return tuple(unused)


def fixed_params(override: TensorOverride, element: ElementType) -> QuantParams | None:
    """Scale and zero point that an override gives outright.

    Raises:
        ConfigError: If the zero point is no code of the type.
    """
    if override.scale is None or override.zero_point is None:
        return None
    zero_point = override.zero_point
    usable = (
        element.qmin <= zero_point <= element.qmax if element.encoding is Encoding.INTEGER else not zero_point
    )
    if not usable:
        raise ConfigError(
            f"TensorQuantOverrides: zero_point {zero_point} is not possible with {element.ir.name}"
        )
    return QuantParams(np.asarray(override.scale, np.float32), np.asarray(zero_point).astype(element.numpy))


def overridden_range(
    override: TensorOverride, low: NDArray[np.float32], high: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A range with the bounds that an override gives."""
    low = low if override.rmin is None else np.full_like(low, override.rmin)
    high = high if override.rmax is None else np.full_like(high, override.rmax)
    return low, high
