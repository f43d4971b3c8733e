"""Values over parts of the evaluation data, told while an evaluator is still running."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Report = Callable[[int, Mapping[str, float]], None]
"""Called with a percentage of the batches and the metrics over them; may raise to stop early."""


class Reports:
    """Whom to tell, and after which batches.

    Args:
        report: Told; None = nobody.
        report_at: After which percentages of the batches, between 0 and 100; rounded up to whole batches, of
            which the last is not reported. Of those that fall together the greatest is.
        batches: How many there are.
    """

    def __init__(self, report: Report | None, report_at: Sequence[int], batches: int) -> None:
        self._report = report
        rounded = {math.ceil(percentage * batches / 100): percentage for percentage in sorted(report_at)}
        self._percentages = {
            count: percentage for count, percentage in rounded.items() if 0 < count < batches
        }

    def after(self, batches: int, values: Callable[[], Mapping[str, float]]) -> None:
        """Tells the values after so many batches, if they are to be told; empty ones are not."""
        if self._report is None or batches not in self._percentages:
            return
        found = values()
        if found:
            self._report(self._percentages[batches], found)
