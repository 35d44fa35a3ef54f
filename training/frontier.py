"""The picture of speed against quality: which models nothing beats in both.

Drawn as SVG, with its texts as texts, and as PNG.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scoring.bootstrap import Interval


@dataclass(frozen=True, slots=True)
class Point:
    """A model: items per second, and a score with its interval."""

    name: str
    speed: float
    quality: float
    interval: Interval | None = None


def frontier(points: Sequence[Point], is_lower_better: bool = False) -> list[Point]:
    """Those that no other one is as good as in both and better than in one; slowest first.

    >>> [each.name for each in frontier([Point("a", 1, 9), Point("b", 2, 5), Point("c", 1.5, 4)])]
    ['a', 'b']
    """
    sign = -1 if is_lower_better else 1
    kept: list[Point] = []
    for point in sorted(points, key=lambda each: (-each.speed, -sign * each.quality)):
        if not kept or sign * point.quality > sign * kept[-1].quality:
            kept.append(point)
    return kept[::-1]


def draw(points: Sequence[Point], what: str, title: str, folder: Path, is_lower_better: bool = False) -> list[Path]:
    """Write `frontier.svg` and `frontier.png`; the paths. `what` names the score."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    best = frontier(points, is_lower_better)
    speeds = [each.speed for each in points]
    middle = math.sqrt(min(speeds) * max(speeds))
    # The salt names the SVG's parts, so that equal figures make equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bushel", "font.size": 10}):
        figure = Figure(figsize=(7.5, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.plot([each.speed for each in best], [each.quality for each in best], color="#9a9a9a", lw=1.2, zorder=1)
        for point in points:
            colour = "#1b6ca8" if point in best else "#b0413e"
            below, above = (
                (max(0, point.quality - point.interval.low), max(0, point.interval.high - point.quality))
                if point.interval
                else (0, 0)
            )
            axes.errorbar(
                point.speed, point.quality, yerr=[[below], [above]], fmt="o", color=colour, capsize=3, lw=1, zorder=2
            )
            # Towards the middle, where there is room for a long name.
            is_right = point.speed > middle
            axes.annotate(
                point.name,
                (point.speed, point.quality),
                (-7, -15) if is_right else (7, 7),
                textcoords="offset points",
                ha="right" if is_right else "left",
                color=colour,
            )
        axes.set_xlabel("items per second (log scale)")
        axes.set_ylabel(f"{what} ({'lower' if is_lower_better else 'higher'} is better)")
        axes.set_title(title, fontsize=10)
        axes.set_xlim(min(speeds) / 1.5, max(speeds) * 1.5)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.4g}"))
        if is_lower_better:
            axes.invert_yaxis()
        axes.grid(True, color="#e6e6e6", lw=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        paths = [folder / "frontier.svg", folder / "frontier.png"]
        # Without the date, so that equal figures make equal files.
        figure.savefig(paths[0], metadata={"Date": None})
        figure.savefig(paths[1], dpi=150)
    return paths
