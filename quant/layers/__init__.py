"""The layers of a graph that can have number formats of their own, and what a table says of them."""

from quant.layers.layer import Operand, QuantizableLayer, layers_of
from quant.layers.modules import module_paths
from quant.layers.table import BY, DEFAULT, By, keys_of

__all__ = [
    "BY",
    "DEFAULT",
    "By",
    "Operand",
    "QuantizableLayer",
    "keys_of",
    "layers_of",
    "module_paths",
]
