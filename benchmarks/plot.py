"""Bars, drawn as SVG with its texts as texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OURS, OTHERS = "#1b6ca8", "#9a9a9a"


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar's name and length; the lines at its end reach from the least to the most of the rounds."""

    name: str
    value: float
    least: float
    most: float
    is_ours: bool = False


def draw(panels: Mapping[str, Sequence[Bar]], what: str, path: Path, is_log: bool = False) -> None:
    """One panel below the other, each with a title; `what` names the axis. Equal figures make equal files."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [len(bars) + 1.2 for bars in panels.values()]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bushel", "font.size": 9}):
        figure = Figure(figsize=(7.5, 0.7 + 0.27 * sum(heights)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes, (title, bars) in zip(grid[:, 0], panels.items(), strict=True):
            places = range(len(bars))
            axes.barh(
                places, [bar.value for bar in bars], height=0.62,
                color=[OURS if bar.is_ours else OTHERS for bar in bars],
                xerr=[
                    [max(0.0, bar.value - bar.least) for bar in bars],
                    [max(0.0, bar.most - bar.value) for bar in bars],
                ],
                error_kw={"lw": 0.8, "capsize": 2, "ecolor": "#444444"},
            )  # fmt: skip
            if is_log:
                axes.set_xscale("log")
            for place, bar in zip(places, bars, strict=True):
                axes.annotate(
                    f"{bar.value:,.3g}" if bar.value < 100 else f"{bar.value:,.0f}", (bar.most, place),
                    xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
                )  # fmt: skip
            axes.set_yticks(list(places), [bar.name for bar in bars])
            axes.invert_yaxis()
            axes.margins(x=0.14)
            axes.set_title(title, fontsize=9, loc="left")
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        grid[-1, 0].set_xlabel(what)
        figure.savefig(path, metadata={"Date": None})
