"""The multi-scale predictor on corrupted digits, and on digits of other writers.

``records/shift/digits-c-<training seed>.csv``, ``digits.csv`` and ``digits-shift.csv`` hold what was predicted for each
image, two records beside them what is certified. The models of ``digits-shift`` are trained here, into
``models/shift``: those of the digits have seen its test images.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro

from cpur import paths
from cpur.config import MultiscaleConfig
from cpur.corruptions import CORRUPTIONS, SEVERITIES
from cpur.engine import prepare
from cpur.errors import InputError
from cpur.paired import Difference, seed_difference
from cpur.predictor import predict
from cpur.records import load_record
from cpur.tables import cells
from studies.ablation import SEEDS, pack, packed_record
from studies.models import Workshop

PARTS = {"checkpoint": "digits-edm", "classifier_checkpoint": "digits-cnn"}
EVERY = 10  # of the test digits, under each corruption
CLOSE = 1.0  # percentage points that the paper's "close to the clean accuracy" is taken to allow
SINGLE = 0.5  # the noise level of the predictor that the cascade is compared with
CLEAN = "clean"  # the subset that is not corrupted
MODELS = "models/shift"
WORK = "runs/shift"  # unfinished records
PREDICTORS = {"clean": "clean classifier", "single": f"single level {SINGLE:g}", "prediction": "cascade"}


def _parts(folder: str) -> dict[str, str]:
    return {name: f"{folder}/{model}" for name, model in PARTS.items()}


SUBJECTS = {"digits": {"dataset": "digits"}, "digits-shift": {"dataset": "digits-shift"} | _parts(MODELS)}


@dataclass(frozen=True)
class Shift:
    """Makes and reads the predictions below a folder; the purifier is one-step EDM.

    Args:
        folder: of the predictions.
        models: holds the models of each further training seed, in a folder of its number.
        votes: noise samples a level.
        families: of ``digits-c``.
        make: whether what is missing is made.

    Raises:
        InputError: a file is missing, and is not to be made.
    """

    folder: str = "records/shift"
    models: str = "runs/models"
    votes: int = 200
    families: tuple[str, ...] = tuple(CORRUPTIONS)
    make: bool = False

    def seeds(self) -> list[int]:
        """Training seeds with predictions."""
        return sorted(int(file.stem.split("-")[-1]) for file in paths.anchored(self.folder).glob("digits-c-*.csv"))

    def corrupted(self, seed: int) -> pd.DataFrame:
        """Predictions for the clean digits (subset ``clean``) and every corruption, by models of a training seed."""
        file = paths.anchored(self.folder) / f"digits-c-{seed}.csv"
        if self._wanted(file):
            own = _parts(f"{self.models}/{seed}") if seed else {}
            names = [f"{family}-{severity}" for family in self.families for severity in SEVERITIES]
            found = {
                name: self._predicted(500 // EVERY, dataset="digits-c", subset=f"{name}/every-{EVERY}", **own)
                for name in names
            }
            found[CLEAN] = self._predicted(500 // EVERY, dataset="digits", subset=f"every-{EVERY}", **own)
            _write(pd.concat(found, names=["subset"]).reset_index("subset"), file)
        return pd.read_csv(file)

    def whole(self, dataset: str) -> pd.DataFrame:
        """Predictions for all test images of ``digits`` or ``digits-shift``, by models of the first training seed."""
        file = paths.anchored(self.folder) / f"{dataset}.csv"
        if self._wanted(file):
            _write(self._predicted(500, **SUBJECTS[dataset]), file)
        return pd.read_csv(file)

    def certify(self, dataset: str) -> Path:
        """The record of the same images."""
        config = MultiscaleConfig(num_images=500, records_dir=WORK, **SUBJECTS[dataset])
        file = packed_record(config, paths.anchored(self.folder))
        return pack(config, file.parent) if self._wanted(file) else file

    def _wanted(self, file: Path) -> bool:
        if not (file.is_file() or self.make):
            raise InputError(f"{paths.shown(file)} is missing; python -m studies.shift makes it")
        return not file.is_file()

    def _predicted(self, num_images: int, **values: str) -> pd.DataFrame:
        shared = {"num_images": num_images, **values}
        frame = predict(prepare(MultiscaleConfig(**shared)), self.votes)
        single = predict(prepare(MultiscaleConfig(**shared, sigmas=(SINGLE,))), self.votes)
        return frame.assign(single=single.cascade)


def _write(frame: pd.DataFrame, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    frame.to_csv(partial, index=False)
    partial.replace(file)


def right(frame: pd.DataFrame, predictor: str) -> np.ndarray:
    """In how many percent of its corruptions each image is predicted right."""
    return 100 * (frame[predictor] == frame.label).groupby(frame["index"]).mean().to_numpy()


def gap(frames: list[pd.DataFrame], ours: str, theirs: str, margin: float = 0.0) -> Difference:
    """Accuracy of one predictor less that of another, and plus a margin, in percentage points.

    A row of the bootstrap is a training seed, a column an image with all its corruptions.
    """
    corrupted = [frame[frame.subset != CLEAN] if "subset" in frame else frame for frame in frames]
    ours, theirs = (np.stack([right(frame, name) for frame in corrupted]) for name in (ours, theirs))
    return seed_difference(ours + margin, theirs)


def by_corruption(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Accuracy in percent over training seeds and images, of each predictor; a row each family of corruptions."""
    frame = pd.concat(frames, ignore_index=True)
    parts = frame.subset.str.rpartition("-")
    family = parts[0].where(parts[0] != "", CLEAN).rename("corruption")
    hits = pd.DataFrame({name: 100.0 * (frame[column] == frame.label) for column, name in PREDICTORS.items()})
    worst = hits[parts[2] == str(SEVERITIES[-1])].groupby(family).mean().add_suffix(", severity 5")
    return hits.groupby(family).mean().join(worst)


