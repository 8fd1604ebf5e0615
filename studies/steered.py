"""What steering the samples of a cascade saves, and what radius it costs, over training seeds: a replay of records.

The samples of a record of plan ``fixed`` are exchangeable, so a random order of its votes is a stream that a steered
cascade could have seen. The samples that select a class are drawn anew, from the shares of the votes: a record keeps
only the class. ``records/cascade/steered.csv`` holds a line an image.
"""

import numpy as np
import pandas as pd
import tyro

from cpur import paths
from cpur.cascade import CascadeCertificate
from cpur.errors import InputError
from cpur.multiscale import LevelCounts
from cpur.plans import sequential
from cpur.steering import Cascade, Levels
from studies.cascade_tables import CascadeAblation

VARIANT = "features"  # of the calibration study: the consistency model, fine-tuned
FILE = "cascade/steered.csv"
MAKE = "python -m studies.steered"


def steered(counts: np.ndarray, cascade: Cascade, rng: np.random.Generator) -> tuple[CascadeCertificate, int]:
    """The certificate of one image whose votes come in a random order, and the samples it took.

    Args:
        counts: votes of each level by class, as many as the plan has at most: ``K C``.
        cascade: levels and plan.
        rng: of the order, and of the samples that select.
    """
    state = Levels(cascade, counts.shape[1])
    streams = [rng.permutation(np.repeat(np.arange(counts.shape[1]), level)) for level in counts]
    while (draw := state.next_draw()) is not None:
        votes = streams[draw.level]
        if draw.purpose == "selection":
            votes = rng.choice(votes, draw.n)
        state.add(draw, np.bincount(votes[: draw.n], minlength=counts.shape[1]))
    selections = cascade.plan.n0 * int((state.selected >= 0).sum())
    return state.certificate(), selections + int(state.counts.sum())


def replay(levels: LevelCounts, rng_seed: int = 0) -> pd.DataFrame:
    """Of each image: the samples of the steered cascade, its radius, and that with all samples at every level."""
    config, rng = levels.header["config"], np.random.default_rng(rng_seed)
    cascade = Cascade(levels.sigmas, 0.5, sequential(config["n0"], config["n"], config["alpha"]))
    found = [steered(counts, cascade, rng) for counts in levels.counts]
    full = levels.certified("max")[1]
    return pd.DataFrame(
        {
            "index": levels.index,
            "label": levels.label,
            "samples": [samples for _, samples in found],
            "prediction": [certificate.prediction for certificate, _ in found],
            "radius": [round(certificate.radius, 6) for certificate, _ in found],
            "full prediction": full.prediction,
            "full radius": full.radius.round(6),
        }
    )


def committed(records: str = "records") -> pd.DataFrame:
    """The replay of all training seeds.

    Raises:
        InputError: it has not been made.
    """
    file = paths.anchored(records) / FILE
    if not file.is_file():
        raise InputError(f"{paths.shown(file)} is missing; {MAKE} makes it")
    return pd.read_csv(file)


def main(records: str = "records") -> None:
    """Replays every training seed: two minutes on one core.

    Args:
        records: folder of the records.
    """
    study = CascadeAblation(paths.anchored(records) / "calibration")
    frames = {seed: replay(study.levels(VARIANT, seed), seed) for seed in study.seeds(VARIANT)}
    table = pd.concat(frames, names=["seed"]).reset_index("seed")
    table.to_csv(paths.anchored(records) / FILE, index=False)


if __name__ == "__main__":
    tyro.cli(main)
