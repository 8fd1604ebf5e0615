"""Reads the records of the ablations, over training seeds, and says which claims they bear out.

``<folder>/<variant>/<training seed>/`` holds a record a noise level and classifier, and ``measures.json``;
``python -m studies.ablation`` makes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from cpur.checkpoints import read_json
from cpur.compare import signed_radii
from cpur.errors import InputError
from cpur.paired import Difference, accuracy_difference, certified_shares, seed_difference
from cpur.paths import anchored, shown
from cpur.records import load_record, record_files

EPSILONS = (0.0, 0.25, 0.5, 0.75, 1.0)
FEWEST_SEEDS = 3  # for a verdict
CLASSIFIER = "digits-cnn"

Named = Mapping[str, tuple[str, str]]  # a row's name: variant and classifier


@dataclass(frozen=True)
class Ablation:
    """The records below a folder.

    Raises:
        InputError: a variant has no complete set of records.
    """

    folder: Path

    def seeds(self, variant: str) -> list[int]:
        """Training seeds of a variant, of those that are complete."""
        folders = sorted((anchored(self.folder) / variant).glob("*/"), key=lambda folder: int(folder.name))
        found = [int(folder.name) for folder in folders if record_files(folder)]
        if not found:
            raise InputError(
                f"there is no record of {variant} in {shown(anchored(self.folder))}: make them with "
                "`python -m studies.ablation`"
            )
        return found

    def common_seeds(self, variants: Sequence[str]) -> list[int]:
        """Training seeds that all these variants have."""
        return sorted(set.intersection(*(set(self.seeds(variant)) for variant in variants)))

    def radii(
        self, variant: str, seeds: Sequence[int], classifier: str = CLASSIFIER
    ) -> Float[np.ndarray, "seeds sigmas images"]:
        """Certified radii, -1 where the prediction is wrong or abstains; noise levels in ascending order."""
        return np.stack([_radii(anchored(self.folder) / variant / str(seed), classifier) for seed in seeds])

    def measures(self, variant: str, column: str, seeds: Sequence[int], sigmas: Sequence[float] = ()) -> np.ndarray:
        """A measure by training seed and noise seed, averaged over the noise levels asked for (none: all)."""
        rows = []
        for seed in seeds:
            frame = pd.DataFrame(read_json(anchored(self.folder) / variant / str(seed) / "measures.json")["rows"])
            kept = frame[frame.sigma.isin(sigmas)] if sigmas else frame
            rows.append(kept.groupby("seed")[column].mean().to_numpy())
        return np.stack(rows)


@cache
def _radii(folder: Path, classifier: str) -> np.ndarray:
    records = [load_record(file) for file in record_files(folder)]
    chosen = [(h["config"]["sigma"], frame) for h, frame in records if h["config"]["classifier"] == classifier]
    if not chosen:
        raise InputError(f"{shown(folder)} has no record with the classifier {classifier}")
    return np.stack([signed_radii(frame) for _, frame in sorted(chosen, key=lambda pair: pair[0])])


def accuracy_table(ablation: Ablation, rows: Named, baseline: str) -> pd.DataFrame:
    """Certified accuracy in percent, best over sigma, mean over training seeds; the difference from the first row.

    Rows are compared on the images that all of them have. The last column is the paired difference from ``baseline``,
    averaged over epsilons, with its 95% interval.
    """
    seeds = ablation.common_seeds([variant for variant, _ in rows.values()])
    radii = {name: ablation.radii(variant, seeds, classifier) for name, (variant, classifier) in rows.items()}
    images = min(found.shape[2] for found in radii.values())
    radii = {name: found[..., :images] for name, found in radii.items()}
    table = {}
    for name, found in radii.items():
        shares = certified_shares(found, EPSILONS)
        cells = {f"eps {e:g}": f"{mean:.1f}" for e, mean in zip(EPSILONS, shares.mean(0), strict=True)}
        difference = "" if name == baseline else str(accuracy_difference(found, radii[baseline], EPSILONS))
        table[name] = cells | {"mean": f"{shares.mean():.2f}", f"minus {baseline}": difference}
    frame = pd.DataFrame(table).T
    frame.attrs["caption"] = f"training seeds: {len(seeds)}, test images: {images}"
    return frame


def measure_table(
    ablation: Ablation, variants: Sequence[str], column: str, baseline: str, sigmas: Sequence[float] = (0.25, 0.5, 1.0)
) -> pd.DataFrame:
    """A measure at each noise level, mean over training and noise seeds, and the difference from a variant."""
    seeds = ablation.common_seeds(variants)
    table = {}
    for name in variants:
        by_sigma = {f"sigma {s:g}": f"{ablation.measures(name, column, seeds, [s]).mean():.3f}" for s in sigmas}
        ours, theirs = (ablation.measures(variant, column, seeds) for variant in (name, baseline))
        table[name] = by_sigma | {f"minus {baseline}": "" if name == baseline else str(seed_difference(ours, theirs))}
    return pd.DataFrame(table).T


@dataclass(frozen=True)
class Claim:
    """A claim of the paper as a difference that it says is positive."""

    text: str
    better: str
    worse: str
    column: str | None = None  # of the measures, where less is better; None is certified accuracy

    def difference(self, ablation: Ablation) -> tuple[Difference, int]:
        """The difference and the number of training seeds behind it."""
        seeds = ablation.common_seeds([self.better, self.worse])
        if self.column is None:
            ours, theirs = (ablation.radii(variant, seeds) for variant in (self.better, self.worse))
            return accuracy_difference(ours, theirs, EPSILONS), len(seeds)
        ours, theirs = (ablation.measures(variant, self.column, seeds) for variant in (self.better, self.worse))
        return seed_difference(theirs, ours), len(seeds)


CLAIMS = (
    Claim("On the manifold: nearer to unseen images than one-step DDPM", "consistency", "onestep-ddpm", "unseen"),
    Claim("On the manifold: lower FID than one-step DDPM", "consistency", "onestep-ddpm", "FID"),
    Claim("Lower transport than one-step DDPM", "consistency", "onestep-ddpm", "T"),
    Claim("Fine-tuning lowers transport", "features", "consistency", "T"),
    Claim("Lower FID with features than with l1", "features", "l1", "FID"),
    Claim("Lower FID with features than with l2", "features", "l2", "FID"),
    Claim("Certifies more than one-step DDPM, at equal cost", "consistency", "onestep-ddpm"),
    Claim("The same after fine-tuning", "features", "onestep-ddpm"),
    Claim("Fine-tuning with features helps", "features", "consistency"),
    Claim("Fine-tuning with l1 hurts", "consistency", "l1"),
    Claim("Fine-tuning with l2 hurts", "consistency", "l2"),
    Claim("Discrete sigmas are better than continuous ones", "features", "continuous"),
    Claim("Tuning the classifier is better than tuning the purifier", "classifier", "features"),
    Claim("Tuning both is better than tuning the classifier", "both", "classifier"),
    Claim("Certifies more than Diffusion Calibration", "features", "calibrated"),
)


UNDECIDABLE = {
    "LPIPS itself gives the lowest FID and the highest certified accuracy": "LPIPS fits photographs",
    "The same order on ImageNet-64": "needs ImageNet",
}


def claims_table(ablation: Ablation, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Each claim with its difference, positive where it is as claimed, and the verdict."""
    rows = []
    for claim in claims:
        difference, seeds = claim.difference(ablation)
        verdict = difference.verdict if seeds >= FEWEST_SEEDS else f"undecided: {seeds} of {FEWEST_SEEDS} seeds"
        unit = "points" if claim.column is None else claim.column
        rows.append({"claim": claim.text, "difference [95%]": str(difference), "unit": unit, "verdict": verdict})
    for text, reason in UNDECIDABLE.items():
        row = {"claim": text, "difference [95%]": "", "unit": reason, "verdict": "not decidable on digits"}
        rows.append(row)
    return pd.DataFrame(rows)


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


def deciding_commands(claim: Claim) -> list[str]:
    """What would decide a claim on CIFAR-10, once for every training seed; the folders are the reader's own."""
    both = (claim.better, claim.worse)
    tuned = [
        f"papermill notebooks/finetune.ipynb runs/{name}-0.ipynb -p preset cifar10 -p dataset cifar10 "
        f"-p checkpoint checkpoints/{START.get(name, 'cd')} -p seed 0 -p device cuda -p num_images 500 -p n 10000 "
        f"-p out runs/{name}-0 {TUNING[name]}"
        for name in both
        if name in TUNING
    ]
    if claim.column is None:
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
        commands = "\n".join(deciding_commands(claim)).replace(" -", " \\\n  -")
        groups.setdefault(commands, []).append(f"- {claim.text}")
    return "\n".join("\n".join(texts) + f"\n\n```\n{commands}\n```\n" for commands, texts in groups.items())
