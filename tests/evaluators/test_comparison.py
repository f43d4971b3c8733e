import numpy as np
import pytest

from evaluators import DISTANCES, EvaluationError, EvaluatorInputError
from evaluators.comparison import FloatOutput, OutputComparison, distances_of

NAMES = tuple(DISTANCES)


def test_a_float_output_is_described_batch_by_batch():
    output = FloatOutput("y").add(np.array([[1.0, -2.0]])).add(np.array([[5.0, 0.0]]))
    assert (output.count, output.low, output.high) == (4, -2.0, 5.0)


@pytest.mark.parametrize(
    ("shapes", "has_planes"),
    [
        ([(2, 7, 7)], True),
        ([(2, 3, 9, 8), (1, 3, 20, 7)], True),
        ([(32, 10)], False),  # the batch is no side of an image
        ([(2, 6, 9)], False),
        ([(2, 9, 9), (2, 9, 6)], False),
        ([(2, 9, 9), (0, 0, 0)], True),
    ],
)
def test_planes_have_room_for_a_window_in_every_batch(shapes, has_planes):
    output = FloatOutput("y")
    for shape in shapes:
        output = output.add(np.zeros(shape))
    assert output.has_planes == has_planes


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_float_output_without_a_distance_is_refused_by_name(bad):
    with pytest.raises(EvaluatorInputError, match=r"'logits' of the float model has NaN or inf"):
        FloatOutput("logits").add(np.array([1.0, bad, 2.0], np.float32))


@pytest.mark.parametrize("value", [np.array(["a"], object), np.array([1j]), [np.zeros(2)], None])
def test_a_float_output_that_is_no_tensor_of_numbers_is_refused(value):
    with pytest.raises(EvaluatorInputError, match=r"'y' of the float model is a .* only tensors of numbers"):
        FloatOutput("y").add(value)


def test_an_output_that_is_always_empty_is_refused():
    empty = FloatOutput("boxes").add(np.zeros((0, 4)))
    with pytest.raises(EvaluatorInputError, match=r"'boxes' .* empty in every batch"):
        OutputComparison(("L2",), empty)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_changes_nothing(name):
    x = np.random.default_rng(0).normal(size=(2, 8, 8))
    empty = np.zeros((0, 8, 8))
    with_empty, without = (OutputComparison((name,), FloatOutput("y").add(x)) for _ in range(2))
    for batch in (empty, x, empty):
        with_empty.add(batch, batch + 0.1)
    without.add(x, x + 0.1)
    assert distances_of((name,), [with_empty]) == distances_of((name,), [without])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 5), (2, 9, 9), (3, 5000)])
def test_a_candidate_without_a_distance_has_no_score(name, bad, shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    y = x.copy()
    y.reshape(-1)[-1] = bad
    comparison = OutputComparison((name,), FloatOutput("logits").add(x))
    with pytest.raises(EvaluationError, match="output 'logits' has NaN or infinities"):  # noqa: PT012
        comparison.add(x, y)
        comparison.statistics()


def test_a_candidate_of_another_shape_is_refused():
    comparison = OutputComparison(("L2",), FloatOutput("y").add(np.zeros((2, 3))))
    with pytest.raises(EvaluationError, match=r"'y' has shape \(3, 2\) .* \(2, 3\)"):
        comparison.add(np.zeros((2, 3)), np.zeros((3, 2)))


def test_a_candidate_that_is_no_tensor_of_numbers_is_refused():
    comparison = OutputComparison(("L2",), FloatOutput("y").add(np.zeros(2)))
    with pytest.raises(EvaluationError, match="'y' is a tensor of object"):
        comparison.add(np.zeros(2), np.array(["a", "b"], object))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.float16, np.bool])
def test_other_types_are_compared_as_numbers(dtype):
    x, y = np.array([0, 1, 1, 0]).astype(dtype), np.array([1, 1, 0, 0]).astype(dtype)
    comparison = OutputComparison(("L1", "L2"), FloatOutput("y").add(x))
    comparison.add(x, y)
    assert distances_of(("L1", "L2"), [comparison]) == {"L1": 0.5, "L2": 0.5}


def test_float32_values_whose_squares_overflow_float32_are_compared():
    x = np.array([3e38, -3e38], np.float32)
    comparison = OutputComparison(("L2",), FloatOutput("y").add(x))
    comparison.add(x, -x)
    assert distances_of(("L2",), [comparison])["L2"] == pytest.approx(3.6e77, rel=1e-6)


@pytest.mark.parametrize("size", [1, 8191, 8192, 8193, 30_000])
def test_the_split_into_batches_does_not_change_a_bit(size):
    x, y = np.random.default_rng(2).normal(size=(2, size)).astype(np.float32)
    metrics = tuple(name for name in NAMES)
    values = []
    for step in (size, 1000):
        comparison = OutputComparison(metrics, FloatOutput("y").add(x))
        for start in range(0, size, step):
            comparison.add(x[start : start + step], y[start : start + step])
        values.append(distances_of(metrics, [comparison]))
    assert values[0] == values[1]


def test_only_what_the_metrics_need_is_gathered():
    comparison = OutputComparison(("L1", "max_abs"), FloatOutput("y").add(np.ones(3)))
    comparison.add(np.ones(3), np.zeros(3))
    assert set(comparison.statistics()) == {"count", "range", "absolute_error", "largest_error"}


def test_arrays_that_are_not_contiguous_are_compared():
    x = np.arange(24.0).reshape(4, 6)
    comparison = OutputComparison(("L1",), FloatOutput("y").add(x.T))
    comparison.add(x.T, np.ascontiguousarray(x.T) + 1)
    assert distances_of(("L1",), [comparison]) == {"L1": 1.0}
