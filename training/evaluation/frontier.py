"""The picture of speed against quality: which models nothing beats in both.

Drawn as SVG, with its texts as texts, and as PNG.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from scoring.bootstrap import Interval

BEST, BEATEN = "#1b6ca8", "#b0413e"
LEGEND = {BEST: "on the frontier: none is better in both", BEATEN: "behind it: another is as good, or better, in both"}
# Where a name may stand, seen from its point: offsets in points, and the end of the name that is at the point.
PLACES = tuple((7 if end == "left" else -7, up, end) for up in (7, -15, 18, -26, 29, -37) for end in ("left", "right"))


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
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    best = frontier(points, is_lower_better)
    speeds = [each.speed for each in points]
    # The salt names the SVG's parts, so that equal figures make equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bushel", "font.size": 10}):
        figure = Figure(figsize=(7.5, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_xscale("log")
        colours = {point: BEST if point in best else BEATEN for point in points}
        # Steps, as there is nothing between two models: who needs more speed than one has gets the next one's quality.
        axes.plot(
            [each.speed for each in best], [each.quality for each in best], color="#9a9a9a", lw=1.2, zorder=1,
            drawstyle="steps-pre",
        )  # fmt: skip
        for point in points:
            below, above = (
                (max(0, point.quality - point.interval.low), max(0, point.interval.high - point.quality))
                if point.interval
                else (0, 0)
            )
            axes.errorbar(
                point.speed, point.quality, yerr=[[below], [above]], fmt="o", color=colours[point], capsize=3, lw=1,
                zorder=2,
            )  # fmt: skip
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
        figure.legend(
            handles=[
                Line2D([], [], marker="o", ls="", color=colour, label=LEGEND[colour])
                for colour in (BEST, BEATEN) if colour in colours.values()
            ],
            loc="outside lower center", ncols=2, frameon=False, fontsize=9,
        )  # fmt: skip
        # Last, as where there is room for a name is known only once all else has its place.
        _label(figure, axes, points, best, colours)
        paths = [folder / "frontier.svg", folder / "frontier.png"]
        # Without the date, so that equal figures make equal files.
        figure.savefig(paths[0], metadata={"Date": None})
        figure.savefig(paths[1], dpi=150)
    return paths


def _label(
    figure: Any, axes: Any, points: Sequence[Point], best: Sequence[Point], colours: Mapping[Point, str]
) -> None:
    """Each point's name where it covers no other name, no point and no line, if there is such a place nearby."""
    from matplotlib.transforms import Bbox

    # This settles the layout, which places on the screen depend on.
    figure.draw_without_rendering()
    taken = [*(_bar(axes, point) for point in points), *_line(axes, best)]
    for point in points:
        tried: list[tuple[float, int, Any, Any]] = []
        for across, up, end in PLACES:
            text = axes.annotate(
                point.name, (point.speed, point.quality), (across, up), textcoords="offset points", ha=end,
                color=colours[point], in_layout=False,
            )  # fmt: skip
            box = text.get_window_extent()
            covered = sum(_area(Bbox.intersection(box, other)) for other in taken)
            outside = box.width * box.height - _area(Bbox.intersection(box, axes.bbox))
            tried.append((covered + outside, len(tried), text, box))
            if not covered + outside:
                break
        _, place, _, box = min(tried, key=lambda each: each[:2])
        for _, other, text, _ in tried:
            if other != place:
                text.remove()
        taken.append(box)


def _bar(axes: Any, point: Point) -> Any:
    """The room that a point takes with its interval, on the screen."""
    from matplotlib.transforms import Bbox

    around = point.interval or Interval(point.quality, point.quality)
    ends = axes.transData.transform(
        [(point.speed, around.low), (point.speed, around.high), (point.speed, point.quality)]
    )
    return Bbox([ends.min(0) - 6, ends.max(0) + 6])


def _line(axes: Any, best: Sequence[Point]) -> list[Any]:
    """The steps between the points, as small boxes."""
    import numpy as np
    from matplotlib.transforms import Bbox

    corners = [corner for one, other in pairwise(best) for corner in ((one.speed, one.quality),
               (one.speed, other.quality), (other.speed, other.quality))]  # fmt: skip
    places = axes.transData.transform(corners) if corners else []
    steps = np.linspace(0, 1, 60)[:, None]
    dots = [dot for one, other in pairwise(places) for dot in one + steps * (other - one)]
    return [Bbox([dot - 3, dot + 3]) for dot in dots]


def _area(box: Any) -> float:
    return float(box.width * box.height) if box is not None else 0.0
