"""The figures of the explorer: each function draws what of :mod:`cpur.views` it is given."""

from textwrap import wrap

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cpur.figures import PALETTE, RIGHT, WRONG, finished, subplots
from cpur.views import CascadeView, Looks, Path, Pictures

GRAY = "0.7"
WIDTH = 4.5  # inches: one view; two stand side by side on a screen, and one fills a telephone


def pictures_figure(pictures: Pictures, columns: int = 4) -> Figure:
    """Clean, noisy and purified images, framed by what the classifier sees: green is right."""
    rows = -(-len(pictures.names) // columns)
    figure, axes = _board(columns, rows, height=1.43)
    for i, (name, calls) in enumerate(zip(pictures.names, pictures.calls, strict=True)):
        row, column = divmod(i, columns)
        _tile(axes, column, 1.43 * row, pictures, i)
        below = [*wrap(name, 20), f"{calls} call{'s' if calls > 1 else ''}" if calls else ""]
        axes.text(column + 0.5, 1.43 * row + 1.02, "\n".join(below), fontsize=8, ha="center", va="top")
    return finished(figure)


def path_figure(path: Path) -> Figure:
    """The states of the PF-ODE, step by step, above the jumps that one network call makes to the end."""
    jumps, last = path.jumps.names if path.jumps else (), len(path.levels) - 1
    figure, axes = _board(last + 1, 1 + len(jumps), height=1.2, top=0.8)
    axes.text(0, -0.55, f"PF-ODE, {path.states.calls[-1]} calls; σ of each state:", fontsize=8, va="center")
    for column, level in enumerate(path.levels):
        _tile(axes, column, 0, path.states, column, 6.5)
        axes.text(column + 0.5, -0.08, f"{level:.2g}", fontsize=8, ha="center")
    for row, name in enumerate(jumps):
        y = 1.2 * (row + 1)
        _tile(axes, 0, y, path.states, 0, 6.5)
        _tile(axes, last, y, path.jumps, row, 6.5)
        axes.annotate("", (last - 0.1, y + 0.6), (1.1, y + 0.6), arrowprops={"arrowstyle": "->", "color": "0.3"})
        axes.text(last / 2 + 0.5, y + 0.52, f"{name}, 1 call", fontsize=8, ha="center")
    return finished(figure)


def looks_figure(looks: Looks) -> Figure:
    """The votes as bars, and look by look the lower bound and the radius with its running maximum."""
    figure, axes = subplots(1, 3, figsize=(WIDTH, 2.5), width_ratios=(1.25, 1, 1))
    votes, bound, radius = axes
    share = 100 * looks.counts / looks.counts.sum()
    classes = np.sort(np.argsort(share)[-10:])  # those with the most votes
    votes.barh(np.arange(len(classes)), share[classes], color=[_verdict(k, looks) for k in classes])
    votes.set(xlim=(0, 100), xlabel="votes (%)", ylabel="class")
    votes.set_yticks(np.arange(len(classes)), classes)
    votes.invert_yaxis()
    at = np.arange(1, len(looks.taken) + 1)
    blue, orange = sns.color_palette(PALETTE)[:2]
    bound.plot(at, looks.lower, "o-", color=blue, markersize=3.5)
    bound.axhline(0.5, color="0.4", linestyle=":")
    bound.set(ylim=(0, 1.02), title="lower bound")
    radius.plot(at, looks.radii, "o", color=blue, markersize=3.5, label="each look")
    radius.step(at, looks.best, where="post", color=orange, label="best so far")
    ceiling = looks.plan.ceiling(looks.sigma) or looks.sigma  # 0 where n samples cannot certify at all
    radius.set(ylim=(-0.03 * ceiling, 1.05 * ceiling), title="radius")
    radius.legend(fontsize=7, loc="upper left", handlelength=1.2)
    total = len(looks.plan.looks)
    for panel in (bound, radius):
        panel.set(xlabel="look", xlim=(0.5, total + 0.5), xticks=range(1, total + 1, 2))
    for panel in axes:
        panel.title.set_fontsize(9)
        panel.tick_params(labelsize=8)
    figure.set_layout_engine(None)  # the same place for every frame, and three times as quick
    figure.subplots_adjust(0.09, 0.2, 0.99, 0.89, 0.36)
    return finished(figure)


def cascade_figure(view: CascadeView) -> Figure:
    """Each level's votes for its class with the bounds, from the largest sigma down, and where the cascade halts."""
    figure, axes = subplots(figsize=(WIDTH, 0.5 * len(view.sigmas) + 0.9))
    n = view.counts.sum(1)
    rows = np.arange(len(view.sigmas))
    for row, k in enumerate(view.selected):
        if not n[row]:
            axes.text(0.02, row, "not sampled yet", va="center", fontsize=8, color="0.4")
            continue
        share = view.counts[row, k] / n[row]
        color = RIGHT if k == view.label else WRONG
        bars = [[max(0.0, share - view.lower[row])], [max(0.0, view.upper[row] - share)]]
        axes.barh(row, share, color=color if row == view.halts else GRAY)
        axes.errorbar(share, row, xerr=bars, color="black", capsize=3)
        text = f"class {k}" + (": halts here" if row == view.halts else "")
        axes.text(0.02, row, text, va="center", fontsize=8, color="white" if row == view.halts else "black")
    axes.axvline(view.threshold, color="0.3", linestyle=":")
    axes.set(xlim=(0, 1.02), xlabel="share of the votes, with its bounds")
    axes.set_yticks(rows, [f"σ = {sigma:g}" for sigma in view.sigmas])
    axes.grid(False, axis="y")
    axes.invert_yaxis()
    figure.set_layout_engine(None)
    figure.subplots_adjust(0.18, 0.25, 0.98, 0.98)
    return finished(figure)


def _board(columns: int, rows: int, height: float, top: float = 0.0):
    """A figure of one pair of axes without lines, for tiles of one unit; many small axes would be slow."""
    tall = rows * height + top
    figure, axes = subplots(figsize=(WIDTH, WIDTH * tall / (columns + 0.1)))
    figure.set_layout_engine(None)
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-0.05, columns + 0.05), ylim=(tall - top, -0.05 - top), autoscale_on=False)
    return figure, axes


def _tile(axes: Axes, x: float, y: float, pictures: Pictures, i: int, size: float = 8.0) -> None:
    """An image, framed and numbered by what the classifier sees in it."""
    pixels = pictures.images[i].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1} if pixels.shape[-1] == 1 else {}
    color = RIGHT if pictures.seen[i] == pictures.label else WRONG
    axes.imshow(pixels, extent=(x + 0.04, x + 0.96, y + 0.96, y + 0.04), interpolation="nearest", **gray)
    axes.add_patch(Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, fill=False, edgecolor=color, linewidth=2.5))
    box = {"facecolor": color, "edgecolor": "none", "pad": 1.2}
    style = {"color": "white", "fontsize": size, "fontweight": "bold", "va": "top", "bbox": box}
    axes.text(x + 0.08, y + 0.08, str(pictures.seen[i]), **style)


def _verdict(k: int, looks: Looks) -> str:
    if k != looks.selected:
        return GRAY
    return RIGHT if k == looks.label else WRONG
