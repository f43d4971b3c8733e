"""Number formats: rounding, bits, and how they go into ONNX."""

from quant.formats.contract import DOMAIN, Emulation, Format, KnownShape, Native
from quant.formats.parameters import REQUIRED, ROLES, Derived, Family, Parameter
from quant.formats.registry import (
    ALIASES,
    FLOAT,
    FORMATS,
    LayerFormats,
    format_family,
    layer_formats,
    make_format,
)

__all__ = [
    "ALIASES",
    "DOMAIN",
    "FLOAT",
    "FORMATS",
    "REQUIRED",
    "ROLES",
    "Derived",
    "Emulation",
    "Family",
    "Format",
    "KnownShape",
    "LayerFormats",
    "Native",
    "Parameter",
    "format_family",
    "layer_formats",
    "make_format",
]
