"""What the records say about steps and network calls: tables, differences, findings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from studies.ablation_tables import EPSILONS
from cpur.accuracy import average_certified_radius
from cpur.compare import signed_radii
from cpur.paired import Difference, accuracy_difference
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
        """The span of certified accuracy over the samplers at each noise level, and the cheapest one near its top."""
        return " ".join(self._in_words(sigma) for sigma in sorted(self.study.sigmas))

    def _in_words(self, sigma: float) -> str:
        rows = self.rows(sigma)
        found = {row: self.accuracy(row).estimate for row in rows}
        worst, best = min(rows, key=found.get), max(rows, key=found.get)
        # Those that the best one does not surely beat.
        near = next(row for row in rows if row == best or self.difference(best, row).verdict != "held")
        return (
            f"At σ = {sigma:g} the mean over ε goes from {found[worst]:.1f}% ({worst.title}) to {found[best]:.1f}% "
            f"({best.title}, {best.calls} calls); the cheapest sampler that is not surely below the best is "
            f"{near.title}, {near.calls} call{'s' if near.calls > 1 else ''}, with {found[near]:.1f}%."
        )

    def findings(self) -> list[Finding]:
        """What the records say about steps."""
        return [one for sigma in sorted(self.study.sigmas) for one in self._findings(sigma)]

    def _findings(self, sigma: float) -> list[Finding]:
        base, at = self.row(BASE, 1, sigma), f"σ = {sigma:g}"
        heun, euler = ([self.row(name, k, sigma) for k in STEPS[name]] for name in ("heun", "euler"))
        once, twice, tuned, tuned_twice = (
            self.row(name, steps, sigma) for name in ("consistency", "features") for steps in (1, 2)
        )
        return [
            Finding(
                f"{at}: Heun with {heun[-1].steps} steps certifies more than one-step EDM", *self._gap(heun[-1], base)
            ),
            Finding(f"{at}: and more than Heun with {heun[0].steps}", *self._gap(heun[-1], heun[0])),
            *(
                Finding(f"{at}: Heun certifies more than Euler at {one.calls} calls", *self._gap(one, other))
                for one in heun
                for other in euler
                if one.calls == other.calls
            ),
            Finding(f"{at}: a second step raises what the consistency model certifies", *self._gap(twice, once)),
            Finding(f"{at}: and the fine-tuned one", *self._gap(tuned_twice, tuned)),
            Finding(
                f"{at}: the fine-tuned consistency model with 1 call certifies more than Heun with {heun[-1].calls}",
                *self._gap(tuned, heun[-1]),
            ),
            Finding(
                f"{at}: Heun with {heun[-1].steps} steps moves images further than one-step EDM",
                self.moved("heun", heun[-1].steps, sigma),
                "distance",
            ),
        ]

    def _gap(self, ours: Row, theirs: Row) -> tuple[Difference, str]:
        return self.difference(ours, theirs), "points"


@cache
def _radii(study: Study, row: Row) -> np.ndarray:
    return signed_radii(study.load(row)[1])[None, None]
