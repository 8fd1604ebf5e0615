"""The figures about steps, samples, the threshold and levels."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from cpur.figures import PALETTE, finished, subplots
from cpur.paired import Difference
from studies import levels
from studies.fewer import Outcome
from studies.levels import CHAIN, LARGE, RULES, SEEDS, THRESHOLDS
from studies.sampling import MEASURED, STEPS, TITLES, Row
from studies.sampling_tables import BASE, StepRecords, Z, mean_accuracy

MEAN = "certified accuracy (%), mean\nover ε in {0, .25, .5, .75, 1}"
MARKERS = ("o", "s", "^", "D")


def _errorbar(axes: Axes, x: list[float], found: list[Difference], **style) -> None:
    """Points with their intervals, joined."""
    y = [one.estimate for one in found]
    bars = [[one.estimate - one.low for one in found], [one.high - one.estimate for one in found]]
    axes.errorbar(x, y, yerr=bars, capsize=2.5, markersize=4.5, linewidth=1.2, **style)


def _against_calls(axes: Axes, rows: list[Row], value: Callable[[Row], Difference]) -> None:
    """A measure of every sampler against its network calls; one step of the ODE is one-step EDM."""
    for shift, (family, color) in enumerate(zip(STEPS, sns.color_palette(PALETTE), strict=False)):
        first = BASE if family in ("heun", "euler") else family
        own = [row for row in rows if row.family == (first if row.steps == 1 else family)]
        # Side by side, so that intervals at the same number of calls can be told apart.
        x = [row.calls * (1 + 0.035 * (shift - 1.5)) for row in own]
        _errorbar(axes, x, [value(row) for row in own], color=color, fmt=f"{MARKERS[shift]}-", label=TITLES[family])
    axes.set(xscale="log", xlabel="network calls a sample")
    axes.set_xticks(sorted({row.calls for row in rows}))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def steps_figure(records: StepRecords) -> Figure:
    """Certified accuracy against network calls, and the paired difference in ACR, with 95% intervals over images."""
    sigmas = sorted(records.study.sigmas)
    figure, panels = subplots(2, len(sigmas), figsize=(3.6 * len(sigmas) + 0.8, 6.0), sharex=True)
    for (above, below), sigma in zip(panels.T, sigmas, strict=True):
        rows = records.rows(sigma)
        base = records.row(BASE, 1, sigma)
        _against_calls(above, rows, records.accuracy)
        _against_calls(below, rows, partial(records.acr_difference, theirs=base))
        below.axhline(0, color="0.3", linewidth=0.8)
        above.set(title=f"σ = {sigma:g}", xlabel="", ylim=(0, 100))
        above.title.set_fontsize(9)
    panels[0, 0].set_ylabel(MEAN, fontsize=9)
    panels[1, 0].set_ylabel("ACR minus that of one-step EDM\n($\\ell_2$ of [0, 1] pixels)", fontsize=9)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    return finished(figure)


def transport_figure(records: StepRecords) -> Figure:
    """Transport against network calls, with 95% intervals over images."""
    lines = {(line.sampler, line.steps, line.sigma): line for line in records.transport().itertuples()}

    def moved(row: Row) -> Difference:
        line = lines[row.family, row.steps, row.sigma]
        return Difference(line.T, line.T - Z * line.T_error, line.T + Z * line.T_error)

    figure, panels = subplots(1, len(MEASURED), figsize=(3.1 * len(MEASURED) + 0.6, 3.6))
    for axes, sigma in zip(panels, MEASURED, strict=True):
        _against_calls(axes, records.rows(sigma), moved)
        axes.set_title(f"σ = {sigma:g}", fontsize=9)
    panels[0].set_ylabel("transport T ($\\ell_2$ of [0, 1] pixels)")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return finished(figure)


def samples_figure(found: Mapping[float, Mapping[tuple[str, int], Outcome]]) -> Figure:
    """Certified accuracy against the samples that each plan takes; hollow points are projected."""
    figure, panels = subplots(1, len(found), figsize=(3.1 * len(found) + 0.6, 3.6), sharey=True)
    for axes, (sigma, outcomes) in zip(panels, found.items(), strict=True):
        for plan, marker, color in zip(("fixed", "sequential"), MARKERS, sns.color_palette(PALETTE), strict=False):
            own = [one for (name, _), one in outcomes.items() if name == plan]
            x, y = [one.samples.mean() for one in own], [mean_accuracy(one.radii) for one in own]
            _errorbar(axes, x, y, color=color, fmt=f"{marker}-", label=f"plan {plan}")
            hollow = [(a, b.estimate) for a, b, one in zip(x, y, own, strict=True) if one.is_projected]
            axes.plot(*zip(*hollow, strict=True), marker, color=color, markerfacecolor="white", zorder=5)
        axes.set(xscale="log", xlabel="noise samples an image", title=f"σ = {sigma:g}")
        axes.title.set_fontsize(9)
    panels[0].set(ylim=(0, None))
    panels[0].set_ylabel(MEAN, fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    return finished(figure)


def threshold_figure() -> Figure:
    """ACR, and how often the cascade errs, against the threshold."""
    figure, (left, middle, right) = subplots(1, 3, figsize=(9.6, 3.6))
    colors, sigmas = sns.color_palette(PALETTE), CHAIN[2]
    for rule, color, marker in zip(RULES, colors, MARKERS, strict=False):
        for which, line in ((LARGE, "-"), (SEEDS, ":")):
            found = [levels.acr(which, sigmas, rule, p0) for p0 in THRESHOLDS]
            label = f"rule {rule}, n = " + ("10,000" if which == LARGE else "1,000, 3 training seeds")
            _errorbar(left, list(THRESHOLDS), found, color=color, fmt=marker + line, label=label)
    for epsilon, color, marker in zip((0.0, 0.25, 0.5), colors[2:], MARKERS, strict=False):
        found = [levels.accuracy(LARGE, sigmas, "max", p0, [epsilon]) for p0 in THRESHOLDS]
        _errorbar(middle, list(THRESHOLDS), found, color=color, fmt=f"{marker}-", label=f"ε = {epsilon:g}")
    for name, color, marker in zip(
        ("over-smoothing %", "over-confidence %"), (colors[9], colors[5]), MARKERS, strict=False
    ):
        found = [levels.errs(LARGE, sigmas, p0, name) for p0 in THRESHOLDS]
        _errorbar(right, list(THRESHOLDS), found, color=color, fmt=f"{marker}-", label=name.removesuffix(" %"))
    left.set(ylabel="ACR ($\\ell_2$ of [0, 1] pixels)", ylim=(0, None))
    middle.set(ylabel="certified accuracy, rule max (%)", ylim=(0, 100))
    right.set(ylabel="test images (%)", ylim=(0, None))
    for axes in (left, middle, right):
        axes.set(xlabel="threshold $p_0$")
        axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return finished(figure)


def levels_figure() -> Figure:
    """ACR of every choice of levels, by both rules, with 95% intervals over images."""
    figure, axes = subplots(figsize=(7.2, 4.6))
    chosen = levels.subsets()
    for rule, marker, color, shift in zip(RULES, MARKERS, sns.color_palette(PALETTE), (-0.14, 0.14), strict=False):
        found = [levels.acr(LARGE, sigmas, rule) for sigmas in chosen]
        x = [one.estimate for one in found]
        bars = [[one.estimate - one.low for one in found], [one.high - one.estimate for one in found]]
        y = [row + shift for row in range(len(chosen))]
        axes.errorbar(x, y, xerr=bars, fmt=marker, color=color, capsize=2, markersize=4.5, label=f"rule {rule}")
    for row, (before, after) in enumerate(pairwise(chosen)):
        if len(before) < len(after):
            axes.axhline(row + 0.5, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(chosen)), [levels.named(sigmas) for sigmas in chosen], fontsize=8)
    axes.set(xlabel="ACR ($\\ell_2$ of [0, 1] pixels)", ylabel="levels σ", xlim=(0, None))
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    return finished(figure)
