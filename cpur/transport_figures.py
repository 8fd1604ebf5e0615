"""The figures of the notebook on transport."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from cpur.figures import PALETTE, finished, subplots
from cpur.purifiers import PFODE, Purifier
from cpur.transport import Mixture, gaussian_maps, gaussian_transport, two_point_transport

MAPS = ("posterior mean", "consistency function")


def two_points_figure(t: float = 1.0) -> Figure:
    """Data at -1 and +1: the two purifiers at noise t, and their transport against t."""
    figure, (left, middle, right) = subplots(1, 3, figsize=(9.2, 2.8))
    y, levels = np.linspace(-3, 3, 601), np.linspace(0.2, 3, 60)
    rows = [two_point_transport(level) for level in levels]
    for name, purified, color in zip(MAPS, (np.tanh(y / t**2), np.sign(y)), sns.color_palette(PALETTE), strict=False):
        left.plot(y, purified, color=color, label=name)
        middle.plot(levels, [row[name]["T"] for row in rows], color=color)
        right.plot(levels, [row[name]["squared"] for row in rows], color=color)
    left.set(xlabel="noisy y", ylabel="purified", title=f"t = {t:g}")
    left.legend(fontsize=8, loc="upper left")
    middle.set(xlabel="noise t", ylabel="T", title="transport")
    right.set(xlabel="noise t", ylabel="E‖·‖²", title="squared transport")
    return finished(figure)


def gaussian_figure(s: float = 0.5, dimension: int = 3072) -> Figure:
    """Gaussian data of standard deviation s: transport, its square and W2 against the noise, in closed form."""
    figure, grid = subplots(1, 3, figsize=(9.2, 2.8))
    levels = np.linspace(0.05, 2, 80)
    for axes, column in zip(grid, ("T", "squared", "W2"), strict=True):
        for name, color in zip(MAPS, sns.color_palette(PALETTE), strict=False):
            values = [gaussian_transport(gaussian_maps(s, t)[name], s, t, dimension)[column] for t in levels]
            axes.plot(levels, values, color=color, label=name)
        axes.set(xlabel="noise t", title={"T": "T", "squared": "E‖·‖²", "W2": "Wasserstein distance W2"}[column])
    grid[0].legend(fontsize=8)
    return finished(figure)


def mixture_figure(mixture: Mixture, flow: Purifier, sigma: float, count: int = 14, seed: int = 0) -> Figure:
    """Two-dimensional data, trajectories of the PF-ODE, and where each purifier puts the same noisy points."""
    figure, (left, right) = subplots(1, 2, figsize=(9.2, 4.2), sharex=True, sharey=True)
    rng = torch.Generator().manual_seed(seed)
    clean = mixture.sample(400, seed)
    noisy = clean + sigma * torch.randn(clean.shape, generator=rng).to(clean)
    blue, orange = sns.color_palette(PALETTE)[:2]
    few = noisy[:count]
    path = torch.stack([few, *PFODE(mixture, steps=40).path(few, sigma)]).flatten(2)
    left.scatter(*clean.flatten(1).T, s=5, color="0.75", label="data")
    left.plot(*path.unbind(2), color=orange, linewidth=0.9, alpha=0.8)
    left.scatter(*path[0].T, s=16, color="black", marker="x", label="noisy")
    left.scatter(*path[-1].T, s=18, color=orange, label="consistency function: the end of the trajectory")
    left.scatter(*mixture.denoise(few, sigma).flatten(1).T, s=18, color=blue, marker="s", label="posterior mean")
    right.scatter(*clean.flatten(1).T, s=5, color="0.75")
    right.scatter(*mixture.denoise(noisy, sigma).flatten(1).T, s=9, color=blue, marker="s")
    right.scatter(*flow.denoise(noisy, sigma).flatten(1).T, s=9, color=orange)
    for axes, title in ((left, f"trajectories from σ = {sigma:g}"), (right, "400 noisy points, purified")):
        axes.set(title=title, xlabel="first coordinate", aspect="equal")
    left.set_ylabel("second coordinate")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return finished(figure)


def measure_curves(frame: pd.DataFrame, columns: Mapping[str, str], floor: Mapping[str, float] | None = None) -> Figure:
    """Measures against sigma, one panel a column, one line a purifier; bars from the smallest to the largest seed."""
    figure, grid = subplots(1, len(columns), figsize=(3.1 * len(columns), 3.1), squeeze=False)
    for axes, (column, title) in zip(grid[0], columns.items(), strict=True):
        options = {"x": "sigma", "hue": "purifier", "style": "purifier", "markers": True, "dashes": False}
        sns.lineplot(
            frame, y=column, **options, palette=PALETTE, errorbar=("pi", 100), err_style="bars", ax=axes, markersize=5
        )
        if floor and column in floor:
            axes.axhline(floor[column], color="0.4", linestyle=":", label="clean train against test")
        axes.set(title=title, xlabel="σ", ylabel="")
        axes.legend(fontsize=6) if axes is grid[0, -1] else axes.get_legend().remove()
    return finished(figure)
