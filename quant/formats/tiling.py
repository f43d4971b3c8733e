"""Blocks in ONNX's text: a tensor cut into tiles, a scale for each of them, and the tensor put together.

A pass over all elements costs onnxruntime about as much as any other, but two things are slow: broadcasts
along short axes, and sums or products of a scalar and a tensor whose last axis has length 1. So there is no
axis of length 1 where a tile has a single number, and a product with ones, exact because nothing is added,
spreads these numbers over the tiles.

What is known of the input's shape is written as constants. Other shapes are computed in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from quant.formats import functions
from quant.formats.blocks import Blocks
from quant.formats.contract import Attributes, Emulation, KnownShape

_PAD = """
    plane_list = Reshape (x, planes)
    unseen_pads = Identity (pads)
    padded = Pad (plane_list, unseen_pads)
"""
"""Up to onnxruntime 1.20 at least, shape inference refuses pads that a function has as an attribute."""


@dataclass(frozen=True)
class _Layout:
    """What the text of a function depends on.

    Attributes:
        tall: Tiles have more than one row.
        padded: Tiles reach beyond the end of an axis; always, where the shape is not known.
        known: The input's shape is, as far as it is needed.
    """

    tall: bool
    padded: bool
    known: bool

    @property
    def suffix(self) -> str:
        """Of the function's name."""
        tiles = "Tiles" if self.tall else "Rows"
        if not self.known:
            return f"{tiles}OfAnyShape"
        return f"Padded{tiles}" if self.padded else tiles

    @property
    def shapes(self) -> tuple[str, ...]:
        """Names of the constants that hold shapes."""
        tall = ("strips", "wide") if self.tall else ()
        padded = ("planes", "pads", "full", "ends") if self.padded else ()
        return ("tiles", "axis", *tall, *padded)

    def cut(self) -> str:
        """From x: cut, magnitudes of its shape, and finite: each tile's greatest, not above float32's."""
        text = self._given() if self.known else self._computed()
        source, extreme = "x", "magnitudes"
        if self.padded:
            text += _PAD
            source = "padded"
        text += f"""
    shape = Shape (x)
    cut = Reshape ({source}, tiles)
    magnitudes = Abs (cut)"""
        if self.tall:
            extreme = "strip_list"
            text += """
    columns = ReduceMax <keepdims = 0> (magnitudes, axis)
    strip_list = Reshape (columns, strips)"""
        return f"""{text}
    extreme = ReduceMax <keepdims = 0> ({extreme}, axis)
    float_max = Constant <value_float = 3.4028234663852886e38> ()
    finite = Min (extreme, float_max)
"""

    def spread(self) -> str:
        """Scale, a number for each tile -> spread, of the shape of cut but for the tile's rows."""
        target = "spread_strips" if self.tall else "spread"
        text = f"""
    column = Unsqueeze (scale, axis)
    {target} = MatMul (column, ones)
"""
        return f"{text}    spread = Reshape ({target}, wide)\n" if self.tall else text

    def join(self) -> str:
        """Result, of the shape of cut -> y, of the shape of x."""
        if not self.padded:
            return "    y = Reshape (result, shape)\n"
        axes = "-2, -1" if self.tall or not self.known else "-1"
        return f"""    joined = Reshape (result, full)
    origin = Constant <value_ints = [{axes.replace("-2", "0").replace("-1", "0")}]> ()
    axes = Constant <value_ints = [{axes}]> ()
    inner = Slice (joined, origin, ends, axes)
    y = Reshape (inner, shape)
"""

    def _given(self) -> str:
        """The shapes of `shapes`, and ones for the width of a tile."""
        shapes = functions.constants(**dict.fromkeys(self.shapes, "ints"))
        return f"{shapes}\n    ones = Constant <value: tensor = @ones> ()"

    def _computed(self) -> str:
        """The same where nothing is known before the model runs."""
        text = """
    block = Constant <value_ints: ints = @block> ()
    zero = Constant <value_ints = [0]> ()
    axis = Constant <value_ints = [1]> ()
    one = Constant <value_ints = [1]> ()
    before = Constant <value_ints = [-1]> ()
    two_before = Constant <value_ints = [-2]> ()
    end = Constant <value_ints = [9223372036854775807]> ()
    own_shape = Shape (x)
    long_shape = Concat <axis = 0> (one, one, own_shape)
    ends = Slice (long_shape, two_before, end)
    tile = Min (block, ends)
    beyond = Neg (ends)
    missing = Mod (beyond, tile)
    full_plane = Add (ends, missing)
    height, width = Split <num_outputs = 2> (tile)
    rows, columns_length = Split <num_outputs = 2> (full_plane)
    planes = Concat <axis = 0> (before, ends)
    full = Concat <axis = 0> (before, full_plane)
    pads = Concat <axis = 0> (zero, zero, zero, zero, missing)
    one_tile = Concat <axis = 0> (one, width)
    ones = ConstantOfShape <value = float[1] {1.0}> (one_tile)
"""
        if not self.tall:
            return f"{text}    tiles = Concat <axis = 0> (before, width)\n"
        return f"""{text}    tiles = Concat <axis = 0> (before, height, columns_length)
    strips = Concat <axis = 0> (before, width)
    wide = Concat <axis = 0> (before, one, columns_length)
"""


