"""What to try next: a sampler for every way to search."""

from autosearch.samplers.by_name import learns_from_infeasible, make_sampler, sampler_names
from autosearch.samplers.contract import History, Known, Proposal, Sampler
from autosearch.samplers.grid import GridSampler
from autosearch.samplers.optuna import EXCLUDED, REPEAT_OF, OptunaSampler
from autosearch.samplers.priority import PrioritySampler
from autosearch.samplers.random import RandomSampler
from autosearch.samplers.seeded import SeededSampler

__all__ = [
    "EXCLUDED",
    "REPEAT_OF",
    "GridSampler",
    "History",
    "Known",
    "OptunaSampler",
    "PrioritySampler",
    "Proposal",
    "RandomSampler",
    "Sampler",
    "SeededSampler",
    "learns_from_infeasible",
    "make_sampler",
    "sampler_names",
]
