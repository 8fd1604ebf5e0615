"""What is seen of one image, as data and in words: pictures, the path of the PF-ODE, votes and looks, a cascade."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from cpur.bounds import certified_radius, lower_confidence_bound
from cpur.cascade import CascadeCertificate, certify_counts, level_bounds
from cpur.plans import Plan
from cpur.smooth import ABSTAIN


@dataclass(frozen=True)
class Pictures:
    """Images, and what the classifier sees in each."""

    names: tuple[str, ...]
    calls: tuple[int, ...]  # of a network, behind each
    images: Float[Tensor, "b c h w"]
    seen: tuple[int, ...]
    label: int

    @property
    def caption(self) -> str:
        """What is to be seen, in words."""
        told = ", ".join(f"{name} {seen}" for name, seen in zip(self.names, self.seen, strict=True))
        return f"The image is of class {self.label}. The classifier sees: {told}."


@dataclass(frozen=True)
class Path:
    """The states of the PF-ODE from the noisy image down to noise 0, and the jumps of the one-step purifiers."""

    levels: tuple[float, ...]  # the noise level of each state
    states: Pictures
    jumps: Pictures | None

    @property
    def caption(self) -> str:
        """What is to be seen, in words."""
        calls, end = self.states.calls[-1], self.states.seen[-1]
        text = f"The PF-ODE needs {calls} network calls from σ = {self.levels[0]:g} to 0, and ends at class {end}."
        if self.jumps is not None:
            told = ", ".join(f"{name} at {seen}" for name, seen in zip(self.jumps.names, self.jumps.seen, strict=True))
            text += f" One call each: {told}."
        return text


@dataclass(frozen=True)
class Looks:
    r"""The votes on one image so far, and its certificate at each look taken.

    Guarantee: that of plan ``sequential`` (:class:`cpur.plans.Plan`), for a choice made before its samples were seen.
    """

    plan: Plan
    sigma: float
    label: int
    selected: int  # the class that the selection samples favour
    counts: Int[np.ndarray, "k"]  # of all estimation samples so far
    taken: tuple[np.ndarray, ...] = ()  # the counts at each look

    @cached_property
    def hits(self) -> Int[np.ndarray, "looks"]:
        """Votes for the selected class at each look."""
        return np.array([counts[self.selected] for counts in self.taken], np.int64)

    @property
    def _spent(self) -> tuple[np.ndarray, tuple[int, ...], tuple[float, ...]]:
        return self.hits, self.plan.looks[: len(self.hits)], self.plan.alphas[: len(self.hits)]

    @cached_property
    def lower(self) -> Float[np.ndarray, "looks"]:
        """The lower bound of the selected class's probability at each look, at its share of alpha."""
        return np.asarray(lower_confidence_bound(*self._spent)).reshape(-1)

    @cached_property
    def radii(self) -> Float[np.ndarray, "looks"]:
        """The radius that each look certifies by itself."""
        return np.asarray(certified_radius(*self._spent, self.sigma)).reshape(-1)

    @property
    def best(self) -> Float[np.ndarray, "looks"]:
        """The running maximum of the radii: what is certified so far."""
        return np.maximum.accumulate(self.radii)

    @property
    def radius(self) -> float:
        """What is certified now."""
        return float(self.radii.max(initial=0.0))

    @property
    def prediction(self) -> int:
        """The certified class, or ABSTAIN."""
        return self.selected if self.radius > 0 else ABSTAIN

    @property
    def caption(self) -> str:
        """What is to be seen, in words."""
        n = int(self.counts.sum())
        text = f"{self.counts[self.selected]:,} of {n:,} votes for class {self.selected}, at look {len(self.taken)} of "
        text += f"{len(self.plan.looks)}. "
        if self.prediction == ABSTAIN:
            last = len(self.taken) == len(self.plan.looks)
            return text + ("No look certifies it: the method abstains." if last else "Nothing is certified yet.")
        alpha = f"α = {sum(self.plan.alphas):.3g}"
        return text + f"Certified at {alpha}: {_verdict(self.selected, self.radius, self.label)}."

    def upto(self, count: int) -> "Looks":
        """What was known after so many looks."""
        return replace(self, counts=self.taken[count - 1], taken=self.taken[:count])


@dataclass(frozen=True)
class CascadeView:
    """The levels of a cascade, from the largest sigma down, those not yet sampled with a row of zeros."""

    sigmas: tuple[float, ...]
    counts: Int[np.ndarray, "K C"]
    selected: Int[np.ndarray, "K"]
    lower: Float[np.ndarray, "K"]  # of the selected class
    upper: Float[np.ndarray, "K"]
    certificate: CascadeCertificate
    label: int
    threshold: float = 0.5

    @property
    def halts(self) -> int | None:
        """The first level whose lower bound is above the threshold."""
        return next(iter(np.flatnonzero(self.lower > self.threshold).tolist()), None)

    @property
    def caption(self) -> str:
        """What is to be seen, in words."""
        if self.halts is None:
            waits = not self.counts.sum(1).all()
            return "No level has halted yet." if waits else "No level is sure of a class: the cascade abstains."
        text = f"The cascade halts at σ = {self.sigmas[self.halts]:g} with class {self.selected[self.halts]}. "
        found = self.certificate
        if found.level is None:
            return text + "Nothing is certified: an earlier level might halt at another class nearby."
        verdict = _verdict(found.prediction, found.radius, self.label)
        return text + f"Certified: {verdict}; the radius is that of σ = {self.sigmas[found.level]:g}."


def _verdict(prediction: int, radius: float, label: int) -> str:
    return f"class {prediction} within radius {radius:.2f}, which is {'right' if prediction == label else 'wrong'}"


def cascade(sigmas: Sequence[float], levels: Mapping[float, Looks], alpha: float) -> CascadeView:
    """The cascade of levels that are sampled to the end; ``sigmas`` from the largest down, ``levels`` by sigma.

    Guarantee: that of :func:`cpur.cascade.certify_counts`; every level's n was fixed beforehand.
    """
    one = next(iter(levels.values()))
    counts = np.stack([levels[s].counts if s in levels else np.zeros_like(one.counts) for s in sigmas])
    selected = np.array([levels[s].selected if s in levels else 0 for s in sigmas])
    lower, upper = (np.take_along_axis(b, selected[:, None], 1)[:, 0] for b in level_bounds(counts, selected, alpha))
    certificate = certify_counts(counts, sigmas, alpha, selected=selected)
    return CascadeView(tuple(sigmas), counts, selected, lower, upper, certificate, one.label)


@dataclass(frozen=True)
class Progress:
    """What is being computed, in words."""

    text: str
