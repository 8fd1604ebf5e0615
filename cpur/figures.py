"""The figures of the notebooks: each function draws one and returns it."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import nn

from cpur.accuracy import certified_accuracy, has_full_radii, wilson
from cpur.accuracy import label as row_label
from cpur.images import ImageSet
from cpur.noise import NoiseKey, noisy_images
from cpur.purifiers import Purifier

RIGHT, WRONG = "#009E73", "#D55E00"  # green and vermilion of the Okabe-Ito palette
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120, "savefig.bbox": "tight"}
PALETTE = "colorblind"


def subplots(*shape: int, **options: Any):
    """A figure and its axes in the one style of the book."""
    with sns.axes_style("whitegrid", STYLE), plt.rc_context({"figure.dpi": 120}):
        return plt.subplots(*shape, layout="constrained", **options)


def finished(figure: Figure) -> Figure:
    """The figure, closed, so that a notebook shows it once: as what the cell returns."""
    plt.close(figure)
    return figure


def certified_accuracy_curves(records: Sequence[tuple[dict[str, Any], pd.DataFrame]]) -> Figure:
    """Certified accuracy against the radius with 95% Wilson intervals over images.

    A record of plan ``fixed`` is a step curve with a band; one of a plan that stops early is known at its epsilons,
    and drawn as points. There is one panel a noise level.
    """
    names = [f"{row_label(h)} (n = {h['config']['n']:,}, {len(frame)} images)" for h, frame in records]
    colors = dict(zip(dict.fromkeys(names), itertools.cycle(sns.color_palette(PALETTE)), strict=False))
    sigmas = list(dict.fromkeys(header["config"]["sigma"] for header, _ in records))
    figure, grid = subplots(1, len(sigmas), figsize=(max(6.4, 3.2 * len(sigmas)), 3.6), sharey=True, squeeze=False)
    panels = dict(zip(sigmas, grid[0], strict=True))
    for name, (header, frame) in zip(names, records, strict=True):
        draw = accuracy_curve if has_full_radii(header) else _points
        draw(panels[header["config"]["sigma"]], header, frame, label=name, color=colors[name])
    alphas = ", ".join(dict.fromkeys(f"{header['config']['alpha']:g}" for header, _ in records))
    said = f"α = {alphas}; bands and bars: 95% Wilson intervals over images"
    for sigma, axes in panels.items():
        axes.set(xlabel="radius ε ($\\ell_2$ of [0, 1] pixels)", ylim=(0, 100))
        axes.set_xlim(left=-0.02)
        axes.set_title(f"σ = {sigma:g}, {said}" if len(sigmas) == 1 else f"σ = {sigma:g}", fontsize=9)
    grid[0, 0].set_ylabel("certified accuracy (%)")
    if len(sigmas) == 1:
        grid[0, 0].legend(fontsize=8)
    else:
        handles = {
            name: handle for axes in grid[0] for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles, title=said, title_fontsize=9, fontsize=8, loc="outside lower center", ncols=2
        )
    return finished(figure)


def accuracy_curve(axes, header: dict[str, Any], frame: pd.DataFrame, **style: Any) -> None:
    """Certified accuracy against the radius, a step at every radius, with its band."""
    radii = np.sort(frame.radius[frame.correct].to_numpy())
    grid = np.concatenate([[0.0], radii, [radii.max(initial=0.0)]])
    hits = np.concatenate([[len(radii)], np.arange(len(radii), 0, -1), [0]])
    axes.step(grid, 100 * hits / len(frame), where="pre", **style)
    low, high = np.array([wilson(count, len(frame)) for count in hits]).T * 100
    axes.fill_between(grid, low, high, step="pre", color=style["color"], alpha=0.15, linewidth=0)


def _points(axes, header: dict[str, Any], frame: pd.DataFrame, **style: Any) -> None:
    at = 100 * certified_accuracy(header, frame)[["accuracy", "low", "high"]]
    bars = [at.accuracy - at.low, at.high - at.accuracy]
    axes.errorbar(header["config"]["epsilons"], at.accuracy, yerr=bars, fmt="o", capsize=3, **style)


@torch.inference_mode()
def purification_grid(
    data: ImageSet,
    purifiers: Mapping[str, Purifier],
    classifier: nn.Module,
    sigma: float,
    indices: Sequence[int] | None = None,
    seed: int = 0,
) -> Figure:
    """Clean, noisy and purified images, the same noise for each purifier, framed by what the classifier says.

    Green is right and vermilion is wrong; the number is the class that the classifier sees. None takes the first ten.
    """
    indices = range(min(10, len(data))) if indices is None else indices
    clean = torch.stack([data[i][0] for i in indices])
    labels = [data[i][1] for i in indices]
    noisy = torch.cat([noisy_images(data[i][0], sigma, 1, NoiseKey(seed, "figure", i)) for i in indices])
    rows = {"clean": clean, "noisy": noisy}
    rows |= {name: purifier.denoise(noisy, sigma) for name, purifier in purifiers.items() if name != "none"}
    figure, grid = subplots(len(rows), len(clean), figsize=(0.78 * len(clean) + 1, 0.82 * len(rows)), squeeze=False)
    for axes_row, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image, seen, label in zip(
            axes_row, images, classifier(images).argmax(1).tolist(), labels, strict=True
        ):
            _framed(axes, image, RIGHT if seen == label else WRONG, str(seen))
        axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return finished(figure)


def _framed(axes, image: torch.Tensor, color: str, text: str) -> None:
    pixels = image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    axes.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=color, linewidth=2.5)
    if text:
        box = {"facecolor": color, "edgecolor": "none", "pad": 1.2}
        place = {"va": "top", "transform": axes.transAxes, "bbox": box}
        axes.text(0.04, 0.96, text, color="white", fontsize=6.5, fontweight="bold", **place)


def loss_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Training losses, one panel a model, since their units differ."""
    figure, grid = subplots(1, len(histories), figsize=(2.6 * len(histories), 2.4), squeeze=False)
    for axes, (name, history), color in zip(grid[0], histories.items(), sns.color_palette(PALETTE), strict=False):
        axes.plot(history.step, history.loss, color=color)
        axes.set(title=name, xlabel="step", ylim=(0, 1.05 * history.loss.max()))
        axes.title.set_fontsize(9)
    grid[0, 0].set_ylabel("training loss")
    return finished(figure)


@torch.inference_mode()
def sample_grid(samplers: Mapping[str, Purifier], sigma_max: float, count: int = 12, seed: int = 0) -> Figure:
    """Images from pure noise of standard deviation ``sigma_max``, the same noise in each column."""
    noise = sigma_max * torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    figure, grid = subplots(len(samplers), count, figsize=(0.7 * count + 1.2, 0.75 * len(samplers)), squeeze=False)
    for axes_row, (name, purifier) in zip(grid, samplers.items(), strict=True):
        for axes, image in zip(axes_row, purifier.denoise(noise + 0.5, sigma_max), strict=True):
            _framed(axes, image, "0.8", "")
        calls = purifier.network_calls
        label = f"{name}\n{calls} call{'s' if calls > 1 else ''}"
        axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return finished(figure)
