"""Tables of certified accuracy, each figure with its interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy import stats

from cpur.config import PURIFIERS
from cpur.data import ImageSet
from cpur.errors import InputError
from cpur.paths import anchored, shown
from cpur.records import load_record
from cpur.smooth import ABSTAIN

Records = list[tuple[dict[str, Any], pd.DataFrame]]


def wilson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Guarantee: asymptotic; its coverage is near 95% on average over proportions, and can be lower for some.
    """
    interval = stats.binomtest(int(hits), int(n)).proportion_ci(confidence, method="wilson")
    return interval.low, interval.high


def certified_accuracy(frame: pd.DataFrame, epsilons: Sequence[float]) -> pd.DataFrame:
    """The share of images that are right and certified at each radius, with a 95% Wilson interval.

    An abstention counts as wrong. Columns: epsilon, accuracy, low, high.

    Guarantee: the interval is for the sampling of test images; that of each certificate is its own alpha.
    """
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


def average_certified_radius(frame: pd.DataFrame) -> float:
    """ACR: the mean radius, counting 0 where the prediction is wrong or abstains (Zhai et al. 2020)."""
    return float((frame.radius * frame.correct).mean())


def percent(value: float, low: float, high: float) -> str:
    """A share with its interval, as a table shows it."""
    return f"{100 * value:.1f} [{100 * low:.1f}–{100 * high:.1f}]"


def summary_row(header: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """One row of the main table: certified accuracy in percent with intervals, abstentions, ACR."""
    config = header["config"]
    accuracy = certified_accuracy(frame, config["epsilons"])
    cells = {f"eps {row.epsilon:g}": percent(row.accuracy, row.low, row.high) for row in accuracy.itertuples()}
    return {
        "purifier": config["purifier"],
        "calls": header["network_calls"],
        "images": len(frame),
        "n": config["n"],
        **cells,
        "abstain %": round(100 * float((frame.prediction == ABSTAIN).mean()), 1),
        "ACR": round(average_certified_radius(frame), 3),
    }


def summary(records: Records) -> pd.DataFrame:
    """The main table: one row a record."""
    return pd.DataFrame([summary_row(header, frame) for header, frame in records]).set_index("purifier")


def find_records(folder: str | Path, **wanted: Any) -> Records:
    """The complete records in ``folder`` whose configuration has the ``wanted`` values.

    Raises:
        InputError: there are none.
    """
    files = sorted(anchored(folder).glob("*.jsonl"))
    records = [load_record(file) for file in files]
    chosen = [
        (header, frame)
        for header, frame in records
        if all(header["config"][key] == value for key, value in wanted.items())
        and len(frame) == header["identity"]["num_images"]
    ]
    if not chosen:
        flags = " ".join(f"-p {key} {value}" for key, value in wanted.items())
        raise InputError(
            f"there is no complete record for {flags} in {shown(anchored(folder))}: make one with "
            f"`papermill notebooks/certify.ipynb runs/certify.ipynb {flags} -p records_dir {folder}`"
        )
    return chosen


def most_images(records: Records) -> Records:
    """The records of the largest number of images, at their largest n, in the order of the purifiers."""
    size = max((len(frame), header["config"]["n"]) for header, frame in records)
    return _of_size(records, *size)


def at_equal_n(records: Records) -> Records:
    """The records with the images and the n of the purifier that has the fewest, so that all can be compared."""
    best = {}
    for header, frame in records:
        name, size = header["config"]["purifier"], (len(frame), header["config"]["n"])
        best[name] = max(best.get(name, size), size)
    return _of_size(records, *min(best.values()))


def _of_size(records: Records, images: int, n: int) -> Records:
    chosen = [(h, frame) for h, frame in records if (len(frame), h["config"]["n"]) == (images, n)]

    def order(record: tuple[dict[str, Any], pd.DataFrame]) -> tuple[float, int]:
        config = record[0]["config"]
        return config["sigma"], PURIFIERS.index(config["purifier"])

    return sorted(chosen, key=order)


def markdown(records: Records, epsilons: Sequence[float] = (0.0, 0.25, 0.5, 0.75)) -> str:
    """A Markdown table of many records: one row a noise level and purifier, as the README shows it."""
    head = ["sigma", "purifier", *(f"eps {epsilon:g}" for epsilon in epsilons)]
    lines = [head, ["---"] * len(head)]
    for header, frame in records:
        rows = certified_accuracy(frame, epsilons).itertuples()
        cells = [percent(row.accuracy, row.low, row.high) for row in rows]
        lines.append([f"{header['config']['sigma']:g}", f"`{header['config']['purifier']}`", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best_one_step(records: Records) -> str:
    """In a sentence of Markdown, the purifier with one network call that certifies most, at each epsilon."""
    one_step = [(header, frame) for header, frame in records if header["network_calls"] == 1]
    parts = []
    for epsilon in one_step[0][0]["config"]["epsilons"]:
        rows = [(certified_accuracy(frame, [epsilon]).iloc[0], header) for header, frame in one_step]
        row, header = max(rows, key=lambda item: item[0].accuracy)
        if row.accuracy > 0:
            name, share = header["config"]["purifier"], percent(row.accuracy, row.low, row.high)
            parts.append(f"`{name}` at $\\epsilon = {epsilon:g}$ ({share}%)")
    return f"With one network call, {', '.join(parts)} certifies most; where intervals overlap, the order is open."


@torch.inference_mode()
def clean_accuracy(classifier: torch.nn.Module, data: ImageSet, num_images: int) -> str:
    """The accuracy of a classifier on the first clean images, with its 95% Wilson interval."""
    hits = sum(int(classifier(data[i][0][None]).argmax()) == data[i][1] for i in range(num_images))
    return percent(hits / num_images, *wilson(hits, num_images))


def speed(header: dict[str, Any], frame: pd.DataFrame) -> pd.Series:
    """How long certification took: samples a second, seconds an image."""
    samples = (frame.n0 + frame.n).sum()
    workers = header["hardware"].get("workers", 1)
    return pd.Series(
        {
            "images": len(frame),
            "noise samples": f"{samples:,}",
            "network calls per purification": header["network_calls"],
            "samples per second": f"{workers * samples / frame.seconds.sum():,.0f}",
            "seconds per image": f"{frame.seconds.mean() / workers:.2f}",
            "device": header["hardware"]["device"],
            "images side by side": workers,
            "threads an image": header["hardware"]["threads"],
        },
        name="value",
    )


def guarantee(header: dict[str, Any], frame: pd.DataFrame) -> str:
    """What the record certifies, in one paragraph of Markdown."""
    config = header["config"]
    certified = int((frame.prediction != ABSTAIN).sum())
    return (
        f"**What is certified.** The smoothed classifier $G(x')$ returns the class that the base classifier "
        f"(`{config['purifier']}`, then `{config['classifier']}`) gives most often when Gaussian noise of standard "
        f"deviation $\\sigma = {config['sigma']:g}$ is added to $x'$. For each of the {certified} of {len(frame)} "
        f"images of `{config['dataset']}` on which it did not abstain, the record states a class and a radius $R$: "
        f"**$G$ returns that class at every point closer to the image than $R$**, in the $\\ell_2$ norm of [0, 1] "
        f"pixels. On each image this statement is false with probability at most $\\alpha = {config['alpha']:g}$ over "
        f"the noise drawn here. It holds for the base classifier as it was run (batches of {config['batch_size']}, "
        f"{config['precision']}, {header['hardware']['device']}) and for ideal Gaussian noise."
    )
