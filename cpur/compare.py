"""Certifies methods on the same images with the same noise, so that they can be compared in pairs."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Float

from cpur.config import CertifyConfig
from cpur.engine import Progress, certify_dataset
from cpur.finetune import Finetuned
from cpur.paths import shown
from cpur.recipes import FinetuneConfig
from cpur.records import load_record


def certified_radii(
    configs: Iterable[CertifyConfig], progress: Progress | None = None
) -> Float[np.ndarray, "configs images"]:
    """The radii that each configuration certifies, in the order of the images; -1 where it is wrong or abstains.

    Records that exist already are read.
    """
    return np.stack([signed_radii(load_record(certify_dataset(config, progress).file)[1]) for config in configs])


def signed_radii(frame: pd.DataFrame) -> Float[np.ndarray, "images"]:
    """The radius of each image of a record, in the order of the images; -1 where it is wrong or abstains."""
    return np.where(frame.correct, frame.radius, -1.0)


def before_and_after(
    config: FinetuneConfig, result: Finetuned, progress: Progress | None = None
) -> tuple[Float[np.ndarray, "1 sigmas images"], Float[np.ndarray, "1 sigmas images"]]:
    """The radii with what fine-tuning started from, and with what it gave, at each of its noise levels."""
    tuned = {"checkpoint": result.purifier, "classifier_checkpoint": result.classifier}
    changed = {name: shown(folder) for name, folder in tuned.items() if folder}
    return tuple(
        certified_radii(configs, progress)[None]
        for configs in (config.certifications(), config.certifications(**changed))
    )
