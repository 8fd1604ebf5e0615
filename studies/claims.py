"""Every claim of the book with its verdict, from the records: where they are read, the tables, the figure."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from cpur.figures import RIGHT, WRONG, finished, subplots
from cpur.paths import anchored
from studies import cascade_claims, consistency_claims, own_claims
from studies.ablation_tables import Ablation
from studies.cascade_tables import CascadeAblation
from studies.findings import UNDECIDABLE, Claim, Finding, Found, Measured, Missing
from studies.shift import Shift

GROUPS = {
    "Consistency Purification": consistency_claims.CLAIMS,
    "Multi-scale Diffusion Denoised Smoothing": cascade_claims.CLAIMS,
    "This book": own_claims.CLAIMS,
}
OPEN = "0.45"  # the grey of a claim that is open
MARKS = {"held": ("o", RIGHT), "did not hold": ("X", WRONG), "undecided": ("s", OPEN)}
WRAP = 46  # characters of a label


@dataclass(frozen=True)
class Sources:
    """Where the claims are read.

    Args:
        records: folder of the records, those of the ablations, of calibration, of shift and of the baselines below it.
        benchmarks: folder of the figures of the benchmarks.
    """

    records: str = "records"
    benchmarks: str = "benchmarks/results"

    @property
    def ablation(self) -> Ablation:
        """The records of :mod:`studies.ablation`."""
        return Ablation(anchored(self.records) / "ablation")

    @property
    def cascades(self) -> CascadeAblation:
        """The records of :mod:`studies.calibration`."""
        return CascadeAblation(anchored(self.records) / "calibration")

    @property
    def shift(self) -> Shift:
        """The predictions of :mod:`studies.shift`."""
        return Shift(f"{self.records}/shift")


def tally(found: Mapping[str, Found]) -> pd.DataFrame:
    """How many claims of each group have which verdict."""
    verdicts = {name: pd.Series([kind(finding) for _, finding in group]) for name, group in found.items()}
    counted = pd.DataFrame({name: group.value_counts() for name, group in verdicts.items()})
    counted = counted.reindex([*MARKS, UNDECIDABLE]).fillna(0).astype(int).T
    return counted.assign(claims=counted.sum(axis=1))


def kind(finding: Finding) -> str:
    """The verdict without its reason."""
    return finding.verdict.partition(":")[0]


def summary(found: Mapping[str, Found]) -> str:
    """The claims that did not hold, and those whose evidence is not there, in sentences of Markdown."""
    lines = []
    for name, group in found.items():
        failed = [claim.text for claim, finding in group if kind(finding) == "did not hold"]
        missing = [claim.text for claim, finding in group if isinstance(finding, Missing)]
        lines += [f"**{name}**: {len(failed)} of {len(group)} did not hold. {'; '.join(failed)}."] if failed else []
        lines += [f"**{name}**, no record: {'; '.join(missing)}."] if missing else []
    return "\n\n".join(lines)


def forest(found: Found) -> Figure:
    """The measured claims with their 95% intervals: a panel a unit, the colour and the mark by the verdict."""
    measured = [(claim, finding) for claim, finding in found if isinstance(finding, Measured)]
    units = list(dict.fromkeys(claim.unit for claim, _ in measured))
    panels = {unit: [pair for pair in measured if pair[0].unit == unit] for unit in units}
    rows = [len(pairs) for pairs in panels.values()]
    height = 0.42 * sum(rows) + 0.75 * len(rows)
    figure, grid = subplots(
        len(rows), figsize=(8.4, height), squeeze=False, gridspec_kw={"height_ratios": [count + 0.9 for count in rows]}
    )
    for axes, (unit, pairs) in zip(grid[:, 0], panels.items(), strict=True):
        _panel(axes, unit, pairs)
    handles = [grid[0, 0].plot([], [], marker, color=color, label=name)[0] for name, (marker, color) in MARKS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return finished(figure)


def _panel(axes, unit: str, pairs: Sequence[tuple[Claim, Measured]]) -> None:
    for row, (_, finding) in enumerate(pairs):
        marker, color = MARKS[kind(finding)]
        found = finding.difference
        axes.hlines(row, found.low, found.high, color=color, linewidth=2)
        axes.plot(found.estimate, row, marker, color=color, markersize=5)
    axes.axvline(0, color="0.2", linewidth=1)
    labels = [textwrap.fill(claim.text, WRAP) for claim, _ in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=7.5)
    axes.set(ylim=(len(pairs) - 0.4, -0.6), xlabel=f"difference, positive as claimed ({unit})")
    axes.xaxis.label.set_fontsize(8)
    axes.tick_params(axis="x", labelsize=8)