def tiled(
    op_type: str,
    blocks: Blocks,
    shape: KnownShape | None,
    constants: Mapping[str, float],
    texts: tuple[str, str],
) -> Emulation:
    """A format of blocks.

    Args:
        op_type: Of the function, to which the layout adds.
        blocks: What shares a scale.
        shape: Of the input, as far as it is known.
        constants: By name, for the two texts.
        texts: finite -> scale, a number for each tile; cut, magnitudes and spread -> result.
    """
    layout, attributes = _arranged(blocks, shape)
    body = _body(layout, tuple(constants), texts)
    return Emulation(op_type + layout.suffix, body, (*attributes, *constants.items()))


def _arranged(blocks: Blocks, shape: KnownShape | None) -> tuple[_Layout, Attributes]:
    """The layout for a shape, and its attributes."""
    plane = (1, *(shape or ()))[-2 if blocks.height > 1 else -1 :]
    tall = len(plane) > 1 and plane[0] != 1
    ends = tuple(length for length in plane[-2 if tall else -1 :] if length)
    if not shape or len(ends) < 1 + tall:
        layout = _Layout(blocks.height > 1, padded=True, known=False)
        return layout, (("block", (blocks.height, blocks.width)),)
    tile = tuple(map(min, (blocks.height, blocks.width)[-len(ends) :], ends))
    missing = tuple(-length % own for length, own in zip(ends, tile, strict=True))
    full = tuple(length + more for length, more in zip(ends, missing, strict=True))
    layout = _Layout(tall, padded=any(missing), known=True)
    tiles = (*tile[:-1], full[-1]) if tall else tile
    planes = _planes(shape, len(ends))
    if planes is not None and planes * prod(full) == prod(tiles):
        planes = None  # else there were an axis of length 1

    def lead(count: int, divisor: int) -> tuple[int, ...]:
        """All axes before some: the first keeps its length, and with it the name that stands for it.

        Without it onnxruntime, which looks for memory to use again, compares ever more shapes of which it
        knows nothing.
        """
        return (-1,) if planes is None else (0, planes * count // divisor)

    size, rows = prod(full), prod(full) // prod(tile[:-1])
    values = {
        "tiles": (*lead(size, prod(tiles)), *tiles),
        "axis": (len(lead(1, 1)),),
        "strips": (*lead(rows, tile[-1]), tile[-1]),
        "wide": (*lead(rows, full[-1]), 1, full[-1]),
        "planes": (*lead(1, 1), *ends),
        "pads": (*(0,) * (2 * len(lead(1, 1)) + len(ends)), *missing),
        "full": (*lead(1, 1), *full),
        "ends": ends,
    }
    return layout, (("ones", ((1.0,) * tile[-1],)), *((name, values[name]) for name in layout.shapes))


def _planes(shape: KnownShape, axes: int) -> int | None:
    """How many planes of so many axes there are for each index of the first axis, if that is known."""
    between = shape[1:-axes]
    known = [length for length in between if length]
    return prod(known) if len(shape) > axes and len(known) == len(between) else None


@lru_cache(maxsize=256)
def _body(layout: _Layout, constants: tuple[str, ...], texts: tuple[str, str]) -> str:
    scale, result = texts
    given = [f"{name}: ints" for name in (layout.shapes if layout.known else ("block",))]
    given += ["ones: tensor"] if layout.known else []
    declared = ", ".join([*given, *(f"{name}: float" for name in constants)])
    return f"""<{declared}> (x) => (y)
{{
{functions.constants(**dict.fromkeys(constants, "float"))}
{layout.cut()}{scale}{layout.spread()}{result}{layout.join()}}}"""
