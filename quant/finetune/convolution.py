"""Where the windows of a convolution lie: which input position each tap of the kernel reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution for one length of the input.

    Tap k at output position p reads, of the input with upsampling - 1 zeros after each value,

        q = stride p ± dilation k + offset    (minus if flipped)

    which is zero where q lies outside. A Conv has upsampling 1 and offset -pad; a ConvTranspose, seen
    from its output, stride 1, its strides as upsampling, flipped taps and offset +pad.

    Attributes:
        length: Output positions.
    """

    kernel: int
    stride: int
    dilation: int
    upsampling: int
    flipped: bool
    offset: int
    length: int

    @property
    def reach(self) -> int:
        """Distance between the first and the last tap."""
        return (self.kernel - 1) * self.dilation

    def overlap(self, tap: int, start: int, stop: int, size: int) -> tuple[slice, slice]:
        """Positions in start ... stop at which a tap reads the input, and what it reads there.

        Args:
            tap: k.
            start: First output position.
            stop: Behind the last one.
            size: Of the input.

        Returns:
            Slice of the positions, counted from start, and slice of the input, of equal lengths.
        """
        shift = (-tap if self.flipped else tap) * self.dilation + self.offset
        return self._inside(shift, start, stop, size)

    def line(self, start: int, stop: int, size: int) -> tuple[slice, slice]:
        """The same for all that the taps read at stride 1, from the first one at `start` on.

        Output position p's tap k is element p - start + dilation k of the line, of a flipped axis
        element p - start + dilation (kernel - 1 - k).
        """
        shift = self.offset - (self.reach if self.flipped else 0)
        return self._inside(shift, start, stop + self.reach, size)

    def reads(
        self, tap: int, positions: NDArray[np.int64], size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """What a tap reads of the input at some positions, and where that is inside; the rest is zero."""
        shift = (-tap if self.flipped else tap) * self.dilation + self.offset
        index, between = np.divmod(self.stride * positions + shift, self.upsampling)
        return index, (index >= 0) & (index < size) & (between == 0)

    def _inside(self, shift: int, start: int, stop: int, size: int) -> tuple[slice, slice]:
        step, stride = self.upsampling, self.stride  # one of them is 1
        first = max(start, -(shift // stride))
        first += -(first + shift) % step if step > 1 else 0
        last = min(stop - 1, ((size - 1) * step - shift) // stride)
        if first > last:
            return slice(0), slice(0)
        begin, end = (first * stride + shift) // step, (last * stride + shift) // step
        return slice(first - start, last - start + 1, step), slice(begin, end + 1, stride)


@dataclass(frozen=True)
class Convolution:
    """What a Conv or ConvTranspose node says of its windows.

    Attributes:
        channels: Input channels of a group.
        flipped: Whether it is a ConvTranspose.
        pads: Of all axes at their begins, then at their ends.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        output_padding: Of a ConvTranspose.
        output_shape: Of a ConvTranspose: spatial sizes that decide the pads; None = the pads decide.
    """

    groups: int
    channels: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    flipped: bool
    pads: tuple[int, ...]
    auto_pad: str
    output_padding: tuple[int, ...]
    output_shape: tuple[int, ...] | None

    @classmethod
    def of(cls, node: ir.Node, weight_shape: Sequence[int]) -> Convolution:
        """Reads the attributes of a node whose weight has this shape."""
        kernel = tuple(weight_shape[2:])
        groups = node.attributes.get_int("group", 1)
        flipped = node.op_type == "ConvTranspose"

        def ints(name: str, count: int, default: int) -> tuple[int, ...]:
            return tuple(node.attributes.get_ints(name, (default,) * count))

        rank = len(kernel)
        output_shape = ints("output_shape", 0, 0)[-rank:]
        return cls(
            groups=groups,
            channels=weight_shape[0] // groups if flipped else weight_shape[1],
            kernel=kernel,
            strides=ints("strides", rank, 1),
            dilations=ints("dilations", rank, 1),
            flipped=flipped,
            pads=ints("pads", 2 * rank, 0),
            auto_pad=node.attributes.get_string("auto_pad", "NOTSET"),
            output_padding=ints("output_padding", rank, 0),
            output_shape=output_shape or None,
        )

    @property
    def window_strides(self) -> tuple[int, ...]:
        """Steps between neighbouring windows; a ConvTranspose has a window at each output position."""
        return (1,) * len(self.kernel) if self.flipped else self.strides

    def axes(self, sizes: Sequence[int]) -> tuple[Axis, ...]:
        """The spatial axes for an input of these spatial sizes."""
        axis = self._transposed_axis if self.flipped else self._axis
        return tuple(axis(index, size) for index, size in enumerate(sizes))

    def _axis(self, index: int, size: int) -> Axis:
        kernel, stride, dilation = self.kernel[index], self.strides[index], self.dilations[index]
        extent = (kernel - 1) * dilation + 1
        if self.auto_pad.startswith("SAME"):
            length = -(-size // stride)
            begin = self._begin(max((length - 1) * stride + extent - size, 0))
        else:
            begin, end = self._pads(index)
            length = max((size + begin + end - extent) // stride + 1, 0)
        return Axis(kernel, stride, dilation, 1, False, -begin, length)

    def _transposed_axis(self, index: int, size: int) -> Axis:
        kernel, stride, dilation = self.kernel[index], self.strides[index], self.dilations[index]
        full = (size - 1) * stride + self.output_padding[index] + (kernel - 1) * dilation + 1
        if self.output_shape is not None:
            length = self.output_shape[index]
            begin = self._begin(max(full - length, 0))
        elif self.auto_pad.startswith("SAME"):
            total = max(full - size * stride, 0)
            length, begin = full - total, self._begin(total)  # in onnxruntime; in ONNX, size * stride
        else:
            begin, end = self._pads(index)
            length = max(full - begin - end, 0)
        return Axis(kernel, 1, dilation, stride, True, begin, length)

    def _pads(self, index: int) -> tuple[int, int]:
        """At the begin and at the end."""
        if self.auto_pad == "VALID":
            return 0, 0
        return self.pads[index], self.pads[len(self.kernel) + index]

    def _begin(self, total: int) -> int:
        """The part of an axis's padding at its begin: an odd one is larger at the end if SAME_UPPER."""
        return total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2
