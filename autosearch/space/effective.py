"""The identity of a configuration: its effective form and the digest of that.

Two configurations that quantize a model alike have one effective form, whoever wrote them down.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from autosearch.space.rules import apply_rules
from quant.config import QuantConfig, flatten


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: object) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def effective_config(config: QuantConfig) -> dict[str, Any]:
    """The flat values that decide on the quantized model; what has no effect is at its default.

    >>> effective_config(QuantConfig(extra_options={"Percentile": 99.9}))["extra_options.Percentile"]
    99.999
    """
    return apply_rules(flatten(config.to_dict()))


def config_digest(config: QuantConfig) -> str:
    """The name of a configuration: equal for all that quantize alike."""
    return digest_of(effective_config(config))
