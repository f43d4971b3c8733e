"""What a search's records show: curves, and figures of them."""

from autosearch.report.best_so_far import Curve, best_so_far, logged_values, mean_curve
from autosearch.report.figures import best_so_far_figure, write_page, write_picture

__all__ = [
    "Curve",
    "best_so_far",
    "best_so_far_figure",
    "logged_values",
    "mean_curve",
    "write_page",
    "write_picture",
]
