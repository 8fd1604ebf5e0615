"""What fewer noise samples would have certified, from committed counts; nothing is sampled anew.

The n samples of a record are exchangeable, so a random part of them is what a run with fewer samples counts:
hypergeometric hits, exactly. More samples than there are can only be projected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cpur.accuracy import wilson
from cpur.bounds import certified_radius
from cpur.config import CertifyConfig
from cpur.engine import record_file
from cpur.paired import Difference, accuracy_difference, best_difference
from cpur.plans import PLANS, Plan, StoppingRule
from cpur.records import load_record
from cpur.tables import percent
from studies.ablation_tables import EPSILONS
from studies.findings import Measured
from studies.records import SIGMAS, TUNED
from studies.sampling_tables import Stated, mean_interval

RUNS = 20  # random parts of the samples of each image
SIZES = (100, 1000, 10_000, 100_000)  # n; the last is projected
REFERENCE = ("fixed", 10_000)  # what the records hold


@dataclass(frozen=True)
class Hits:
    """The hits of the selected class of every image of a record, and whether that class is the right one."""

    hits: Int[np.ndarray, "images"]
    right: Bool[np.ndarray, "images"]
    n: int
    n0: int
    alpha: float
    sigma: float

    @classmethod
    def of(cls, sigma: float, checkpoint: str | None = TUNED) -> "Hits":
        """Those of a consistency model on the 500 test images at n = 10,000."""
        shared = {"purifier": "consistency", "checkpoint": checkpoint, "num_images": 500, "records_dir": "records"}
        header, frame = load_record(record_file(config := CertifyConfig(sigma=sigma, **shared)))
        hits = [counts[selected] for counts, selected in zip(frame.counts, frame.selected, strict=True)]
        right = (frame.selected == frame.label).to_numpy()
        return cls(np.array(hits), right, config.n, config.n0, header["config"]["alpha"], sigma)


def thinned(
    hits: Int[np.ndarray, "images"], n: int, looks: Sequence[int], runs: int, rng: np.random.Generator
) -> Int[np.ndarray, "runs images looks"]:
    r"""The hits at the looks of a run that takes the n samples in a random order.

    .. math:: h_i - h_{i-1} \sim \mathrm{Hypergeometric}(h - h_{i-1},\; n - n_{i-1} - (h - h_{i-1}),\; n_i - n_{i-1}).

    Guarantee: what fresh samples give, in distribution over the n samples and the order.
    """
    left, rest, taken = np.tile(hits, (runs, 1)), n, []
    for step in np.diff(looks, prepend=0):
        got = rng.hypergeometric(left, rest - left, step)
        left, rest = left - got, rest - step
        taken.append(got)
    return np.cumsum(taken, axis=0).transpose(1, 2, 0)


def projected(
    hits: Int[np.ndarray, "images"], n: int, looks: Sequence[int], runs: int, rng: np.random.Generator
) -> Int[np.ndarray, "runs images looks"]:
    """Hits at looks beyond n samples: p is drawn from its posterior under Jeffreys' prior. No certificate."""
    p = rng.beta(hits + 0.5, n - hits + 0.5, size=(runs, len(hits)))
    return rng.binomial(np.diff(looks, prepend=0), p[..., None]).cumsum(-1)


@dataclass(frozen=True)
class Outcome:
    """What a plan certifies of each image in each run, and the samples that it takes, selection among them."""

    sigma: float
    plan: str
    n: int
    radii: Float[np.ndarray, "runs 1 images"]  # the largest epsilon that is certified, -1 where wrong or none
    acr: Float[np.ndarray, "runs images"] | None  # of plan fixed: the full radius, 0 where wrong
    samples: Float[np.ndarray, "runs images"]

    @property
    def is_projected(self) -> bool:
        """Whether it takes more samples than the records hold."""
        return self.n > REFERENCE[1]


def outcome(counted: Hits, name: str, n: int, runs: int = RUNS, epsilons: Sequence[float] = EPSILONS) -> Outcome:
    """Runs a plan on parts of the samples of a record."""
    plan: Plan = PLANS[name](counted.n0, n, counted.alpha)
    rule = StoppingRule(plan, counted.sigma, epsilons)
    draw = thinned if n <= counted.n else projected
    hits = draw(counted.hits, counted.n, plan.looks, runs, np.random.default_rng(0))
    stop = rule.decided(hits).argmax(-1)
    reached = np.maximum.accumulate(hits[..., None] >= rule.certified, axis=-2)
    certified = np.take_along_axis(reached, stop[..., None, None], -2)[..., 0, :] & counted.right[:, None]
    radii = np.where(certified, epsilons, -1.0).max(-1)
    full = certified_radius(hits[..., -1], n, counted.alpha, counted.sigma) * counted.right if name == "fixed" else None
    return Outcome(counted.sigma, name, n, radii[:, None], full, np.array(plan.looks)[stop] + counted.n0)


