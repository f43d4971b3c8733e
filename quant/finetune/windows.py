"""Columns of a convolution: what lies under its kernel at each output position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.finetune.block import Block, Draw
from quant.finetune.convolution import Axis, Convolution

_POINT = Axis(kernel=1, stride=1, dilation=1, upsampling=1, flipped=False, offset=0, length=1)
"""Appended to the spatial axes, it is the folded one where none of them can be."""

_STRETCH = 32
"""Most neighbours along the folded axis that are drawn together."""

Box = tuple[tuple[int, int], ...]
"""Ranges of samples and of the output positions along each axis."""


@dataclass(frozen=True)
class WindowColumns:
    """Of a convolution, transposed or not."""

    convolution: Convolution

    @property
    def groups(self) -> int:
        return self.convolution.groups

    @property
    def inputs(self) -> int:
        return self.convolution.channels * prod(self.convolution.kernel)

    @property
    def taps(self) -> int:
        return self._kernel[self.folded]

    @property
    def folded(self) -> int:
        """The axis with most taps among those whose neighbouring windows are one step apart."""
        steps = self.convolution.window_strides
        fit = [axis for axis, step in enumerate(steps) if step == 1 and self._kernel[axis] > 1]
        return max(fit, key=lambda axis: self._kernel[axis], default=len(steps))

    @property
    def _kernel(self) -> tuple[int, ...]:
        return (*self.convolution.kernel, 1)

    def blocks(self, x: NDArray[Any], max_bytes: int) -> Iterator[Block]:
        axes = (*self.convolution.axes(x.shape[2:]), _POINT)
        x = x.reshape(x.shape[0], self.groups, self.convolution.channels, *x.shape[2:], 1)
        whole: Box = ((0, x.shape[0]), *((0, axis.length) for axis in axes))
        if prod(stop for _, stop in whole):
            for box in self._boxes(axes, whole, max(max_bytes, 4 * self.groups * self.inputs**2)):
                yield self._block(x, axes, box)

    def drawn(self, x: NDArray[Any], draw: Draw) -> Iterator[Block]:
        axes = (*self.convolution.axes(x.shape[2:]), _POINT)
        x = x.reshape(x.shape[0], self.groups, self.convolution.channels, *x.shape[2:], 1)
        folded, others = axes[self.folded], self._others(axes)
        lengths = (-(-folded.length // _STRETCH), x.shape[0], *(axis.length for axis in others))
        chosen = np.stack(np.unravel_index(draw.of(prod(lengths)), lengths))
        for stretch in np.unique(chosen[0]):
            start = int(stretch) * _STRETCH
            span = (start, min(start + _STRETCH, folded.length))
            yield self._gathered(x, axes, span, chosen[1:, chosen[0] == stretch])

    def count(self, shape: tuple[int, ...]) -> int:
        return shape[0] * prod(axis.length for axis in self.convolution.axes(shape[2:]))

    def unfold(self, rows: NDArray[Any], axis: int) -> NDArray[Any]:
        before, after = rows.shape[:axis], rows.shape[axis + 2 :]
        kernel = self._kernel
        others = tuple(taps for position, taps in enumerate(kernel) if position != self.folded)
        if self.convolution.flipped:
            rows = np.flip(rows, axis)
        rows = rows.reshape(*before, self.taps, self.convolution.channels, *others, *after)
        rows = np.moveaxis(rows, axis, axis + 1 + self.folded)
        return rows.reshape(*before, self.inputs, *after)

    def _boxes(self, axes: tuple[Axis, ...], box: Box, max_bytes: int) -> Iterator[Box]:
        """Halves of halves, first of the samples, then of the longest axis, until each is small enough."""
        sizes = [stop - start for start, stop in box]
        if 4 * prod(self._shape(axes, box)) <= max_bytes or max(sizes) == 1:
            yield box
            return
        split = 0 if sizes[0] > 1 else int(np.argmax(sizes))
        start, stop = box[split]
        middle = (start + stop) // 2
        for half in ((start, middle), (middle, stop)):
            yield from self._boxes(axes, (*box[:split], half, *box[split + 1 :]), max_bytes)

    def _shape(self, axes: tuple[Axis, ...], box: Box) -> tuple[int, ...]:
        """(groups, channels, taps of the other axes, folded length, samples, other positions)."""
        folded = axes[self.folded]
        (first, last), *ranges = box
        length = ranges[self.folded][1] - ranges[self.folded][0] + folded.reach
        others = [index for index in range(len(axes)) if index != self.folded]
        kernel = (axes[index].kernel for index in others)
        positions = (ranges[index][1] - ranges[index][0] for index in others)
        return (self.groups, self.convolution.channels, *kernel, length, last - first, *positions)

    def _block(self, x: NDArray[Any], axes: tuple[Axis, ...], box: Box) -> Block:
        """Copies the input once for each tap of the unfolded axes; what lies in the padding stays zero."""
        shape = self._shape(axes, box)
        values = np.zeros(shape, np.float32)
        (first, last), *ranges = box
        source = np.moveaxis(x[first:last], (1, 2, 3 + self.folded), (0, 1, 2))
        folded, (start, stop) = axes[self.folded], ranges.pop(self.folded)
        into, out_of = folded.line(start, stop, source.shape[2])
        others = self._others(axes)
        for taps in product(*(range(axis.kernel) for axis in others)):
            pairs = [
                axis.overlap(tap, *span, size)
                for axis, tap, span, size in zip(others, taps, ranges, source.shape[4:], strict=True)
            ]
            targets, sources = zip(*pairs, strict=True)
            values[:, :, *taps, into, :, *targets] = source[:, :, out_of, :, *sources]
        rows = values.reshape(self.groups, self.inputs // self.taps, stop - start + folded.reach, -1)
        return Block(rows, folded.kernel, folded.dilation, stop - start)

    def _gathered(
        self, x: NDArray[Any], axes: tuple[Axis, ...], span: tuple[int, int], chosen: NDArray[np.int64]
    ) -> Block:
        """A stretch of the folded axis at some samples and positions of the other axes.

        Args:
            x: Shape (samples, groups, channels, *spatial, 1).
            axes: One for each of the last axes of x.
            span: Start and stop of the stretch.
            chosen: Shape (1 + other axes, count): samples, and positions along the other axes.
        """
        folded, others, (start, stop) = axes[self.folded], self._others(axes), span
        source = np.moveaxis(x, (1, 2, 3 + self.folded), (0, 1, 2))
        into, out_of = folded.line(start, stop, source.shape[2])
        kernel = tuple(axis.kernel for axis in others)
        length = stop - start + folded.reach
        values = np.zeros((*source.shape[:2], *kernel, length, chosen.shape[1]), np.float32)
        for taps in product(*(range(size) for size in kernel)):
            reads = [
                axis.reads(tap, positions, size)
                for axis, tap, positions, size in zip(others, taps, chosen[1:], source.shape[4:], strict=True)
            ]
            inside = np.logical_and.reduce([there for _, there in reads])
            where = (chosen[0, inside], *(index[inside] for index, _ in reads))
            tap: Any = (slice(None), slice(None), *taps)
            values[tap][:, :, into, inside] = source[:, :, out_of, *where]
        rows = values.reshape(self.groups, self.inputs // self.taps, length, -1)
        return Block(rows, folded.kernel, folded.dilation, stop - start)

    def _others(self, axes: tuple[Axis, ...]) -> list[Axis]:
        """All axes but the folded one."""
        return [axis for index, axis in enumerate(axes) if index != self.folded]
