"""The claims of this book itself: sampling, cascades, noise, the attack, the audits, and what fine-tuning needs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from cpur.bounds import lower_confidence_bound, upper_confidence_bound
from cpur.checkpoints import read_json
from cpur.compare import signed_radii
from cpur.multiscale import LevelCounts, cost
from cpur.paired import Difference, seed_difference
from cpur.paths import anchored
from cpur.records import read_lines
from studies.cascade_claims import OWN as CASCADES
from studies.consistency_claims import ABLATION, RECORDS, Gap, less
from studies.findings import OURS, Claim, Measured, Proven, proven
from studies.record_index import find, find_files, like
from studies.steered import MAKE, committed

SAMPLES = "python benchmarks/samples.py --out benchmarks/results/samples.json"
THROUGHPUT = "python benchmarks/throughput.py --out benchmarks/results/throughput-cpu.json"
FALSE = "python -m studies.cascade_errors --out records/cascade/false-certificates.csv"
N0, N, ALPHA = 100, 100_000, 0.001  # of benchmarks/samples.py
LOST = 0.1  # points of certified accuracy that plan sequential may lose
OFTEN = 0.05  # alpha of the simulated cascades
KEPT = 0.98  # share of the radius that a steered cascade should keep


def fewer_samples(sources: Any) -> Measured:
    """Thousands of samples an image that plan sequential saves, mean over the sets of published logs.

    The interval is the mean of those of the sets, which is rather too long: it is that of the simulation.
    """
    rows = _simulated(sources)
    saved = [
        (N0 + N - np.array([row["samples"], *reversed(row["samples_interval"])])) / 1000
        for row in rows
        if row["set"].startswith("cohen")
    ]
    return Measured(
        Difference(*np.mean(saved, axis=0)), None, sum(row["images"] for row in rows[: len(saved)]), N, ALPHA
    )


def little_lost(sources: Any) -> Measured:
    """How far the largest loss of certified accuracy, over all sets and radii, stays below what is allowed."""
    rows = _simulated(sources)
    loss, error = max(pair for row in rows for pair in zip(row["lost_points"], row["lost_standard_error"], strict=True))
    found = Difference(LOST - loss, LOST - loss - 1.96 * error, LOST - loss + 1.96 * error)
    return Measured(found, None, sum(row["images"] for row in rows), N, ALPHA)


def _simulated(sources: Any) -> list[dict]:
    return read_json(anchored(sources.benchmarks) / "samples.json")["simulated"]


def quicker(threads: str):
    """How much quicker the engine is than the loop that is usual, as a ratio less 1; the interval is over repeats."""

    def found(sources: Any) -> Measured:
        figures = read_json(anchored(sources.benchmarks) / "throughput-cpu.json")
        ratio = np.divide(figures["threads"][threads]["engine"], figures["threads"][threads]["naive"])[None]
        return Measured(seed_difference(ratio, np.ones_like(ratio)), None, figures["images"], figures["n"])

    return found


def rarely_false(way: str, sign: int = 1):
    """Alpha less the rate of false certificates where it is largest, in percentage points; the sign is -1 for more."""

    def found(sources: Any) -> Measured:
        rows = pd.read_csv(anchored(sources.records) / "cascade" / "false-certificates.csv")
        rows = rows[(rows["certified by"] == way) & (rows.alpha == OFTEN)]
        worst = rows.loc[rows["false"].idxmax()]
        rates = _rate(int(worst["false"]), int(worst.runs))
        difference = Difference(*(100 * (OFTEN - rate) for rate in rates))
        return Measured(difference if sign > 0 else -difference, None, int(worst.runs), 300, OFTEN)

    return found


def _rate(hits: int, n: int) -> tuple[float, float, float]:
    """A rate with its exact 95% interval, the upper end first."""
    return hits / n, float(upper_confidence_bound(hits, n, 0.025)), float(lower_confidence_bound(hits, n, 0.025))


def no_attack_succeeds(sources: Any) -> Measured:
    """Alpha less the rate of successful attacks, in percentage points; each method has the same images."""
    rows = pd.read_csv(anchored(sources.records) / "attacks.csv")
    worst = rows.loc[rows.failures.idxmax()]
    rates = _rate(int(worst.failures), int(worst.images))
    return Measured(Difference(*(100 * (ALPHA - rate) for rate in rates)), None, int(worst.images), None, ALPHA)


def impossible_radii(sources: Any) -> Proven:
    """How many logs of the first paper on randomized smoothing only another alpha than theirs explains."""
    rows = pd.read_csv(anchored(sources.records) / "audits.csv").set_index("repository")
    row = rows.loc["locuslab/smoothing"]
    count = int(row["alpha 0.01"])
    return Proven(count > 0, "test_audit.py::test_public_logs", f"{count} of {row.logs} logs")


def replayed_saving(sources: Any) -> Measured:
    """Levels' worth of samples that steering saves; a cascade of three without it takes three."""
    frame = committed(sources.records)
    taken = frame.pivot(index="seed", columns="index", values="samples").to_numpy() / (100 + 1000)
    return Measured(seed_difference(np.full_like(taken, 3.0), taken), *taken.shape, 1000, ALPHA)


