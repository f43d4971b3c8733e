"""The search space: which configurations there are, what each one is, and what it costs."""

from autosearch.space.configuration import Configuration, Point
from autosearch.space.cost import CostModel
from autosearch.space.effective import config_digest, effective_config
from autosearch.space.layer_groups import LayerSite, layer_sites
from autosearch.space.report import SpaceReport
from autosearch.space.search_space import SearchSpace

__all__ = [
    "Configuration",
    "CostModel",
    "LayerSite",
    "Point",
    "SearchSpace",
    "SpaceReport",
    "config_digest",
    "effective_config",
    "layer_sites",
]
