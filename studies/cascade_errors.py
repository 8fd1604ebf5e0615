"""How often each way to certify a cascade is wrong, on class probabilities at the boundary of the certificate."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tyro

from cpur import paths
from cpur.cascade import CascadeCertificate, cascade_radii, certify_counts
from cpur.plans import Plan, sequential
from cpur.sampling import Draw
from cpur.steering import Cascade, Levels


@dataclass(frozen=True)
class Case:
    """Exact class probabilities of some levels, from the smallest sigma up; every level selects class 0."""

    probabilities: np.ndarray

    @property
    def sigmas(self) -> tuple[float, ...]:
        """0.25, 0.5, 1, ..."""
        return tuple(0.25 * 2.0 ** np.arange(len(self.probabilities)))

    @property
    def radii(self) -> np.ndarray:
        """The true radius of each class, 0 where the cascade does not return it."""
        return cascade_radii(self.probabilities, self.probabilities, np.array(self.sigmas), 0.5).max(0).clip(0)

    def false(self, found: CascadeCertificate) -> bool:
        """Whether a certificate claims more than the truth."""
        return bool(0 < found.radius > self.radii[found.prediction] * (1 + 1e-9))


def _case(*rows: tuple[float, ...], classes: int = 10) -> Case:
    """What a row leaves of 1 is shared by the other classes."""
    p = np.zeros((len(rows), classes))
    for level, row in zip(p, rows, strict=True):
        level[:] = (1 - sum(row)) / max(classes - len(row), 1)
        level[: len(row)] = row
    return Case(p)


CASES = {
    "no level quite halts": _case((0.5,), (0.5,), (0.5,)),
    "another class might halt first": _case((0.99,), (0.3, 0.5), (0.3, 0.5)),
    "one level that does not quite halt": _case((0.5, 0.5), classes=2),
    "certified, some way": _case((0.97,), (0.8, 0.1), (0.45, 0.3)),
}


def fixed_n(rule: str) -> Callable:
    """Every level has n samples."""

    def certify(case: Case, n: int, alpha: float, rng: np.random.Generator) -> CascadeCertificate:
        counts = rng.multinomial(n, case.probabilities)
        return certify_counts(counts, case.sigmas, alpha, selected=[0] * len(counts), rule=rule)

    return certify


def steered(case: Case, n: int, alpha: float, rng: np.random.Generator) -> CascadeCertificate:
    """Sampled by looks, where it helps."""
    state = _levels(case, sequential(100, n, alpha))
    drawn: dict[tuple[str, int], np.ndarray] = {}
    while (draw := state.next_draw()) is not None:
        key, p = (draw.purpose, draw.level), case.probabilities[draw.level]
        before = drawn.get(key, 0 * state.counts[0])
        drawn[key] = before + rng.multinomial(draw.n - before.sum(), p)
        state.add(draw, drawn[key])
    return state.certificate()


def peeking(case: Case, n: int, alpha: float, rng: np.random.Generator) -> CascadeCertificate:
    """A planted fault: a look at every fifth sample of every level, and nothing paid for it."""
    looks = tuple(range(5, n + 1, 5))
    state = _levels(case, Plan(100, looks, (alpha,) * len(looks)))
    for level, p in enumerate(case.probabilities):
        state.selected[level] = 0
        for look, counts in zip(looks, rng.multinomial(5, p, size=len(looks)).cumsum(0), strict=True):
            state.add(Draw("estimation", look, level), counts)
    return state.certificate()


def _levels(case: Case, plan: Plan) -> Levels:
    return Levels(Cascade(case.sigmas, 0.5, plan), case.probabilities.shape[1])


WAYS = {
    "max": fixed_n("max"),
    "first": fixed_n("first"),
    "released": fixed_n("released"),
    "steered": steered,
    "peeking": peeking,
}


def false_certificates(way: str, name: str, n: int, alpha: float, runs: int, seed: int = 0) -> int:
    """How many of so many runs certify what is not true."""
    rng = np.random.default_rng(seed)
    return sum(CASES[name].false(WAYS[way](CASES[name], n, alpha, rng)) for _ in range(runs))


def main(n: int = 300, alphas: tuple[float, ...] = (0.05, 0.001), runs: int = 2000, out: str | None = None) -> None:
    """Counts false certificates of every way to certify; 40 minutes on one core.

    Args:
        n: samples a level, at most.
        alphas: error probabilities.
        runs: simulated images a case, way and alpha.
        out: file for the table as CSV.
    """
    rows = [
        {"case": name, "certified by": way, "alpha": alpha, "runs": runs}
        | {"false": false_certificates(way, name, n, alpha, runs)}
        for name, way, alpha in itertools.product(CASES, WAYS, alphas)
    ]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    if out:
        table.to_csv(paths.anchored(out), index=False)


if __name__ == "__main__":
    tyro.cli(main)
