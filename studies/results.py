"""The tables of both papers: what was published, and beside it what the records of this book say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from cpur.errors import InputError
from cpur.figures import PALETTE, finished, subplots
from cpur.paired import Difference
from studies.ablation_tables import EPSILONS
from studies.claims import Sources
from studies.findings import small
from studies.published import Published, beside

DASH = "—"
RADIUS = "radius ε ($\\ell_2$ of [0, 1] pixels)"
DIGITS = {"ACR": 3, "calls": 0}  # after the point, in columns that have their own


@dataclass(frozen=True)
class Row:
    """Our figures of one method, each with its 95% interval where there is sampling.

    Args:
        data: set that they are on.
        figures: by column.
        basis: what they rest on.
    """

    data: str
    figures: Mapping[str, Difference | float]
    basis: str


@dataclass(frozen=True)
class Result:
    """A table of a paper.

    Args:
        key: by which ``book/published.yml`` knows it.
        paper: its authors and year.
        title: what it shows.
        source: its number in its paper.
        data: set of the published figures.
        columns: of the table.
        rows: by method, what finds our figures of it: a row a data set.
        command: makes the records.
        digits: after the point.
    """

    key: str
    paper: str
    title: str
    source: str
    data: str
    columns: Sequence[str]
    rows: Mapping[str, Callable[[Sources], Sequence[Row]]]
    command: str
    digits: int = 1

    def ours(self, sources: Sources) -> dict[str, Sequence[Row]]:
        """Our rows of each method; none where there is no record."""
        return {method: _rows(find, sources) for method, find in self.rows.items()}

    def published(self) -> dict[str, list[Published]]:
        """The published rows of each method; none where they are not transcribed."""
        return {method: beside(self.key, method) for method in self.rows}

    def table(self, sources: Sources) -> pd.DataFrame:
        """For each method a row of the published figures and one of ours on each data set, with what they rest on.

        One more row names what is not transcribed.
        """
        ours, published = self.ours(sources), self.published()
        lines = []
        for method in self.rows:
            for entry in published[method]:
                lines.append(self._line(method, f"{self.data}, published", entry.figures, entry.source))
            for row in ours[method]:
                lines.append(self._line(method, f"{row.data}, ours", row.figures, row.basis))
            if not ours[method]:
                lines.append(self._line(method, "ours", {}, "no record"))
        others = "the others" if any(published.values()) else "all"
        if not all(published.values()):
            lines.append(self._line(others, f"{self.data}, published", {}, f"{self.source}: not transcribed"))
        return pd.DataFrame(lines)

    def show(self, sources: Sources) -> Styler:
        """The table with its caption."""
        caption = f"{self.title}. Beside: {self.source} of {self.paper}. Ours are made by: {self.command}"
        return small(self.table(sources), self.columns).set_caption(caption)

    def _line(self, method: str, data: str, figures: Mapping, basis: str) -> dict[str, str]:
        cells = {c: cell(figures.get(c), DIGITS.get(c, self.digits)) for c in self.columns}
        return {"method": method, "figures of": data, **cells, "source, or what they rest on": basis}


def _rows(find: Callable[[Sources], Sequence[Row]], sources: Sources) -> Sequence[Row]:
    try:
        return find(sources)
    except (InputError, FileNotFoundError):
        return ()


def cell(figure: Difference | float | None, digits: int = 1) -> str:
    """A figure as text: with the larger half of its interval, where it has one."""
    if figure is None:
        return DASH
    if not isinstance(figure, Difference):
        return f"{figure:.{digits}f}"
    half = max(figure.high - figure.estimate, figure.estimate - figure.low)
    return f"{figure.estimate:.{digits}f} ± {half:.{digits}f}"


def beside_figure(result: Result, sources: Sources) -> Figure:
    """Certified accuracy against the radius: the published figures on the left, ours with their intervals on the right.

    A method has one colour and mark on both sides.
    """
    figure, (left, right) = subplots(1, 2, figsize=(9.2, 3.9), sharey=True)
    styles = dict(zip(result.rows, zip(sns.color_palette(PALETTE), "osD^vP*X", strict=False), strict=False))
    for method, entries in result.published().items():
        for entry in entries:
            _line(left, entry.figures, styles[method], 0.0, method)
    for place, (method, rows) in enumerate(result.ours(sources).items()):
        shift = 0.007 * (place - (len(result.rows) - 1) / 2)  # so that intervals do not hide one another
        for row in rows:
            _line(right, row.figures, styles[method], shift, method)
    for axes in (left, right):
        axes.set(xlim=(-0.06, 1.06), xticks=EPSILONS)
    left.set(title=f"{result.data}, published", xlabel=RADIUS, ylabel="certified accuracy (%)", ylim=(-2, 102))
    right.set(title="ours, on digits", xlabel=RADIUS)
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8)
    return finished(figure)


def _line(axes, figures: Mapping[str, Difference | float], style: tuple, shift: float, label: str) -> None:
    """One method: a point at each radius that has a figure."""
    found = {float(name.split()[1]): figure for name, figure in figures.items() if name.startswith("eps ")}
    x = [epsilon + shift for epsilon in found]
    y = [figure.estimate if isinstance(figure, Difference) else figure for figure in found.values()]
    bars = [
        (figure.estimate - figure.low, figure.high - figure.estimate) if isinstance(figure, Difference) else (0, 0)
        for figure in found.values()
    ]
    color, marker = style
    options = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.2, "capsize": 2, "label": label}
    axes.errorbar(x, y, yerr=list(zip(*bars, strict=True)), **options)
