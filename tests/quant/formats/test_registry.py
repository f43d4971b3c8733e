from __future__ import annotations

from typing import Any

import pytest

from quant import ConfigError
from quant.formats import FORMATS, layer_formats, make_format
from quant.formats.integer import Integer


def test_a_layers_flat_configuration() -> None:
    formats = layer_formats(
        {"name": "fixed", "data_in_width": 8, "data_in_frac_width": 3, "weight_width": 5, "bias_width": 16}
    )
    assert formats.data_in == Integer(8, 3)
    assert formats.weight == Integer(5, 2)
    assert formats.bias == Integer(16, 8)


def test_a_bias_is_quantized_only_if_asked_for() -> None:
    config: dict[str, Any] = {"name": "integer", "data_in_width": 8, "weight_width": 8}
    assert layer_formats(config).bias is None
    bias = layer_formats({**config, "bias_name": "bfloat16"}).bias
    assert bias is not None and bias.name == "bfloat16"


@pytest.mark.parametrize("name", [None, "NA", "none"])
def test_names_of_float(name: str | None) -> None:
    formats = layer_formats({"name": name, "weight_width": 4})
    assert (formats.data_in, formats.weight, formats.bias) == (None, None, None)


def test_a_role_of_its_own_format() -> None:
    config = {"name": "bfloat16", "data_in_width": None, "weight_name": "integer", "weight_width": 3}
    assert make_format("weight", config) == Integer(3, 1)
    for name in ("none", "NA", None):
        assert make_format("weight", {**config, "weight_name": name, "weight_width": None}) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "intger"}, "l.name: unknown number format 'intger'; did you mean 'integer'?"),
        ({"name": "integer", "data_in_width": 8}, "l.weight_width: format 'integer' needs it"),
        ({"name": "integer", "data_in_width": 0}, "l.data_in_width: got 0, valid is integer 1 to 32"),
        ({"name": "integer", "data_in_width": 8.5}, "l.data_in_width: got 8.5"),
        ({"name": "integer", "data_in_widht": 8}, "'integer'; did you mean 'width'?"),
        ({"name": "integer", "wieght_width": 8}, "l.wieght_width: unknown key; did you mean 'weight_width'?"),
        ({"name": "bfloat16", "weight_width": 8}, "'bfloat16' has no parameters; leave it out"),
        ({"name": "integer", "weight_name": "none", "weight_width": 8, "data_in_width": 4}, "no parameters"),
        ({"name": "int8", "weight_granularity": "row"}, "valid is one of tensor, channel, block"),
        ({"name": "int8", "weight_block_size": 8}, "l.weight: block_size 8 needs granularity: block"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_refuses(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        layer_formats(config, "l")
    assert message in str(raised.value)


@pytest.mark.parametrize("name", FORMATS)
def test_every_parameter_is_described(name: str) -> None:
    for parameter in FORMATS[name].parameters:
        assert parameter.meaning and parameter.valid()
