import pickle

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from evaluators import DISTANCES, DistanceEvaluator, EvaluationError, EvaluatorInputError, SessionSettings
from tests.evaluators.graphs import affine, one_node, save, tensor, two_outputs

ONE_THREAD = SessionSettings(threads=1)


def feeds(*sizes, seed=0, shape=(4,)):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(n, *shape)).astype(np.float32)} for n in sizes]


@pytest.fixture
def float_model(tmp_path):
    return affine(tmp_path / "float.onnx")


def evaluator(float_model, batches, metrics=("L2",), **arguments):
    return DistanceEvaluator(float_model, batches, metrics, session_settings=ONE_THREAD, **arguments)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_float_model_is_perfect(float_model, name):
    value = evaluator(float_model, feeds(3, 2), (name,)).evaluate(float_model)
    perfect = {"cos": 1.0, "ssim": 1.0, "psnr": np.inf, "sqnr": np.inf}.get(name, 0.0)
    assert value == {name: pytest.approx(perfect, abs=1e-12)}


def test_distances_over_ragged_batches(tmp_path, float_model):
    shifted = affine(tmp_path / "shifted.onnx", shift=0.5)
    batches = feeds(3, 1, 7)
    values = evaluator(float_model, batches, ("L1", "L2", "max_abs", "psnr")).evaluate(shifted)
    x = np.concatenate([feed["x"] for feed in batches])
    assert list(values) == ["L1", "L2", "max_abs", "psnr"]
    assert values == pytest.approx(
        {"L1": 0.5, "L2": 0.25, "max_abs": 0.5, "psnr": 10 * np.log10(np.ptp(x) ** 2 / 0.25)}, rel=1e-6
    )


@pytest.mark.parametrize("shape", [(4,), (1, 16, 12)])
def test_reports_are_the_distances_over_the_batches_so_far(tmp_path, shape):
    planes = ("N", *shape) if len(shape) == 3 else None
    float_model = affine(tmp_path / "float.onnx", **({"shape": planes} if planes else {}))
    candidate = affine(tmp_path / "candidate.onnx", 0.9, **({"shape": planes} if planes else {}))
    batches, metrics = feeds(3, 2, 4, 1, 5, shape=shape), tuple(DISTANCES)
    relative = ("psnr", "ssim")  # to the range of the whole data
    seen = {}
    given = evaluator(float_model, batches, metrics)
    values = given.evaluate(candidate, report=seen.__setitem__, report_at=(75, 25, 50, 100))
    assert values == pytest.approx(given.evaluate(candidate), rel=1e-12)
    assert list(seen) == [25, 50, 75]  # of 5 batches: 2, 3 and 4
    for count, percentage in ((2, 25), (3, 50), (4, 75)):
        alone = evaluator(float_model, batches[:count], metrics).evaluate(candidate)
        for name in metrics:
            if name not in relative:
                assert seen[percentage][name] == pytest.approx(alone[name], rel=1e-12)
        assert np.isfinite([seen[percentage][name] for name in relative]).all()


def test_what_a_report_raises_ends_the_evaluation(float_model, tmp_path):
    class Enough(Exception):
        pass

    def report(percentage, values):
        seen.append(percentage)
        raise Enough

    seen = []
    given = evaluator(float_model, feeds(3, 3, 3, 3))
    with pytest.raises(Enough):
        given.evaluate(float_model, report=report, report_at=(25, 50))
    assert seen == [25]
    assert given.evaluate(float_model) == {"L2": 0.0}


@pytest.mark.parametrize(("batches", "reported"), [(1, []), (2, [50]), (3, [25, 50]), (4, [25, 50, 75])])
def test_few_batches_have_few_parts(float_model, batches, reported):
    seen = {}
    given = evaluator(float_model, feeds(*[2] * batches))
    given.evaluate(float_model, report=seen.__setitem__, report_at=(25, 50, 75))
    assert list(seen) == reported


def test_an_output_without_values_so_far_is_not_reported(tmp_path, float_model):
    seen = {}
    given = evaluator(float_model, feeds(0, 2, 2, 2))
    given.evaluate(float_model, report=seen.__setitem__, report_at=(25, 50))
    assert list(seen) == [50]


