"""Makes the embedded checkpoints: trains them, writes them, and writes a card beside each."""

import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from cpur import pretrain
from cpur.checkpoints import count_parameters, save_network, write_json
from cpur.classifiers import BaseClassifier, load_classifier, save_classifier
from cpur.data import ImageSet, load_dataset
from cpur.progress import bar
from cpur.purifiers import Consistency, OneStepDDPM, OneStepEDM
from cpur.smooth import Smooth

CARD = """# {name}

{what}

- Made by `make models` (`python -m cpur pretrain`): seed {seed}, {steps} steps of {batch_size} images, learning
  rate {lr:g}, {optimizer}, weights averaged with decay {ema:g}; {seconds:.0f} s on one thread of {machine}.
- Data: the 1,097 training digits of scikit-learn (UCI ML hand-written digits), 8 x 8. {parameters:,} parameters.
- {figures}
- Loss curve: `history.csv`. Licence: MIT.
"""

WHAT = {
    "digits-cnn": "Classifier of clean digits that never saw noise. Trained on mixed pairs of jittered images.",
    "digits-ddpm": "Discrete diffusion model, cosine schedule with 4,000 steps, predicts the noise.",
    "digits-edm": "EDM denoiser: the posterior mean at any noise level.",
    "digits-consistency": "Consistency model, tuned from `digits-edm` by Easy Consistency Tuning.",
}


def make_all(folder: Path, seed: int = 0) -> None:
    """Trains all four models into ``folder``, two at a time, each on one thread."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        pool.submit(make_classifier, folder, seed, position=0).result()
        for job in [
            pool.submit(make_edm_and_consistency, folder, seed, position=0),
            pool.submit(make_ddpm, folder, seed, position=1),
        ]:
            job.result()


def make_classifier(folder: Path, seed: int, position: int = 0) -> None:
    """Trains and writes the classifier."""
    start = time.perf_counter()
    trained = pretrain.train_classifier(
        load_dataset("digits", "train"), seed=seed, progress=_bar("classifier", position)
    )
    out = _created(folder / "digits-cnn")
    save_classifier(trained.model, out)
    right = {split: _accuracy(trained.model, load_dataset("digits", split)) for split in ("val", "test")}
    figures = "Clean accuracy: {val:.1%} of the 200 validation images, {test:.1%} of the 500 test images.".format(
        **right
    )
    _finish(out, trained, pretrain.CLASSIFIER, seed, start, figures)


def make_ddpm(folder: Path, seed: int, position: int = 0) -> None:
    """Trains and writes the DDPM."""
    start = time.perf_counter()
    trained = pretrain.train_ddpm(load_dataset("digits", "train"), seed=seed, progress=_bar("ddpm", position))
    out = _created(folder / "digits-ddpm")
    save_network(trained.model.network, out)
    schedule, steps = pretrain.DDPM_SCHEDULE
    settings = {"beta_schedule": schedule, "num_train_timesteps": steps, "prediction_type": "epsilon"}
    write_json(out / "scheduler_config.json", {"_class_name": "DDPMScheduler", **settings})
    _finish(out, trained, pretrain.DDPM, seed, start, _certified(trained.model, folder))


def make_edm_and_consistency(folder: Path, seed: int, position: int = 0) -> None:
    """Trains and writes the EDM, then the consistency model tuned from it."""
    data = load_dataset("digits", "train")
    start = time.perf_counter()
    edm = pretrain.train_edm(data, seed=seed, progress=_bar("edm", position))
    out = _created(folder / "digits-edm")
    save_network(edm.model.network, out)
    _precondition(out, "edm")
    _finish(out, edm, pretrain.EDM, seed, start, _certified(edm.model, folder))

    start = time.perf_counter()
    tuned = pretrain.train_consistency(data, edm.model, seed=seed, progress=_bar("consistency", position))
    out = _created(folder / "digits-consistency")
    save_network(tuned.model.network, out)
    _precondition(out, "consistency")
    _finish(out, tuned, pretrain.CONSISTENCY, seed, start, _certified(tuned.model, folder))


def _bar(name: str, position: int):
    return partial(bar, unit="step", desc=name, position=position)


def _created(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _precondition(folder: Path, kind: str) -> None:
    settings = {"kind": kind, "sigma_data": pretrain.SIGMA_DATA, "sigma_min": pretrain.SIGMA_MIN}
    write_json(folder / "preconditioning.json", settings)


def _finish(folder: Path, trained: pretrain.Trained, recipe: pretrain.Recipe, seed: int, start: float, figures: str):
    trained.history.to_csv(folder / "history.csv", index=False, float_format="%.5g")
    card = CARD.format(
        name=folder.name,
        what=WHAT[folder.name],
        seed=seed,
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
    (folder / "README.md").write_text(card)


@torch.inference_mode()
def _accuracy(classifier: torch.nn.Module, data: ImageSet) -> float:
    return (classifier(data.images).argmax(1) == data.labels).double().mean().item()


def _certified(purifier: OneStepDDPM | OneStepEDM | Consistency, folder: Path, n: int = 1000) -> str:
    """Certified accuracy on the validation images, which is what choices are made on."""
    data, classifier = load_dataset("digits", "val"), load_classifier("digits-cnn", folder / "digits-cnn")
    parts = []
    for sigma in (0.25, 0.5, 1.0):
        smooth = Smooth(BaseClassifier(purifier, classifier, sigma), data.num_classes, sigma)
        results = [smooth.certify(image, 100, n, 0.001, 250, index=i) for i, (image, _) in enumerate(data)]
        right = [radius if cls == label else -1.0 for (cls, radius), (_, label) in zip(results, data, strict=True)]
        shares = "/".join(f"{sum(r >= e for r in right) / len(right):.1%}" for e in (0.0, 0.25, 0.5))
        parts.append(f"{shares} at sigma {sigma:g}")
    return f"Certified at epsilon 0/0.25/0.5 on the 200 validation images (n = {n}, alpha = 0.001): {'; '.join(parts)}."


def histories(folder: Path) -> dict[str, pd.DataFrame]:
    """The loss curve of each model in ``folder``."""
    return {name: pd.read_csv(folder / name / "history.csv") for name in WHAT}


def cards(folder: Path) -> str:
    """The cards of the models in ``folder``, one after the other, as Markdown."""
    return "\n".join((folder / name / "README.md").read_text().replace("# ", "### ", 1) for name in WHAT)
