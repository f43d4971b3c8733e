import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluators import DISTANCES, EvaluatorInputError, distance_metric
from evaluators.comparison import FloatOutput, OutputComparison, distances_of

NAMES = tuple(DISTANCES)
ELEMENTS = st.floats(-1e6, 1e6, width=32)
PROPERTY = settings(max_examples=40, deadline=None)


def compare(pairs, metrics=NAMES):
    """Distances of one output, given its (float, candidate) batches."""
    output = FloatOutput("y")
    for x, _ in pairs:
        output = output.add(x)
    comparison = OutputComparison(metrics, output)
    for x, y in pairs:
        comparison.add(x, y)
    return distances_of(metrics, [comparison])


@st.composite
def pairs_of_arrays(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=9))
    return tuple(draw(hnp.arrays(np.float32, shape, elements=ELEMENTS)) for _ in range(2))


def brute_force(x, y):
    """The definitions, in float64 on whole arrays; where they are defined without conventions."""
    x, y = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
    error = x - y
    l2 = np.mean(error**2)
    return {
        "L1": np.mean(np.abs(error)),
        "L2": l2,
        "cos": x @ y / (np.linalg.norm(x) * np.linalg.norm(y)),
        "psnr": 10 * np.log10(np.ptp(x) ** 2 / l2),
        "sqnr": 10 * np.log10(np.sum(x**2) / np.sum(error**2)),
        "max_abs": np.max(np.abs(error)),
    }


def test_the_registry_names_unit_and_direction_of_every_metric():
    rows = {name: (row.metric.unit, row.metric.direction) for name, row in DISTANCES.items()}
    assert rows == {
        "L1": ("", "minimize"),
        "L2": ("", "minimize"),
        "cos": ("", "maximize"),
        "psnr": ("dB", "maximize"),
        "ssim": ("", "maximize"),
        "sqnr": ("dB", "maximize"),
        "max_abs": ("", "minimize"),
    }
    assert all(row.metric.name == name and row.metric.against_float for name, row in DISTANCES.items())


@PROPERTY
@given(pairs_of_arrays())
def test_values_agree_with_the_definitions(pair):
    x, y = pair
    assume(np.ptp(x) and np.any(y) and np.any(x - y))
    values = compare([pair])
    for name, expected in brute_force(x, y).items():
        assert values[name] == pytest.approx(expected, rel=1e-9, abs=1e-9), name


def test_values_agree_with_the_definitions_over_many_blocks():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(31, 1000)) + 3).astype(np.float32)
    y = (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32)
    values = compare([(x, y)])
    for name, expected in brute_force(x, y).items():
        assert values[name] == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(pair=pairs_of_arrays(), cut=st.integers(0, 9))
def test_the_split_into_batches_does_not_matter(name, pair, cut):
    x, y = pair
    whole = compare([(x, y)], (name,))[name]
    split = compare([(x[:cut], y[:cut]), (x[cut:], y[cut:])], (name,))[name]
    assert split == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(pair=pairs_of_arrays())
def test_an_output_equal_to_the_float_one_is_perfect(name, pair):
    best = {"cos": 1, "ssim": 1, "psnr": math.inf, "sqnr": math.inf}.get(name, 0)
    assert compare([(pair[0], pair[0].copy())], (name,))[name] == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(pair=pairs_of_arrays())
def test_no_value_is_nan_nor_better_than_perfect(name, pair):
    metric = DISTANCES[name].metric
    value = compare([pair], (name,))[name]
    perfect = compare([(pair[0], pair[0])], (name,))[name]
    assert metric.loss(value) >= metric.loss(perfect) - 1e-12


@pytest.mark.parametrize("name", ["L1", "L2", "cos", "max_abs"])
@PROPERTY
@given(pair=pairs_of_arrays())
def test_these_are_symmetric(name, pair):
    x, y = pair
    assert compare([(x, y)], (name,))[name] == pytest.approx(compare([(y, x)], (name,))[name], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "power"),
    [("L1", 1), ("L2", 2), ("max_abs", 1), ("cos", 0), ("psnr", 0), ("sqnr", 0), ("ssim", 0)],
)
@PROPERTY
@given(pair=pairs_of_arrays(), exponent=st.integers(-8, 8))
def test_behaviour_under_a_change_of_unit(name, power, pair, exponent):
    x, y = (a.astype(np.float64) for a in pair)
    factor = 2.0**exponent
    scaled = compare([(x * factor, y * factor)], (name,))[name]
    assert scaled == pytest.approx(compare([(x, y)], (name,))[name] * factor**power, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(6, 5), (4, 9, 9)])
