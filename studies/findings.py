"""A claim, what is found about it, and the verdict: one form for the claims of both papers and for our own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from pandas.io.formats.style import Styler

from cpur.errors import InputError
from cpur.paired import Difference
from cpur.paths import shown

FEWEST_SEEDS = 3  # training seeds, for a verdict
DIGITS = {"radius": 3, "ratio": 3, "levels": 2}  # after the point, where it is not two
OURS = "this book"  # the source of a claim that is in neither paper
UNDECIDABLE = "not decidable here"


class Finding(Protocol):
    """What is known of a claim: a figure as text, what it rests on, and the verdict."""

    def figure(self, unit: str) -> str: ...
    @property
    def basis(self) -> str: ...
    @property
    def verdict(self) -> str: ...


@dataclass(frozen=True)
class Measured:
    """A difference that the claim says is positive, with its 95% interval, and what it rests on.

    Args:
        difference: in the unit of the claim.
        seeds: training seeds; None where nothing was trained for it.
        images: test images, or simulated ones.
        n: noise samples of a certificate.
        alpha: of a certificate.
        note: a figure more.
    """

    difference: Difference
    seeds: int | None = None
    images: int | None = None
    n: int | None = None
    alpha: float | None = None
    note: str = ""

    def figure(self, unit: str) -> str:
        return f"{self.difference:.{DIGITS.get(unit, 2)}f} {unit}"

    @property
    def basis(self) -> str:
        parts = {"n = {:,}": self.n, "α = {:g}": self.alpha, "{:,} images": self.images, "{} seeds": self.seeds}
        text = ", ".join(text.format(value) for text, value in parts.items() if value is not None)
        return text.replace(", 1 seeds", ", 1 seed") + (f"; {self.note}" if self.note else "")

    @property
    def verdict(self) -> str:
        if self.seeds is not None and self.seeds < FEWEST_SEEDS:
            return f"undecided: {self.seeds} of {FEWEST_SEEDS} seeds"
        return self.difference.verdict


@dataclass(frozen=True)
class Proven:
    """Decided by a theorem, an exact enumeration or a count, which a test repeats; nothing is sampled.

    Args:
        holds: whether the claim is true.
        test: file and function, below ``tests/``.
        counted: what was counted, where something was.
    """

    holds: bool
    test: str
    counted: str = "exact"

    def figure(self, unit: str) -> str:
        return self.counted

    @property
    def basis(self) -> str:
        return "test: " + self.test.partition("::test_")[2].replace("_", " ")

    @property
    def verdict(self) -> str:
        return "held" if self.holds else "did not hold"


@dataclass(frozen=True)
class Elsewhere:
    """Not decidable with what this book carries."""

    reason: str

    def figure(self, unit: str) -> str:
        return "—"

    @property
    def basis(self) -> str:
        return self.reason

    @property
    def verdict(self) -> str:
        return UNDECIDABLE


@dataclass(frozen=True)
class Missing(Elsewhere):
    """The evidence is not there."""

    @property
    def verdict(self) -> str:
        return "undecided: no record"


@dataclass(frozen=True)
class Claim:
    """A claim, put as a difference that it says is positive, or as a sentence that can be proved.

    Args:
        text: the claim.
        source: of the claim, in its paper.
        unit: of the difference.
        command: makes the records that decide it.
        find: what is found, in the sources of :class:`studies.claims.Sources`.
    """

    text: str
    source: str
    unit: str
    command: str
    find: Callable[[Any], Finding]

    def found(self, sources: Any) -> Finding:
        """What is found; :class:`Missing`, with the reason, where the evidence is not there."""
        try:
            return self.find(sources)
        except InputError as error:
            return Missing(str(error).partition(": make")[0].partition("; ")[0])
        except FileNotFoundError as error:
            return Missing(f"{shown(Path(error.filename))} is missing")


Found = Sequence[tuple[Claim, Finding]]


def always(finding: Finding) -> Callable[[Any], Finding]:
    """For a claim that no record decides."""
    return lambda sources: finding


def proven(text: str, source: str, holds: bool, test: str) -> Claim:
    """A claim that a theorem, an enumeration or a count decides."""
    return Claim(text, source, "", f"pytest tests/{test.partition('::')[0]}", always(Proven(holds, test)))


def elsewhere(text: str, source: str, reason: str, command: str) -> Claim:
    """A claim that cannot be decided here; the command is what would help to."""
    return Claim(text, source, "", command, always(Elsewhere(reason)))


def examined(claims: Iterable[Claim], sources: Any) -> Found:
    """Each claim with what is found of it."""
    return [(claim, claim.found(sources)) for claim in claims]


def shown_table(found: Found) -> Styler:
    """The same as :func:`table`, for a page."""
    styled = small(table(found), ["difference [95%]"]).set_properties(subset=["claim"], **{"min-width": "13em"})
    return styled.set_properties(subset=["rests on", "made by"], **{"min-width": "10em", "overflow-wrap": "anywhere"})


def small(frame: pd.DataFrame, whole: Sequence[str]) -> Styler:
    """A table in small print, without its index; its text starts at the left, and some columns are never broken."""
    look = [
        {"selector": "", "props": "font-size: 0.8em"},
        {
            "selector": "th, td, caption",
            "props": "text-align: left; vertical-align: top; padding: 0.25em 0.6em 0.25em 0",
        },
        {"selector": "td", "props": "border-top: 1px solid #ccc; line-height: 1.3"},
    ]
    styled = frame.style.hide(axis="index").set_table_styles(look)
    return styled.set_properties(subset=list(whole), **{"white-space": "nowrap"})


def table(found: Found) -> pd.DataFrame:
    """Each claim with its figure, positive where it is as claimed, what that rests on, the verdict and the command."""
    rows = [
        {
            "claim": claim.text if claim.source == OURS else f"{claim.text} ({claim.source})",
            "difference [95%]": finding.figure(claim.unit),
            "verdict": finding.verdict,
            "rests on": finding.basis,
            "made by": claim.command,
        }
        for claim, finding in found
    ]
    return pd.DataFrame(rows)
