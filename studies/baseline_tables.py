"""The table against methods without diffusion, from records: every setting, the best one, and who wins where."""

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from cpur.accuracy import Records, average_certified_radius
from cpur.aces import combined
from cpur.baselines import TRAINED
from cpur.checkpoints import read_json
from cpur.classifiers import load_classifier
from cpur.compare import signed_radii
from cpur.config import CertifyConfig
from cpur.data import load_dataset
from cpur.engine import record_file
from cpur.figures import PALETTE, accuracy_curve, finished, subplots
from cpur.paired import accuracy_difference
from cpur.paths import anchored
from cpur.records import load_record, record_files
from cpur.tables import cells
from studies.ablation_tables import Ablation
from studies.baselines import EPSILONS, METHODS, MODELS, PURIFIED, SEEDS, SIGMAS, TITLES, Baselines, tried

COMPARED = (0.25, 0.5)  # noise levels that the ablations of the purifiers certify
VARIANTS = {"Consistency Purification": "consistency", "the same, fine-tuned": "features"}  # of the ablations


def core_classes(count: int) -> np.ndarray:
    """What the clean classifier, the core model of ACES, says of the test images."""
    with torch.inference_mode():
        return load_classifier()(load_dataset("digits").images[:count]).argmax(1).numpy()


def whole_records(method: str, records: str = "records/baselines") -> Records:
    """The records of a method at the larger n, one a noise level; of ACES, combined."""
    found = []
    for sigma in SIGMAS:
        parts = [load_record(file) for file in Baselines(records=records).files(method, sigma)]
        found.append(combined(*parts, core_classes(len(parts[0][1]))) if method == "aces" else parts[0])
    return found


def purified_records(checkpoint: str | None, records: str = "records") -> Records:
    """Those of Consistency Purification."""
    shared = {"purifier": "consistency", "checkpoint": checkpoint, "num_images": 500, "records_dir": records}
    return [load_record(record_file(CertifyConfig(sigma=sigma, **shared))) for sigma in SIGMAS]


def all_records(records: str = "records") -> dict[str, Records]:
    """Every method with its records, one a noise level."""
    ours = {name: purified_records(checkpoint, records) for name, checkpoint in PURIFIED.items()}
    return {TITLES[method]: whole_records(method, f"{records}/baselines") for method in METHODS} | ours


def settings_table(found: dict[str, Records]) -> pd.DataFrame:
    """Certified accuracy in percent with its interval at every noise level, ACR, and the seconds of training.

    The last column marks the noise level of each method that certified most on validation images.
    """
    best = best_sigmas()
    rows = {}
    for name, records in found.items():
        for header, frame in records:
            sigma = header["config"]["sigma"]
            rows[name, f"{sigma:g}"] = {
                **cells(header, frame, EPSILONS),
                "ACR": f"{average_certified_radius(header, frame):.3f}",
                "training (s)": seconds_of(name, sigma),
                "best on validation": "x" if best[name] == sigma else "",
            }
    table = pd.DataFrame(rows).T
    table.index.names = ["method", "sigma"]
    return table


def best_table(found: dict[str, Records]) -> pd.DataFrame:
    """The rows of the noise level that certified most on validation images, one a method."""
    table = settings_table(found)
    return table[table["best on validation"] == "x"].drop(columns="best on validation")


def best_curves(found: dict[str, Records]) -> Figure:
    """Certified accuracy against the radius, each method at the noise level that did best on validation images."""
    best, (figure, axes) = best_sigmas(), subplots(figsize=(6.4, 4.2))
    for (name, records), color in zip(found.items(), sns.color_palette(PALETTE), strict=False):
        header, frame = next(record for record in records if record[0]["config"]["sigma"] == best[name])
        accuracy_curve(axes, header, frame, color=color, label=f"{name}, σ = {best[name]:g}")
    axes.set(xlabel="radius ε ($\\ell_2$ of [0, 1] pixels)", ylabel="certified accuracy (%)", ylim=(0, 100))
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return finished(figure)


def best_sigmas() -> dict[str, float]:
    """The noise level of each method with the highest mean certified accuracy on validation images."""
    table = tried()
    best = table.loc[table.groupby("method", sort=False)["mean over eps"].idxmax()]
    return {TITLES.get(row.method, row.method): row.sigma for row in best.itertuples()}


def seconds_of(name: str, sigma: float) -> str:
    """What training took, as the cards of the models say; on one thread."""
    folders = {"Randomized Smoothing": "gaussian", "Consistency Regularization": "consistency", "ACES": "consistency"}
    if name in folders:
        return f"{read_json(anchored(MODELS) / f'{folders[name]}-s{sigma:g}' / TRAINED)['seconds']:.0f}"
    parts = ["digits-cnn", "digits-edm", "digits-consistency"]
    total = sum(_card_seconds(anchored("models") / part) for part in parts)
    return f"{total:.0f}" if name == "Consistency Purification" else f"{total:.0f} + tuning"


def _card_seconds(folder: Path) -> float:
    words = (folder / "README.md").read_text().split()
    return float(words[words.index("s") - 1])


def seeds_radii(method: str, records: str = "records/baselines") -> np.ndarray:
    """Radii over training seeds and the compared noise levels, -1 where wrong: ``seeds sigmas images``."""
    stacked = []
    for seed in SEEDS:
        found = [load_record(file) for file in record_files(anchored(records) / method / str(seed))]
        levels = {}
        for header, frame in found:
            levels.setdefault(header["config"]["sigma"], []).append((header, frame))
        row = []
        for sigma in COMPARED:
            parts = sorted(levels[sigma], key=lambda part: part[0]["config"]["classifier"] != "digits-cnn")
            whole = combined(*parts, core_classes(len(parts[0][1]))) if len(parts) == 2 else parts[0]
            row.append(signed_radii(whole[1]))
        stacked.append(np.stack(row))
    return np.stack(stacked)


def wins_table(records: str = "records") -> pd.DataFrame:
    """At each radius, the paired difference of Consistency Purification from each method, over training seeds.

    In percentage points, each side at its best of the compared noise levels, which is chosen anew in every resample.
    """
    ablation = Ablation(Path(records) / "ablation")
    rows = {}
    for ours, variant in VARIANTS.items():
        radii = ablation.radii(variant, SEEDS)
        for method in METHODS:
            theirs = seeds_radii(method, f"{records}/baselines")
            columns = {f"eps {e:g}": [e] for e in EPSILONS} | {"mean over eps": list(EPSILONS)}
            found = {name: accuracy_difference(radii, theirs, wanted) for name, wanted in columns.items()}
            rows[f"{ours} minus {TITLES[method]}"] = {
                name: f"{difference:.1f} {_winner(difference)}" for name, difference in found.items()
            }
    return pd.DataFrame(rows).T


def _winner(difference) -> str:
    return {"held": "wins", "did not hold": "loses", "undecided": "open"}[difference.verdict]
