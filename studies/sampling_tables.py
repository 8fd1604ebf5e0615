"""What the records say about steps and network calls: tables, differences, findings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from studies.ablation_tables import EPSILONS
from cpur.accuracy import average_certified_radius
from cpur.compare import signed_radii
from cpur.paired import Difference, accuracy_difference, best_difference
from cpur.tables import cells
from studies.sampling import MEASURED, STEPS, TRANSPORT, Row, Study

Z = 1.96  # of a 95% interval
BASE = "onestep-edm"


@dataclass(frozen=True)
class Finding:
    """A sentence that a positive difference would bear out."""

    text: str
    difference: Difference
    unit: str  # points of certified accuracy, radius, or distance


def findings_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Each finding with its difference, positive where it is as the sentence says, and the verdict."""
    return pd.DataFrame(
        {
            "finding": one.text,
            "difference [95%]": format(one.difference, ".2f" if one.unit == "points" else ".3f"),
            "unit": one.unit,
            "verdict": one.difference.verdict,
        }
        for one in findings
    )


@dataclass(frozen=True)
class StepRecords:
    """The records of the samplers at the noise levels that are certified."""

    study: Study

    def rows(self, sigma: float) -> list[Row]:
        """The samplers, the cheap ones first."""
        return self.study.rows(sigma)

    def row(self, family: str, steps: int, sigma: float) -> Row:
        """One of them."""
        return next(row for row in self.rows(sigma) if (row.family, row.steps) == (family, steps))

    def radii(self, row: Row) -> np.ndarray:
        """Radii as a paired difference takes them: ``1 1 images``."""
        return _radii(self.study, row)

    def difference(self, ours: Row, theirs: Row) -> Difference:
        """In certified accuracy, points, its mean over epsilons."""
        return accuracy_difference(self.radii(ours), self.radii(theirs), EPSILONS)

    def acr_difference(self, ours: Row, theirs: Row) -> Difference:
        """In the average certified radius."""
        radii = (self.radii(row).clip(0)[:, :, None] for row in (ours, theirs))
        return best_difference(*radii)

    def accuracy(self, row: Row) -> Difference:
        """Certified accuracy in percent, its mean over epsilons, with a 95% interval over images."""
        radii = self.radii(row)
        return accuracy_difference(radii, np.full_like(radii, -1), EPSILONS)

    def table(self, sigma: float) -> pd.DataFrame:
        """Certified accuracy in percent with Wilson's interval, ACR, and the difference from one-step EDM."""
        base, table = self.row(BASE, 1, sigma), {}
        for row in self.rows(sigma):
            header, frame = self.study.load(row)
            table[row.title] = {
                "calls": row.calls,
                **cells(header, frame, EPSILONS),
                "ACR": f"{average_certified_radius(header, frame):.3f}",
                "points minus one-step EDM": "" if row == base else str(self.difference(row, base)),
                "ACR minus one-step EDM": "" if row == base else f"{self.acr_difference(row, base):.3f}",
            }
        return pd.DataFrame(table).T

    def transport(self) -> pd.DataFrame:
        """What each sampler moves, as measured: a row each sampler and noise level."""
        return pd.read_csv(self.study.folder / TRANSPORT)

    def transport_table(self) -> pd.DataFrame:
        """Mean distance between image and purification with its 95% interval, a column each noise level."""
        columns = {}
        for sigma in MEASURED:
            lines = {(line.sampler, line.steps): line for line in self.transport().itertuples() if line.sigma == sigma}
            columns[f"T, sigma {sigma:g}"] = {
                row.title: f"{lines[row.family, row.steps].T:.3f} ± {Z * lines[row.family, row.steps].T_error:.3f}"
                for row in self.rows(sigma)
            }
        calls = {row.title: row.calls for row in self.rows(MEASURED[0])}
        return pd.DataFrame({"calls": calls} | columns)

    def moved(self, family: str, steps: int, sigma: float, measure: str = "T") -> Difference:
        """How much more a sampler moves than one-step EDM on the same noise, with its 95% interval."""
        table = self.transport()
        line = table[(table.sampler == family) & (table.steps == steps) & (table.sigma == sigma)].iloc[0]
        more, error = line[f"{measure}_more"], Z * line[f"{measure}_more_error"]
        return Difference(float(more), float(more - error), float(more + error))

    def in_words(self) -> str:
        """The span of certified accuracy over the samplers at each noise level, and how many beat one-step EDM."""
        return " ".join(self._in_words(sigma) for sigma in sorted(self.study.sigmas))

    def _in_words(self, sigma: float) -> str:
        rows = self.rows(sigma)
        found = {row: self.accuracy(row).estimate for row in rows}
        worst, best = min(rows, key=found.get), max(rows, key=found.get)
        surely = [row for row in rows if self.acr_difference(row, rows[0]).verdict == "held"]
        less = [row for row in rows if self.acr_difference(row, rows[0]).verdict == "did not hold"]
        return (
            f"At σ = {sigma:g} the mean over ε goes from {found[worst]:.1f}% ({worst.named}) to {found[best]:.1f}% "
            f"({best.named}). Of {len(rows) - 1} samplers, {len(surely)} have an ACR surely above that of one-step "
            f"EDM, and {len(less)} one surely below it."
        )

    def pairs(self, sigma: float) -> list[tuple[Row, Row]]:
        """Samplers to compare: the first is what one would expect to certify more."""
        base = self.row(BASE, 1, sigma)
        heun, euler = ([self.row(name, k, sigma) for k in STEPS[name]] for name in ("heun", "euler"))
        equal = [(one, other) for one in heun for other in euler if one.calls == other.calls]
        more = [(self.row(name, 2, sigma), self.row(name, 1, sigma)) for name in ("consistency", "features")]
        return [(heun[-1], base), (heun[-1], heun[0]), *equal, *more, (heun[-1], self.row("features", 1, sigma))]

    def comparisons(self) -> pd.DataFrame:
        """Paired differences of samplers with 95% bootstrap intervals over images, and the verdicts."""
        rows = []
        for sigma in sorted(self.study.sigmas):
            for ours, theirs in self.pairs(sigma):
                points, wider = self.difference(ours, theirs), self.acr_difference(ours, theirs)
                rows.append(
                    {
                        "σ": f"{sigma:g}",
                        "finding": f"{ours.named} certifies more than {theirs.named}",
                        "points [95%]": str(points),
                        "by points": points.verdict,
                        "ACR [95%]": f"{wider:.3f}",
                        "by ACR": wider.verdict,
                    }
                )
        return pd.DataFrame(rows)

    def transport_findings(self) -> list[Finding]:
        """What the purified test images say, 500 of them, with intervals over images."""
        steps = STEPS["heun"][-1]
        found = []
        for sigma in MEASURED:
            far, model, right = (
                self.moved("heun", steps, sigma),
                self.moved("consistency", 1, sigma),
                self.moved("heun", steps, sigma, "right"),
            )
            found += [
                Finding(
                    f"σ = {sigma:g}: Heun with {steps} steps moves images further than one-step EDM", far, "distance"
                ),
                Finding(f"σ = {sigma:g}: so does the consistency model", model, "distance"),
                Finding(f"σ = {sigma:g}: after Heun more images are classified right", right, "points"),
            ]
        return found


@cache
def _radii(study: Study, row: Row) -> np.ndarray:
    return signed_radii(study.load(row)[1])[None, None]
