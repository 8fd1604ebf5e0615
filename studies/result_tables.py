"""The tables of both papers, with what finds our rows of them."""

from studies.ablation import MEASURED_SIGMAS
from studies.baselines import TITLES
from studies.cascade_claims import CALIBRATION, DDPM, SHIFTED
from studies.cascade_tables import at_threshold, by_first, by_max, levels_visited, radii_at, single_radii
from studies.consistency_claims import ABLATION, BASELINES, RECORDS, Gap
from studies.own_claims import sampled_cost
from studies.result_rows import (
    EPS,
    ablated,
    asked,
    baseline,
    cascaded,
    found_by,
    measured,
    nowhere,
    of_levels,
    predicted,
    recorded,
    replayed,
)
from studies.results import Result

SIGMAS = tuple(f"sigma {sigma:g}" for sigma in MEASURED_SIGMAS)
CP, TUNED = "Consistency Purification", "the same, fine-tuned"
LOSSES = {"not tuned": "consistency", "l1": "l1", "l2": "l2", "LPIPS (ours: features)": "features"}
THRESHOLDS = (0.5, 0.6, 0.7, 0.8)
SUBSETS = ((0.25, 0.5), (0.25, 1.0), (0.25, 0.5, 1.0))
LI, JEONG = "Li et al. (2024)", "Jeong & Shin (2023)"
COST, FIRST = "levels asked", "rule of the paper"
IMAGENET64 = (
    "cpur certify --dataset imagenet64 --root DATA --subset every-100 --num-images 500 --purifier consistency "
    "--checkpoint CHECKPOINT --sigma 0.15 --records-dir records"
)
IMAGENET = "papermill notebooks/multiscale.ipynb runs/cascade.ipynb -p dataset imagenet -p root DATA"


def _names(sigmas: tuple[float, ...]) -> str:
    return ", ".join(f"{sigma:g}" for sigma in sigmas)


CONSISTENCY = (
    Result(
        "cp-main",
        LI,
        "Certified accuracy in percent, best over sigma",
        "Table 2, CIFAR-10",
        "CIFAR-10",
        EPS,
        {
            "one-step DDPM": recorded("onestep-ddpm"),
            "one-step EDM": recorded("onestep-edm"),
            "PF-ODE EDM": recorded("pf-ode"),
            CP: recorded("consistency"),
            TUNED: recorded("consistency", tuned=True),
        },
        RECORDS,
    ),
    Result(
        "cp-headline",
        LI,
        "Points of certified accuracy, mean over radii",
        "text",
        "CIFAR-10",
        ("points",),
        {"Consistency Purification, tuned, less one-step DDPM": found_by(Gap("features", DDPM), "points")},
        ABLATION,
    ),
    Result(
        "cp-imagenet64",
        LI,
        "Certified accuracy in percent, best over sigma",
        "results on ImageNet-64, section 5",
        "ImageNet-64",
        EPS,
        {
            "one-step DDPM": recorded("onestep-ddpm", datasets=("imagenet64",)),
            CP: recorded("consistency", datasets=("imagenet64",)),
            TUNED: recorded("consistency", tuned=True, datasets=("imagenet64",)),
        },
        IMAGENET64,
    ),
    Result(
        "cp-fid",
        LI,
        "FID of purified against clean test images (ours: on 64 features of a small network)",
        "Table 1",
        "CIFAR-10",
        SIGMAS,
        {"one-step DDPM": measured(DDPM, "FID", MEASURED_SIGMAS)}
        | {name: measured(variant, "FID", MEASURED_SIGMAS) for name, variant in LOSSES.items()},
        ABLATION,
    ),
    Result(
        "cp-transport",
        LI,
        "Transport: mean distance of an image from its purification",
        "Figure 2",
        "CIFAR-10",
        SIGMAS,
        {
            "one-step DDPM": measured(DDPM, "T", MEASURED_SIGMAS),
            CP: measured("consistency", "T", MEASURED_SIGMAS),
            TUNED: measured("features", "T", MEASURED_SIGMAS),
        },
        ABLATION,
        digits=3,
    ),
    Result(
        "cp-baselines",
        LI,
        "Methods without diffusion: certified accuracy in percent, best over sigma",
        "Table 3",
        "CIFAR-10",
        EPS,
        {TITLES[method]: baseline(method) for method in TITLES}
        | {f"{CP}, fine-tuned": recorded("consistency", tuned=True)},
        BASELINES,
    ),
    Result(
        "cp-losses",
        LI,
        "Losses of fine-tuning: certified accuracy in percent, best over sigma",
        "Table 4",
        "CIFAR-10",
        EPS,
        {name: ablated(variant) for name, variant in LOSSES.items()},
        ABLATION,
    ),
    Result(
        "cp-noise",
        LI,
        "Noise levels of fine-tuning: certified accuracy in percent, best over sigma",
        "Table 5",
        "CIFAR-10",
        EPS,
        {"a set of levels": ablated("features"), "all between 0 and 1": ablated("continuous")},
        ABLATION,
    ),
    Result(
        "cp-classifiers",
        LI,
        "Classifiers, and Diffusion Calibration: certified accuracy in percent, best over sigma",
        "Table 6",
        "CIFAR-10",
        EPS,
        {"Diffusion Calibration, CNN": ablated("calibrated")}
        | {
            f"{name}, {classifier}": ablated(variant, f"digits-{classifier.lower()}")
            for classifier in ("CNN", "MLP", "ViT")
            for name, variant in {"one-step DDPM": DDPM, "tuned": "features"}.items()
        },
        ABLATION,
    ),
    Result(
        "cp-strategies",
        LI,
        "What is tuned: certified accuracy in percent, best over sigma",
        "Table 7",
        "CIFAR-10",
        EPS,
        {
            "purifier (DM-FT)": ablated("features"),
            "classifier (CLS-FT)": ablated("classifier"),
            "both": ablated("both"),
        },
        ABLATION,
    ),
    Result(
        "cp-steps",
        LI,
        "Sampling steps, at equal n: calls of the network, certified accuracy in percent, best over sigma",
        "Table 2, one step and PF-ODE",
        "CIFAR-10",
        ("calls", *EPS),
        {
            "PF-ODE EDM": recorded("pf-ode", n=1000, num_images=100),
            "one-step EDM": recorded("onestep-edm", n=1000, num_images=100),
            "one-step DDPM": recorded("onestep-ddpm", n=1000, num_images=100),
            CP: recorded("consistency", n=1000, num_images=100),
        },
        RECORDS,
    ),
)