@cache
def outcomes(sigma: float) -> dict[tuple[str, int], Outcome]:
    """Every plan and n at a noise level."""
    counted = Hits.of(sigma)
    return {(plan, n): outcome(counted, plan, n) for plan in ("fixed", "sequential") for n in SIZES}


def plans_table(found: dict[tuple[str, int], Outcome]) -> pd.DataFrame:
    """Certified accuracy in percent, ACR and samples of every plan and n at a noise level.

    The share of an image is its mean over the runs; the interval is Wilson's at the count that comes nearest.
    """
    reference, rows = found[REFERENCE], {}
    for (plan, n), one in found.items():
        images = one.samples.shape[1]
        shares = [float((one.radii >= epsilon).mean()) for epsilon in EPSILONS]
        cells = {
            f"eps {epsilon:g}": percent(share, *wilson(round(share * images), images))
            for epsilon, share in zip(EPSILONS, shares, strict=True)
        }
        lost = accuracy_difference(one.radii, reference.radii, EPSILONS)
        samples, exact = mean_interval(one.samples), plan == "fixed"
        rows[plan, ("" if exact else "≤ ") + f"{n:,}" + (", projected" if one.is_projected else "")] = {
            "samples an image": f"{samples.estimate:,.0f}"
            + ("" if exact else f" [{samples.low:,.0f}–{samples.high:,.0f}]"),
            **cells,
            "ACR": "—" if one.acr is None else f"{one.acr.mean():.3f}",
            "points minus fixed, 10,000": "" if (plan, n) == REFERENCE else str(lost),
        }
    table = pd.DataFrame(rows).T
    table.index.names = ["plan", "n"]
    return table


def findings(sigma: float) -> list[Stated]:
    """What the counts say about n and the plan."""
    found = outcomes(sigma)
    reference = found[REFERENCE]
    images = reference.samples.shape[1]
    rows, at = [], f"σ = {sigma:g}"

    def state(text: str, unit: str, difference: Difference) -> Stated:
        return Stated(text, unit, Measured(difference, images=images, n=reference.n, alpha=Hits.of(sigma).alpha))

    for n in (100, 1000):
        gain = accuracy_difference(reference.radii, found["fixed", n].radii, EPSILONS)
        rows.append(state(f"{at}: n = 10,000 certifies more than n = {n:,}", "points", gain))
        wider = best_difference(reference.acr[:, None, None], found["fixed", n].acr[:, None, None])
        rows.append(state(f"{at}: and has a larger ACR than n = {n:,}", "radius", wider))
    early = found["sequential", 10_000]
    lost = accuracy_difference(reference.radii, early.radii, EPSILONS)
    rows.append(state(f"{at}: stopping early loses certified accuracy, at n ≤ 10,000", "points", lost))
    large = accuracy_difference(found["sequential", 10_000].radii, found["fixed", 1000].radii, EPSILONS)
    rows.append(state(f"{at}: plan sequential at n ≤ 10,000 certifies more than fixed n = 1,000", "points", large))
    return rows


def saving(found: dict[tuple[str, int], Outcome], n: int = 10_000) -> float:
    """How many times fewer samples plan sequential takes than plan fixed with the same n."""
    return float(found["fixed", n].samples.mean() / found["sequential", n].samples.mean())


def in_words(found: dict[float, dict[tuple[str, int], Outcome]], n: int = 10_000) -> str:
    """What plan sequential saves, and what n = 100,000 would add."""
    saved = ", ".join(f"{saving(outcomes, n):.1f} at σ = {sigma:g}" for sigma, outcomes in found.items())
    more = ", ".join(
        f"{accuracy_difference(outcomes['fixed', SIZES[-1]].radii, outcomes[REFERENCE].radii, EPSILONS)}"
        for outcomes in found.values()
    )
    return (
        f"Plan `sequential` with n ≤ {n:,} takes {saved} times fewer samples than plan `fixed` with the same n. "
        f"n = {SIZES[-1]:,} is projected to add, in points in the same order, {more}."
    )


def all_outcomes(sigmas: Sequence[float] = SIGMAS) -> dict[float, dict[tuple[str, int], Outcome]]:
    """Every plan and n at every noise level."""
    return {sigma: outcomes(sigma) for sigma in sigmas}
