"""The ablations of the book: which variants they are, and how their records are made, over training seeds.

``records/ablation/<variant>/<seed>/`` holds a record a noise level and classifier, and ``measures.json``.
"""

import multiprocessing
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from cpur import paths
from cpur.checkpoints import FINETUNED, read_json, write_json
from cpur.config import CertifyConfig
from cpur.data import load_dataset
from cpur.engine import certify_dataset, identity, record_file, versions
from cpur.finetune import Finetuned, Finetuning
from cpur.measures import measured
from cpur.metrics import load_extractor
from cpur.progress import bar
from cpur.purifiers import EMBEDDED, load_purifier
from cpur.recipes import FinetuneConfig
from cpur.records import PACKED
from cpur.records import pack as packed_file
from studies.models import Workshop

SEEDS = (0, 1, 2)
NOISE_SEEDS = (0, 1, 2)  # of the measures
SIGMAS = (0.25, 0.5)  # certified: on validation images sigma 1 certifies less than 0.5 at every radius
MEASURED_SIGMAS = (0.25, 0.5, 1.0)
MEASURES = "measures.json"


@dataclass(frozen=True)
class Variant:
    """A purifier, fine-tuned with these values of a FinetuneConfig or not, and the classifiers it is certified with.

    ``classifiers`` gives the share of the test images for each.
    """

    purifier: str = "consistency"
    finetune: dict[str, Any] | None = None
    classifiers: dict[str, float] = field(default_factory=lambda: {"digits-cnn": 1.0})


# Of diffusion calibration, chosen on validation images (studies.calibration): lambda with each distance, and a.
LAMBDA = {"l2": 0.01, "features": 1.0}
A = 1.0


def calibrated(purifier: str = "onestep-ddpm", lam: float | None = None, a: float = A) -> Variant:
    """A purifier after diffusion calibration, with the distance that it is fine-tuned with elsewhere."""
    distance = "features" if purifier == "consistency" else "l2"
    lam = LAMBDA[distance] if lam is None else lam
    return Variant(purifier, {"loss": distance, "brier": lam, "anticonsistency": lam * a})


SEVERAL = {"digits-cnn": 1.0, "digits-mlp": 0.4, "digits-vit": 0.4}
VARIANTS = {
    "onestep-ddpm": Variant("onestep-ddpm", classifiers=SEVERAL),
    "onestep-edm": Variant("onestep-edm"),
    "consistency": Variant(classifiers=SEVERAL),
    "l1": Variant(finetune={"loss": "l1"}),
    "l2": Variant(finetune={"loss": "l2"}),
    "features": Variant(finetune={"loss": "features"}, classifiers=SEVERAL),
    "features-random": Variant(finetune={"loss": "features-random"}),
    "features-autoencoder": Variant(finetune={"loss": "features-autoencoder"}),
    "continuous": Variant(finetune={"loss": "features", "continuous": True}),
    "edm-features": Variant("onestep-edm", {"loss": "features"}),
    "classifier": Variant(finetune={"train": "classifier"}),
    "both": Variant(finetune={"loss": "features", "train": "both"}),
    "calibrated": calibrated(),
}

# The weights of seed 0 that are committed, and their names below models/.
PUBLISHED = {
    "l1": "digits-consistency-l1",
    "l2": "digits-consistency-l2",
    "features": "digits-consistency-features",
    "features-random": "digits-consistency-features-random",
    "features-autoencoder": "digits-consistency-features-autoencoder",
    "classifier": "digits-cnn-purified",
    "both": "digits-cnn-both",
    "calibrated": "digits-ddpm-calibrated",
}

CARD = """# {name}

{what}

- Made by `python -m studies.ablation`, variant `{variant}`, seed 0: {steps} steps of {batch_size} images, RAdam,
  weights averaged with decay {ema:g}; all values in `finetune.json`, the loss curve in `history.csv`.
- Data: the 1,097 training digits of scikit-learn (UCI ML hand-written digits), 8 x 8. Licence: MIT.
"""


