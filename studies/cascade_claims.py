"""What the records say about calibration and about the claims of Jeong & Shin (2023); nothing is trained or sampled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from cpur.ablation import EPSILONS, FEWEST_SEEDS, Ablation
from cpur.compare import signed_radii
from cpur.multiscale import LevelCounts, collective_objective, halting
from cpur.paired import Difference, accuracy_difference, best_difference, certified_shares, seed_difference
from cpur.paths import anchored
from cpur.records import load_record, record_files
from studies.calibration import BEFORE_AFTER, SIGMAS
from studies.shift import CLOSE, Shift, gap

Measure = Callable[[LevelCounts], np.ndarray]  # one number an image, or a row of them


@dataclass(frozen=True)
class CascadeAblation(Ablation):
    """The records of :mod:`studies.calibration`, as cascades.

    Raises:
        InputError: a variant has no complete set of records.
    """

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


by_max, by_first = (partial(cascade_radii, rule) for rule in ("max", "first"))


def certified_radius(rule: Measure, levels: LevelCounts) -> np.ndarray:
    """The radius where the prediction is right, else 0; its mean is the average certified radius."""
    return rule(levels).clip(0)


acr_max, acr_first, acr_alone = (partial(certified_radius, radii) for radii in (by_max, by_first, single_radii))


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


@dataclass(frozen=True)
class Claim:
    """A claim of the paper as a difference that it says is positive; ``seeds`` are the training seeds behind it."""

    text: str
    unit: str
    difference: Callable[[CascadeAblation, Shift], tuple[Difference, int]]


def _gap(better: str, worse: str, measure: Measure, sign: int = 1):
    """Between two variants, in a measure; the sign is -1 where less is better."""

    def difference(study: CascadeAblation, shift: Shift) -> tuple[Difference, int]:
        seeds = study.common_seeds([better, worse])
        ours, theirs = (study.each(variant, seeds, measure) for variant in (better, worse))
        found = seed_difference(ours, theirs)
        return (found if sign > 0 else -found), len(seeds)

    return difference


def _against_best_level(variant: str, acr: Measure):
    """Between a cascade and the best of its levels, which is chosen anew in every resample."""

    def difference(study: CascadeAblation, shift: Shift) -> tuple[Difference, int]:
        seeds = study.seeds(variant)
        ours, theirs = (study.each(variant, seeds, measure) for measure in (acr, acr_alone))
        return best_difference(ours[:, None, None], theirs[:, :, None]), len(seeds)

    return difference


def _under_corruption(ours: str, theirs: str, margin: float = 0.0):
    """Between two predictors, in points over the corruptions of digits-c; the margin is what the claim allows."""

    def difference(study: CascadeAblation, shift: Shift) -> tuple[Difference, int]:
        return gap([shift.corrupted(seed) for seed in shift.seeds()], ours, theirs, margin), len(shift.seeds())

    return difference


def _other_writers(study: CascadeAblation, shift: Shift) -> tuple[Difference, int]:
    return gap([shift.whole("digits-shift")], "prediction", "clean", CLOSE), 1


RADIUS = "radius"
CLAIMS = (
    Claim(
        "A cascade by the rule of the paper certifies more than its best level",
        RADIUS,
        _against_best_level("onestep-ddpm", acr_first),
    ),
    Claim(
        "A cascade by rule max certifies more than its best level", RADIUS, _against_best_level("onestep-ddpm", acr_max)
    ),
    Claim(
        "Calibration raises the certified radius, by the rule of the paper",
        RADIUS,
        _gap("calibrated", "onestep-ddpm", acr_first),
    ),
    Claim("The same by rule max", RADIUS, _gap("calibrated", "onestep-ddpm", acr_max)),
    Claim(
        "More than the same training without its two terms (rule max)", RADIUS, _gap("calibrated", "denoising", acr_max)
    ),
    Claim("The Brier score alone raises the radius (rule max)", RADIUS, _gap("brier-10x", "denoising", acr_max)),
    Claim("Anti-consistency alone raises it (rule max)", RADIUS, _gap("anticonsistency-10x", "denoising", acr_max)),
    Claim(
        "Anti-consistency alone lowers over-confidence",
        "points",
        _gap("anticonsistency-10x", "denoising", over_confidence, -1),
    ),
    Claim("Calibration lowers over-confidence", "points", _gap("calibrated", "onestep-ddpm", over_confidence, -1)),
    Claim(
        "A consistency model gains from calibration (rule max)",
        RADIUS,
        _gap("consistency-calibrated", "features", acr_max),
    ),
    Claim(
        f"Corrupted digits: the predictor is at most {CLOSE:g} point below the clean classifier",
        "points",
        _under_corruption("prediction", "clean", CLOSE),
    ),
    Claim(
        "Corrupted digits: the predictor is above that of a single level",
        "points",
        _under_corruption("prediction", "single"),
    ),
    Claim(
        f"Other writers: the predictor is at most {CLOSE:g} point below the clean classifier", "points", _other_writers
    ),
)


def claims_table(study: CascadeAblation, shift: Shift) -> pd.DataFrame:
    """Each claim with its difference, positive where it is as claimed, and the verdict."""
    rows = []
    for claim in CLAIMS:
        found, seeds = claim.difference(study, shift)
        verdict = found.verdict if seeds >= FEWEST_SEEDS else f"{found.verdict}, on {seeds} training seed"
        number = f"{found:.3f}" if claim.unit == RADIUS else str(found)
        rows.append({"claim": claim.text, "difference [95%]": number, "unit": claim.unit, "verdict": verdict})
    return pd.DataFrame(rows)


def before_and_after(study: CascadeAblation, sigmas: Sequence[float]) -> dict[str, LevelCounts]:
    """The cascades of the first training seed, each purifier before and after calibration."""
    return {
        purifier + suffix: study.levels(variant, 0, sigmas)
        for purifier, pair in BEFORE_AFTER.items()
        for variant, suffix in zip(pair, ("", ", calibrated"), strict=True)
    }
