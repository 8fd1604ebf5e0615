"""The tables of cascades and of their calibration, from records over training seeds; nothing is trained or sampled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cpur.compare import signed_radii
from cpur.multiscale import LevelCounts, collective_objective, halting
from cpur.paired import accuracy_difference, certified_shares, seed_difference
from cpur.paths import anchored
from cpur.records import load_record, record_files
from studies.ablation_tables import EPSILONS, Ablation
from studies.calibration import BEFORE_AFTER, SIGMAS

Measure = Callable[[LevelCounts], np.ndarray]  # one number an image, or a row of them


@dataclass(frozen=True)
class CascadeAblation(Ablation):
    """The records of :mod:`studies.calibration`, as cascades.

    Raises:
        InputError: a variant has no complete set of records.
    """

    made_by: ClassVar[str] = "python -m studies.calibration"

    def levels(self, variant: str, seed: int = 0, sigmas: Sequence[float] = SIGMAS) -> LevelCounts:
        """The levels of one training seed."""
        return _levels(anchored(self.folder) / variant / str(seed), tuple(sigmas))

    def each(self, variant: str, seeds: Sequence[int], measure: Measure) -> np.ndarray:
        """A measure of each image, by training seed."""
        return np.stack([_measured(anchored(self.folder) / variant / str(seed), measure) for seed in seeds])


@cache
def _levels(folder: Path, sigmas: tuple[float, ...]) -> LevelCounts:
    records = [load_record(file) for file in record_files(folder)]
    return LevelCounts.of([record for record in records if record[0]["config"]["sigma"] in sigmas])


@cache
def _measured(folder: Path, measure: Measure) -> np.ndarray:
    return measure(_levels(folder, SIGMAS))


def cascade_radii(rule: str, levels: LevelCounts) -> np.ndarray:
    """The radii by a rule, -1 where the prediction is wrong or abstains."""
    return signed_radii(levels.certified(rule)[1])


def single_radii(levels: LevelCounts) -> np.ndarray:
    """The radii of each level alone: ``K n``."""
    return np.stack([signed_radii(frame) for _, frame in levels.singles])


def over_smoothing(levels: LevelCounts) -> np.ndarray:
    """100 where no level of the cascade halts, else 0."""
    return 100.0 * ~halting(levels)[0][:, -1]


def over_confidence(levels: LevelCounts) -> np.ndarray:
    """100 where the cascade halts at a wrong class, else 0."""
    halts, right = halting(levels)
    return 100.0 * (halts & ~right)[:, -1]


def strongest_fails(levels: LevelCounts) -> np.ndarray:
    """100 where the largest sigma alone does not halt, else 0."""
    return 100.0 * ~halting(levels)[0][:, -2]


by_max, by_first = (partial(cascade_radii, rule) for rule in ("max", "first"))


def certified_radius(rule: Measure, levels: LevelCounts) -> np.ndarray:
    """The radius where the prediction is right, else 0; its mean is the average certified radius."""
    return rule(levels).clip(0)


acr_max, acr_first, acr_alone = (partial(certified_radius, radii) for radii in (by_max, by_first, single_radii))
acr_released = partial(certified_radius, partial(cascade_radii, "released"))


def levels_visited(levels: LevelCounts, threshold: float = 0.5) -> np.ndarray:
    """How many levels the cascade asks of each image, from the largest sigma down, until one halts."""
    halts = halting(levels, threshold)[0][:, :-1]
    return np.where(halts.any(1), 1 + halts[:, ::-1].argmax(1), halts.shape[1]).astype(float)


@cache
def at_threshold(measure: Measure, threshold: float) -> Measure:
    """A measure at a threshold that is not one half."""
    return partial(measure, threshold=threshold)


def right_votes(levels: LevelCounts, threshold: float = 0.5) -> np.ndarray:
    """100 where the cascade halts at the right class, else 0; nothing is certified."""
    halts, right = halting(levels, threshold)
    return 100.0 * (halts & right)[:, -1]


def radii_at(levels: LevelCounts, threshold: float = 0.5) -> np.ndarray:
    """The radii by the rule of the paper, -1 where the prediction is wrong or abstains."""
    return signed_radii(levels.certified("first", threshold)[1])


def acr_at(levels: LevelCounts, threshold: float = 0.5) -> np.ndarray:
    """The same, but 0 where it is wrong or abstains."""
    return radii_at(levels, threshold).clip(0)


def variants_table(study: CascadeAblation, rows: Mapping[str, str], baseline: str) -> pd.DataFrame:
    """Cascades by rule max over training seeds: certified accuracy in percent, ACR, the objective J, and the errors.

    The differences from the row ``baseline`` are in ACR, and in percentage points averaged over epsilons.
    """
    seeds = study.common_seeds([*rows.values()])
    theirs = {measure: study.each(rows[baseline], seeds, measure) for measure in (by_max, acr_max)}
    table = {}
    for name, variant in rows.items():
        radii, acr = (study.each(variant, seeds, measure) for measure in (by_max, acr_max))
        shares = certified_shares(radii[:, None], EPSILONS).mean(0)
        means = {
            column: study.each(variant, seeds, measure).mean()
            for column, measure in {"J": collective_objective, "first": acr_first}.items()
        }
        errors = {
            column: f"{study.each(variant, seeds, measure).mean():.1f}"
            for column, measure in {"over-smoothing %": over_smoothing, "over-confidence %": over_confidence}.items()
        }
        compared = {
            f"ACR minus {baseline}": seed_difference(acr, theirs[acr_max]),
            f"points minus {baseline}": accuracy_difference(radii[:, None], theirs[by_max][:, None], EPSILONS),
        }
        table[name] = {
            **{f"eps {e:g}": f"{share:.1f}" for e, share in zip(EPSILONS, shares, strict=True)},
            **{"ACR": f"{acr.mean():.3f}", "ACR, first": f"{means['first']:.3f}", "J": f"{means['J']:.3f}"},
            **errors,
            **{column: "" if name == baseline else f"{found:.3f}" for column, found in compared.items()},
        }
    frame = pd.DataFrame(table).T
    frame.attrs["caption"] = f"training seeds: {len(seeds)}, test images: {acr.shape[1]}"
    return frame


def before_and_after(study: CascadeAblation, sigmas: Sequence[float]) -> dict[str, LevelCounts]:
    """The cascades of the first training seed, each purifier before and after calibration."""
    return {
        purifier + suffix: study.levels(variant, 0, sigmas)
        for purifier, pair in BEFORE_AFTER.items()
        for variant, suffix in zip(pair, ("", ", calibrated"), strict=True)
    }
