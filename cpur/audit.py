"""Audits a published log of certificates: what it says, and whether n samples at alpha can have said it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cpur.accuracy import average_certified_radius, certified_accuracy, has_full_radii
from cpur.bounds import certified_radius
from cpur.errors import InputError
from cpur.ladder import ALPHAS, SAMPLES, Explanation, Printed, ceiling, explanations, likely_sigma, rungs
from cpur.logs import Log, order_problems, some
from cpur.paths import shown
from cpur.records import load_record
from cpur.smooth import ABSTAIN

RADII = tuple(np.arange(0, 3.01, 0.25).tolist())  # at which certified accuracy is reported
PILE = 3  # rows at a ceiling that make it one
FEW = 0.02  # share of rows that may be odd before an explanation is given up


@dataclass(frozen=True)
class Audit:
    """What an audit found. ``problems`` make the exit status of ``cpur audit`` 1; ``notes`` do not."""

    file: str
    sigma: float | list[float]
    sigma_from: str
    rows: int
    abstentions: int
    max_radius: float
    acr: float | None
    certified_accuracy: dict[str, float]
    ties: dict[str, int]
    missing_rows: list[int]
    cumulative_correct: bool
    n_consistent: list[int]
    ceiling: float | None
    alpha_consistent: list[float]
    alpha_excluded: list[float]
    rounded_up: int | None
    hours: float | None
    explanations: list[Explanation] = field(default_factory=list)
    rescored: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def audit_log(
    log: Log,
    sigma: float | None = None,
    n: int | None = None,
    alpha: float | None = None,
    radii: Sequence[float] = RADII,
    rescore: float | None = None,
    floored: bool = False,
) -> Audit:
    """Audits a log.

    Args:
        log: as :func:`cpur.logs.read_log` gives it.
        sigma: noise level; None reads it from the name of the file, or else from the radii.
        n: samples that the log is said to have; None tries some.
        alpha: error probability that the log is said to have; None tries some.
        radii: where certified accuracy is reported.
        rescore: another alpha, at which the hits behind the radii are scored again.
        floored: score again with every radius rounded down to its printed digits.

    Raises:
        InputError: sigma cannot be told, or the log cannot be scored again.
    """
    printed = Printed.of(log.printed)
    sigma, sigma_from = noise_level(log, printed, sigma)
    frame, problems, notes = log.frame, [], []
    order, missing = order_problems(frame.idx) if "idx" in frame else ([], [])
    problems += order
    if "idx" not in frame:
        notes.append("there is no column idx: rows that are missing cannot be seen")
    odd = frame[(frame.predict < 0) & (frame.radius > 0)]
    problems += [f"line {number}: an abstention with radius {row.radius:g}" for number, row in odd.iterrows()]
    if log.cumulative:
        notes.append("correct is a running count; it was taken as label == predict")
    if log.ignored:
        notes.append(f"columns that were not read: {', '.join(log.ignored)}")

    alphas = sorted({*ALPHAS, alpha} - {None}, reverse=True)
    found = explanations(printed, sigma, (n,) if n else SAMPLES, alphas)
    whole = _explaining(found, printed, sigma)
    named = [one for one in found if alpha in (None, one.alpha)]
    if not any(one in whole for one in named):
        problems += _unexplained(log, printed, sigma, max(named, key=lambda one: one.share), tried=len(named))
    elif alpha is None:
        problems += _above_a_pile(log, printed, sigma, found, min(one.n for one in whole))
    consistent = sorted({one.alpha for one in whole}, reverse=True)
    one = whole[0] if len(whole) == 1 else None
    again = None
    if rescore is not None or floored:
        again = _scored_again(log, printed, sigma, one, rescore, radii)
    return Audit(
        file=shown(log.file),
        sigma=sigma,
        sigma_from=sigma_from,
        rows=len(frame),
        abstentions=int((frame.predict < 0).sum()),
        max_radius=float(frame.radius.max()),
        acr=float((frame.radius * frame.correct).mean()),
        certified_accuracy=accuracy(frame.radius, frame.correct, radii),
        ties=_ties(frame, radii),
        missing_rows=missing,
        cumulative_correct=log.cumulative,
        n_consistent=sorted({one.n for one in whole}),
        ceiling=max((ceiling(one.n, one.alpha, sigma) for one in whole), default=None),
        alpha_consistent=consistent,
        alpha_excluded=[alpha for alpha in alphas if alpha not in consistent],
        rounded_up=_rounded_up(printed, sigma, one) if one else None,
        hours=float(frame.seconds.sum() / 3600) if "seconds" in frame else None,
        explanations=found,
        rescored=again,
        problems=problems,
        notes=notes,
    )


def audit_record(file: Path, radii: Sequence[float] | None = None) -> Audit:
    """Audits a record of cpur: every radius is derived from the counts again.

    Raises:
        InputError: the file is no record, its counts do not give its radii, or its plan decided other radii.
    """
    header, frame = load_record(file)
    config = header["config"]
    index = pd.Series(frame["index"].to_numpy())
    missing = sorted(set(range(config["num_images"])) - set(index.tolist()))
    radii = radii or (RADII if has_full_radii(header) else config["epsilons"])
    found = certified_accuracy(header, frame, radii)
    acr = average_certified_radius(header, frame)
    sigma = config.get("sigma", config.get("sigmas"))
    return Audit(
        file=shown(file),
        sigma=sigma,
        sigma_from="the record",
        rows=len(frame),
        abstentions=int((frame.prediction == ABSTAIN).sum()),
        max_radius=float(frame.radius.max()),
        acr=None if np.isnan(acr) else acr,
        certified_accuracy={f"{row.epsilon:g}": row.accuracy for row in found.itertuples()},
        ties=_ties(frame, radii),
        missing_rows=missing,
        cumulative_correct=False,
        n_consistent=[config["n"]],
        ceiling=ceiling(config["n"], config["alpha"], float(np.max(sigma))),
        alpha_consistent=[config["alpha"]],
        alpha_excluded=[],
        rounded_up=0,
        hours=float(frame.seconds.sum() / 3600),
        problems=[f"{len(missing)} images are missing: {some(missing)}"] if missing else [],
        notes=[
            f"a record of cpur, n = {config['n']:,}, alpha = {config['alpha']:g}, plan {config['plan']}: every radius "
            "was derived from its counts again"
        ],
    )


def noise_level(log: Log, printed: Printed, sigma: float | None) -> tuple[float, str]:
    """Sigma, and where it was read.

    Raises:
        InputError: neither the name of the file nor the radii tell it.
    """
    if sigma is not None:
        return sigma, "the option"
    for word in ("sigma", "noise"):
        if match := re.search(rf"{word}[_=-]?(\d*\.\d+|\d+)", log.file.name):
            return float(match[1]), f"the name of the file ({match[0]})"
    likely = likely_sigma(printed) if len(printed.values) else None
    if likely is None:
        raise InputError(f"{shown(log.file)}: neither its name nor its radii tell sigma: give --sigma")
    return likely, "the radii: the smallest whose ladder explains them all"


def accuracy(radius: pd.Series, correct: pd.Series, radii: Sequence[float]) -> dict[str, float]:
    """The share of rows that are right and certified at each radius."""
    return {f"{r:g}": float((correct & (radius >= r)).mean()) for r in radii}


def _ties(frame: pd.DataFrame, radii: Sequence[float]) -> dict[str, int]:
    """Rows that are right with exactly a reported radius, where rounding may have lifted them."""
    counts = {f"{r:g}": int((frame.correct & (frame.radius == r)).sum()) for r in radii if r > 0}
    return {r: count for r, count in counts.items() if count}


def _explaining(found: list[Explanation], printed: Printed, sigma: float) -> list[Explanation]:
    """The pairs that explain every radius; where rows pile up at the ceiling of one of these, only such pairs.

    The rungs of many samples lie so close that they explain nearly any radius with any alpha. Several images with
    exactly the largest radius that a pair can certify, and none above, are what that pair gives and others do not.
    """
    whole = [one for one in found if one.share == 1]
    return [one for one in whole if _at_ceiling(printed, one, sigma).sum() >= PILE] or whole


def _at_ceiling(printed: Printed, one: Explanation, sigma: float) -> np.ndarray:
    return np.abs(printed.values - ceiling(one.n, one.alpha, sigma)) <= printed.unit / 2


def _unexplained(log: Log, printed: Printed, sigma: float, best: Explanation, tried: int) -> list[str]:
    """Sentences about the radii that are not on the ladder of the best of the pairs that were tried."""
    lines = _lines(log)
    off = ~printed.explained(best.n, best.alpha, sigma)
    high = printed.values - printed.unit / 2 > ceiling(best.n, best.alpha, sigma)
    what = f"n = {best.n:,} at alpha = {best.alpha:g}"
    who = what if tried == 1 else f"none of {tried} pairs of n and alpha explains all radii; the best, {what},"
    problems = [f"{who} leaves {off.sum()} of {len(off)} radii unexplained: line {some(lines[off].tolist())}"]
    if high.any():
        top = f"{ceiling(best.n, best.alpha, sigma):.6g}"
        largest = f"line {lines[high][0]} with {printed.values[high][0]:g}"
        problems.append(
            f"{high.sum()} of them are above {top}, the largest radius that {what} can certify: {largest} first"
        )
    return problems


def _above_a_pile(log: Log, printed: Printed, sigma: float, found: list[Explanation], n: int) -> list[str]:
    """Sentences about radii above a ceiling, of fewer samples, that other rows pile up at."""
    lines, problems = _lines(log), []
    for one in found:
        top = ceiling(one.n, one.alpha, sigma)
        above = printed.values - printed.unit / 2 > top
        at = _at_ceiling(printed, one, sigma)
        rest = printed.explained(one.n, one.alpha, sigma)[~above].all()
        if one.n < n and rest and at.sum() >= PILE and 0 < above.sum() <= min(FEW * len(above), at.sum()):
            problems.append(
                f"{at.sum()} rows have {top:.6g}, the largest radius that n = {one.n:,} at alpha = {one.alpha:g} can "
                f"certify, and {above.sum()} are above it: lines {some(lines[above].tolist())}"
            )
    return problems


def _lines(log: Log) -> np.ndarray:
    """The lines of the positive radii."""
    return log.frame.index[log.frame.radius > 0].to_numpy()


def _rounded_up(printed: Printed, sigma: float, one: Explanation) -> int:
    """Rows printed above every radius that can be behind them."""
    _, last = printed.rungs(one.n, one.alpha, sigma)
    return int((printed.values > sigma * rungs(one.n, one.alpha)[last] * (1 + 1e-9)).sum())


def _scored_again(
    log: Log, printed: Printed, sigma: float, one: Explanation | None, alpha: float | None, radii: Sequence[float]
) -> dict[str, Any]:
    """The accuracies at another alpha (None: the same, and radii rounded down).

    Where several numbers of hits print the same radius, from the fewest; ``most`` has those from the most.
    """
    if one is None:
        raise InputError(
            "a log can be scored again where one n and one alpha explain all its radii: give --n and --alpha"
        )
    both = []
    for rung in printed.rungs(one.n, one.alpha, sigma):
        if alpha is None:
            exact = sigma * rungs(one.n, one.alpha)[rung]
            found = np.floor(exact / printed.unit * (1 + 1e-12)) * printed.unit
        else:
            hits = one.n - len(rungs(one.n, one.alpha)) + 1 + rung
            found = certified_radius(hits, one.n, alpha, sigma)
        radius = log.frame.radius.copy()
        radius[radius > 0] = found
        # What no longer certifies a radius abstains, and is wrong.
        correct = log.frame.correct & ((radius > 0) | (log.frame.radius == 0) | (alpha is None))
        both.append({"acr": float((radius * correct).mean()), "certified_accuracy": accuracy(radius, correct, radii)})
    what = {"floored": True} if alpha is None else {"alpha": alpha}
    return what | both[0] | {"most": both[1]}
