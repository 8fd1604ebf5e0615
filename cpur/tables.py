"""Records as text: tables, and sentences about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cpur.accuracy import (
    EPSILONS,
    Records,
    average_certified_radius,
    certified_accuracy,
    envelope,
    has_full_radii,
    label,
    order,
    wilson,
)
from cpur.errors import InputError
from cpur.images import ImageSet
from cpur.paths import anchored, shown
from cpur.plans import Plan, StoppingRule
from cpur.records import load_record, record_files
from cpur.smooth import ABSTAIN

ENVELOPE = (
    "The envelope takes the best sigma at each radius: it is not one classifier, no single model attains it, and "
    "since sigma is chosen on the images that are counted, it is optimistic."
)


def percent(value: float, low: float, high: float) -> str:
    """A share with its interval, as a table shows it."""
    return f"{100 * value:.1f} [{100 * low:.1f}–{100 * high:.1f}]"


def summary_row(header: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """One row of the main table: certified accuracy in percent with intervals, abstentions, ACR."""
    config = header["config"]
    columns = cells(header, frame, None)
    return {
        "purifier": label(header),
        "calls": header["network_calls"],
        "images": len(frame),
        "n": config["n"] if config["plan"] == "fixed" else f"≤ {config['n']}",
        **columns,
        "abstain %": round(100 * float((frame.prediction == ABSTAIN).mean()), 1),
        "ACR": f"{average_certified_radius(header, frame):.3f}" if has_full_radii(header) else "—",
    }


def cells(header: dict[str, Any], frame: pd.DataFrame, epsilons: Sequence[float] | None) -> dict[str, str]:
    """Certified accuracy with its interval as text, a column each epsilon."""
    rows = certified_accuracy(header, frame, epsilons).itertuples()
    return {f"eps {row.epsilon:g}": percent(row.accuracy, row.low, row.high) for row in rows}


def summary(records: Records) -> pd.DataFrame:
    """The main table: one row a record."""
    return pd.DataFrame([summary_row(header, frame) for header, frame in records]).set_index("purifier")


def find_records(folder: str | Path, *below: str, **wanted: Any) -> Records:
    """The complete records of single noise levels in ``folder`` whose configuration has the ``wanted`` values.

    Folders ``below`` it are searched too.

    Raises:
        InputError: there are none.
    """
    files = [file for part in (".", *below) for file in record_files(anchored(folder) / part)]
    records = [load_record(file) for file in files]
    chosen = [
        (header, frame)
        for header, frame in records
        if all(header["config"].get(key) == value for key, value in wanted.items())
        and "sigma" in header["config"]
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
        name, size = label(header), (len(frame), header["config"]["n"])
        best[name] = max(best.get(name, size), size)
    return _of_size(records, *min(best.values()))


def _of_size(records: Records, images: int, n: int) -> Records:
    chosen = [(h, frame) for h, frame in records if (len(frame), h["config"]["n"]) == (images, n)]

    return sorted(chosen, key=lambda record: (record[0]["config"]["sigma"], order(record[0]), label(record[0])))


def overview(records: Records, epsilons: Sequence[float] = EPSILONS) -> pd.DataFrame:
    """A frame of many records: one row a noise level and purifier, certified accuracy with its interval as text."""
    rows = [
        {"sigma": f"{header['config']['sigma']:g}", "purifier": label(header)} | cells(header, frame, epsilons)
        for header, frame in records
    ]
    return pd.DataFrame(rows)


def envelope_overview(records: Records, epsilons: Sequence[float] = EPSILONS) -> pd.DataFrame:
    """The envelope as text: one row a purifier, each cell with its interval and sigma."""
    best = envelope(records, epsilons)
    cells = [f"{percent(row.accuracy, row.low, row.high)}, sigma {row.sigma:g}" for row in best.itertuples()]
    wide = best.assign(cell=cells, column=[f"eps {e:g}" for e in best.epsilon])
    table = wide.pivot(index="purifier", columns="column", values="cell")
    return table.loc[wide.purifier.unique(), wide.column.unique()].rename_axis(columns=None).reset_index()


def markdown(table: pd.DataFrame) -> str:
    """A frame of text as a Markdown table, names in code."""
    table = table.assign(purifier=[f"`{name}`" for name in table.purifier])
    lines = [list(table), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(table: pd.DataFrame) -> str:
    """A frame of text as a LaTeX table with the rules of booktabs."""
    return table.to_latex(index=False, escape=True).replace("–", "--").strip()


def best_one_step(records: Records) -> str:
    """In a sentence of Markdown, the purifier with one network call that certifies most, at each epsilon."""
    one_step = [(header, frame) for header, frame in records if header["network_calls"] == 1]
    parts = []
    for epsilon in one_step[0][0]["config"]["epsilons"]:
        rows = [(certified_accuracy(header, frame, [epsilon]).iloc[0], header) for header, frame in one_step]
        row, header = max(rows, key=lambda item: item[0].accuracy)
        if row.accuracy > 0:
            name, share = label(header), percent(row.accuracy, row.low, row.high)
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
    hardware = header["hardware"]
    workers = hardware.get("workers", 1) * hardware.get("processes", 1)
    return pd.Series(
        {
            "images": len(frame),
            "noise samples": f"{samples:,}",
            "network calls per purification": header["network_calls"],
            "samples per second": f"{workers * samples / frame.seconds.sum():,.0f}",
            "seconds per image": f"{frame.seconds.mean() / workers:.2f}",
            "device": hardware["device"],
            "samplers side by side": workers,
            "threads a sampler": hardware["threads"],
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


def plan_table(plan: Plan, rule: StoppingRule) -> pd.DataFrame:
    """The looks of a plan: samples, alpha, and for each epsilon the fewest hits that certify it."""
    frame = pd.DataFrame({"samples": plan.looks, "alpha": [f"{alpha:.3g}" for alpha in plan.alphas]})
    for column, epsilon in enumerate(rule.epsilons):
        hits = rule.certified[:, column]
        frame[f"eps {epsilon:g}"] = ["—" if h > n else str(h) for h, n in zip(hits, plan.looks, strict=True)]
    return frame