def test_images_of_different_sizes(tmp_path):
    shape = ("N", 1, "H", "W")
    float_model = affine(tmp_path / "float.onnx", shape=shape)
    candidate = affine(tmp_path / "candidate.onnx", 1.1, shape=shape)
    batches = feeds(2, shape=(1, 9, 12)) + feeds(1, shape=(1, 16, 8))
    value = evaluator(float_model, batches, ("ssim",)).evaluate(candidate)["ssim"]
    assert 0.9 < value < 1


@pytest.mark.parametrize("memory_limit_bytes", [0, 60, 1 << 20])
def test_where_the_float_outputs_are_kept_makes_no_difference(tmp_path, float_model, memory_limit_bytes):
    candidate = affine(tmp_path / "candidate.onnx", 0.9)
    cache_dir = tmp_path / "cache"
    batches, metrics = feeds(3, 2, 4), tuple(DISTANCES)
    expected = evaluator(float_model, batches, metrics).evaluate(candidate)
    with evaluator(
        float_model, batches, metrics, cache_dir=cache_dir, memory_limit_bytes=memory_limit_bytes
    ) as distances:
        assert distances.evaluate(candidate) == expected
        assert distances.evaluate(candidate) == expected
    assert not list(cache_dir.glob("*"))


def test_the_float_model_runs_once_and_not_before_it_is_needed(tmp_path, float_model):
    class Counted(list):
        readings = 0

        def __iter__(self):
            self.readings += 1
            return super().__iter__()

    batches = Counted(feeds(2))
    distances = evaluator(float_model, batches)
    assert batches.readings == 0
    distances.prepare()
    distances.prepare()
    assert batches.readings == 1
    float_model.unlink()
    candidate = affine(tmp_path / "candidate.onnx", 2.0)
    assert distances.evaluate(candidate) == distances.evaluate(candidate)
    assert batches.readings == 3


def test_evaluation_after_closing_starts_afresh(float_model):
    distances = evaluator(float_model, feeds(2))
    distances.prepare()
    distances.close()
    distances.close()
    assert distances.evaluate(float_model) == {"L2": 0.0}


def test_a_pickled_evaluator_computes_its_own_float_outputs(tmp_path, float_model):
    candidate = affine(tmp_path / "candidate.onnx", 0.9)
    distances = evaluator(float_model, feeds(2), memory_limit_bytes=0)
    expected = distances.evaluate(candidate)
    with pickle.loads(pickle.dumps(distances)) as copy:
        assert copy.evaluate(candidate) == expected
    distances.close()


def test_a_pickled_evaluator_brings_float_outputs_that_are_in_memory(tmp_path, float_model):
    candidate = affine(tmp_path / "candidate.onnx", 0.9)
    distances = evaluator(float_model, feeds(2))
    expected = distances.evaluate(candidate)
    sent = pickle.dumps(distances)
    float_model.unlink()
    assert pickle.loads(sent).evaluate(candidate) == expected


def test_session_config_of_one_candidate(float_model):
    distances = evaluator(float_model, feeds(2))
    with pytest.raises(EvaluationError):
        distances.evaluate(float_model, [("", "a key that onnxruntime refuses")])
    assert distances.evaluate(float_model) == {"L2": 0.0}


def test_several_outputs(tmp_path):
    float_model = two_outputs(tmp_path / "float.onnx", 1.0)
    candidate = two_outputs(tmp_path / "candidate.onnx", 2.0)
    batches = feeds(8)
    values = evaluator(float_model, batches, ("L1", "max_abs", "sqnr")).evaluate(candidate)
    x = np.abs(batches[0]["x"])
    assert values == pytest.approx(
        {"L1": x.mean(dtype=np.float64) / 2, "max_abs": x.max(), "sqnr": 10 * np.log10(2)}, abs=1e-6
    )


def test_outputs_are_compared_by_name_not_by_place(tmp_path):
    float_model = two_outputs(tmp_path / "float.onnx", 3.0)
    model = onnx.load(float_model)
    model.graph.output.reverse()
    onnx.save(model, tmp_path / "reversed.onnx")
    assert evaluator(float_model, feeds(2)).evaluate(tmp_path / "reversed.onnx") == {"L2": 0.0}


