"""The threshold of the cascade and the number of its levels, from committed counts; nothing is sampled anew.

Two sets of counts: ``LARGE`` has four levels at n = 10,000 and one training seed, ``SEEDS`` three levels at n = 1,000
over three training seeds. Both are of the fine-tuned consistency model on the 500 test images.
"""

from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from cpur.accuracy import wilson
from cpur.compare import signed_radii
from cpur.config import CertifyConfig
from cpur.engine import record_file
from cpur.multiscale import LevelCounts, halting
from cpur.paired import Difference, accuracy_difference, best_difference
from cpur.paths import anchored
from cpur.records import load_record, record_files
from cpur.tables import percent
from studies.ablation import SEEDS as TRAINING_SEEDS
from studies.ablation_tables import EPSILONS
from studies.cascade_tables import single_radii
from studies.findings import Measured
from studies.records import TUNED
from studies.sampling_tables import Stated, mean_accuracy, mean_interval

SIGMAS = (0.12, 0.25, 0.5, 1.0)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
USUAL, HIGH = 0.5, 0.8  # of the thresholds, those that the findings compare
RULES = ("max", "first")
CHAIN = ((1.0,), (0.5, 1.0), (0.25, 0.5, 1.0), (0.12, 0.25, 0.5, 1.0))  # each has one weaker noise more
LARGE, SEEDS = "large", "seeds"


@cache
def counts(which: str, sigmas: tuple[float, ...]) -> tuple[LevelCounts, ...]:
    """The counts at these levels, one entry a training seed."""
    return tuple(
        LevelCounts.of([record for record in records if record[0]["config"]["sigma"] in sigmas])
        for records in _records(which)
    )


@cache
def _records(which: str) -> tuple[list, ...]:
    if which == SEEDS:
        folders = [anchored("records/calibration/features") / str(seed) for seed in TRAINING_SEEDS]
        return tuple([load_record(file) for file in record_files(folder)] for folder in folders)
    tuned = {"purifier": "consistency", "checkpoint": TUNED, "num_images": 500}
    configs = [
        CertifyConfig(**tuned, sigma=sigma, records_dir="records/cascade" if sigma < 0.25 else "records")
        for sigma in SIGMAS
    ]
    return ([load_record(record_file(config)) for config in configs],)


@cache
def radii(which: str, sigmas: tuple[float, ...], rule: str = "max", threshold: float = 0.5) -> np.ndarray:
    """Certified radii, -1 where the prediction is wrong or abstains: ``seeds 1 images``."""
    found = [signed_radii(levels.certified(rule, threshold)[1]) for levels in counts(which, sigmas)]
    return np.stack(found)[:, None]


@cache
def acr(which: str, sigmas: tuple[float, ...], rule: str = "max", threshold: float = 0.5) -> Difference:
    """The average certified radius with a 95% interval, bootstrapped over training seeds and images."""
    return mean_interval(radii(which, sigmas, rule, threshold).clip(0)[:, 0])


def accuracy(
    which: str, sigmas: tuple[float, ...], rule: str, threshold: float, epsilons: Sequence[float] = EPSILONS
) -> Difference:
    """Certified accuracy in percent, its mean over epsilons, with a 95% interval over training seeds and images."""
    return mean_accuracy(radii(which, sigmas, rule, threshold), epsilons)


def behaviour(levels: LevelCounts, threshold: float = 0.5) -> dict[str, np.ndarray]:
    """Of each image, by its shares: whether the cascade halts nowhere or at a wrong class, and the levels it asks."""
    halts, right = halting(levels, threshold)
    downwards = halts[:, -2::-1]
    asked = np.where(downwards.any(1), downwards.argmax(1) + 1, downwards.shape[1])
    return {
        "over-smoothing %": 100.0 * ~halts[:, -1],
        "over-confidence %": 100.0 * (halts & ~right)[:, -1],
        "levels asked": asked.astype(float),
    }


def behaved(which: str, sigmas: tuple[float, ...], threshold: float, measure: str) -> np.ndarray:
    """One measure of :func:`behaviour`: ``seeds images``."""
    return np.stack([behaviour(levels, threshold)[measure] for levels in counts(which, sigmas)])


def errs(which: str, sigmas: tuple[float, ...], threshold: float, measure: str) -> Difference:
    """The mean of one measure of :func:`behaviour` with its 95% interval."""
    return mean_interval(behaved(which, sigmas, threshold, measure))


def _cells(which: str, sigmas: tuple[float, ...], threshold: float) -> dict[str, str]:
    """Certified accuracy by rule max with Wilson's interval, ACR by both rules, and what the cascade does."""
    found, row = radii(which, sigmas, "max", threshold), {}
    for epsilon in EPSILONS:
        hits = int((found >= epsilon).sum())
        row[f"eps {epsilon:g}"] = percent(hits / found.size, *wilson(hits, found.size))
    for rule in RULES:
        row[f"ACR, rule {rule}"] = interval(acr(which, sigmas, rule, threshold))
    measures = behaviour(counts(which, sigmas)[0], threshold)
    digits = {"levels asked": 2}
    return row | {name: f"{values.mean():.{digits.get(name, 1)}f}" for name, values in measures.items()}


