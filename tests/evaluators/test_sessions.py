import numpy as np
import onnxruntime
import pytest

from evaluators import EvaluationError, EvaluatorInputError, SessionSettings
from evaluators.sessions import check_feeds, create_session, run_batches
from tests.evaluators.graphs import affine


def feeds(*sizes):
    return [{"x": np.full((n, 4), n, np.float32)} for n in sizes]


def test_batches_run_one_after_another_as_they_are_asked_for(tmp_path):
    session = create_session(affine(tmp_path / "m.onnx", 2.0, 1.0), SessionSettings(threads=1))
    read = []
    outputs = run_batches(session, (read.append(i) or feed for i, feed in enumerate(feeds(1, 3))), ["y"])
    np.testing.assert_array_equal(next(outputs)[0], np.full((1, 4), 3.0))
    assert read == [0]
    np.testing.assert_array_equal(next(outputs)[0], np.full((3, 4), 7.0))


def test_settings_reach_the_session(tmp_path):
    settings = SessionSettings(
        providers=(("CPUExecutionProvider", {}),),
        threads=1,
        config_entries=(("session.disable_quant_qdq", "1"),),
    )
    session = create_session(affine(tmp_path / "m.onnx"), settings)
    options = session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.disable_quant_qdq") == "1"


def test_settings_are_values():
    assert SessionSettings(threads=2) == SessionSettings(threads=2)
    assert hash(SessionSettings()) == hash(SessionSettings())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"providers": ("CPUExecutionProvide",)}, "did you mean 'CPUExecutionProvider'"),
        ({"providers": ("CUDAXProvider9",)}, "no 'CUDAXProvider9'"),
        ({"providers": ()}, "at least one"),
        ({"threads": 0}, "threads: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_at_the_door(arguments, message):
    with pytest.raises(EvaluatorInputError, match=message):
        SessionSettings(**arguments)


def test_a_file_that_is_no_model_is_an_evaluation_error_without_its_path(tmp_path, capfd):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(EvaluationError, match="cannot load the model") as caught:
        create_session(path, SessionSettings())
    assert str(path) not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "feed",
    [
        {"z": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 4), np.float32), "z": np.zeros(1)},
        {"x": np.zeros((1, 5), np.float32)},
        {"x": np.zeros((1, 4), np.int64)},
    ],
)
def test_a_feed_that_does_not_fit_names_its_batch(tmp_path, feed, capfd):
    session = create_session(affine(tmp_path / "m.onnx"), SessionSettings())
    with pytest.raises(EvaluationError, match="batch 1: the model does not run: ") as caught:
        list(run_batches(session, [*feeds(1), feed], ["y"]))
    assert caught.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("once", [iter([]), (feed for feed in []), None, 3])
def test_feeds_that_can_be_read_only_once_are_refused(once):
    with pytest.raises(EvaluatorInputError, match="again and again"):
        check_feeds(once)


def test_feeds_may_be_any_iterable():
    check_feeds([])
    check_feeds(())


def test_weights_are_not_dequantized_before_they_are_read(tmp_path):
    session = create_session(affine(tmp_path / "m.onnx"), SessionSettings())
    assert session.get_session_options().execution_order == onnxruntime.ExecutionOrder.PRIORITY_BASED
