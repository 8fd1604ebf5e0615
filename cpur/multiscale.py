"""Cascades from the records of single levels, and what they are compared by.

The records of one purifier at several noise levels hold what a cascade of these levels needs: each level's own
selected class, and counts of a fixed number of samples. Levels may share noise (:func:`cpur.cascade.level_bounds`),
so nothing is sampled again, and every subset of levels, threshold and rule can be asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cpur import tables
from cpur.accuracy import Records, average_certified_radius, has_full_radii, label, order
from cpur.cascade import RULES, cascade_radii, certify_bounds, certify_counts, level_bounds
from cpur.config import CertifyConfig, MultiscaleConfig
from cpur.engine import Progress, certify_dataset, record_file
from cpur.errors import InputError
from cpur.records import load_record, standing
from cpur.smooth import ABSTAIN

FOLDER = "cascade"  # below that of the records: those of single levels that only cascades need


@dataclass(frozen=True)
class LevelCounts:
    """The counts of the same images at several noise levels, from the smallest sigma up."""

    header: dict[str, Any]  # of the first record
    singles: Records  # the records themselves, from the smallest sigma up
    sigmas: tuple[float, ...]
    index: Int[np.ndarray, "n"]
    label: Int[np.ndarray, "n"]
    selected: Int[np.ndarray, "n K"]
    counts: Int[np.ndarray, "n K C"]

    @classmethod
    def of(cls, records: Records) -> "LevelCounts":
        """Stacks records that differ in their noise level only.

        Raises:
            InputError: they differ in more, do not differ in it, or one has a plan that stops early.
        """
        records = sorted(records, key=lambda record: record[0]["config"]["sigma"])
        header = records[0][0]
        sigmas = tuple(h["config"]["sigma"] for h, _ in records)
        rest = [{key: value for key, value in h["identity"].items() if key != "sigma"} for h, _ in records]
        if len(set(sigmas)) < len(sigmas) or any(other != rest[0] for other in rest):
            raise InputError("a cascade needs records that differ in sigma, and in nothing else")
        if not has_full_radii(header):
            raise InputError(
                "a cascade is made of records of plan fixed: a plan that stops early spends alpha on looks"
            )
        first = records[0][1]
        if any(not frame["index"].equals(first["index"]) for _, frame in records):
            raise InputError("a cascade needs records of the same images: one of them is not complete")
        selected, counts = (
            np.stack([np.stack(frame[column].to_numpy()) for _, frame in records], 1)
            for column in ("selected", "counts")
        )
        return cls(header, records, sigmas, first["index"].to_numpy(), first.label.to_numpy(), selected, counts)

    @property
    def shares(self) -> Float[np.ndarray, "n K C"]:
        """The shares of the classes, half a hit added to each, so that none is 0 or 1."""
        counts = self.counts + 0.5
        return counts / counts.sum(-1, keepdims=True)

    def certified(self, rule: str = "max", threshold: float = 0.5) -> tuple[dict[str, Any], pd.DataFrame]:
        """The cascade's certificates as a record: a header, and a frame with prediction, radius, level and correct.

        Guarantee: that of :func:`cpur.cascade.certify_counts`, at the alpha of the records, for one image at a time.
        """
        config = {key: value for key, value in self.header["config"].items() if key != "sigma"}
        config |= {"sigmas": list(self.sigmas), "threshold": threshold, "rule": rule}
        if rule == "released":
            values = {"alpha": config["alpha"], "threshold": threshold, "rule": rule}
            pairs = zip(self.counts, self.selected, strict=True)
            found = [certify_counts(counts, self.sigmas, selected=chosen, **values) for counts, chosen in pairs]
        else:  # the same as that for one image at a time, but quicker
            bounds = zip(*level_bounds(self.counts, self.selected, config["alpha"]), strict=True)
            found = [certify_bounds(*pair, self.sigmas, threshold, rule=rule) for pair in bounds]
        frame = pd.DataFrame(found).assign(index=self.index, label=self.label)
        frame["correct"] = (frame.prediction == frame.label) & (frame.prediction != ABSTAIN)
        return self.header | {"config": config}, frame


def certify_levels(config: MultiscaleConfig, progress: Progress | None = None) -> LevelCounts:
    """Certifies every level of a cascade by itself, with plan fixed.

    Records in ``records_dir`` are read; what is missing is made in its folder ``cascade``.
    """
    shared = {field.name: getattr(config, field.name) for field in fields(CertifyConfig) if field.name != "sigma"}
    configs = [CertifyConfig(**shared | {"plan": "fixed"}, sigma=sigma) for sigma in config.sigmas]
    apart = f"{config.records_dir}/{FOLDER}"
    configs = [one if standing(record_file(one)).exists() else replace(one, records_dir=apart) for one in configs]
    return LevelCounts.of([load_record(certify_dataset(one, progress).file) for one in configs])


def collective_objective(levels: LevelCounts, threshold: float = 0.5) -> Float[np.ndarray, "n"]:
    r"""What the levels together could certify of each image's true class, if their probabilities were known.

    .. math:: J(x, y) = \max\big(0,\; \max_k \min\{ \sigma_k[\Phi^{-1}(p_k(y)) - t],\;
        \min_{j: \sigma_j > \sigma_k} \sigma_j[t - \max_{c \ne y} \Phi^{-1}(p_j(c))] \}\big)

    with the shares of the samples for p. Its mean over images is the average certified radius of the cascade without
    the price of finite samples: one number for all levels, by which purifiers can be compared and trained.

    Source: after Jeong & Shin (2023), who compare models by the robustness of all levels together; their formula could
    not be read, and this is this project's.
    """
    p = levels.shares
    radii = cascade_radii(p, p, np.broadcast_to(levels.sigmas, p.shape[:2]), threshold)
    return np.take_along_axis(radii.max(1), levels.label[:, None], 1)[:, 0].clip(0)


def rules_table(levels: LevelCounts, threshold: float = 0.5) -> pd.DataFrame:
    """Certified accuracy in percent with its interval, and ACR: each level alone, their envelope, and the rules."""
    epsilons = levels.header["config"]["epsilons"]
    rows = {f"sigma {sigma:g} alone": record for sigma, record in zip(levels.sigmas, levels.singles, strict=True)}
    rows |= {f"cascade, rule {rule}": levels.certified(rule, threshold) for rule in RULES}
    table = pd.DataFrame({name: _row(*record, epsilons) for name, record in rows.items()}).T
    best = tables.envelope_overview(levels.singles, epsilons).drop(columns="purifier").assign(ACR="")
    return pd.concat([table, best.set_index(pd.Index(["envelope of the levels"]))])


def _row(header: dict[str, Any], frame: pd.DataFrame, epsilons: Sequence[float]) -> dict[str, str]:
    return tables.cells(header, frame, epsilons) | {"ACR": f"{average_certified_radius(header, frame):.3f}"}


def find_cascades(config: MultiscaleConfig) -> dict[str, LevelCounts]:
    """The cascades that the records of its levels allow, in its folder of records and in ``cascade`` below.

    They are those of the same images and the same classifier. The keys are the purifiers. Of the numbers of images and
    n that a purifier has at every level, the largest is taken, and a purifier without complete records of plan fixed of
    that size is left out.
    """
    same = ("dataset", "subset", "classifier", "classifier_checkpoint")
    wanted = {"plan": "fixed", **{name: getattr(config, name) for name in same}}
    groups: dict[tuple[int, int], dict[str, dict[float, Any]]] = {}
    records = sorted(tables.find_records(config.records_dir, FOLDER, **wanted), key=lambda record: order(record[0]))
    for header, frame in records:
        size, sigma = (len(frame), header["config"]["n"]), header["config"]["sigma"]
        if sigma in config.sigmas:
            groups.setdefault(size, {}).setdefault(label(header), {})[sigma] = header, frame
    for _, found in sorted(groups.items(), reverse=True):
        whole = {name: [*levels.values()] for name, levels in found.items() if len(levels) == len(config.sigmas)}
        if whole:
            return {name: LevelCounts.of(levels) for name, levels in whole.items()}
    return {}


def cascades_table(cascades: Mapping[str, LevelCounts], threshold: float = 0.5) -> pd.DataFrame:
    """For each purifier, the best single level by ACR beside the cascade by each rule, and the collective objective."""
    rows = {}
    for name, levels in cascades.items():
        epsilons = levels.header["config"]["epsilons"]
        best = max(levels.singles, key=lambda record: average_certified_radius(*record))
        rows[name, f"sigma {best[0]['config']['sigma']:g} alone, the best"] = _row(*best, epsilons)
        for rule in RULES:
            rows[name, f"cascade, rule {rule}"] = _row(*levels.certified(rule, threshold), epsilons)
        rows[name, "cascade, rule max"]["J"] = f"{collective_objective(levels, threshold).mean():.3f}"
    return pd.DataFrame(rows).T.fillna("")


def gain(levels: LevelCounts, threshold: float = 0.5) -> str:
    """Mean radius by rule first and by rule max, on the same bounds, over the images that max certifies, in words."""
    first, best = (levels.certified(rule, threshold)[1].radius for rule in ("first", "max"))
    some = best > 0
    return f"mean radius of {some.sum()} images: {first[some].mean():.3f} by rule first, {best[some].mean():.3f} by max"


def halting(levels: LevelCounts, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Whether a class has a share above the threshold, and whether it is the right one: ``n K+1``, the cascade last."""
    shares = levels.counts / levels.counts.sum(-1, keepdims=True)
    halts, right = shares.max(-1) > threshold, shares.argmax(-1) == levels.label[:, None]
    # The cascade: the first level from the largest sigma down that halts.
    last = halts.shape[1] - 1 - np.argmax(halts[:, ::-1], axis=1)
    right = np.column_stack([right, right[np.arange(len(right)), last]])
    return np.column_stack([halts, halts.any(1)]), right


