r"""ACES: certified selection between a smoothed model and an accurate one.

The smoothed model f is taken where it is sure: a noisy copy votes for it where the normalised entropy
:math:`H(\mathrm{softmax}\, f(x + \sigma e)) / \log C` is below a threshold. The votes of f and the votes for taking it
are certified with half of alpha each. Where both are, f's class is certified within the smaller radius; where the
votes are certified to be against it, the core model answers, and its answer has radius 0.

Source: Horváth et al. (2022), section 4.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpur import paths
from cpur.checkpoints import read_json
from cpur.classifiers import load_classifier
from cpur.errors import InputError
from cpur.smooth import ABSTAIN

SELECTOR = "selector.json"  # in a selector's folder: its classifier, that one's checkpoint, and the threshold
CERTIFIED, CORE = 1, 0  # classes of a selector
NEVER = -1e4  # the logit of all others


class EntropySelector(nn.Module):
    """Says CERTIFIED where the normalised entropy of a classifier is below the threshold, else CORE.

    It has as many logits as the classifier, of which the others are never the largest.
    """

    def __init__(self, classifier: nn.Module, threshold: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("threshold", torch.tensor(float(threshold)))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        logits = self.classifier(x)
        log_shares = logits.log_softmax(1)
        entropy = -(log_shares.exp() * log_shares).sum(1) / math.log(logits.shape[1])
        said = torch.full_like(logits, NEVER)
        said[:, CORE] = 0
        said[:, CERTIFIED] = self.threshold - entropy
        return said


def entropy_selector(folder: str) -> EntropySelector:
    """Loads a selector: ``-p classifier cpur.aces:entropy_selector -p classifier_checkpoint FOLDER``."""
    settings = read_json(paths.anchored(folder) / SELECTOR)
    return EntropySelector(load_classifier(settings["classifier"], settings["checkpoint"]), settings["threshold"])


def combined(
    certification: tuple[dict[str, Any], pd.DataFrame],
    selection: tuple[dict[str, Any], pd.DataFrame],
    core: Int[np.ndarray, "n"],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The certificates of ACES, as a record: header, and a frame with prediction, radius and correct.

    Guarantee: with probability at least 1 - alpha, the sum of the two records' alphas, a prediction with a positive
    radius is what ACES returns everywhere within it.

    Args:
        certification: record of the smoothed model.
        selection: record of its selector, on the same images.
        core: class of each image by the core model.

    Raises:
        InputError: the records are not of the same images and noise level.
    """
    (ours, certified), (theirs, selected) = certification, selection
    same = all(ours["identity"][key] == theirs["identity"][key] for key in ("dataset", "subset", "sigma", "n"))
    if not same or not certified["index"].equals(selected["index"]):
        raise InputError("ACES needs a certification and a selection record of the same images at the same sigma")
    taken, passed = selected.prediction == CERTIFIED, selected.prediction == CORE
    unsure = ~taken & ~passed & (certified.prediction == core)  # both would say the same
    prediction = np.select([taken, passed | unsure], [certified.prediction, core], ABSTAIN)
    radius = np.where(taken, np.minimum(certified.radius, selected.radius), 0.0)
    config = ours["config"] | {"alpha": ours["config"]["alpha"] + theirs["config"]["alpha"]}
    frame = certified[["index", "label", "n0", "n", "seconds"]].assign(prediction=prediction, radius=radius)
    frame["correct"] = (frame.prediction == frame.label) & (frame.prediction != ABSTAIN)
    return ours | {"config": config}, frame
