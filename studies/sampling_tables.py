"""What the records say about steps and network calls: tables, differences, findings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from jaxtyping import Float

from cpur.accuracy import average_certified_radius
from cpur.compare import signed_radii
from cpur.paired import RESAMPLES, Difference, accuracy_difference, best_difference
from cpur.tables import cells
from studies.ablation_tables import EPSILONS
from studies.findings import Measured
from studies.sampling import MEASURED, STEPS, TRANSPORT, Row, Study

Z = 1.96  # of a 95% interval
BASE = "onestep-edm"


@dataclass(frozen=True)
class Stated:
    """A sentence that a positive difference would bear out, and what is found."""

    text: str
    unit: str
    found: Measured


def stated_table(sentences: Sequence[Stated]) -> pd.DataFrame:
    """Each sentence with its difference, positive where it is as it says, the verdict, and what that rests on."""
    return pd.DataFrame(
        {
            "finding": one.text,
            "difference [95%]": one.found.figure(one.unit),
            "verdict": one.found.verdict,
            "rests on": one.found.basis,
        }
        for one in sentences
    )


def mean_interval(values: Float[np.ndarray, "seeds images"]) -> Difference:
    """A mean over training seeds (or runs) and images with its 95% interval.

    Guarantee: that of :func:`cpur.paired.best_difference` from zero, which it equals; the draws are kept.
    """
    weights, drawn = _draws(*values.shape)
    means = np.take_along_axis((values @ weights).T, drawn, axis=1).mean(1)
    return Difference(float(values.mean()), *map(float, np.quantile(means, (0.025, 0.975))))


def mean_accuracy(radii: Float[np.ndarray, "seeds 1 images"], epsilons: Sequence[float] = EPSILONS) -> Difference:
    """Certified accuracy in percent, its mean over epsilons, with its 95% interval."""
    return mean_interval(100.0 * (radii[:, 0, :, None] >= np.asarray(epsilons)).mean(-1))


@cache
def _draws(seeds: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    weights = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).T / images
    return weights, rng.integers(seeds, size=(RESAMPLES, seeds))


def position(found: Difference) -> str:
    """Where an interval lies; on one training seed that is no verdict."""
    return {"held": "above 0", "did not hold": "below 0"}.get(found.verdict, "contains 0")


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
        return signed_radii(_loaded(self.study, row)[1])[None, None]

    def difference(self, ours: Row, theirs: Row) -> Difference:
        """In certified accuracy, points, its mean over epsilons."""
        return accuracy_difference(self.radii(ours), self.radii(theirs), EPSILONS)

    def acr_difference(self, ours: Row, theirs: Row) -> Difference:
        """In the average certified radius."""
        radii = (self.radii(row).clip(0)[:, :, None] for row in (ours, theirs))
        return best_difference(*radii)

    def accuracy(self, row: Row) -> Difference:
        """Certified accuracy in percent, its mean over epsilons, with a 95% interval over images."""
        return mean_accuracy(self.radii(row))

    def table(self, sigma: float) -> pd.DataFrame:
        """Certified accuracy in percent with Wilson's interval, ACR, and the difference from one-step EDM."""
        base, table = self.row(BASE, 1, sigma), {}
        for row in self.rows(sigma):
            header, frame = _loaded(self.study, row)
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
        larger = [row for row in rows if self.acr_difference(row, rows[0]).verdict == "held"]
        smaller = [row for row in rows if self.acr_difference(row, rows[0]).verdict == "did not hold"]
        return (
            f"At σ = {sigma:g} the mean over ε goes from {found[worst]:.1f}% ({worst.named}) to {found[best]:.1f}% "
            f"({best.named}). Of {len(rows) - 1} other samplers, {len(larger)} have a larger ACR than one-step EDM, "
            f"and {len(smaller)} a smaller one, by intervals that do not contain 0."
        )

    def pairs(self, sigma: float) -> list[tuple[Row, Row]]:
        """Samplers to compare: the first is what one would expect to certify more."""
        base = self.row(BASE, 1, sigma)
        heun, euler = ([self.row(name, k, sigma) for k in STEPS[name]] for name in ("heun", "euler"))
        equal = [(one, other) for one in heun for other in euler if one.calls == other.calls]
        more = [(self.row(name, 2, sigma), self.row(name, 1, sigma)) for name in ("consistency", "features")]
        return [(heun[-1], base), (heun[-1], heun[0]), *equal, *more, (heun[-1], self.row("features", 1, sigma))]

    def comparisons(self) -> pd.DataFrame:
        """Paired differences of samplers with 95% bootstrap intervals over images, and where these lie."""
        rows = []
        for sigma in sorted(self.study.sigmas):
            for ours, theirs in self.pairs(sigma):
                points, wider = self.difference(ours, theirs), self.acr_difference(ours, theirs)
                rows.append(
                    {
                        "σ": f"{sigma:g}",
                        "finding": f"{ours.named} certifies more than {theirs.named}",
                        "points [95%]": str(points),
                        "points lie": position(points),
                        "ACR [95%]": f"{wider:.3f}",
                        "ACR lies": position(wider),
                    }
                )
        return pd.DataFrame(rows)

    def transport_comparisons(self) -> pd.DataFrame:
        """What more the purified test images show than after one-step EDM: the way they moved, and right classes."""
        rows = []
        for sigma in MEASURED:
            for family, steps in (("heun", STEPS["heun"][-1]), ("euler", STEPS["euler"][-1]), ("consistency", 1)):
                far, right = (self.moved(family, steps, sigma, measure) for measure in ("T", "right"))
                rows.append(
                    {
                        "σ": f"{sigma:g}",
                        "sampler": self.row(family, steps, sigma).named,
                        "T more [95%]": f"{far:.3f}",
                        "T lies": position(far),
                        "points classified right more [95%]": str(right),
                        "right lies": position(right),
                    }
                )
        return pd.DataFrame(rows)


@cache
def _loaded(study: Study, row: Row) -> tuple[dict, pd.DataFrame]:
    return study.load(row)
