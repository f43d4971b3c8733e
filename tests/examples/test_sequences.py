from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, parser

from examples.lm.search import model_file, write_data
from examples.lm.sequences import feeds_for, model_inputs, sequences

LM = Path(__file__).parents[2] / "examples" / "lm"
WITH_PAST = """
<ir_version: 8, opset_import: ["" : 17]>
decoder (int64[batch, tokens] input_ids, int64[batch, all] attention_mask, int32[batch, tokens] position_ids,
         float[batch, 2, past, 3] past_key_values_0_key, float[batch, 2, past, 3] past_key_values_0_value)
    => (float[batch, 2, new, 3] present, float[batch, tokens] sum)
<float[1, 2, 2, 3] new_key = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
{
    both = Add (past_key_values_0_key, past_key_values_0_value)
    rows = Shape <start = 0, end = 1> (input_ids)
    rest = Constant <value_ints = [2, 2, 3]> ()
    shape = Concat <axis = 0> (rows, rest)
    key = Expand (new_key, shape)
    present = Concat <axis = 2> (both, key)
    ids = Cast <to = 1> (input_ids)
    mask = Cast <to = 1> (attention_mask)
    positions = Cast <to = 1> (position_ids)
    masked = Mul (ids, mask)
    sum = Add (masked, positions)
}
"""


def test_a_text_is_cut_into_consecutive_sequences() -> None:
    np.testing.assert_array_equal(sequences(range(11), 4), [[0, 1, 2, 3], [4, 5, 6, 7]])
    assert sequences(range(11), 4, count=1).shape == (1, 4)
    assert sequences(range(11), 4, count=9).dtype == np.int64


def test_a_short_text_is_refused() -> None:
    with pytest.raises(ValueError, match="has 3 tokens; one sequence takes 4"):
        sequences(range(3), 4)


def test_inputs_of_an_export_with_a_past(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(WITH_PAST), tmp_path / "model.onnx")
    input_ids = np.array([[5, 6, 7], [8, 9, 10]])
    feeds = feeds_for(model_inputs(tmp_path / "model.onnx"), input_ids)
    assert feeds["past_key_values_0_key"].shape == (2, 2, 0, 3)
    assert feeds["past_key_values_0_key"].dtype == np.float32
    assert feeds["position_ids"].dtype == np.int32
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    present, total = session.run(None, feeds)
    assert present.shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(total, np.add(input_ids, [0, 1, 2]))


def value(name: str, element: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


IDS = value("input_ids", TensorProto.INT64, ["b", "t"])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([value("x", TensorProto.FLOAT, ["b", 3])], "reads x; a causal language model reads input_ids"),
        ([IDS, value("pixels", TensorProto.FLOAT, ["b", 3])], "pixels: an input of type FLOAT that no text"),
        (
            [IDS, value("attention_mask", TensorProto.FLOAT, ["b", 3])],
            "attention_mask: an input of type FLOAT",
        ),
        (
            [IDS, value("use_cache_branch", TensorProto.BOOL, [1])],
            "use_cache_branch: a decoder that was merged",
        ),
        (
            [IDS, value("past_key_values.0.key", TensorProto.FLOAT, ["b", "h", "p", 4])],
            r"shape \['b', 'h', 'p', 4",
        ),
    ],
    ids=["no ids", "image", "float mask", "merged", "open heads"],
)
def test_other_models_are_refused(inputs: list[onnx.ValueInfoProto], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        feeds_for(inputs, np.zeros((1, 2), np.int64))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("no model")
    for name in ("model.onnx", "absent.onnx"):
        with pytest.raises(ValueError, match=f"{name}: not an ONNX model"):
            model_inputs(tmp_path / name)


def test_the_shipped_text_becomes_the_shipped_tokens(tmp_path: Path) -> None:
    options = {"model_dir": LM, "text": LM / "heldout.txt", "length": 128, "sequences": None}
    path = write_data(Namespace(**options, output_dir=tmp_path))
    written, shipped = np.load(path), np.load(LM / "heldout.npz")
    assert set(written) == {"input_ids", "attention_mask"}
    for name in written:
        np.testing.assert_array_equal(written[name], shipped[name])


def test_a_folder_as_on_the_hub_has_its_model_below(tmp_path: Path) -> None:
    assert model_file(tmp_path) == tmp_path / "model.onnx"
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    assert model_file(tmp_path) == tmp_path / "onnx" / "model.onnx"
