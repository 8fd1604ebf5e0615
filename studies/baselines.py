"""The methods without diffusion on the digits: training, choices on validation images, records.

``models/baselines/<method>-s<sigma>`` holds the committed weights; ``records/baselines/<method>`` their records at
n = 10,000, and ``records/baselines/<method>/<training seed>`` those of every training seed at n = 1,000.
"""

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from torch import nn

from cpur import load_classifier, load_purifier, paths
from cpur.aces import CERTIFIED, SELECTOR, EntropySelector
from cpur.baselines import Training
from cpur.bounds import certified_radius
from cpur.checkpoints import write_json
from cpur.classifiers import BaseClassifier
from cpur.config import CertifyConfig
from cpur.data import load_dataset
from cpur.recipes import BaselineConfig
from cpur.sampling import Draw, Sampler, Task, once
from studies.ablation import pack, packed_record
from studies.records import TUNED

SIGMAS = (0.25, 0.5, 1.0)
SEEDS = (0, 1, 2)
EPSILONS = (0.0, 0.25, 0.5, 0.75, 1.0)
LAMBDAS = (1.0, 5.0, 10.0, 20.0)  # of Consistency Regularization, tried on validation images
THRESHOLDS = tuple(np.round(np.arange(0.1, 1.0, 0.1), 1).tolist())  # of ACES
MODELS = "models/baselines"
CHOICES = "choices.csv"
ENTROPY_SELECTOR = "cpur.aces:entropy_selector"
METHODS = ("gaussian", "consistency", "aces")
TITLES = {"gaussian": "Randomized Smoothing", "consistency": "Consistency Regularization", "aces": "ACES"}
PURIFIED = {"Consistency Purification": None, "the same, fine-tuned": TUNED}  # what they are compared with

CARD = """# {name}

{what}

- Made by `python -m studies.baselines`, seed 0: {epochs} epochs of SGD, batches of {batch_size}, {seconds:.0f} s on one
  thread; all values in `trained.json`. Loss curve: `history.csv`.
- Data: the 1,097 training digits of scikit-learn (UCI ML hand-written digits), 8 x 8. Licence: MIT.
"""


@cache
def chosen(records: str = "records/baselines") -> dict[tuple[str, float], float]:
    """The lambda and the threshold of every noise level, as chosen on validation images."""
    table = tried(records)
    best = table.loc[table.groupby(["method", "sigma"], sort=False)["mean over eps"].idxmax()]
    return {(row.method, row.sigma): row.value for row in best.itertuples()}


def tried(records: str = "records/baselines") -> pd.DataFrame:
    """What was tried on validation images, with what it certified in percent."""
    return pd.read_csv(paths.anchored(records) / CHOICES)


