"""Trains the embedded checkpoints and writes a card beside each: ``python -m studies.models``."""

import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import tyro

from cpur import paths
from cpur.checkpoints import count_parameters, save_network, write_json
from cpur.classifiers import BaseClassifier, DigitsCNN, DigitsMLP, DigitsViT, load_classifier, save_classifier
from cpur.data import load_dataset
from cpur.images import ImageSet
from cpur.progress import bar
from cpur.purifiers import OneStepEDM, Purifier
from cpur.smooth import Smooth
from studies import pretrain

CARD = """# {name}

{what}

- Made by `{command}`: seed {seed}, {steps} steps of {batch_size} images, learning
  rate {lr:g}, {optimizer}, weights averaged with decay {ema:g}; {seconds:.0f} s on one thread of {machine}.
- Data: {data}, 8 x 8. {parameters:,} parameters.
- {figures}
- Loss curve: `history.csv`. Licence: MIT.
"""

WHAT = {
    "digits-cnn": "Classifier of clean digits that never saw noise. Trained on mixed pairs of jittered images.",
    "digits-ddpm": "Discrete diffusion model, cosine schedule with 4,000 steps, predicts the noise.",
    "digits-edm": "EDM denoiser: the posterior mean at any noise level.",
    "digits-consistency": "Consistency model, tuned from `digits-edm` by Easy Consistency Tuning.",
    "digits-mlp": "Three linear layers, trained as `digits-cnn`.",
    "digits-vit": "Vision transformer on patches of 2 x 2 pixels, trained as `digits-cnn`.",
    "digits-features": "The loss network: its features make the loss `features`. Trained as `digits-cnn`, but wider.",
    "digits-fid": "The network of FID and KID, with 64 features. Trained as `digits-cnn`, but wider.",
    "digits-autoencoder": "Encoder of a denoising autoencoder with a code of 16 numbers; it never saw a label.",
}

DATA = {
    "digits": "the 1,097 training digits of scikit-learn (UCI ML hand-written digits)",
    "digits-shift": "1,097 of the first 1,297 digits in scikit-learn's file; the last 500 are the test images",
}
COMMANDS = {"digits": "python -m studies.models", "digits-shift": "python -m studies.shift"}

# How the networks that classify are made and trained.
CLASSIFIERS = {
    "digits-cnn": (DigitsCNN, pretrain.CLASSIFIER),
    "digits-mlp": (DigitsMLP, pretrain.CLASSIFIER),
    "digits-vit": (DigitsViT, pretrain.VIT),
    "digits-features": (partial(DigitsCNN, width=24), pretrain.CLASSIFIER),
    "digits-fid": (partial(DigitsCNN, width=20, hidden=64), pretrain.CLASSIFIER),
}


