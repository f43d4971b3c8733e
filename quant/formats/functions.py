"""Pieces of local functions in ONNX's text syntax, for opset 21 and later.

ONNX has no Log2, and Log(x) / ln 2 is off by one at some powers of two. Powers of two are found instead
by a product and a difference, which are exact (`quant.formats.grids.leading_power_of`):

    large = (1 / 2u + 1) x,    2^floor(log2 x) = abs(large − (1 − u) large),

in float64 where float32 would overflow or where subnormal numbers matter. The difference is the spacing of
floating-point numbers below `large`, whatever power of two is put into the factor, so that 1 / 2u times
the spacing of a format's mantissas gives the format's spacing at once. The factor near 1 is written with its
sign, for onnxruntime takes products with numbers very near 1 out. Clip, Max and Min pass NaN on.
"""

from __future__ import annotations

PHI = 8388609.0
"""1 / 2u + 1 of float32."""


def constants(**attributes: str) -> str:
    """Constants of the same names as the attributes that they hold; types are float, int or ints."""
    return "\n".join(
        f"    {name} = Constant <value_{kind}: {kind} = @{name}> ()" for name, kind in attributes.items()
    )


ROUND_TO_FLOAT = """
    minus_near_one = Constant <value_float = -0.99999994> ()
    inside = Clip (scaled, lowest, largest)
    large = Mul (inside, phi_unit)
    less = Mul (large, minus_near_one)
    leading = Add (large, less)
    spacing = Abs (leading)
    ulp = Max (spacing, least_spacing)
    steps = Div (inside, ulp)
    whole = Round (steps)
    rounded = Mul (whole, ulp)
"""
"""scaled -> rounded, with the constants of `quant.formats.minifloat_ieee.shape_constants`."""

ROUND_TO_WIDE_FLOAT = ROUND_TO_FLOAT.replace(
    "spacing = Abs (leading)", "part = Abs (leading)\n    spacing = Mul (part, lift)"
)
"""The same where products with 2^-mantissa_bits φ would overflow: `phi_unit` is smaller by the power `lift`.

Numbers so small that the product is subnormal have the least spacing anyway.
"""

FLOOR_POWER = """
    phi_64 = Constant <value = double {4503599627370497.0}> ()
    minus_near_one_64 = Constant <value = double {-0.9999999999999999}> ()
    finite_64 = Cast <to = 11> (finite)
    large_64 = Mul (finite_64, phi_64)
    less_64 = Mul (large_64, minus_near_one_64)
    power_64 = Add (large_64, less_64)
    power = Cast <to = 1> (power_64)
"""
"""finite, not negative -> power = 2^floor(log2 finite), float32; 0 of 0."""

HALF_CEILING_POWER = FLOOR_POWER.replace("4503599627370497", "4503599623176192")
"""finite, not negative -> power = 2^(ceil(log2 finite) − 1), float32; 0 of 0.

2^52 (1 − 2^-30) in place of φ: the power below a number that is smaller by 2^-30 of itself, where float32
has none between. Of float32's greatest numbers twice as much would be no float32.
"""

SHARED_SPACING = """
    free = Mul (power, unit)
    scale = Clip (free, least, greatest)
"""
"""power -> scale = power × unit, between the constants least and greatest."""

ROUND_TO_CODES = """
    steps = Div (cut, spread)
    whole = Round (steps)
    bounded = Clip (whole, least_code, code)
    result = Mul (bounded, spread)
"""
"""cut, spread -> result: multiples of the spacing, at most so many as the constant code says."""

SIGN = """
    nothing = Constant <value_float = 0.0> ()
    minus_two_float = Constant <value_float = -2.0> ()
    one_float = Constant <value_float = 1.0> ()
    is_negative = Less ({source}, nothing)
    flag = Cast <to = 1> (is_negative)
    doubled = Mul (flag, minus_two_float)
    sign = Add (doubled, one_float)
"""
"""source -> sign: −1 or 1, of zeros 1; cheaper than Where and Sign."""

NAN_KEEPING_SIGN = """
    up = Constant <value_float = 1.7014118346046923e38> ()
    half_least = Constant <value_float = 1.1920928955078125e-07> ()
    again = Constant <value_float = 8388608.0> ()
    minus_one_float = Constant <value_float = -1.0> ()
    one_float = Constant <value_float = 1.0> ()
"""
"""Constants for `nan_keeping_sign`: 2^127, 2^-23 and 2^23."""


def nan_keeping_sign(source: str, target: str) -> str:
    """Source -> target: −1 or 1, of zeros 1, of NaN NaN; with the constants of `NAN_KEEPING_SIGN`.

    Half the least magnitude that there is, in units of 2^-127, decides for zeros alone.
    """
    return f"""
    {target}_raised = Mul ({source}, up)
    {target}_decided = Add ({target}_raised, half_least)
    {target}_far = Mul ({target}_decided, again)
    {target} = Clip ({target}_far, minus_one_float, one_float)
"""