def error_split(levels: LevelCounts, threshold: float = 0.5) -> pd.DataFrame:
    """How often each level is over-smoothed, how often over-confident, and how often right, in percent of the images.

    Over-smoothing: no class has a share above the threshold. Over-confidence: a wrong class has.
    """
    halts, right = halting(levels, threshold)
    columns = {"over-smoothing": ~halts, "over-confidence": halts & ~right, "right": halts & right}
    names = [*(f"sigma {sigma:g}" for sigma in levels.sigmas), "cascade"]
    return pd.DataFrame({column: 100 * found.mean(0) for column, found in columns.items()}, index=names)


@dataclass(frozen=True)
class Cost:
    """What a steered cascade costs and loses, over the images that it certifies."""

    samples: float  # all its samples, selection included, over those of one level at n
    radius: float  # its radii, summed, over those with n samples at every level
    images: int  # that it certifies
    lost: int  # that n samples at every level certify, and it does not

    def __str__(self) -> str:
        return (
            f"samples: {self.samples:.2f} of one level's; radius: {100 * self.radius:.1f}% of that with all samples at "
            f"every level; {self.images} images certified, {self.lost} lost"
        )


def cost(steered: tuple[dict[str, Any], pd.DataFrame], full: pd.DataFrame) -> Cost:
    """Compares the record of a steered cascade with the same cascade at n samples everywhere.

    Args:
        steered: header and frame of a record of plan ``full``.
        full: certificates of the same images, as :meth:`LevelCounts.certified` gives them.
    """
    header, frame = steered
    config, certified = header["config"], frame.radius > 0
    other = full.set_index("index").radius.loc[frame["index"]].to_numpy()
    samples = (frame.n0 + frame.n)[certified].mean() / (config["n0"] + config["n"])
    both = certified & (other > 0)
    return Cost(
        float(samples),
        float(frame.radius[both].sum() / other[both].sum()),
        int(certified.sum()),
        int((~certified & (other > 0)).sum()),
    )