@dataclass(frozen=True)
class Baselines:
    """Trains, chooses and certifies.

    Args:
        work: where weights and unfinished records are put.
        records: where the records are put.
        models: where the committed weights are put.
        epochs: of training; None takes the preset's.
        n: noise samples of a certificate of the first training seed.
        small: those of every training seed.
        num_images: test images.
    """

    work: str = "runs/baselines"
    records: str = "records/baselines"
    models: str = MODELS
    epochs: int | None = None
    n: int = 10_000
    small: int = 1000
    num_images: int = 500

    def config(self, sigma: float, lam: float, seed: int) -> BaselineConfig:
        """How a classifier is trained; lambda 0 is Gaussian augmentation."""
        regularized = {"copies": 2, "lam": lam, "eta": 0.5} if lam else {}
        out = f"{self.work}/s{sigma:g}-lam{lam:g}/{seed}"
        return BaselineConfig(sigma=sigma, **regularized, seed=seed, epochs=self.epochs, out=out)

    def choose(self, sigma: float, n: int = 1000) -> pd.DataFrame:
        """Tries lambda on validation images, then the threshold of ACES with the best lambda."""
        rows, alpha, votes = [], CertifyConfig().alpha, {}
        for lam in (0.0, *LAMBDAS):
            folder = Training(self.config(sigma, lam, 0)).run().folder
            votes[lam] = validation_votes(load_classifier("digits-cnn", folder), sigma, n)
            shares = certified_shares(smoothed_radii(votes[lam], sigma, alpha))
            rows.append({"method": "consistency" if lam else "gaussian", "sigma": sigma, "value": lam, **shares})
        best = max(rows[1:], key=lambda row: row["mean over eps"])["value"]
        model = load_classifier("digits-cnn", Training(self.config(sigma, best, 0)).run().folder)
        for threshold in THRESHOLDS:
            selected = validation_votes(EntropySelector(model, threshold), sigma, n)
            shares = certified_shares(aces_radii(votes[best], selected, sigma, alpha))
            rows.append({"method": "aces", "sigma": sigma, "value": threshold, **shares})
        return pd.DataFrame(rows)

    def try_purified(self, sigma: float, n: int = 1000) -> pd.DataFrame:
        """What the purified classifiers certify on the same validation images."""
        rows = []
        for name, checkpoint in PURIFIED.items():
            base = BaseClassifier(load_purifier("consistency", checkpoint), load_classifier(), sigma).eval()
            shares = certified_shares(smoothed_radii(validation_votes(base, sigma, n), sigma, CertifyConfig().alpha))
            rows.append({"method": name, "sigma": sigma, "value": None, **shares})
        return pd.DataFrame(rows)

    def make_all(self) -> None:
        """Makes what is missing, two jobs at a time, each on one thread."""
        folder = paths.anchored(self.records)
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            if not (folder / CHOICES).is_file():
                tables = [*pool.map(self.choose, SIGMAS), *pool.map(self.try_purified, SIGMAS)]
                pd.concat(tables).round(4).to_csv(folder / CHOICES, index=False)
            list(pool.map(self.publish, SIGMAS))
            # Before certifying: ACES and Consistency Regularization share their network.
            runs = [(model, sigma, seed) for seed in SEEDS for sigma in SIGMAS for model in ("gaussian", "consistency")]
            list(pool.map(self.train, *zip(*runs, strict=True)))
            jobs = [(method, sigma, seed) for seed in (None, *SEEDS) for sigma in SIGMAS for method in METHODS]
            list(pool.map(self.certify, *zip(*jobs, strict=True)))

    def train(self, model: str, sigma: float, seed: int) -> str:
        """Trains a network of one training seed, where that is missing, and gives its folder."""
        return paths.shown(Training(self.config(sigma, self._lam(model, sigma), seed)).run().folder)

    def publish(self, sigma: float) -> None:
        """Copies the weights of the first training seed that are committed, with cards, and writes ACES' selector."""
        for method in ("gaussian", "consistency"):
            name = f"{method}-s{sigma:g}"
            target = paths.anchored(self.models) / name
            training = Training(self.config(sigma, self._lam(method, sigma), 0))
            baseline = training.run()
            shutil.copytree(baseline.folder, target, dirs_exist_ok=True)
            baseline.history.to_csv(target / "history.csv", index=False, float_format="%.5g")
            what = f"Classifier of noisy digits at sigma = {sigma:g}: {TITLES[method]}."
            values = training.config.identity | {"seconds": baseline.seconds}
            (target / "README.md").write_text(CARD.format(name=name, what=what, **values))
        self._write_selector(f"{self.models}/consistency-s{sigma:g}", sigma, f"{self.models}/aces-s{sigma:g}")

    def _lam(self, method: str, sigma: float) -> float:
        return 0.0 if method == "gaussian" else chosen(self.records)["consistency", sigma]

    def _write_selector(self, classifier: str, sigma: float, folder: str) -> None:
        paths.anchored(folder).mkdir(parents=True, exist_ok=True)
        threshold = float(chosen(self.records)["aces", sigma])
        settings = {"classifier": "digits-cnn", "checkpoint": classifier, "threshold": threshold}
        write_json(paths.anchored(folder) / SELECTOR, settings)

    def certify(self, method: str, sigma: float, seed: int | None) -> None:
        """Certifies with the committed weights at n, or with those of a training seed at the smaller n."""
        for config in self.certifications(method, sigma, seed):
            pack(config, self._folder(method, seed))

    def files(self, method: str, sigma: float, seed: int | None = None) -> list[Path]:
        """Where ``certify`` puts the records."""
        return [
            packed_record(config, self._folder(method, seed)) for config in self.certifications(method, sigma, seed)
        ]

    def _folder(self, method: str, seed: int | None) -> Path:
        return paths.anchored(self.records) / method / ("" if seed is None else str(seed))

    def certifications(self, method: str, sigma: float, seed: int | None) -> list[CertifyConfig]:
        """The records of a method: one, and of ACES two, of the classifier and of its selector at half of alpha."""
        model = "gaussian" if method == "gaussian" else "consistency"
        classifier, selector = (f"{self.models}/{name}-s{sigma:g}" for name in (model, "aces"))
        shared = {"purifier": "none", "sigma": sigma, "n": self.n, "num_images": self.num_images}
        shared["records_dir"] = f"{self.work}/records"
        if seed is not None:
            classifier = self.train(model, sigma, seed)
            selector = f"{self.work}/selectors/s{sigma:g}-{seed}"
            shared["n"] = self.small
        if method != "aces":
            return [CertifyConfig(**shared, classifier_checkpoint=classifier)]
        if seed is not None:
            self._write_selector(classifier, sigma, selector)
        shared["alpha"] = CertifyConfig().alpha / 2
        return [
            CertifyConfig(**shared, classifier_checkpoint=classifier),
            CertifyConfig(**shared, classifier=ENTROPY_SELECTOR, classifier_checkpoint=selector),
        ]


