"""The figures of the multi-scale pages."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cpur.cascade import RULES
from cpur.figures import PALETTE, accuracy_curve, finished, subplots
from cpur.multiscale import LevelCounts
from cpur.smooth import ABSTAIN

GRAY = "0.55"


def cascade_curves(levels: LevelCounts, threshold: float = 0.5) -> Figure:
    """Certified accuracy against the radius: every level alone, their envelope, and the cascade by each rule."""
    figure, (left, right) = subplots(1, 2, figsize=(8.6, 4.0), sharey=True)
    colors = sns.color_palette(PALETTE)
    for color, sigma, record in zip(colors, levels.sigmas, levels.singles, strict=False):
        accuracy_curve(left, *record, color=color, label=f"σ = {sigma:g} alone")
    grid = np.linspace(0, max(frame.radius.max() for _, frame in levels.singles), 400)
    shares = [_shares(frame, grid) for _, frame in levels.singles]
    for axes in (left, right):
        axes.plot(grid, np.max(shares, axis=0), color=GRAY, linestyle=":", label="envelope: no one classifier")
        axes.set(xlabel="radius ε ($\\ell_2$ of [0, 1] pixels)", ylim=(0, 100), xlim=(-0.02, None))
    for rule, color in zip(("max", "first", "released"), colors[3:], strict=False):
        label = f"cascade, rule {rule}" + (" (no certificate)" if rule == "released" else "")
        accuracy_curve(right, *levels.certified(rule, threshold), color=color, label=label)
    left.set_ylabel("certified accuracy (%)")
    handles = {
        label: line for axes in (left, right) for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, fontsize=8, loc="outside lower center", ncols=3)
    return finished(figure)


def cascade_grid(cascades: Mapping[str, LevelCounts], threshold: float = 0.5, columns: int = 2) -> Figure:
    """The same curves, a panel each cascade: levels alone (thin), their envelope (dotted), and the rules."""
    rows = -(-len(cascades) // columns)
    shape = {"figsize": (4.2 * columns, 2.6 * rows + 0.5), "sharex": True, "sharey": True, "squeeze": False}
    figure, panels = subplots(rows, columns, **shape)
    grid = np.linspace(0, max(frame.radius.max() for levels in cascades.values() for _, frame in levels.singles), 300)
    for axes, (name, levels) in zip(panels.flat, cascades.items(), strict=False):
        _curves(axes, levels, threshold, grid)
        axes.set_title(name, fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("radius ε ($\\ell_2$ of [0, 1] pixels)")
    for axes in panels[:, 0]:
        axes.set_ylabel("certified accuracy (%)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return finished(figure)


def _curves(axes: Axes, levels: LevelCounts, threshold: float, grid: np.ndarray) -> None:
    colors = sns.color_palette(PALETTE)
    singles = [_shares(frame, grid) for _, frame in levels.singles]
    for color, sigma, shares in zip(colors, levels.sigmas, singles, strict=False):
        axes.plot(grid, shares, color=color, linewidth=0.8, label=f"σ = {sigma:g} alone")
    axes.plot(
        grid, np.max(singles, axis=0), color=GRAY, linestyle=":", linewidth=2.5, label="envelope: no one classifier"
    )
    for rule, color in zip(RULES, colors[len(singles) :], strict=False):
        label = f"cascade, rule {rule}" + (" (no certificate)" if rule == "released" else "")
        axes.plot(grid, _shares(levels.certified(rule, threshold)[1], grid), color=color, label=label)
    axes.set(ylim=(0, 100), xlim=(-0.02, grid[-1]))


def _shares(frame: pd.DataFrame, radii: np.ndarray) -> np.ndarray:
    """Certified accuracy in percent at each radius."""
    return 100 * ((frame.radius.to_numpy() >= radii[:, None]) & frame.correct.to_numpy()).mean(1)


def halting_bars(cascades: Mapping[str, LevelCounts], threshold: float = 0.5) -> Figure:
    """Where images halt: the share of images that each level certifies by rule first, and by rule max."""
    figure, panels = subplots(1, 2, figsize=(8.0, 0.5 * len(cascades) + 1.4), sharey=True)
    colors = sns.color_palette(PALETTE)
    for axes, rule in zip(panels, ("first", "max"), strict=True):
        for row, (name, levels) in enumerate(cascades.items()):
            frame = levels.certified(rule, threshold)[1]
            left = 0.0
            for k, sigma in reversed(list(enumerate(levels.sigmas))):
                share = 100 * float(((frame.level == k) & (frame.prediction != ABSTAIN)).mean())
                label = f"σ = {sigma:g}" if row == 0 and rule == "first" else None
                axes.barh(name, share, left=left, color=colors[k], label=label)
                left += share
            axes.barh(
                name, 100 - left, left=left, color="0.85", label="abstains" if row == 0 and rule == "max" else None
            )
        axes.set(xlabel="test images (%)", xlim=(0, 100))
        axes.set_title(f"rule {rule}: the level that gives the radius", fontsize=9)
    panels[0].invert_yaxis()
    figure.legend(fontsize=8, loc="outside lower center", ncols=len(levels.sigmas) + 1)
    return finished(figure)