def replayed_radius(sources: Any) -> Measured:
    """Mean radius of the steered cascade less the share to keep of the one with all samples at every level."""
    frame = committed(sources.records)
    right = {name: frame[f"{name}prediction"] == frame.label for name in ("", "full ")}
    radii = {name: (frame[f"{name}radius"] * right[name]).to_numpy() for name in right}
    ours, theirs = (values.reshape(frame.seed.nunique(), -1) for values in radii.values())
    return Measured(seed_difference(ours, KEPT * theirs), len(ours), ours.shape[1], 1000, ALPHA)


def _steered(sources: Any) -> tuple[dict, pd.DataFrame, LevelCounts]:
    """The record of the steered cascade as it stands, and the levels that it has, at full n.

    The page of the cascade checks its counts; here that would take most of the time.
    """
    cascades = find_files(
        sources.records, lambda header: "sigmas" in header["config"] and like(dataset="digits")(header)
    )
    header, lines = read_lines(cascades[0][1])
    config = header["config"]
    same = like(**{key: config[key] for key in ("dataset", "purifier", "checkpoint", "classifier", "n", "num_images")})
    levels = find(sources.records, lambda other: same(other) and other["config"].get("sigma") in config["sigmas"])
    frame = pd.DataFrame(lines).sort_values("index", ignore_index=True)
    return header, frame.assign(correct=frame.prediction == frame.label), LevelCounts.of(levels)


def sampled_cost(sources: Any) -> Measured:
    """Levels' worth of samples of the committed cascade, at its larger n; one training seed."""
    header, frame, levels = _steered(sources)
    config = header["config"]
    samples = ((frame.n0 + frame.n) / (config["n0"] + config["n"])).to_numpy()[None]
    found = seed_difference(samples, np.zeros_like(samples))
    spent = cost((header, frame), levels.certified("max")[1])
    note = f"{spent.samples:.2f} levels for certified images"
    return Measured(found, 1, len(frame), config["n"], config["alpha"], note)


def sampled_saving(sources: Any) -> Measured:
    """The same as :func:`replayed_saving`, of the committed cascade."""
    taken = sampled_cost(sources)
    return replace(taken, difference=less(-taken.difference, -3.0))


def sampled_radius(sources: Any) -> Measured:
    """The same as :func:`replayed_radius`, of the committed cascade."""
    header, frame, levels = _steered(sources)
    full, config = levels.certified("max")[1], header["config"]
    ours, theirs = (signed_radii(part).clip(0)[None] for part in (frame, full))
    note = f"{cost((header, frame), full).radius:.1%} kept"
    found = seed_difference(ours, KEPT * theirs)
    return Measured(found, 1, ours.shape[1], config["n"], config["alpha"], note)


def _own(text: str, unit: str, command: str, find) -> Claim:
    return Claim(text, OURS, unit, command, find)


def _proven(text: str, test: str) -> Claim:
    return proven(text, OURS, True, test)


CLAIMS = (
    _proven(
        "Plan sequential is false with probability alpha at most, for every p",
        "test_plans.py::test_exact_error_is_at_most_alpha_for_every_p",
    ),
    _own("Plan sequential takes fewer samples than plan fixed", "k samples", SAMPLES, fewer_samples),
    _own(f"Plan sequential loses at most {LOST:g} points at any radius", "points", SAMPLES, little_lost),
    _own("The engine is quicker than the usual loop, on one thread", "ratio", THROUGHPUT, quicker("1")),
    _own("The engine is quicker than the usual loop, on two threads", "ratio", THROUGHPUT, quicker("2")),
    _proven(
        "What the network sees depends on the sum of image and noise alone",
        "test_noise.py::test_noisy_image_is_a_function_of_the_integer_sum",
    ),
    _proven(
        "The noise on the lattice is the rounded Gaussian, point by point",
        "test_noise.py::test_law_of_the_rounded_gaussian_point_by_point",
    ),
    _proven("Rule max never certifies less than rule first", "test_cascade.py::test_max_is_never_smaller_than_first"),
    *CASCADES,
    _own("A steered cascade takes fewer samples than n at each level", "levels", MAKE, replayed_saving),
    _own(f"A steered cascade keeps {KEPT:.0%} of the radius", "radius", MAKE, replayed_radius),
    _own("Steering takes fewer samples at n = 10,000 too", "levels", RECORDS, sampled_saving),
    _own(f"Steering keeps {KEPT:.0%} of the radius at n = 10,000 too", "radius", RECORDS, sampled_radius),
    _own("Rule max is false less often than alpha", "points", FALSE, rarely_false("max")),
    _own("The released statistics are false more often than alpha", "points", FALSE, rarely_false("released", -1)),
    _own("Peeking at bounds is false more often than alpha", "points", FALSE, rarely_false("peeking", -1)),
    _own("An attack succeeds less often than alpha", "points", "python -m studies.attacks", no_attack_succeeds),
    _own("Logs that are said to have alpha 0.001 have another", "", "python -m studies.audits", impossible_radii),
    _own(
        "Fine-tuning needs a consistency model: tuned from the EDM it certifies less",
        "points",
        ABLATION,
        Gap("features", "edm-features"),
    ),
    _own(
        "Features learned from labels certify more than those without",
        "points",
        ABLATION,
        Gap("features", "features-autoencoder"),
    ),
    _own(
        "Trained features certify more than random ones",
        "points",
        ABLATION,
        Gap("features", "features-random"),
    ),
)
