"""Structural similarity of a candidate's output to the float model's (Wang et al., 2004).

With means u, sample variances v and covariance c of x (float) and y (candidate) in one window,

    SSIM = (2 u_x u_y + C1)(2 c_xy + C2) / ((u_x^2 + u_y^2 + C1)(v_x + v_y + C2)),
    C1 = (K1 R)^2, C2 = (K2 R)^2, K1 = 0.01, K2 = 0.03,

where R is the data range, max - min of all of the float output (Wang et al., "Image quality
assessment: from error visibility to structural similarity", 2004, eq. 13). Windows are uniform, as
in scikit-image, where the paper weights them by a Gaussian. Variances are summed about the middle
of the float output's range, which changes no variance but loses no digits to a large mean.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WINDOW = 7
K1 = 0.01
K2 = 0.03

_CHUNK_ELEMENTS = 1 << 15  # 256 KiB of float64: the temporaries of one chunk stay in the cache


class SsimAccumulator(Protocol):
    """Takes an output part by part and has the similarity of all of it.

    Attributes:
        needs_planes: Whether a part must be a batch as the model returns it; otherwise it may be
            any run of elements.
    """

    needs_planes: ClassVar[bool]

    def add(self, x: Array, y: Array) -> None:
        """Takes a part of the float output x and the same part of the candidate's output y."""
        ...

    def value(self) -> float:
        """SSIM of all parts so far, at most 1."""
        ...


def ssim_accumulator(low: float, high: float, has_planes: bool) -> SsimAccumulator:
    """The accumulator that fits a float output, given its least and greatest value.

    Args:
        low: Least value of the whole float output.
        high: Greatest value of the whole float output.
        has_planes: Whether every batch is (batch, ..., height, width) with height and width of at
            least WINDOW.
    """
    if low == high:
        return EqualitySsim()
    return PlaneSsim(low, high) if has_planes else GlobalSsim(low, high)


class PlaneSsim:
    """Mean over 2-D planes of the mean SSIM of all 7 x 7 windows that lie inside the plane."""

    needs_planes: ClassVar[bool] = True

    def __init__(self, low: float, high: float) -> None:
        self._range = high - low
        self._middle = low + self._range / 2
        self._sum = 0.0
        self._planes = 0

    def add(self, x: Array, y: Array) -> None:
        """Takes one batch, (batch, ..., height, width)."""
        if not x.size:
            return
        x_planes = x.reshape(-1, *x.shape[-2:])
        y_planes = y.reshape(-1, *x.shape[-2:])
        step = max(1, _CHUNK_ELEMENTS // x_planes[0].size)
        for start in range(0, len(x_planes), step):
            self._add_planes(x_planes[start : start + step], y_planes[start : start + step])
        self._planes += len(x_planes)

    def value(self) -> float:
        """Mean over the planes."""
        return self._sum / self._planes

    def _add_planes(self, x_planes: Array, y_planes: Array) -> None:
        n = WINDOW * WINDOW
        x = x_planes.astype(np.float64) - self._middle
        y = y_planes.astype(np.float64) - self._middle
        u_x = _window_sums(x) / n
        u_y = _window_sums(y) / n
        variances = (_window_sums(x * x + y * y) - n * (u_x * u_x + u_y * u_y)) / (n - 1)
        covariance = (_window_sums(x * y) - n * u_x * u_y) / (n - 1)
        u_x += self._middle
        u_y += self._middle
        similarity = _similarity(u_x, u_y, variances, covariance, self._range)
        self._sum += float(similarity.mean(axis=(-2, -1)).sum())


class GlobalSsim:
    """SSIM of one window that spans the whole output, for outputs that are not images."""

    needs_planes: ClassVar[bool] = False

    def __init__(self, low: float, high: float) -> None:
        self._range = high - low
        self._middle = low + self._range / 2
        self._count = 0
        self._x = self._y = self._xx_yy = self._xy = 0.0

    def add(self, x: Array, y: Array) -> None:
        """Takes elements, (elements,) float64."""
        x, y = x - self._middle, y - self._middle
        self._count += x.size
        self._x += float(x.sum())
        self._y += float(y.sum())
        self._xx_yy += float(x @ x + y @ y)
        self._xy += float(x @ y)

    def value(self) -> float:
        """SSIM of the single window."""
        n = self._count
        u_x, u_y = self._x / n, self._y / n
        # n is above 1: a range that is not zero takes two elements
        variances = (self._xx_yy - n * (u_x * u_x + u_y * u_y)) / (n - 1)
        covariance = (self._xy - n * u_x * u_y) / (n - 1)
        means = np.array([u_x, u_y]) + self._middle
        return float(_similarity(means[0], means[1], variances, covariance, self._range))


class EqualitySsim:
    """1 where the candidate equals a constant float output in every element, else 0.

    A constant has neither structure nor range, so that C1 = C2 = 0 and the formula reads 0 / 0.
    """

    needs_planes: ClassVar[bool] = False

    def __init__(self) -> None:
        self._equal = True

    def add(self, x: Array, y: Array) -> None:
        """Takes elements, of any shape."""
        self._equal = self._equal and bool(np.array_equal(x, y))

    def value(self) -> float:
        """1 or 0."""
        return float(self._equal)


def _similarity(u_x: Any, u_y: Any, variances: Any, covariance: Any, data_range: float) -> Any:
    """The formula, for numbers or arrays; `variances` is v_x + v_y."""
    variances = np.maximum(variances, 0)  # rounding makes it negative where y is constant and far from x
    c_1 = (K1 * data_range) ** 2
    c_2 = (K2 * data_range) ** 2
    luminance = (2 * u_x * u_y + c_1) / (u_x * u_x + u_y * u_y + c_1)
    return luminance * ((2 * covariance + c_2) / (variances + c_2))


def _window_sums(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of all 7 x 7 windows inside each plane: (..., h, w) -> (..., h - 6, w - 6)."""
    rows = _sums_of_seven(planes)
    return _sums_of_seven(rows.swapaxes(-1, -2)).swapaxes(-1, -2)


def _sums_of_seven(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of seven neighbours along the last axis, as 4 + 2 + 1 of them.

    Unlike a difference of cumulative sums it has no rounding error that grows along the axis.
    """
    two = a[..., :-1] + a[..., 1:]
    four = two[..., :-2] + two[..., 2:]
    seven: NDArray[np.float64] = four[..., :-3] + two[..., 4:-1]
    seven += a[..., 6:]
    return seven