@dataclass(frozen=True)
class Workbench:
    """Makes the records of the ablations.

    Args:
        variants: what to make, by name.
        seeds: training seeds.
        sigmas: noise levels to certify.
        models: holds a folder a seed, as ``python -m studies.models --seed`` makes it; seed 0 is the committed one.
        work: where weights and unfinished records are put.
        records: where the records are put.
        steps: of fine-tuning; None takes the preset's.
        n: noise samples a certificate.
        num_images: test images.
        measures: whether transport and likeness are measured too.
    """

    variants: Mapping[str, Variant] = field(default_factory=lambda: VARIANTS)
    seeds: tuple[int, ...] = SEEDS
    sigmas: tuple[float, ...] = SIGMAS
    models: str = "runs/models"
    work: str = "runs/ablation"
    records: str = "records/ablation"
    steps: int | None = None
    n: int = 1000
    num_images: int = 500
    measures: bool = True

    def make_all(self, progress: Callable | None = None) -> None:
        """Makes what is missing, the models of further seeds among it; two jobs at a time, each on one thread."""
        for seed in set(self.seeds) - {0}:
            folder = paths.anchored(self.models) / str(seed)
            if not all((folder / name / "README.md").is_file() for name in set(EMBEDDED.values())):
                Workshop(folder, seed).make_all()
        names, seeds = zip(*((name, seed) for seed in self.seeds for name in self.variants), strict=True)
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            done = pool.map(self.make, names, seeds)
            for _ in progress(done, 0, len(names)) if progress else done:
                pass

    def make(self, name: str, seed: int) -> None:
        """Fine-tunes, certifies and measures one variant of one training seed, where that is missing."""
        variant = self.variants[name]
        tuned = self.finetuned(name, seed) if variant.finetune else Finetuned(None, None)
        folder = paths.anchored(self.records) / name / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        configs = [
            self._certification(variant, seed, tuned, classifier, sigma)
            for classifier in variant.classifiers
            for sigma in self.sigmas
        ]
        for config in configs:
            pack(config, folder)
        if self.measures and not (folder / MEASURES).is_file() and tuned.classifier is None:
            self._measure(name, configs[0], folder / MEASURES)

    def finetuned(self, name: str, seed: int) -> Finetuned:
        """The fine-tuned weights of a variant."""
        variant = self.variants[name]
        values = {"purifier": variant.purifier, "checkpoint": self._base(variant, seed), "seed": seed}
        steps = {} if self.steps is None else {"steps": self.steps}
        return Finetuning(FinetuneConfig(**values, **variant.finetune, **steps, out=f"{self.work}/{name}/{seed}")).run()

    def publish(self, models: Path) -> None:
        """Copies the weights of seed 0 that are committed, with a card, where they are missing.

        Weights that are trained elsewhere differ in the last bits, and would disown the committed records.
        """
        for variant, name in PUBLISHED.items():
            if (models / name).is_dir():
                continue
            tuned = self.finetuned(variant, 0)
            source = tuned.classifier or tuned.purifier
            shutil.copytree(source, models / name)
            shutil.copy(source.parent / "history.csv", models / name)
            values = read_json(source / FINETUNED)
            before = EMBEDDED[VARIANTS[variant].purifier]
            what = f"`{before}`, fine-tuned with the loss `{values['loss']}`."
            if variant == "calibrated":
                what = f"`{before}` after diffusion calibration with lambda {values['brier']:g} and a {A:g}."
            if tuned.classifier:
                before = "`digits-consistency-features`" if variant == "both" else "`digits-consistency`"
                what = f"`digits-cnn`, fine-tuned on images purified by {before}."
            (models / name / "README.md").write_text(CARD.format(name=name, what=what, variant=variant, **values))

    def _base(self, variant: Variant, seed: int) -> str | None:
        return f"{self.models}/{seed}/{EMBEDDED[variant.purifier]}" if seed else None

    def _certification(self, variant: Variant, seed: int, tuned: Finetuned, classifier: str, sigma: float):
        return CertifyConfig(
            purifier=variant.purifier,
            checkpoint=paths.shown(tuned.purifier) if tuned.purifier else self._base(variant, seed),
            classifier=classifier,
            classifier_checkpoint=tuned.classifier and paths.shown(tuned.classifier),
            sigma=sigma,
            n=self.n,
            num_images=round(self.num_images * variant.classifiers[classifier]),
            records_dir=f"{self.work}/records",
        )

    def _measure(self, name: str, config: CertifyConfig, file: Path) -> None:
        purifiers = {name: load_purifier(config.purifier, config.checkpoint)}
        clean, train, features = load_dataset("digits"), load_dataset("digits", "train"), load_extractor("digits-fid")
        frame = measured(purifiers, clean, train, features, MEASURED_SIGMAS, NOISE_SEEDS)
        header = {"purifier_hash": identity(config)["purifier_hash"], "features": features.name, "versions": versions()}
        write_json(file, {"header": header | {"config": asdict(config)}, "rows": frame.round(6).to_dict("records")})


def pack(config: CertifyConfig, folder: Path) -> Path:
    """The gzipped record of a configuration in a folder, made where it is missing."""
    packed = packed_record(config, folder)
    if not packed.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        packed_file(certify_dataset(config).file, folder)
    return packed


def packed_record(config: CertifyConfig, folder: Path) -> Path:
    """Where the gzipped record of a configuration lies in a folder."""
    return folder / f"{record_file(config).name}{PACKED}"


def main(records: str = "records/ablation", models: str = "runs/models") -> None:
    """Makes the records of the ablations, and the fine-tuned models, where they are missing: three hours on two cores.

    Args:
        records: where they are put.
        models: holds the models of each further training seed, in a folder of its number; missing ones are trained.
    """
    bench = Workbench(models=models, records=records)
    bench.make_all(partial(bar, unit="variant"))
    bench.publish(paths.models())


if __name__ == "__main__":
    tyro.cli(main)