def interval(found: Difference) -> str:
    """A mean with its interval, as a table shows it."""
    return f"{found.estimate:.3f} [{found.low:.3f}–{found.high:.3f}]"


def threshold_table(sigmas: tuple[float, ...] = CHAIN[2]) -> pd.DataFrame:
    """A row each threshold, at n = 10,000 and one training seed."""
    table = pd.DataFrame({f"{p0:g}": _cells(LARGE, sigmas, p0) for p0 in THRESHOLDS}).T
    return table.rename_axis("p0")


def named(sigmas: Sequence[float]) -> str:
    """The levels in words."""
    return "{" + ", ".join(f"{sigma:g}" for sigma in sigmas) + "}"


def subsets() -> list[tuple[float, ...]]:
    """Every choice of levels."""
    return [chosen for size in range(1, len(SIGMAS) + 1) for chosen in combinations(SIGMAS, size)]


def levels_table(threshold: float = 0.5) -> pd.DataFrame:
    """A row each number of levels: those of the chain, at n = 10,000 and one training seed."""
    return pd.DataFrame({named(sigmas): _cells(LARGE, sigmas, threshold) for sigmas in CHAIN}).T.rename_axis("levels")


def in_words(sigmas: tuple[float, ...] = CHAIN[2]) -> str:
    """Where the ACR is largest: over the thresholds, and over the choices of levels."""
    parts = []
    for rule in RULES:
        by_threshold = {p0: acr(LARGE, sigmas, rule, p0) for p0 in THRESHOLDS}
        by_levels = {chosen: acr(LARGE, chosen, rule) for chosen in subsets()}
        p0, best = (max(found, key=lambda one: found[one].estimate) for found in (by_threshold, by_levels))
        parts.append(
            f"by rule `{rule}` the largest ACR is at $p_0$ = {p0:g} ({interval(by_threshold[p0])}), "
            f"and at $p_0$ = {USUAL:g} with the levels {named(best)} ({interval(by_levels[best])})"
        )
    return f"Over {named(sigmas)}, " + "; ".join(parts) + "."


def _stated(which: str, text: str, unit: str, difference: Difference) -> Stated:
    """A sentence on one of the two sets of counts."""
    found = counts(which, CHAIN[2])
    config = found[0].header["config"]
    basis = {"seeds": len(found), "images": len(found[0].index), "n": config["n"], "alpha": config["alpha"]}
    return Stated(text, unit, Measured(difference, **basis))


def threshold_findings(sigmas: tuple[float, ...] = CHAIN[2]) -> list[Stated]:
    """What a threshold above one half changes, over three training seeds."""
    found = []
    for rule in RULES:
        high, usual = (radii(SEEDS, sigmas, rule, p0) for p0 in (HIGH, USUAL))
        more = accuracy_difference(high, usual, [0.0])
        text = f"Rule {rule}: p0 = {HIGH:g} certifies more at radius 0 than p0 = {USUAL:g}"
        found.append(_stated(SEEDS, text, "points", more))
        wider = best_difference(usual.clip(0)[:, :, None], high.clip(0)[:, :, None])
        found.append(_stated(SEEDS, f"Rule {rule}: p0 = {USUAL:g} has the larger ACR", "radius", wider))
    high, usual = (behaved(SEEDS, sigmas, p0, "over-confidence %") for p0 in (HIGH, USUAL))
    fewer = best_difference(usual[:, None, None], high[:, None, None])
    return [*found, _stated(SEEDS, f"p0 = {HIGH:g} halts at a wrong class less often", "points", fewer)]


def levels_findings() -> list[Stated]:
    """What one level more changes, and a cascade against its best level."""
    found = []
    for rule in RULES:
        for fewer, more in pairwise(CHAIN):
            which = SEEDS if min(more) >= 0.25 else LARGE
            pair = [radii(which, sigmas, rule).clip(0)[:, :, None] for sigmas in (more, fewer)]
            text = f"Rule {rule}: σ = {min(more):g} below {named(fewer)} raises the ACR"
            found.append(_stated(which, text, "radius", best_difference(*pair)))
    for rule in RULES:
        ours = radii(SEEDS, CHAIN[2], rule).clip(0)[:, :, None]
        alone = np.stack([single_radii(levels) for levels in counts(SEEDS, CHAIN[2])]).clip(0)[:, :, None]
        text = f"Rule {rule}: the cascade {named(CHAIN[2])} has a larger ACR than its best level alone"
        found.append(_stated(SEEDS, text, "radius", best_difference(ours, alone)))
    return found
