"""Pieces of local functions in ONNX's text syntax, for opset 21 and later.

ONNX has no Log2, and Log(x) / ln 2 is off by one at some powers of two. Powers of two are found instead
by a product and a difference, which are exact (`quant.formats.grids.leading_power_of`):

    large = (1 / 2u + 1) x,    2^floor(log2 x) = abs(large − (1 − u) large),

in float64 where float32 would overflow or where subnormal numbers matter. The factor is written with
its sign, for onnxruntime takes products with numbers very near 1 out. Clip, Max and Min pass NaN on.
"""

from __future__ import annotations

_CONSTANTS_64 = """
    one_32 = Constant <value_float = 1.0> ()
    one_64 = Cast <to = 11> (one_32)
    unit_roundoff_32 = Constant <value_float = 1.1102230246251565e-16> ()
    unit_roundoff_64 = Cast <to = 11> (unit_roundoff_32)
    minus_near_one_64 = Sub (unit_roundoff_64, one_64)
    phi_integer = Constant <value_int = 4503599627370497> ()
    phi_64 = Cast <to = 11> (phi_integer)
"""
"""φ = 1 / 2u + 1 and −(1 − u) of float64, u = 2^-53; ONNX's text has no constants of that precision."""


def constants(**attributes: str) -> str:
    """Constants of the same names as the attributes that they hold; types are float, int or ints."""
    return "\n".join(
        f"    {name} = Constant <value_{kind}: {kind} = @{name}> ()" for name, kind in attributes.items()
    )


ROUND_TO_FLOAT = """
    phi = Constant <value_float = 8388609.0> ()
    minus_near_one = Constant <value_float = -0.99999994> ()
    low = Neg (largest)
    inside = Clip (scaled, low, largest)
    phi_unit = Mul (phi, unit)
    large = Mul (inside, phi_unit)
    less = Mul (large, minus_near_one)
    leading = Add (large, less)
    spacing = Abs (leading)
    ulp = Max (spacing, least_spacing)
    steps = Div (inside, ulp)
    whole = Round (steps)
    rounded = Mul (whole, ulp)
"""
"""scaled -> rounded, with the constants largest, least_spacing and unit = 2^-mantissa_bits."""

ROUND_TO_WIDE_FLOAT = f"""{_CONSTANTS_64}
    low = Neg (largest)
    inside = Clip (scaled, low, largest)
    inside_64 = Cast <to = 11> (inside)
    unit_64 = Cast <to = 11> (unit)
    phi_unit = Mul (phi_64, unit_64)
    large = Mul (inside_64, phi_unit)
    less = Mul (large, minus_near_one_64)
    leading = Add (large, less)
    spacing_64 = Abs (leading)
    spacing = Cast <to = 1> (spacing_64)
    ulp = Max (spacing, least_spacing)
    steps = Div (inside, ulp)
    whole = Round (steps)
    rounded = Mul (whole, ulp)
"""
"""The same with exponents in float64."""

TILE = """
    block = Constant <value_ints: ints = @block> ()
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    minus_one = Constant <value_ints = [-1]> ()
    minus_two = Constant <value_ints = [-2]> ()
    end = Constant <value_ints = [9223372036854775807]> ()
    tile_axes = Constant <value_ints = [2, 4]> ()
    plane_axes = Constant <value_ints = [1, 2]> ()
    shape = Shape (x)
    long_shape = Concat <axis = 0> (one, one, shape)
    plane = Slice (long_shape, minus_two, end)
    tile = Min (block, plane)
    beyond = Neg (plane)
    missing = Mod (beyond, tile)
    full = Add (plane, missing)
    counts = Div (full, tile)
    counts_column = Unsqueeze (counts, one)
    tile_column = Unsqueeze (tile, one)
    pairs = Concat <axis = 1> (counts_column, tile_column)
    pair_list = Reshape (pairs, minus_one)
    planes_shape = Concat <axis = 0> (minus_one, plane)
    tiled_shape = Concat <axis = 0> (minus_one, pair_list)
    full_shape = Concat <axis = 0> (minus_one, full)
    planes = Reshape (x, planes_shape)
    pads = Concat <axis = 0> (zero, zero, zero, zero, missing)
    padded = Pad (planes, pads)
    tiled = Reshape (padded, tiled_shape)
    magnitudes = Abs (tiled)
    extreme = ReduceMax <keepdims = 1> (magnitudes, tile_axes)
    float_max = Constant <value_float = 3.4028234663852886e38> ()
    finite = Min (extreme, float_max)
    magnitude = Cast <to = 11> (finite)
"""
"""x -> tiled, (planes, rows, height, columns, width), and magnitude, each tile's greatest; float64."""

UNTILE = """
    untiled = Reshape (result, full_shape)
    origin = Constant <value_ints = [0, 0]> ()
    cut = Slice (untiled, origin, plane, plane_axes)
    y = Reshape (cut, shape)
"""
"""result, of the shape of tiled -> y, of the shape of x."""

FLOOR_POWER = f"""{_CONSTANTS_64}    large_64 = Mul (magnitude, phi_64)
    less_64 = Mul (large_64, minus_near_one_64)
    leading_64 = Add (large_64, less_64)
    power = Abs (leading_64)
"""
"""magnitude -> power = 2^floor(log2 magnitude), float64; 0 of 0."""

HALF_CEILING_POWER = f"""{_CONSTANTS_64}
    little_32 = Constant <value_float = 9.313225746154785e-10> ()
    little_64 = Cast <to = 11> (little_32)
    below_64 = Sub (little_64, one_64)
    under_64 = Mul (magnitude, below_64)
    large_64 = Mul (under_64, phi_64)
    less_64 = Mul (large_64, minus_near_one_64)
    leading_64 = Add (large_64, less_64)
    power = Abs (leading_64)
"""
"""magnitude, with at most 24 significant bits -> power = 2^(ceil(log2 magnitude) − 1), float64; 0 of 0.

It is the power below a number that is smaller by 2^-30 of itself. Of float32's greatest numbers twice
as much would be no float32.
"""


BOUND_POWER = """
    least_64 = Cast <to = 11> (least)
    greatest_64 = Cast <to = 11> (greatest)
    not_below = Max (power, least_64)
    shared = Min (not_below, greatest_64)
"""
"""power -> shared, between the constants least and greatest, which are float32; float64."""

SPACING = """
    unit_64 = Cast <to = 11> (unit)
    spacing_64 = Mul (shared, unit_64)
    spacing = Cast <to = 1> (spacing_64)
    float_spacing = Constant <value_float = 1.401298464324817e-45> ()
    ulp = Max (spacing, float_spacing)
"""
"""shared -> ulp = shared × unit, float32, not below float32's own spacing; with the constant unit."""

ROUND_TO_CODES = """
    minus_code = Neg (code)
    steps = Div (tiled, ulp)
    whole = Round (steps)
    bounded = Clip (whole, minus_code, code)
    result = Mul (bounded, ulp)
"""
"""tiled, ulp -> result: multiples of the spacing, at most so many as the constant code says."""
