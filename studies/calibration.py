"""The ablation of diffusion calibration: each term alone over training seeds, its weights on validation images.

``records/calibration/<variant>/<training seed>/`` holds a record a noise level; ``weights.csv`` shows how the weights
were chosen.
"""

from functools import partial

import numpy as np
import pandas as pd
import tyro

from cpur import load_classifier, load_purifier, paths
from cpur.classifiers import BaseClassifier
from cpur.data import load_dataset
from cpur.finetune import Finetuning
from cpur.multiscale import LevelCounts, collective_objective, error_split
from cpur.progress import bar
from cpur.purifiers import Purifier
from cpur.recipes import FinetuneConfig
from cpur.sampling import Draw, Sampler, Task, once
from studies.ablation import LAMBDA, A, Variant, Workbench, calibrated

SIGMAS = (0.25, 0.5, 1.0)
WEIGHTS = "weights.csv"
STRONG = 10 * LAMBDA["l2"]

VARIANTS = {
    "onestep-ddpm": Variant("onestep-ddpm"),
    "denoising": calibrated(lam=0.0),
    "calibrated": calibrated(),
    # Ten times the chosen lambda, where a term has more to say.
    "calibrated-10x": calibrated(lam=STRONG),
    "brier-10x": calibrated(lam=STRONG, a=0.0),
    "anticonsistency-10x": Variant("onestep-ddpm", {"loss": "l2", "anticonsistency": STRONG * A}),
    "consistency": Variant(),
    "features": calibrated("consistency", lam=0.0),
    "consistency-calibrated": calibrated("consistency"),
}
# Certified for the first training seed, at the levels .12, .25, .5 too: each purifier before and after.
BEFORE_AFTER = {
    "onestep-ddpm": ("onestep-ddpm", "calibrated"),
    "onestep-edm": ("onestep-edm", "edm-calibrated"),
    "consistency": ("consistency", "consistency-calibrated"),
}
EDM = {"onestep-edm": Variant("onestep-edm"), "edm-calibrated": calibrated("onestep-edm")}

# lambda and a that were tried; None is no fine-tuning.
TRIED = {
    "onestep-ddpm": (None, (0.0, 0.0), (0.1, 0.0), (0.01, 1.0), (0.1, 1.0), (1.0, 1.0), (0.1, 10.0)),
    "consistency": (None, (0.0, 0.0), (0.1, 1.0), (1.0, 1.0)),
}


def weights_table(work: str = "runs/weights", n: int = 500, num_images: int = 200) -> pd.DataFrame:
    """The collective objective and the errors of the cascade on validation images, for each pair of weights."""
    tried = [(purifier, weights) for purifier, pairs in TRIED.items() for weights in pairs]
    rows = []
    for purifier, weights in bar(tried, 0, len(tried), unit="model"):
        checkpoint, names = None, {"lambda": None, "a": None}
        if weights is not None:
            names = dict(zip(names, weights, strict=True))
            values = calibrated(purifier, *weights).finetune
            out = f"{work}/{purifier}-{weights[0]:g}-{weights[1]:g}"
            checkpoint = Finetuning(FinetuneConfig(purifier=purifier, **values, out=out)).run().purifier
        levels = validation_counts(load_purifier(purifier, checkpoint), n, num_images)
        errors = error_split(levels).loc["cascade", ["over-smoothing", "over-confidence"]]
        rows.append({"purifier": purifier, **names, "J": collective_objective(levels).mean(), **errors})
    return pd.DataFrame(rows)


def validation_counts(purifier: Purifier, n: int, num_images: int) -> LevelCounts:
    """The counts of validation images at each noise level; each level selects the class of its own counts."""
    data, stacked = load_dataset("digits", "val"), []
    for sigma in SIGMAS:
        base = BaseClassifier(purifier, load_classifier(), sigma).eval()
        tasks = (Task(i, data[i][0], once(Draw("estimation", n))) for i in range(num_images))
        done = sorted(Sampler(base, data.num_classes, (sigma,), 0, 250).run(tasks), key=lambda one: one.index)
        stacked.append([one.result for one in done])
    counts = np.array(stacked).transpose(1, 0, 2)
    labels = data.labels[:num_images].numpy()
    return LevelCounts({}, [], SIGMAS, np.arange(num_images), labels, counts.argmax(-1), counts)


def main(records: str = "records/calibration", models: str = "runs/models", weights: bool = False) -> None:
    """Makes the records of the calibration ablation where they are missing: three hours on two cores.

    Args:
        records: where they are put.
        models: holds the models of each further training seed, in a folder of its number; missing ones are trained.
        weights: instead, tries the weights on validation images (an hour on one core).
    """
    if weights:
        folder = paths.anchored(records)
        folder.mkdir(parents=True, exist_ok=True)
        weights_table().round(4).to_csv(folder / WEIGHTS, index=False)
        return
    shared = {"models": models, "records": records, "measures": False}
    first = EDM | {name: VARIANTS[name] for pair in BEFORE_AFTER.values() for name in pair if name in VARIANTS}
    for bench in (
        Workbench(first, (0,), (0.12, *SIGMAS), **shared),
        Workbench(VARIANTS, sigmas=SIGMAS, **shared),
    ):
        bench.make_all(partial(bar, unit="variant"))


if __name__ == "__main__":
    tyro.cli(main)
