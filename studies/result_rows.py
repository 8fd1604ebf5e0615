"""Our rows of the published tables: each function makes one that finds its figures in the records."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from cpur.accuracy import Records, certified_accuracy
from cpur.errors import InputError
from cpur.multiscale import LevelCounts
from cpur.paired import RESAMPLES, Difference, seed_difference
from cpur.tables import most_images
from studies.ablation import Workbench
from studies.ablation_tables import CLASSIFIER, EPSILONS
from studies.baseline_tables import whole_records
from studies.cascade_tables import Measure, cascade_radii, over_confidence
from studies.claims import Sources
from studies.findings import Finding
from studies.record_index import Header, find
from studies.results import Row
from studies.shift import CLEAN, right
from studies.steered import committed

Rows = Callable[[Sources], Sequence[Row]]
EPS = tuple(f"eps {epsilon:g}" for epsilon in EPSILONS)


def basis(images: int, seeds: int, n: int | None = None, interval: str = "bootstrap") -> str:
    """What figures rest on, in few words."""
    sampled = "" if n is None else f"n = {n:,}, α = 0.001, "
    return f"{sampled}{images} images, {seeds} seed{'s' * (seeds > 1)}; {interval}"


def over_seeds(values: np.ndarray) -> Difference:
    """The mean of a measure, ``seeds images``, with its 95% interval by the bootstrap over both."""
    return seed_difference(values, np.zeros_like(values))


def shares(radii: np.ndarray) -> dict[str, Difference]:
    """Certified accuracy in percent, best over sigma, of radii ``seeds sigmas images``, each with its 95% interval.

    The bootstrap is that of :func:`cpur.paired.best_difference`, with the same images drawn for every epsilon.
    """
    certified = 100.0 * (radii[:, :, None] >= np.asarray(EPSILONS)[:, None])
    rng = np.random.default_rng(0)
    by_seed = (certified @ drawn_images(radii.shape[2])).max(1)
    drawn = rng.integers(len(radii), size=(RESAMPLES, len(radii)))
    means = np.stack([by_seed[drawn[:, k], :, np.arange(RESAMPLES)] for k in range(len(radii))]).mean(0)
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    columns = zip(EPS, certified.mean(-1).max(1).mean(0), low, high, strict=True)
    return {name: Difference(float(mean), float(down), float(up)) for name, mean, down, up in columns}


@cache
def drawn_images(images: int) -> np.ndarray:
    """How often each image is drawn in each resample, as a share: ``images resamples``."""
    counts = np.random.default_rng(1).multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    return counts.T / images


def best_over_sigma(records: Records) -> dict[str, Difference]:
    """The same of the records of one method and one training seed, with Wilson intervals."""
    rows = pd.concat([certified_accuracy(header, frame, EPSILONS) for header, frame in records])
    best = rows.sort_values("accuracy", ascending=False, kind="stable").groupby("epsilon").head(1).set_index("epsilon")
    return {f"eps {e:g}": Difference(*(100 * best.loc[e, ["accuracy", "low", "high"]])) for e in EPSILONS}


def recorded(purifier: str, tuned: bool = False, datasets: Sequence[str] = ("digits", "cifar10"), **same: Any) -> Rows:
    """Of the records of a purifier: the most images at the largest n, a row for each data set that has some."""

    def wanted(header: Header, data: str) -> bool:
        config = header["config"]
        ours = {"dataset": data, "plan": "fixed", "purifier": purifier, **same}
        tunings = header.get("finetuned", [])
        plain = not any(tuning.get("brier") for tuning in tunings)
        return all(config[key] == value for key, value in ours.items()) and plain and bool(tunings) == tuned

    def rows(sources: Sources) -> list[Row]:
        found = []
        for data in datasets:
            try:
                records = most_images(find(sources.records, lambda header, data=data: wanted(header, data)))
            except InputError:
                continue
            config, calls = records[0][0]["config"], records[0][0]["network_calls"]
            figures = best_over_sigma(records) | {"calls": float(calls)}
            found.append(Row(data, figures, basis(len(records[0][1]), 1, config["n"], "Wilson")))
        return found

    return rows


def baseline(method: str) -> Rows:
    """Of a method without diffusion."""

    def rows(sources: Sources) -> list[Row]:
        records = whole_records(method, f"{sources.records}/baselines")
        header, frame = records[0]
        return [Row("digits", best_over_sigma(records), basis(len(frame), 1, header["config"]["n"], "Wilson"))]

    return rows


def ablated(variant: str, classifier: str = CLASSIFIER) -> Rows:
    """Certified accuracy of a variant of the ablation."""

    def rows(sources: Sources) -> list[Row]:
        seeds = sources.ablation.seeds(variant)
        radii = sources.ablation.radii(variant, seeds, classifier)
        return [Row("digits", shares(radii), basis(radii.shape[2], len(seeds), Workbench.n))]

    return rows


def measured(variant: str, column: str, sigmas: Sequence[float]) -> Rows:
    """A measure of a variant of the ablation at each noise level."""

    def rows(sources: Sources) -> list[Row]:
        seeds = sources.ablation.seeds(variant)
        values = {f"sigma {s:g}": sources.ablation.measures(variant, column, seeds, [s]) for s in sigmas}
        figures = {name: over_seeds(found) for name, found in values.items()}
        return [Row("digits", figures, basis(Workbench.num_images, len(seeds)))]

    return rows


def cascaded(variant: str, radii: Measure, level: int | None = None) -> Rows:
    """Certified accuracy, ACR and over-confidence of a cascade; of one of its levels, where that is given."""

    def rows(sources: Sources) -> list[Row]:
        study = sources.cascades
        seeds = study.seeds(variant)
        found = study.each(variant, seeds, radii)
        found = found if level is None else found[:, level]
        figures = shares(found[:, None]) | {
            "ACR": over_seeds(found.clip(0)),
            "over-confident": over_seeds(study.each(variant, seeds, over_confidence)),
        }
        return [Row("digits", figures, basis(found.shape[1], len(seeds), Workbench.n))]

    return rows


def of_levels(variant: str, sigmas: Sequence[float], rule: str) -> Rows:
    """The same of a cascade of some of the levels."""

    def rows(sources: Sources) -> list[Row]:
        study = sources.cascades
        seeds = study.seeds(variant)
        found = np.stack([cascade_radii(rule, _some(study.levels(variant, seed), sigmas)) for seed in seeds])
        figures = shares(found[:, None]) | {"ACR": over_seeds(found.clip(0))}
        return [Row("digits", figures, basis(found.shape[1], len(seeds), Workbench.n))]

    return rows


def _some(levels: LevelCounts, sigmas: Sequence[float]) -> LevelCounts:
    return LevelCounts.of([record for record in levels.singles if record[0]["config"]["sigma"] in sigmas])


def asked(variant: str, column: str, measure: Measure) -> Rows:
    """A measure of a cascade."""

    def rows(sources: Sources) -> list[Row]:
        seeds = sources.cascades.seeds(variant)
        values = sources.cascades.each(variant, seeds, measure)
        return [Row("digits", {column: over_seeds(values)}, basis(values.shape[1], len(seeds), Workbench.n))]

    return rows


def replayed(column: str) -> Rows:
    """The levels' worth of samples that a steered cascade takes."""

    def rows(sources: Sources) -> list[Row]:
        cost = committed(sources.records).pivot(index="seed", columns="index", values="samples").to_numpy() / 1100
        return [Row("digits", {column: over_seeds(cost)}, basis(cost.shape[1], len(cost), 1000))]

    return rows


def predicted(predictor: str) -> Rows:
    """The accuracy of a predictor in percent: on digits, corrupted digits, and digits of other writers."""

    def rows(sources: Sources) -> list[Row]:
        shift = sources.shift
        frames = [shift.corrupted(seed) for seed in shift.seeds()]
        columns = {
            "clean": [shift.whole("digits")],
            "corrupted": [frame[frame.subset != CLEAN] for frame in frames],
            "other writers": [shift.whole("digits-shift")],
        }
        hits = {name: np.stack([right(frame, predictor) for frame in found]) for name, found in columns.items()}
        figures = {name: over_seeds(values) for name, values in hits.items()}
        return [Row("digits", figures, "500 images, 1 seed; corrupted: 50 images, 3 seeds; 200 votes; bootstrap")]

    return rows


def found_by(find_it: Callable[[Sources], Finding], column: str) -> Rows:
    """What is found of a claim."""

    def rows(sources: Sources) -> list[Row]:
        finding = find_it(sources)
        return [Row("digits", {column: finding.difference}, finding.basis)]

    return rows


def nowhere(sources: Sources) -> Sequence[Row]:
    """For what this book has no record of."""
    return ()