def test_more_noise_is_worse(name, shape):
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=(2, *shape))
    metric = DISTANCES[name].metric
    losses = [metric.loss(compare([(x, x + s * noise)], (name,))[name]) for s in (0, 0.01, 0.1, 1)]
    assert losses == sorted(losses) and losses[0] < losses[1] < losses[3]


@pytest.mark.parametrize(
    ("name", "value"), [("cos", 0), ("sqnr", -math.inf), ("psnr", -math.inf), ("ssim", 0), ("L1", 1)]
)
def test_a_zero_output_that_the_candidate_does_not_keep(name, value):
    assert compare([(np.zeros(8), np.ones(8))], (name,))[name] == value


def test_cosine_of_a_candidate_that_collapsed_to_zero():
    assert compare([(np.ones(8), np.zeros(8))], ("cos",)) == {"cos": 0}


@pytest.mark.parametrize("name", ["L1", "L2", "cos", "ssim", "max_abs"])
def test_a_constant_output_still_has_a_value(name):
    value = compare([(np.full((2, 8, 8), 3.0), np.full((2, 8, 8), 4.0))], (name,))[name]
    assert value == pytest.approx({"cos": 1, "ssim": 0}.get(name, 1))


@pytest.mark.parametrize("name", ["L1", "L2", "cos", "ssim"])
def test_several_outputs_count_by_their_mean(name):
    rng = np.random.default_rng(2)
    pairs = [tuple(rng.normal(size=(2, *shape))) for shape in ((3, 4), (2, 8, 8))]
    single = [compare([pair], (name,))[name] for pair in pairs]
    assert several_outputs(pairs, name) == pytest.approx(np.mean(single))


def test_several_outputs_count_by_the_largest_absolute_error():
    pairs = [(np.zeros(3), np.ones(3)), (np.zeros(1), np.full(1, -5.0))]
    assert several_outputs(pairs, "max_abs") == 5


@pytest.mark.parametrize("name", ["psnr", "sqnr"])
def test_an_output_without_error_does_not_hide_another(name):
    rng = np.random.default_rng(3)
    x, noise = rng.normal(size=(2, 50))
    kept, noisy, noisier = (x, x), (x, x + 0.1 * noise), (x, x + 0.2 * noise)
    half_the_noise_db = 10 * math.log10(2)
    assert several_outputs([kept, noisy], name) == pytest.approx(
        compare([noisy], (name,))[name] + half_the_noise_db
    )
    assert several_outputs([kept, noisier], name) < several_outputs([kept, noisy], name)
    assert several_outputs([kept, kept], name) == math.inf


@pytest.mark.parametrize("name", ["psnr", "sqnr"])
def test_a_perfect_and_a_hopeless_output_are_hopeless(name):
    assert several_outputs([(np.arange(3.0), np.arange(3.0)), (np.zeros(3), np.ones(3))], name) == -math.inf


def several_outputs(pairs, name):
    comparisons = []
    for x, y in pairs:
        comparisons.append(OutputComparison((name,), FloatOutput("y").add(x)))
        comparisons[-1].add(x, y)
    return distances_of((name,), comparisons)[name]


@pytest.mark.parametrize("spelling", ["L2", "l2"])
def test_names_are_matched_in_any_case(spelling):
    assert distance_metric(spelling) is DISTANCES["L2"].metric
    assert distance_metric("PSNR").unit == "dB"


@pytest.mark.parametrize(
    ("name", "advice"),
    [("cosine", "'cos'"), ("SNR", "'sqnr'"), ("maxabs", "'max_abs'"), ("wer", "known are L1, ")],
)
def test_an_unknown_name_gets_a_hint(name, advice):
    with pytest.raises(EvaluatorInputError, match=f"unknown metric '{name}'; .*{advice}"):
        distance_metric(name)
