"""Certified accuracy, counted from records, each figure with its interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from cpur.config import PURIFIERS
from cpur.errors import InputError

Records = list[tuple[dict[str, Any], pd.DataFrame]]
EPSILONS = (0.0, 0.25, 0.5, 0.75)  # radii of an overview of several records


def wilson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Guarantee: asymptotic; its coverage is near 95% on average over proportions, and can be lower for some.
    """
    interval = stats.binomtest(int(hits), int(n)).proportion_ci(confidence, method="wilson")
    return interval.low, interval.high


def certified_accuracy(
    header: dict[str, Any], frame: pd.DataFrame, epsilons: Sequence[float] | None = None
) -> pd.DataFrame:
    """The share of images that are right and certified at each radius, with a 95% Wilson interval.

    An abstention counts as wrong. Columns: epsilon, accuracy, low, high.

    Guarantee: the interval is for the sampling of test images; that of each certificate is its own alpha.

    Args:
        header: header of a record.
        frame: its images.
        epsilons: radii; None takes those of the record.

    Raises:
        InputError: a radius at which sampling may have stopped undecided: with plan ``sequential``, one that is not
            among the record's own.
    """
    own = header["config"]["epsilons"]
    epsilons = own if epsilons is None else epsilons
    if not has_full_radii(header) and not set(epsilons) <= set(own):
        raise InputError(
            f"a record of plan {header['config']['plan']} gives certified accuracy at its own epsilons "
            f"({', '.join(f'{e:g}' for e in own)}); got {', '.join(f'{e:g}' for e in epsilons)}: certify with these "
            "epsilons, or with plan fixed"
        )
    hits = [int((frame.correct & (frame.radius >= epsilon)).sum()) for epsilon in epsilons]
    bounds = [wilson(count, len(frame)) for count in hits]
    return pd.DataFrame(
        {
            "epsilon": list(epsilons),
            "accuracy": [count / len(frame) for count in hits],
            "low": [low for low, _ in bounds],
            "high": [high for _, high in bounds],
        }
    )


def has_full_radii(header: dict[str, Any]) -> bool:
    """Whether sampling went on to the full radius of every image, and did not stop where some epsilons were decided."""
    return header["config"]["plan"] != "sequential"


def average_certified_radius(header: dict[str, Any], frame: pd.DataFrame) -> float:
    """ACR: the mean radius, counting 0 where the prediction is wrong or abstains (Zhai et al. 2020).

    NaN for a plan that stops early: its radii end where the epsilons are decided.
    """
    return float((frame.radius * frame.correct).mean()) if has_full_radii(header) else float("nan")


def label(header: dict[str, Any]) -> str:
    """The name of a record's row: its purifier, or the folder of its checkpoint, and that of a tuned classifier."""
    config = header["config"]
    parts = [config["checkpoint"] or config["purifier"], config["classifier_checkpoint"]]
    return " + ".join(Path(part).name for part in parts if part)


def envelope(records: Records, epsilons: Sequence[float] = EPSILONS) -> pd.DataFrame:
    """The best certified accuracy of each purifier over its noise levels, radius by radius, and that noise level.

    Columns: purifier, epsilon, sigma, accuracy, low, high. It is not one classifier.
    """
    rows = [
        certified_accuracy(header, frame, epsilons).assign(
            purifier=label(header), sigma=header["config"]["sigma"], order=order(header)
        )
        for header, frame in records
    ]
    both = pd.concat(rows).sort_values(["accuracy", "sigma"], ascending=[False, True], kind="stable")
    best = both.groupby(["purifier", "epsilon"], sort=False).head(1)
    columns = ["purifier", "epsilon", "sigma", "accuracy", "low", "high"]
    return best.sort_values(["order", "purifier", "epsilon"])[columns].reset_index(drop=True)


def order(header: dict[str, Any]) -> int:
    """The place of a record's purifier among the purifiers, one with a checkpoint of its own after the embedded one."""
    config = header["config"]
    return 2 * PURIFIERS.index(config["purifier"]) + (config["checkpoint"] is not None)
