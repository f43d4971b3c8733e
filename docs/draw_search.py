"""Draws the picture of the README from a search's log.json; needs matplotlib.

python docs/draw_search.py results/digits/log.json docs/digits_search.png
"""

from __future__ import annotations

import json
import sys
from itertools import accumulate

import matplotlib.pyplot as plt

COLOURS = {"QUInt8": "#3366aa", "QInt16": "#cc7722"}
TOLERANCE = 0.002


def main(log: str, picture: str) -> None:
    """Trials in their order, the best so far, and the tolerance."""
    with open(log, encoding="utf-8") as stream:
        trials = list(json.load(stream).values())
    values = [trial["value"] for trial in trials]
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    axes.step(
        range(len(values)), list(accumulate(values, min)), where="post", color="#222222", label="best so far"
    )
    axes.axhline(TOLERANCE, color="#888888", linestyle=":", label=f"tolerance {TOLERANCE}")
    for element, colour in COLOURS.items():
        for marker, cle in (("o", False), ("^", True)):
            chosen = [i for i, trial in enumerate(trials) if _is(trial, element, cle)]
            name = f"{element} activations{', equalized' if cle else ''}"
            axes.scatter(chosen, [values[i] for i in chosen], color=colour, marker=marker, s=28, label=name)
    best = min(range(len(values)), key=values.__getitem__)
    axes.annotate(
        _short(trials[best]),
        (best, values[best]),
        xytext=(best, values[best] / 3.2),
        ha="center",
        fontsize=9,
        arrowprops={"arrowstyle": "-", "color": "#222222"},
    )
    axes.set(yscale="log", xlabel="trial", ylabel="mean squared difference of the logits")
    axes.set_ylim(bottom=min(values) / 6)
    axes.legend(fontsize=8, ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110)


def _is(trial: dict, element: str, cle: bool) -> bool:
    config = trial["user_attrs_config"]
    return config["activation_type"] == element and config["include_cle"] is cle


def _short(trial: dict) -> str:
    config = trial["user_attrs_config"]
    words = [config["calibrate_method"], f"{config['activation_type']}/{config['weight_type']}"]
    words += ["per channel"] * config["per_channel"] + ["equalized"] * config["include_cle"]
    return ", ".join(words)


if __name__ == "__main__":
    main(*sys.argv[1:])
