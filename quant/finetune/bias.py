"""The bias that makes up for the mean of a layer's error."""

from __future__ import annotations

from array_api_compat import array_namespace

from quant.finetune.grid import Array
from quant.finetune.moments import InputMoments


def corrected_bias(weight: Array, quantized: Array, bias: Array, moments: InputMoments) -> Array:
    """The minimiser b' = b + W x̄ − Q x̂̄ of E|W x + b − Q x̂ − b'|².

    Args:
        weight: W, shape (groups, out, in).
        quantized: Q, the same shape.
        bias: b, shape (groups, out).
        moments: Of the inputs; not centred.

    Returns:
        Of shape, dtype of `bias`, computed in the dtype of the moments.
    """
    xp = array_namespace(weight)
    dtype = moments.mean.dtype
    shift = xp.astype(weight, dtype) @ moments.mean[:, :, None]
    shift = shift - xp.astype(quantized, dtype) @ moments.quantized_mean[:, :, None]
    return xp.astype(xp.astype(bias, dtype) + shift[:, :, 0], bias.dtype)
