"""The claims of Multi-scale Diffusion Denoised Smoothing (Jeong & Shin 2023), each with what the records say."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from cpur.errors import InputError
from cpur.paired import best_difference, seed_difference
from studies.ablation import Workbench
from studies.cascade_tables import (
    CascadeAblation,
    Measure,
    acr_alone,
    acr_at,
    acr_first,
    acr_max,
    acr_released,
    at_threshold,
    levels_visited,
    over_confidence,
    over_smoothing,
    right_votes,
    strongest_fails,
)
from studies.findings import OURS, Claim, Measured, elsewhere, examined, proven, table
from studies.shift import CLOSE, Shift, gap

HIGH = 0.7  # a threshold p0 above one half
CALIBRATION, SHIFTED = "python -m studies.calibration", "python -m studies.shift"
ALPHA = 0.001  # of every record of the calibration study


def _gap(ours: tuple[str, Measure], theirs: tuple[str, Measure], sign: int = 1):
    """Between two measures of variants, the first less the second; the sign is -1 where less is better."""

    def found(sources: Any) -> Measured:
        study: CascadeAblation = sources.cascades
        seeds = study.common_seeds([ours[0], theirs[0]])
        values = [study.each(variant, seeds, measure) for variant, measure in (ours, theirs)]
        difference = seed_difference(*values)
        return Measured(difference if sign > 0 else -difference, len(seeds), values[0].shape[1], Workbench.n, ALPHA)

    return found


def _between(better: str, worse: str, measure: Measure, sign: int = 1):
    return _gap((better, measure), (worse, measure), sign)


def _against_best_level(variant: str, acr: Measure):
    """Between a cascade and the best of its levels, which is chosen anew in every resample."""

    def found(sources: Any) -> Measured:
        study: CascadeAblation = sources.cascades
        seeds = study.seeds(variant)
        ours, theirs = (study.each(variant, seeds, measure) for measure in (acr, acr_alone))
        difference = best_difference(ours[:, None, None], theirs[:, :, None])
        return Measured(difference, len(seeds), ours.shape[1], Workbench.n, ALPHA)

    return found


def _few_levels(variant: str, at_most: float):
    """How far the levels that a cascade asks stay below a number."""

    def found(sources: Any) -> Measured:
        study: CascadeAblation = sources.cascades
        seeds = study.seeds(variant)
        asked = study.each(variant, seeds, levels_visited)
        return Measured(seed_difference(np.full_like(asked, at_most), asked), len(seeds), asked.shape[1], Workbench.n)

    return found


def _under_corruption(ours: str, theirs: str, margin: float = 0.0):
    """Between two predictors, in points over the corruptions of digits-c; the margin is what the claim allows."""

    def found(sources: Any) -> Measured:
        frames = [sources.shift.corrupted(seed) for seed in sources.shift.seeds()]
        if not frames:
            raise InputError(f"there are no predictions in {sources.shift.folder}; {SHIFTED} makes them")
        images = frames[0]["index"].nunique()
        return Measured(gap(frames, ours, theirs, margin), len(frames), images, sources.shift.votes)

    return found


def _other_writers(sources: Any) -> Measured:
    frame = sources.shift.whole("digits-shift")
    return Measured(gap([frame], "prediction", "clean", CLOSE), 1, len(frame), sources.shift.votes)


def _radius(text: str, source: str, find: Callable) -> Claim:
    return Claim(text, source, "radius", CALIBRATION, find)


def _points(text: str, source: str, find: Callable, command: str = CALIBRATION) -> Claim:
    return Claim(text, source, "points", command, find)


DDPM, TUNED = "onestep-ddpm", "calibrated"
VOTES, HIGHER_VOTES = (DDPM, right_votes), (DDPM, at_threshold(right_votes, HIGH))
CLAIMS = (
    proven(
        "No certificate of a cascade is false, for p0 of one half and above",
        "theorem 3.1",
        True,
        "test_cascade.py::test_no_exact_certificate_is_false",
    ),
    proven(
        "The same formula is a certificate for any p0",
        "released code",
        False,
        "test_cascade.py::test_without_the_guard_a_small_threshold_is_not_sound",
    ),
    _radius(
        "A cascade by the rule of the paper certifies more than its best level",
        "abstract",
        _against_best_level(DDPM, acr_first),
    ),
    _points(
        "A cascade fails to halt less often than its strongest level",
        "author response",
        _gap((DDPM, strongest_fails), (DDPM, over_smoothing)),
    ),
    Claim(
        "A cascade asks at most 1.5 of three levels on average",
        "author response",
        "levels",
        CALIBRATION,
        _few_levels(DDPM, 1.5),
    ),
    _points(
        f"p0 = {HIGH:g} is more accurate than 0.5 (abstaining is wrong)", "appendix E.2", _gap(HIGHER_VOTES, VOTES)
    ),
    _radius(
        f"p0 = {HIGH:g} certifies smaller radii than 0.5",
        "appendix E.2",
        _gap((DDPM, acr_first), (DDPM, at_threshold(acr_at, HIGH))),
    ),
    _radius(
        "Calibration raises the certified radius, by the rule of the paper",
        "abstract",
        _between(TUNED, DDPM, acr_first),
    ),
    _radius(
        "The Brier score alone raises the radius (rule max)",
        "author response",
        _between("brier-10x", "denoising", acr_max),
    ),
    _radius(
        "Anti-consistency alone raises the radius (rule max)",
        "ablation of the terms",
        _between("anticonsistency-10x", "denoising", acr_max),
    ),
    _points(
        "Anti-consistency alone lowers over-confidence",
        "author response",
        _between("anticonsistency-10x", "denoising", over_confidence, -1),
    ),
    _points("Calibration lowers over-confidence", "author response", _between(TUNED, DDPM, over_confidence, -1)),
    _points(
        f"Corrupted digits: the predictor is at most {CLOSE:g} point below the clean classifier",
        "abstract; CIFAR-10-C",
        _under_corruption("prediction", "clean", CLOSE),
        SHIFTED,
    ),
    _points(
        "Corrupted digits: the predictor is above that of a single level",
        "CIFAR-10-C",
        _under_corruption("prediction", "single"),
        SHIFTED,
    ),
    _points(
        f"Other writers: the predictor is at most {CLOSE:g} point below the clean classifier",
        "abstract; CIFAR-10.1",
        _other_writers,
        SHIFTED,
    ),
    elsewhere(
        "The same on ImageNet, ImageNet-A and ImageNet-R",
        "table 2",
        "needs ImageNet",
        "papermill notebooks/multiscale.ipynb runs/cascade.ipynb -p dataset imagenet",
    ),
    elsewhere(
        "Tuning the classifier too raises the radius further",
        "author response, table S1",
        "no record has both",
        "papermill notebooks/finetune.ipynb runs/both.ipynb -p purifier onestep-ddpm -p loss l2 -p train both "
        "-p brier 0.01 -p anticonsistency 0.01",
    ),
)

# What this project adds to the paper.
OWN = (
    _radius("A cascade by rule max certifies more than its best level", OURS, _against_best_level(DDPM, acr_max)),
    _radius("Rule max certifies more than the rule of the paper", OURS, _gap((DDPM, acr_max), (DDPM, acr_first))),
    _radius("Rule max certifies more than the released statistics", OURS, _gap((DDPM, acr_max), (DDPM, acr_released))),
    _radius("Calibration raises the certified radius by rule max", OURS, _between(TUNED, DDPM, acr_max)),
    _radius(
        "Calibration certifies more than the same training without its terms (rule max)",
        OURS,
        _between(TUNED, "denoising", acr_max),
    ),
    _radius(
        "A consistency model gains from calibration (rule max)",
        OURS,
        _between("consistency-calibrated", "features", acr_max),
    ),
    # one network call a sample, as one-step DDPM's
    _radius(
        "The one-step cascade: consistency models certify more than one-step DDPM",
        OURS,
        _between("consistency", DDPM, acr_max),
    ),
    _radius(
        "The one-step cascade, fine-tuned, certifies more than one-step DDPM",
        OURS,
        _between("features", DDPM, acr_max),
    ),
    _radius(
        "The one-step cascade, fine-tuned, certifies more than its best level",
        OURS,
        _against_best_level("features", acr_max),
    ),
)


def claims_table(study: CascadeAblation, shift: Shift) -> pd.DataFrame:
    """The claims of the paper and what this project adds to them, each with its difference and the verdict."""
    return table(examined([*CLAIMS, *OWN], SimpleNamespace(cascades=study, shift=shift)))
