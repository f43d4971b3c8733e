"""The layers of a graph that can have number formats of their own, and what a table says of them."""

from quant.layers.layer import Operand, QuantizableLayer, layers_of
from quant.layers.table import BY, DEFAULT, By, check_keys, entry_of, key_of

__all__ = [
    "BY",
    "DEFAULT",
    "By",
    "Operand",
    "QuantizableLayer",
    "check_keys",
    "entry_of",
    "key_of",
    "layers_of",
]
