"""Results of stages by their content, in memory and on disk."""

from quant.cache.atomic import write_atomically
from quant.cache.disk import DEFAULT_LIMIT_BYTES, DiskEntry, DiskStore
from quant.cache.stages import Stage, StageCache, StageCount, stage_key

__all__ = [
    "DEFAULT_LIMIT_BYTES",
    "DiskEntry",
    "DiskStore",
    "Stage",
    "StageCache",
    "StageCount",
    "stage_key",
    "write_atomically",
]
