"""The errors that a search raises, all of them `ValueError`s addressed to the caller."""

from __future__ import annotations

from quant.errors import ConfigError, QuantError


class SearchError(ValueError):
    """Base of every error of this package that is not about a configuration."""


class StudyError(SearchError):
    """A stored study that cannot be continued: another search, or one that is running."""


class OutputError(SearchError):
    """An output directory or log that cannot be written."""


__all__ = ["ConfigError", "OutputError", "QuantError", "SearchError", "StudyError"]