@dataclass(frozen=True)
class Workshop:
    """Trains models into a folder; ``effort`` below 1 takes that share of the steps, for a quick look."""

    folder: Path
    seed: int = 0
    effort: float = 1.0
    dataset: str = "digits"

    def make_all(self) -> None:
        """Trains all models, two at a time, each on one thread."""
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            pool.submit(self.classifier).result()
            jobs = [pool.submit(self.edm_and_consistency), pool.submit(self.ddpm), pool.submit(self.encoder)]
            for job in jobs + [pool.submit(self.classifier, name) for name in CLASSIFIERS if name != "digits-cnn"]:
                job.result()

    def classifier(self, name: str = "digits-cnn") -> None:
        """Trains and writes a classifier."""
        make, recipe = CLASSIFIERS[name]
        start, recipe = time.perf_counter(), self._scaled(recipe)
        trained = pretrain.train_classifier(self._images("train"), recipe, self.seed, _bar(name), make)
        save_classifier(trained.model, self._created(name))
        right = {split: _accuracy(trained.model, self._images(split)) for split in ("val", "test")}
        figures = "Clean accuracy: {val:.1%} of the 200 validation images, {test:.1%} of the 500 test images."
        self._describe(name, trained, recipe, start, figures.format(**right))

    def encoder(self) -> None:
        """Trains and writes the encoder of an autoencoder."""
        start, recipe = time.perf_counter(), self._scaled(pretrain.AUTOENCODER)
        trained = pretrain.train_encoder(self._images("train"), recipe, self.seed, _bar("autoencoder"))
        save_classifier(trained.model, self._created("digits-autoencoder"))
        error = f"Mean squared error of the last stretch of training: {trained.history.loss.iloc[-1]:.4f}."
        self._describe("digits-autoencoder", trained, recipe, start, error)

    def ddpm(self) -> None:
        """Trains and writes the DDPM."""
        start, recipe = time.perf_counter(), self._scaled(pretrain.DDPM)
        trained = pretrain.train_ddpm(self._images("train"), recipe, self.seed, _bar("ddpm", position=1))
        out = self._created("digits-ddpm")
        save_network(trained.model.network, out)
        schedule, steps = pretrain.DDPM_SCHEDULE
        settings = {"beta_schedule": schedule, "num_train_timesteps": steps, "prediction_type": "epsilon"}
        write_json(out / "scheduler_config.json", {"_class_name": "DDPMScheduler", **settings})
        self._describe("digits-ddpm", trained, recipe, start, self._certified(trained.model))

    def edm_and_consistency(self) -> None:
        """Trains and writes the EDM, then the consistency model tuned from it."""
        edm = self.edm()
        start, recipe = time.perf_counter(), self._scaled(pretrain.CONSISTENCY)
        tuned = pretrain.train_consistency(self._images("train"), edm, recipe, self.seed, _bar("consistency"))
        self._preconditioned("digits-consistency", "consistency", tuned)
        self._describe("digits-consistency", tuned, recipe, start, self._certified(tuned.model))

    def edm(self) -> OneStepEDM:
        """Trains and writes the EDM."""
        start, recipe = time.perf_counter(), self._scaled(pretrain.EDM)
        edm = pretrain.train_edm(self._images("train"), recipe, self.seed, _bar("edm"))
        self._preconditioned("digits-edm", "edm", edm)
        self._describe("digits-edm", edm, recipe, start, self._certified(edm.model))
        return edm.model

    def _images(self, split: str) -> ImageSet:
        return load_dataset(self.dataset, split)

    def _scaled(self, recipe: pretrain.Recipe) -> pretrain.Recipe:
        return replace(recipe, steps=max(10, round(recipe.steps * self.effort)))

    def _created(self, name: str) -> Path:
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return self.folder / name

    def _preconditioned(self, name: str, kind: str, trained: pretrain.Trained) -> None:
        save_network(trained.model.network, self._created(name))
        settings = {"kind": kind, "sigma_data": pretrain.SIGMA_DATA, "sigma_min": pretrain.SIGMA_MIN}
        write_json(self.folder / name / "preconditioning.json", settings)

    def _describe(
        self, name: str, trained: pretrain.Trained, recipe: pretrain.Recipe, start: float, figures: str
    ) -> None:
        trained.history.to_csv(self.folder / name / "history.csv", index=False, float_format="%.5g")
        card = CARD.format(
            name=name,
            what=WHAT[name],
            command=COMMANDS[self.dataset],
            data=DATA[self.dataset],
            seed=self.seed,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            optimizer=recipe.optimizer.__name__,
            ema=recipe.ema,
            seconds=time.perf_counter() - start,
            machine=platform.machine(),
            parameters=count_parameters(trained.model),
            figures=figures,
        )
        (self.folder / name / "README.md").write_text(card)

    def _certified(self, purifier: Purifier) -> str:
        """Certified accuracy on the validation images, on which all choices are made."""
        data, n = self._images("val"), 1000
        images = [data[i] for i in range(min(len(data), max(2, round(len(data) * self.effort))))]
        classifier = load_classifier("digits-cnn", self.folder / "digits-cnn")
        parts = []
        for sigma in (0.25, 0.5, 1.0):
            smooth = Smooth(BaseClassifier(purifier, classifier, sigma), data.num_classes, sigma)
            results = [smooth.certify(image, 100, n, 0.001, 250, index=i) for i, (image, _) in enumerate(images)]
            right = [
                radius if cls == label else -1.0 for (cls, radius), (_, label) in zip(results, images, strict=True)
            ]
            shares = "/".join(f"{sum(r >= e for r in right) / len(right):.1%}" for e in (0.0, 0.25, 0.5))
            parts.append(f"{shares} at sigma {sigma:g}")
        return f"Certified at epsilon 0/0.25/0.5 on {len(images)} validation images, n = {n}: {'; '.join(parts)}."


def _bar(name: str, position: int = 0):
    return partial(bar, unit="step", desc=name, position=position)


@torch.inference_mode()
def _accuracy(classifier: torch.nn.Module, data: ImageSet) -> float:
    return (classifier(data.images).argmax(1) == data.labels).double().mean().item()


def histories(folder: Path) -> dict[str, pd.DataFrame]:
    """The loss curve of each purifier in ``folder``, and of the classifier."""
    return {name: pd.read_csv(folder / name / "history.csv") for name in list(WHAT)[:4]}


def cards(folder: Path) -> str:
    """The cards of the models in ``folder``, one after the other, as Markdown."""
    return "\n".join((folder / name / "README.md").read_text().replace("# ", "### ", 1) for name in WHAT)


def main(out: Path = Path("models"), seed: int = 0, effort: float = 1.0) -> None:
    """Trains the embedded digits models from scratch.

    Args:
        out: folder that the checkpoints are written to.
        seed: seed of initialisation and training.
        effort: share of the training steps, below 1 for a quick look.
    """
    start = time.perf_counter()
    Workshop(paths.anchored(out), seed, effort).make_all()
    print(f"trained into {paths.shown(paths.anchored(out))} in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    tyro.cli(main)