@pytest.mark.parametrize(
    ("operator", "element_type", "attributes"),
    [("Cast", TensorProto.INT32, {"to": TensorProto.INT32}), ("IsNaN", TensorProto.BOOL, {})],
)
def test_outputs_that_are_not_floats(tmp_path, operator, element_type, attributes):
    model = one_node(tmp_path / "m.onnx", operator, element_type, ["N", 4], **attributes)
    assert evaluator(model, feeds(2), ("L1", "cos")).evaluate(model) == {"L1": 0.0, "cos": 1.0}


def test_other_output_names_are_refused(tmp_path):
    distances = evaluator(two_outputs(tmp_path / "float.onnx", 1.0), feeds(2))
    renamed = two_outputs(tmp_path / "renamed.onnx", 1.0, ("same", "other"))
    with pytest.raises(EvaluationError, match="outputs are same, other; the float model's are same, scaled"):
        distances.evaluate(renamed)
    one = save(
        tmp_path / "one.onnx",
        [helper.make_node("Identity", ["x"], ["same"])],
        [tensor("x", ["N", 4])],
        [tensor("same", ["N", 4])],
    )
    with pytest.raises(EvaluationError, match="outputs are same; the float model's are same, scaled"):
        distances.evaluate(one)


def test_another_output_shape_is_refused(tmp_path, float_model):
    candidate = one_node(tmp_path / "t.onnx", "Transpose", TensorProto.FLOAT, [4, "N"], perm=[1, 0])
    with pytest.raises(EvaluationError, match=r"'y' has shape \(4, 2\) .* \(2, 4\)"):
        evaluator(float_model, feeds(2)).evaluate(candidate)


@pytest.mark.parametrize("operator", ["Log", "Sqrt"])
def test_a_candidate_with_nan_has_no_score(tmp_path, float_model, operator):
    candidate = one_node(tmp_path / "nan.onnx", operator, TensorProto.FLOAT, ["N", 4])
    with pytest.raises(EvaluationError, match="output 'y' has NaN or infinities"):
        evaluator(float_model, feeds(2), tuple(DISTANCES)).evaluate(candidate)


def test_a_float_model_with_nan_is_refused(tmp_path):
    model = one_node(tmp_path / "nan.onnx", "Sqrt", TensorProto.FLOAT, ["N", 4])
    with pytest.raises(EvaluatorInputError, match="'y' of the float model has NaN or infinities"):
        evaluator(model, feeds(2)).prepare()


def test_data_that_changes_between_readings_is_noticed(tmp_path, float_model):
    batches = feeds(2, 2)
    distances = evaluator(float_model, batches)
    distances.prepare()
    batches.append(batches[0])
    with pytest.raises(EvaluationError, match="not the 2 batches that the float model ran on"):
        distances.evaluate(float_model)
    del batches[1:]
    with pytest.raises(EvaluationError, match="not the 2 batches that the float model ran on"):
        distances.evaluate(float_model)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "feeds: no batch"),
        ([{"z": np.zeros((1, 4), np.float32)}], "float model .*batch 0: "),
        ([{"x": np.zeros((0, 4), np.float32)}], "'y' of the float model is empty in every batch"),
    ],
)
def test_data_that_cannot_be_evaluated_on_is_refused_before_any_candidate(float_model, batches, message):
    with pytest.raises(EvaluatorInputError, match=message):
        evaluator(float_model, batches).prepare()


def test_arguments_are_refused_at_the_door(tmp_path, float_model):
    for arguments, message in (
        ((tmp_path / "none.onnx", feeds(1)), "float_model: there is no file"),
        ((float_model, iter(feeds(1))), "feeds: must be iterable again"),
        ((float_model, feeds(1), ("cosine",)), "did you mean 'cos'"),
        ((float_model, feeds(1), ()), "metrics: must be a tuple"),
        ((float_model, feeds(1), "L2"), "metrics: must be a tuple"),
    ):
        with pytest.raises(EvaluatorInputError, match=message):
            DistanceEvaluator(*arguments)


def test_metrics_are_known_at_once_and_each_once(float_model):
    distances = evaluator(float_model, feeds(1), ("psnr", "l2", "L2"))
    assert distances.metrics == (DISTANCES["psnr"].metric, DISTANCES["L2"].metric)