def accuracy_overview(shift: Shift) -> pd.DataFrame:
    """Accuracy of each predictor in percent, the levels it asks, and certified accuracy; with 95% intervals."""
    frames = {"digits-c": [shift.corrupted(seed) for seed in shift.seeds()]}
    frames |= {dataset: [shift.whole(dataset)] for dataset in SUBJECTS}
    rows = {}
    for dataset, found in frames.items():
        shifted = [frame[frame.subset != CLEAN] if dataset == "digits-c" else frame for frame in found]
        row = {name: _accuracy(shifted, column) for column, name in PREDICTORS.items()}
        row["levels asked"] = f"{np.mean([levels_asked(frame) for frame in shifted]):.2f}"
        if dataset in SUBJECTS:
            header, certified = load_record(shift.certify(dataset))
            row |= {f"certified, {name}": cell for name, cell in cells(header, certified, None).items()}
        rows[dataset] = row
    return pd.DataFrame(rows).T.loc[["digits", "digits-c", "digits-shift"]].fillna("not certified")


def levels_asked(frame: pd.DataFrame, levels: int = 3) -> float:
    """The mean number of noise levels that the cascade asks, each for all its votes."""
    return float((levels - frame.level.clip(0)).mean())


def _accuracy(frames: list[pd.DataFrame], predictor: str) -> str:
    hits = np.stack([right(frame, predictor) for frame in frames])
    found = seed_difference(hits, np.zeros_like(hits))
    return f"{found.estimate:.1f} [{found.low:.1f}–{found.high:.1f}]"


def main(folder: str = "records/shift", models: str = "runs/models") -> None:
    """Trains the models of ``digits-shift`` and predicts, where that is missing: 25 minutes on two cores.

    Args:
        folder: of the predictions.
        models: holds the models of each further training seed, in a folder of its number (``studies.models``).
    """
    workshop, shift = Workshop(paths.anchored(MODELS), dataset="digits-shift"), Shift(folder, models, make=True)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        jobs = []
        if not (paths.anchored(MODELS) / "digits-edm" / "README.md").is_file():
            pool.submit(workshop.classifier).result()
            jobs.append(pool.submit(_train, workshop))
        for job in [*jobs, *(pool.submit(shift.corrupted, seed) for seed in SEEDS)]:
            job.result()
        jobs = [pool.submit(shift.whole, dataset) for dataset in SUBJECTS]
        jobs += [pool.submit(shift.certify, dataset) for dataset in SUBJECTS]
        for job in jobs:
            job.result()


def _train(workshop: Workshop) -> None:
    workshop.edm()  # the model itself need not go back to the parent


if __name__ == "__main__":
    tyro.cli(main)
