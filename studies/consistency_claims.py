"""The claims of Consistency Purification (Li et al. 2024), each with what the records say about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from cpur.compare import signed_radii
from cpur.errors import InputError
from cpur.paired import Difference, accuracy_difference, seed_difference
from cpur.paths import anchored, shown
from cpur.records import record_files
from studies.ablation import Workbench
from studies.ablation_tables import CLASSIFIER, EPSILONS, Ablation
from studies.baseline_tables import VARIANTS as PURIFIED
from studies.baseline_tables import seeds_radii
from studies.baselines import SEEDS
from studies.findings import Claim, Measured, elsewhere, examined, proven, table
from studies.record_index import find, like

ABLATION, BASELINES, RECORDS = (f"python -m studies.{name}" for name in ("ablation", "baselines", "records"))
ALPHA = 0.001  # of every record of the ablations
HEADLINE = 5.0  # points over one-step DDPM that the paper reports on average


@dataclass(frozen=True)
class Gap:
    """The difference between two variants of the ablation, and the number of training seeds behind it.

    Args:
        better: the variant that the claim says is better.
        worse: the other.
        column: of the measures, where less is better; None is certified accuracy, averaged over epsilons.
        margin: points that the claim asks for beyond 0.
        classifier: behind both.
    """

    better: str
    worse: str
    column: str | None = None
    margin: float = 0.0
    classifier: str = CLASSIFIER

    def __call__(self, sources: Any) -> Measured:
        ablation: Ablation = sources.ablation
        seeds = ablation.common_seeds([self.better, self.worse])
        if self.column is not None:
            ours, theirs = (ablation.measures(variant, self.column, seeds) for variant in (self.better, self.worse))
            return Measured(seed_difference(theirs, ours), len(seeds), Workbench.num_images)
        ours, theirs = (ablation.radii(variant, seeds, self.classifier) for variant in (self.better, self.worse))
        found = accuracy_difference(ours, theirs, EPSILONS)
        return Measured(less(found, self.margin), len(seeds), ours.shape[2], Workbench.n, ALPHA)


def less(found: Difference, margin: float) -> Difference:
    """A difference less a margin that is known exactly."""
    return Difference(found.estimate - margin, found.low - margin, found.high - margin)


def over_baseline(method: str, ours: str = "the same, fine-tuned"):
    """Consistency Purification less a method without diffusion, as the page of the baselines has it."""

    def found(sources: Any) -> Measured:
        folder = f"{sources.records}/baselines"
        for seed in SEEDS:
            if not record_files(anchored(folder) / method / str(seed)):
                raise InputError(f"there is no record in {shown(anchored(folder) / method / str(seed))}")
        radii, theirs = sources.ablation.radii(PURIFIED[ours], SEEDS), seeds_radii(method, folder)
        found = accuracy_difference(radii, theirs, EPSILONS)
        return Measured(found, len(SEEDS), radii.shape[2], Workbench.n, ALPHA)

    return found


def over_the_flow(sources: Any) -> Measured:
    """The consistency model less the probability-flow ODE, on the images that the latter has, at equal n."""
    theirs = find(sources.records, like(dataset="digits", plan="fixed", purifier="pf-ode", checkpoint=None))
    config = theirs[0][0]["config"]
    same = {key: config[key] for key in ("dataset", "plan", "n", "num_images", "checkpoint")}
    ours = find(sources.records, like(purifier="consistency", **same))
    radii = [np.stack([signed_radii(frame) for _, frame in records])[None] for records in (ours, theirs)]
    return Measured(accuracy_difference(*radii, EPSILONS), 1, config["num_images"], config["n"], config["alpha"])


def _points(text: str, source: str, better: str, worse: str, **values) -> Claim:
    return Claim(text, source, "points", ABLATION, Gap(better, worse, **values))


def _measure(text: str, source: str, better: str, worse: str, column: str) -> Claim:
    unit = {"T": "T", "FID": "FID", "unseen": "distance"}[column]
    return Claim(text, source, unit, ABLATION, Gap(better, worse, column))


CLAIMS = (
    proven(
        "An image is moved by more than r with probability T/r at most",
        "theorem 3.3",
        True,
        "test_transport.py::test_markov",
    ),
    proven(
        "Of two points, the posterior mean falls between, the flow lands on one",
        "example 3.1",
        True,
        "test_transport.py::test_two_points_give_tanh_and_sign",
    ),
    proven(
        "A consistency function moves images less than the posterior mean, for any data",
        "figure 2, read as a law",
        False,
        "test_transport.py::test_consistency_function_has_no_wasserstein_distance_and_more_transport",
    ),
    _measure(
        "On the manifold: nearer to unseen images than one-step DDPM",
        "section 3",
        "consistency",
        "onestep-ddpm",
        "unseen",
    ),
    _measure("On the manifold: lower FID than one-step DDPM", "table 1", "consistency", "onestep-ddpm", "FID"),
    _measure("Lower transport than one-step DDPM", "figure 2", "consistency", "onestep-ddpm", "T"),
    _measure("Fine-tuning lowers transport", "figure 2", "features", "consistency", "T"),
    _measure("Lower FID with features than with l1", "table 1", "features", "l1", "FID"),
    _measure("Lower FID with features than with l2", "table 1", "features", "l2", "FID"),
    _points("Certifies more than one-step DDPM, at equal cost", "table 2", "consistency", "onestep-ddpm"),
    _points("Certifies more than one-step DDPM, fine-tuned", "table 2", "features", "onestep-ddpm"),
    _points(
        f"At least {HEADLINE:g} points above one-step DDPM, fine-tuned",
        "headline",
        "features",
        "onestep-ddpm",
        margin=HEADLINE,
    ),
    _points("Certifies more than one-step EDM", "table 2", "consistency", "onestep-edm"),
    Claim("Certifies more than the PF-ODE, at 1 of 15 calls", "table 2", "points", RECORDS, over_the_flow),
    Claim("Certifies more than Randomized Smoothing", "table 3", "points", BASELINES, over_baseline("gaussian")),
    Claim(
        "Certifies more than Consistency Regularization", "table 3", "points", BASELINES, over_baseline("consistency")
    ),
    Claim("Certifies more than ACES", "table 3", "points", BASELINES, over_baseline("aces")),
    _points("Fine-tuning with features helps", "table 4", "features", "consistency"),
    _points("Fine-tuning with l1 hurts", "table 4", "consistency", "l1"),
    _points("Fine-tuning with l2 hurts", "table 4", "consistency", "l2"),
    _points("Discrete sigmas are better than continuous ones", "table 5", "features", "continuous"),
    _points("Certifies more than Diffusion Calibration", "table 6", "features", "calibrated"),
    _points(
        "Certifies more than one-step DDPM, with an MLP", "table 6", "features", "onestep-ddpm", classifier="digits-mlp"
    ),
    _points(
        "Certifies more than one-step DDPM, with a ViT", "table 6", "features", "onestep-ddpm", classifier="digits-vit"
    ),
    _points("Tuning the classifier is better than tuning the purifier", "table 7", "classifier", "features"),
    _points("Tuning both is better than tuning the classifier", "table 7", "both", "classifier"),
    elsewhere(
        "LPIPS itself gives the lowest FID and the highest certified accuracy",
        "tables 1 and 4",
        "LPIPS fits photographs",
        "papermill notebooks/finetune.ipynb runs/lpips.ipynb -p preset cifar10 -p dataset cifar10 -p loss lpips",
    ),
    elsewhere(
        "The same order on ImageNet-64",
        "section 5",
        "needs ImageNet",
        "cpur certify --dataset imagenet64 --subset every-100 --num-images 500 --purifier consistency --sigma 0.15",
    ),
)


def claims_table(ablation: Ablation) -> pd.DataFrame:
    """The claims that the ablations decide, each with its difference and the verdict."""
    decided = [claim for claim in CLAIMS if isinstance(claim.find, Gap)]
    return table(examined(decided, SimpleNamespace(ablation=ablation))).drop(columns="made by")


TUNING = {
    "l1": "-p loss l1",
    "l2": "-p loss l2",
    "features": "-p loss lpips",
    "continuous": "-p loss lpips -p continuous True",
    "classifier": "-p train classifier",
    "both": "-p train both -p loss lpips",
    "calibrated": "-p purifier onestep-ddpm -p loss l2 -p brier 0.01 -p anticonsistency 0.01",
}
START = {"calibrated": "onestep-ddpm"}  # what is tuned, where it is not the consistency model


def deciding_commands(gap: Gap) -> list[str]:
    """What would decide a claim on CIFAR-10, once for every training seed; the folders are the reader's own."""
    both = (gap.better, gap.worse)
    tuned = [
        f"papermill notebooks/finetune.ipynb runs/{name}-0.ipynb -p preset cifar10 -p dataset cifar10 "
        f"-p checkpoint checkpoints/{START.get(name, 'cd')} -p seed 0 -p device cuda -p num_images 500 -p n 10000 "
        f"-p out runs/{name}-0 {TUNING[name]}"
        for name in both
        if name in TUNING
    ]
    if gap.column is None:
        return tuned + [
            f"cpur certify --dataset cifar10 --subset every-20 --num-images 500 --purifier {name} "
            f"--checkpoint checkpoints/{name} --sigma 0.5 --device cuda"
            for name in both
            if name not in TUNING
        ]
    folders = [
        f"consistency@runs/{name}-0/purifier" if name in TUNING else f"{name}@checkpoints/{name}" for name in both
    ]
    return [
        *tuned,
        f"papermill notebooks/transport.ipynb runs/transport-0.ipynb -p dataset cifar10 -p features inception "
        f"-y 'purifiers: [{', '.join(folders)}]'",
    ]


def decisions(claims: Sequence[Claim] = CLAIMS) -> str:
    """The claims with the commands that would decide them, as Markdown; claims of the same commands together."""
    groups: dict[str, list[str]] = {}
    for claim in claims:
        if isinstance(claim.find, Gap) and claim.find.classifier == CLASSIFIER:
            commands = "\n".join(deciding_commands(claim.find)).replace(" -", " \\\n  -")
            groups.setdefault(commands, []).append(f"- {claim.text}")
    return "\n".join("\n".join(texts) + f"\n\n```\n{commands}\n```\n" for commands, texts in groups.items())
