"""Sensitivity analysis and the choice of types for one float model and one configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType

import numpy as np

from quant.errors import QuantizationError
from quant.graph.session import float_session
from quant.graph.shapes import runtime_shapes
from quant.mixed_precision.costs import Costs, costs_of, tensors_measured
from quant.mixed_precision.greedy import shortest_prefix, wide_order, within_budget, without_needless
from quant.mixed_precision.groups import Group, groups, is_weight, own_tensors
from quant.mixed_precision.noise import Noise
from quant.mixed_precision.probe import Probe, probe
from quant.mixed_precision.promotion import Promotion
from quant.mixed_precision.sensitivity import Sensitivity, SensitivityTable
from quant.mixed_precision.subject import Candidate, Formats, Subject
from quant.mixed_precision.switched_model import Precision, Switch
from quant.mixed_precision.yardstick import Yardstick, yardstick

_SLACK = 1.1
"""A target that nothing reaches is replaced by this many times the error with all that may be wide."""


class PrecisionAnalysis:
    """Measures groups and chooses among them; a context manager, for it holds a session."""

    def __init__(self, subject: Subject) -> None:
        """Finds the groups; nothing runs yet.

        Raises:
            ConfigError: If an option names what the model does not have.
            QuantizationError: If no tensor may change its type.
        """
        self.subject = subject
        self.options = subject.config.extra_options.AutoMixprecision
        self.targets = subject.config.precision_targets()
        self.groups = groups(subject.model.graph, subject.placement, subject.config) if self.targets else ()
        if not self.groups:
            raise QuantizationError(
                "include_auto_mp: no tensor may change its type; see ActTargetQuantType,"
                " WeightTargetQuantType and TargetOpType of extra_options.AutoMixprecision"
            )
        self.promotes = all(target.promotes for target in self.targets)
        self._stack = ExitStack()

    def __enter__(self) -> PrecisionAnalysis:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def table(self) -> SensitivityTable:
        """Measures every group alone, or as many as `MaxMeasured` allows."""
        ratios = [self._sqnr_db(group) for group in self.groups]
        suspicion = sorted(range(len(ratios)), key=lambda index: _or(ratios[index], -np.inf))
        measured = set(suspicion[: self.options.MaxMeasured])
        rows = tuple(
            Sensitivity(
                group,
                self._probe.noise(self._set(group.tensors, Precision.NARROW)) if index in measured else None,
                ratio,
                self._costs.wide(set(group.tensors)),
            )
            for index, (group, ratio) in enumerate(zip(self.groups, ratios, strict=True))
        )
        everything = range(len(self.groups))
        return SensitivityTable(rows, self._yardstick.parts, self._noise(()), self._noise(everything))

    def promotion(self, table: SensitivityTable) -> Promotion:
        """Chooses the groups that get the target type.

        Args:
            table: Of these groups.
        """
        order = within_budget(self._order(table), self._fits)
        least, most = self._limits(len(order))
        order = order[:most]
        best = self._error(self._noise(order))
        aim = self._target if best <= self._target else _SLACK * best

        def reaches(wide: Sequence[int]) -> bool:
            return self._error(self._noise(wide)) <= aim

        fewest = without_needless(shortest_prefix(order, reaches, least), reaches, least)
        wide, candidate, error = self._verified(order, fewest, aim)
        changed = sorted(wide if self.promotes else set(range(len(self.groups))) - set(wide))
        return Promotion(
            tuple(self.groups[index].name for index in changed),
            self.promotes,
            self._target_types(self._tensors(changed)),
            self._error(table.narrow if self.promotes else table.wide),
            error,
            self._target,
            self._costs.narrow(candidate.bits, self._narrow_bits),
            len(self.groups),
        )

    def _verified(
        self, order: Sequence[int], wide: Sequence[int], aim: float
    ) -> tuple[Sequence[int], Candidate, float]:
        """More wide groups, in twice as large steps each, until the quantized model itself meets the aim.

        Integer kernels may round, or on some processors saturate, where the switched model does not.
        """
        step = 1
        while True:
            candidate = self.subject.quantize(self.subject.changed(self._changed_tensors(wide)))
            error = self._error(self._real_noise(candidate))
            left = [group for group in order if group not in wide]
            if error <= aim or not left:
                return wide, candidate, error
            wide, step = [*wide, *left[:step]], 2 * step

    def _order(self, table: SensitivityTable) -> tuple[int, ...]:
        """Measured groups by gain and cost, then the others by their signal-to-noise ratio."""
        rows = list(enumerate(table.rows))
        measured = [(index, row.noise) for index, row in rows if row.noise is not None]
        by_ratio = sorted((_or(row.sqnr_db, np.inf), index) for index, row in rows if row.noise is None)
        errors = np.array(
            [[noise.mean_square] if self.options.L2Target else noise.relative for _, noise in measured]
        )
        costs = np.array([table.rows[index].cost for index, _ in measured])
        chosen = [measured[position][0] for position in wide_order(errors, costs)]
        return (*chosen, *(index for _, index in by_ratio))

    def _fits(self, wide: Iterable[int]) -> bool:
        shares = self._costs.wide(self._tensors(wide))
        return max(shares.macs, shares.weights) <= self.options.MaxPromoted

    def _limits(self, available: int) -> tuple[int, int]:
        """The least and the greatest number of wide groups."""
        wanted = self.options.NumTarget
        if wanted is None:
            return 0, available
        if self.promotes:
            return 0, min(available, wanted)
        return min(available, max(0, len(self.groups) - wanted)), available

    @property
    def _target(self) -> float:
        return self.options.L2Target or self.options.ErrorTarget

    def _error(self, noise: Noise) -> float:
        return noise.mean_square if self.options.L2Target else noise.worst

    def _noise(self, wide: Iterable[int]) -> Noise:
        """With some groups wide and all else narrow."""
        everything = dict.fromkeys(own_tensors(self.subject.placement), Precision.NARROW)
        return self._probe.noise(everything | self._set(self._tensors(wide), Precision.WIDE))

    def _set(self, tensors: Iterable[str], precision: Precision) -> dict[str, Precision]:
        return dict.fromkeys(tensors, precision)

    def _tensors(self, indices: Iterable[int]) -> set[str]:
        return {name for index in indices for name in self.groups[index].tensors}

    def _changed_tensors(self, wide: Iterable[int]) -> set[str]:
        """Those that have the target type when some groups are wide."""
        chosen = set(wide)
        return self._tensors(index for index in range(len(self.groups)) if (index in chosen) is self.promotes)

    def _target_types(self, tensors: Iterable[str]) -> dict[str, str]:
        kinds = {target.of_weights: target.type.name for target in self.targets}
        return {name: kinds[is_weight(name, self.subject.placement)] for name in sorted(tensors)}

    @property
    def _narrow_bits(self) -> int:
        """Widest type that counts as narrow."""
        own, target = self._formats
        return max(
            (own if self.promotes else target)[name].type.bits
            for group in self.groups
            for name in group.tensors
        )

    def _sqnr_db(self, group: Group) -> float | None:
        narrow = self._formats[0 if self.promotes else 1]
        ratios = [self.subject.sqnr_db(name, narrow[name]) for name in group.tensors]
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    @cached_property
    def _formats(self) -> tuple[Formats, Formats]:
        """Grids of all tensors by the configuration, and of those that may change by the targets."""
        everything = self._tensors(range(len(self.groups)))
        return self.subject.formats, self.subject.target_formats(everything)

    @cached_property
    def _costs(self) -> Costs:
        subject = self.subject
        wanted = tensors_measured(subject.model.graph, subject.placement)
        shapes = runtime_shapes(
            subject.model,
            wanted,
            subject.data.feeds[0],
            threads=subject.threads,
        )
        return costs_of(subject.model.graph, subject.placement, shapes)

    @cached_property
    def _yardstick(self) -> Yardstick:
        subject = self.subject
        return yardstick(
            subject.model,
            subject.data,
            self.options.DataSize,
            providers=subject.config.execution_providers,
            threads=subject.threads,
        )

    @cached_property
    def _probe(self) -> Probe:
        subject = self.subject
        return self._stack.enter_context(
            probe(
                subject.model,
                dict(self._switches()),
                subject.float_nodes,
                self._yardstick,
                providers=subject.config.execution_providers,
                threads=subject.threads,
            )
        )

    def _switches(self) -> Iterator[tuple[str, Switch]]:
        own, target = self._formats
        placement = self.subject.placement
        sources = {name: name for name in placement.weights} | placement.activations
        for name, source in sources.items():
            pair = (own[source], target.get(source, own[source]))
            yield name, Switch(name, source, pair if self.promotes else pair[::-1])

    def _real_noise(self, candidate: Candidate) -> Noise:
        subject = self.subject
        providers = subject.config.execution_providers
        with float_session(candidate.model, (), providers, subject.threads, candidate.entries) as session:
            return self._yardstick.noise(session)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
