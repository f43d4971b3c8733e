"""Running a model segment by segment over all of the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from quant.calibration.data import Feed
from quant.graph.frontier import Frontier
from quant.graph.parts import run_in_parts
from quant.graph.segments import Segment, plan_segments, segment_model
from quant.graph.session import Provider, float_session

KEEP_BYTES = 1 << 30
"""Of the values between two segments, over all batches."""

Values = dict[str, NDArray[Any]]


class SegmentRunner:
    """Gives the values of one cut after another, at the cost of one pass over the data in all.

    What later segments need is kept, for all batches, in memory up to a limit and in mapped files
    beyond. A segment's session is made when its first batch is asked for, with the model's initializers
    as they are then: whoever finetunes a layer replaces `const_value` in the model and goes on.

    onnxruntime optimises each segment in full, as it does the whole model. Of a QDQ model the values
    are those of the whole one, bit for bit, for what crosses a cut is integers there; float patterns
    that a cut divides (an Add behind a Conv, say) may differ in the last bits.

        with SegmentRunner(model, [("x1",), ("x2", "x3")], feeds, threads=2) as runner:
            for values in runner.advance():   # {"x1": ...} of each batch
                ...
            for values in runner.advance():   # {"x2": ..., "x3": ...} of each batch
                ...
    """

    def __init__(
        self,
        model: ir.Model,
        cuts: Sequence[Sequence[str]],
        feeds: Iterable[Feed],
        *,
        providers: Sequence[Provider] = ("CPUExecutionProvider",),
        threads: int = 0,
        keep_bytes: int | None = KEEP_BYTES,
        config: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Plans the walk; nothing runs yet.

        Args:
            model: Sorted topologically. It stays the caller's, who may change initializers' values
                between segments, but not its nodes.
            cuts: Names of tensors, in the order in which they are wanted; inputs and outputs of the
                graph are allowed.
            feeds: Batches, of any shapes; iterated once for each segment that reads the data.
            providers: onnxruntime's execution providers.
            threads: Of each session; 0 = all cores.
            keep_bytes: What may lie in memory between two segments; None = everything.
            config: Session config entries.

        Raises:
            ModelError: If a tensor is not computed from the data.
        """
        self.segments = plan_segments(model.graph, cuts)
        self._model = model
        self.feeds = tuple(feeds)
        self._providers = providers
        self._threads = threads
        self._config = tuple(config)
        self._frontier = Frontier(keep_bytes)
        self._next = 0
        self._current: Iterator[Values] = iter(())

    def __enter__(self) -> SegmentRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frontier.close()

    def advance(self) -> Iterator[Values]:
        """The next cut's tensors, batch by batch; the arrays are not to be written to.

        What is left of the cut before runs first, if its batches were not all asked for.

        Raises:
            ModelError: If onnxruntime cannot run the segment.
            IndexError: If there is no next cut.
        """
        segment = self.segments[self._next]
        self._next += 1
        for _ in self._current:
            pass
        self._current = self._run(segment)
        return self._current

    def _run(self, segment: Segment) -> Iterator[Values]:
        if not segment.nodes or not self.feeds:
            for batch in range(len(self.feeds)):
                yield self._finish(segment, batch, {})
            return
        model = self._typed(segment_model(self._model, segment), segment.inputs)
        names = [value.name or "" for value in model.graph.outputs]
        with float_session(model, (), self._providers, self._threads, self._config) as session:
            for batch in range(len(self.feeds)):
                feed = {name: self._value(batch, name) for name in segment.inputs}
                values = run_in_parts(lambda part: session.run(names, dict(part)), feed)
                yield self._finish(segment, batch, dict(zip(names, values, strict=True)))

    def _finish(self, segment: Segment, batch: int, computed: Values) -> Values:
        """Moves the frontier behind the segment, and returns what was requested."""
        values = {
            name: computed[name] if name in computed else self._value(batch, name)
            for name in segment.requested
        }
        for name in segment.kept:
            self._frontier.put(batch, name, computed[name])
        for name in segment.dropped:
            self._frontier.drop(batch, name)
        return values

    def _value(self, batch: int, name: str) -> NDArray[Any]:
        feed = self.feeds[batch]
        return feed[name] if name in feed else self._frontier.get(batch, name)

    def _typed(self, model: ir.Model, inputs: Sequence[str]) -> ir.Model:
        """Gives the model's inputs the type and sizes of their arrays, in place; what varies stays free."""
        batches = range(len(self.feeds))
        for value, name in zip(model.graph.inputs, inputs, strict=True):
            value.dtype = ir.DataType.from_numpy(self._value(0, name).dtype)
            shapes = [self._value(batch, name).shape for batch in batches]
            sizes = [set(along) for along in zip(*shapes, strict=True)]
            value.shape = ir.Shape([along.pop() if len(along) == 1 else None for along in sizes])
        return model
