import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.ssim import K1, K2, WINDOW, EqualitySsim, GlobalSsim, PlaneSsim, ssim_accumulator


def ssim_of_window(x, y, data_range):
    """The formula of Wang et al. (2004), eq. 13, literally."""
    c_1, c_2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    u_x, u_y = x.mean(), y.mean()
    v_x, v_y = x.var(ddof=1), y.var(ddof=1)
    covariance = ((x - u_x) * (y - u_y)).sum() / (x.size - 1)
    return ((2 * u_x * u_y + c_1) * (2 * covariance + c_2)) / ((u_x**2 + u_y**2 + c_1) * (v_x + v_y + c_2))


def mean_ssim(x, y, data_range):
    height, width = x.shape
    return np.mean(
        [
            ssim_of_window(x[i : i + WINDOW, j : j + WINDOW], y[i : i + WINDOW, j : j + WINDOW], data_range)
            for i in range(height - WINDOW + 1)
            for j in range(width - WINDOW + 1)
        ]
    )


def images(seed, shape, offset=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + offset
    return x, x + 0.3 * rng.normal(size=shape)


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
@pytest.mark.parametrize("shape", [(7, 7), (8, 15), (20, 9)])
def test_planes_agree_with_the_formula_window_by_window(shape, offset):
    x, y = images(0, (3, *shape), offset)
    low, high = float(x.min()), float(x.max())
    ssim = PlaneSsim(low, high)
    ssim.add(x, y)
    expected = np.mean([mean_ssim(a, b, high - low) for a, b in zip(x, y, strict=True)])
    assert ssim.value() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
def test_the_global_window_agrees_with_the_formula(offset):
    x, y = images(1, (50,), offset)
    low, high = float(x.min()), float(x.max())
    ssim = GlobalSsim(low, high)
    ssim.add(x[:20], y[:20])
    ssim.add(x[20:], y[20:])
    assert ssim.value() == pytest.approx(ssim_of_window(x, y, high - low), rel=1e-7)


# mean SSIM as scikit-image 0.26 computes it with its defaults, on images that any reader can make
@pytest.mark.parametrize(
    ("shape", "expected"),
    [((7, 7), 0.9798394866344983), ((12, 9), 0.9794243800417005), ((32, 40), 0.9791523086595714)],
)
def test_planes_agree_with_scikit_image(shape, expected):
    rows, columns = np.indices(shape)
    x = (rows * 7 + columns * 13) % 17 / 16.0
    y = x + ((rows * 5 + columns * 3) % 11 - 5) / 50.0
    ssim = PlaneSsim(0.0, 1.0)
    ssim.add(x[None], y[None])
    assert ssim.value() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("make", [PlaneSsim, GlobalSsim])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_ssim_does_not_change_with_the_unit_of_the_values(make, seed, scale):
    x, y = images(seed, (2, 9, 9))
    values = []
    for factor in (1.0, scale):
        ssim = make(float(x.min()) * factor, float(x.max()) * factor)
        ssim.add(*(a if make is PlaneSsim else a.reshape(-1) for a in (x * factor, y * factor)))
        values.append(ssim.value())
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert -1 <= values[0] < 1


@pytest.mark.parametrize("make", [PlaneSsim, GlobalSsim])
def test_equal_outputs_have_similarity_one(make):
    x, _ = images(3, (2, 8, 8))
    ssim = make(float(x.min()), float(x.max()))
    ssim.add(*(2 * [x if make is PlaneSsim else x.reshape(-1)]))
    assert ssim.value() == pytest.approx(1, abs=1e-12)


def test_large_planes_are_cut_into_chunks_without_a_seam():
    x, y = images(4, (5, 2, 150, 150))
    together, apart = PlaneSsim(-5.0, 5.0), PlaneSsim(-5.0, 5.0)
    together.add(x, y)
    for a, b in zip(x, y, strict=True):
        apart.add(a[None], b[None])
    assert together.value() == pytest.approx(apart.value(), rel=1e-12)


def test_a_constant_output_is_compared_for_equality():
    ssim = ssim_accumulator(2.0, 2.0, has_planes=True)
    assert isinstance(ssim, EqualitySsim)
    ssim.add(np.full(4, 2.0), np.full(4, 2.0))
    assert ssim.value() == 1
    ssim.add(np.full(4, 2.0), np.full(4, 2.1))
    ssim.add(np.full(4, 2.0), np.full(4, 2.0))
    assert ssim.value() == 0


def test_the_accumulator_follows_the_shape_of_the_output():
    assert isinstance(ssim_accumulator(0.0, 1.0, has_planes=True), PlaneSsim)
    assert isinstance(ssim_accumulator(0.0, 1.0, has_planes=False), GlobalSsim)


@pytest.mark.parametrize("make", [PlaneSsim, GlobalSsim])
@pytest.mark.parametrize("far", [1e3, 3e6, 1e9, 1e15])
def test_a_constant_candidate_far_away_is_dissimilar(make, far):
    x, _ = images(5, (1, 9, 9))
    y = np.full_like(x, far * 1.1)
    ssim = make(float(x.min()), float(x.max()))
    ssim.add(*(a if make is PlaneSsim else a.reshape(-1) for a in (x, y)))
    assert abs(ssim.value()) < 1e-2