def certified_shares(radii: np.ndarray) -> dict[str, float]:
    """Certified accuracy in percent at each radius, and its mean; radii are -1 where the prediction is wrong."""
    shares = {f"eps {e:g}": 100 * float((radii >= e).mean()) for e in EPSILONS}
    return shares | {"mean over eps": float(np.mean(list(shares.values())))}


def validation_votes(model: nn.Module, sigma: float, n: int) -> np.ndarray:
    """The counts of the validation images."""
    data = load_dataset("digits", "val")
    tasks = (Task(i, data[i][0], once(Draw("estimation", n))) for i in range(len(data)))
    done = sorted(Sampler(model, data.num_classes, (sigma,), 0, 250).run(tasks), key=lambda one: one.index)
    return np.stack([one.result for one in done])


def votes_radii(counts: np.ndarray, sigma: float, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The class with the most votes, and the radius that they certify."""
    return counts.argmax(1), certified_radius(counts.max(1), counts.sum(1), alpha, sigma)


def smoothed_radii(counts: np.ndarray, sigma: float, alpha: float) -> np.ndarray:
    """Radii on the validation images, -1 where the prediction is wrong or abstains."""
    prediction, radius = votes_radii(counts, sigma, alpha)
    return np.where((prediction == load_dataset("digits", "val").labels.numpy()) & (radius > 0), radius, -1.0)


def aces_radii(counts: np.ndarray, selected: np.ndarray, sigma: float, alpha: float) -> np.ndarray:
    """The same of ACES, from the votes of its classifier and of its selector."""
    data = load_dataset("digits", "val")
    with torch.inference_mode():
        core = load_classifier()(data.images).argmax(1) == data.labels
    said, radius = votes_radii(selected, sigma, alpha / 2)
    ours = smoothed_radii(counts, sigma, alpha / 2)
    taken = np.where(ours < 0, -1.0, np.minimum(ours, radius))
    passed = np.where(core.numpy(), 0.0, -1.0)
    unsure = np.where(core.numpy() & (ours >= 0), 0.0, -1.0)
    return np.select([(said == CERTIFIED) & (radius > 0), radius > 0], [taken, passed], unsure)


def main(records: str = "records/baselines", work: str = "runs/baselines") -> None:
    """Trains, chooses and certifies what is missing: an hour on two cores.

    Args:
        records: where the records are put.
        work: where weights and unfinished records are put.
    """
    Baselines(work, records).make_all()


if __name__ == "__main__":
    tyro.cli(main)