CASCADES = (
    Result(
        "mdds-certified",
        JEONG,
        "Certified accuracy in percent and ACR; levels 0.25, 0.5, 1; one-step DDPM",
        "Table 1",
        "CIFAR-10",
        (*EPS, "ACR"),
        {f"{sigma:g} alone": cascaded(DDPM, single_radii, k) for k, sigma in enumerate(MEASURED_SIGMAS)}
        | {
            f"cascade, {FIRST}": cascaded(DDPM, by_first),
            "cascade, rule max": cascaded(DDPM, by_max),
            f"cascade, {FIRST}, calibrated": cascaded("calibrated", by_first),
            "cascade, rule max, calibrated": cascaded("calibrated", by_max),
        },
        CALIBRATION,
    ),
    Result(
        "mdds-shift",
        JEONG,
        "Accuracy in percent, not certified",
        "Table 1, CIFAR-10, -10.1 and -C",
        "CIFAR-10",
        ("clean", "corrupted", "other writers"),
        {
            "clean classifier": predicted("clean"),
            "predictor of one level": predicted("single"),
            "predictor of the cascade": predicted("prediction"),
        },
        SHIFTED,
    ),
    Result(
        "mdds-imagenet",
        JEONG,
        "Accuracy in percent, not certified, on ImageNet, -A and -R",
        "Table 2",
        "ImageNet",
        ("clean", "ImageNet-A", "ImageNet-R"),
        {"predictor of the cascade": nowhere},
        IMAGENET,
    ),
    Result(
        "mdds-terms",
        JEONG,
        "Calibration, term by term: certified accuracy by rule max, over-confidence in percent, ACR",
        "ablation of the two terms",
        "CIFAR-10",
        (*EPS, "over-confident", "ACR"),
        {
            "not tuned": cascaded(DDPM, by_max),
            "tuned without the terms": cascaded("denoising", by_max),
            "both terms": cascaded("calibrated", by_max),
            "both, ten times": cascaded("calibrated-10x", by_max),
            "Brier alone, ten times": cascaded("brier-10x", by_max),
            "anti-consistency alone, ten times": cascaded("anticonsistency-10x", by_max),
        },
        CALIBRATION,
    ),
    Result(
        "mdds-threshold",
        JEONG,
        "The threshold p0: certified accuracy in percent and ACR, by the rule of the paper",
        "appendix E.2",
        "CIFAR-10",
        (*EPS, "ACR"),
        {f"p0 = {p0:g}": cascaded(DDPM, at_threshold(radii_at, p0)) for p0 in THRESHOLDS},
        CALIBRATION,
    ),
    Result(
        "mdds-levels",
        JEONG,
        "Number of levels: certified accuracy in percent and ACR",
        "author response",
        "CIFAR-10",
        (*EPS, "ACR"),
        {f"{sigma:g} alone": cascaded(DDPM, single_radii, k) for k, sigma in enumerate(MEASURED_SIGMAS)}
        | {_names(sigmas): of_levels(DDPM, sigmas, "first") for sigmas in SUBSETS}
        | {f"{_names(sigmas)}, rule max": of_levels(DDPM, sigmas, "max") for sigmas in SUBSETS},
        CALIBRATION,
    ),
    Result(
        "mdds-cost",
        JEONG,
        "Cost of a cascade of three, in levels",
        "author response",
        "CIFAR-10",
        (COST,),
        {
            "released procedure": asked(DDPM, COST, levels_visited),
            "steered": replayed(COST),
            "steered, n = 10,000": found_by(sampled_cost, COST),
        },
        CALIBRATION,
        digits=2,
    ),
)
TABLES = (*CONSISTENCY, *CASCADES)
