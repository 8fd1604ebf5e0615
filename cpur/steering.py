r"""Samples the levels of a cascade where it helps: the level that limits the radius gets the samples.

Every level has the looks of one plan; at look i its bounds are those of :func:`cpur.cascade.level_bounds` at
:math:`\alpha_i`, and the largest lower and the smallest upper ones so far hold. All of them hold at once with
probability :math:`1 - \sum_i \alpha_i`, whatever is sampled and wherever it ends; so where to sample next may be
guessed from all that is known, selection samples too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cpur.bounds import lower_confidence_bound, upper_confidence_bound
from cpur.cascade import CascadeCertificate, cascade_radii, certify_bounds, level_bounds, terms
from cpur.errors import InputError
from cpur.plans import FUTILITY, Plan
from cpur.sampling import Draw, Procedure

UNSEEN = -1  # the selected class of a level that has not been sampled
PRIOR = 0.1  # hits, over all classes, that a forecast adds to the counts
TOLERANCE = 0.03  # share of the radius: sampling ends where the forecast is no larger gain; chosen on validation images


@dataclass(frozen=True)
class Cascade:
    """The noise levels of a cascade, and the plan by which each is sampled.

    ``epsilons`` are radii: sampling stops when all are decided. With none it goes on until the level that limits the
    radius has all its samples, or more would hardly enlarge it.
    """

    sigmas: tuple[float, ...]
    threshold: float
    plan: Plan
    epsilons: tuple[float, ...] = ()


@dataclass(frozen=True)
class CascadeRun:
    """The certificate of one image, and the counts that say it."""

    certificate: CascadeCertificate
    selected: tuple[int, ...]  # the class each level selected, UNSEEN where it was not sampled
    looks: tuple[tuple[np.ndarray, ...], ...]  # of each level, its counts at every look taken


def certification(cascade: Cascade, num_classes: int) -> Procedure:
    """The procedure that certifies one image by the cascade.

    Guarantee: false with probability at most the alpha of the plan.
    """
    state = Levels(cascade, num_classes)
    while (draw := state.next_draw()) is not None:
        state.add(draw, (yield draw))
    return CascadeRun(state.certificate(), tuple(state.selected.tolist()), tuple(map(tuple, state.looks)))


def replayed(cascade: Cascade, selected: Sequence[int], looks: Sequence[Sequence[Sequence[int]]]) -> CascadeCertificate:
    """The certificate that the counts at the looks of every level give.

    Raises:
        InputError: they are not those of the looks of the plan.
    """
    state = Levels(cascade, max((len(counts) for taken in looks for counts in taken), default=2))
    state.selected[:] = selected
    for k, taken in enumerate(looks):
        if [sum(counts) for counts in taken] != list(cascade.plan.looks[: len(taken)]):
            raise InputError(f"level {k} has counts that are not those of the looks of its plan")
        for n, counts in zip(cascade.plan.looks, taken, strict=False):
            state.add(Draw("estimation", n, k), np.array(counts))
    return state.certificate()


class Levels:
    """What is known of one image's levels, and what to sample next."""

    def __init__(self, cascade: Cascade, num_classes: int) -> None:
        self.cascade = cascade
        self.sigmas = np.array(cascade.sigmas)
        shape = (len(self.sigmas), num_classes)
        self.selected = np.full(shape[0], UNSEEN)
        self.selection, self.counts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.looks: list[list[np.ndarray]] = [[] for _ in self.sigmas]
        self.lower, self.upper = np.zeros(shape), np.ones(shape)

    def add(self, draw: Draw, counts: np.ndarray) -> None:
        """Takes in the counts of a draw."""
        k = draw.level
        if draw.purpose == "selection":
            self.selection[k], self.selected[k] = counts, counts.argmax()
            return
        alpha = self.cascade.plan.alphas[len(self.looks[k])]
        self.looks[k].append(counts)
        self.counts[k] = counts
        only = np.where(np.arange(len(self.sigmas))[:, None] == k, self.counts, 0)  # the other levels as if unsampled
        lower, upper = level_bounds(only, self.selected, alpha)
        self.lower, self.upper = np.maximum(self.lower, lower), np.minimum(self.upper, upper)

    def certificate(self) -> CascadeCertificate:
        """What the bounds so far certify."""
        return certify_bounds(self.lower, self.upper, self.sigmas, self.cascade.threshold)

    def next_draw(self) -> Draw | None:
        """What to sample next; None where nothing more can help."""
        forecast = self._radii(*self._forecast())
        if self._decided(forecast.max()):
            return None
        k, y = np.unravel_index(forecast.argmax(), self.lower.shape)
        if self.selected[k] == UNSEEN:
            return self._draw(k)
        halting, passing = terms(self.lower, self.upper, self.sigmas, self.cascade.threshold)
        limits = np.where(self.sigmas > self.sigmas[k], passing[:, y], np.inf)
        limits[k] = halting[k, y]
        k = limits.argmin()
        return self._draw(k) if len(self.looks[k]) < len(self.cascade.plan.looks) else None

    def _draw(self, k: int) -> Draw:
        plan = self.cascade.plan
        if self.selected[k] == UNSEEN:
            return Draw("selection", plan.n0, int(k))
        return Draw("estimation", plan.looks[len(self.looks[k])], int(k))

    def _radii(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        return cascade_radii(lower, upper, self.sigmas, self.cascade.threshold)

    def _decided(self, forecast: float) -> bool:
        """Whether each radius of interest is certified or out of reach; without any, whether more is worth little."""
        certified, reach = self.certificate().radius, self._radii(*self._hope()).max()
        if reach <= 0:
            return True
        if not self.cascade.epsilons:
            return bool(forecast <= (1 + TOLERANCE) * certified)
        # A radius of 0 asks for a prediction, which needs a radius above it.
        return all(0 < certified >= epsilon or reach < epsilon for epsilon in self.cascade.epsilons)

    def _forecast(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds to expect when a level has all its samples; of a level not seen yet the best there could be."""
        seen = self.selection + self.counts
        share = (seen + PRIOR / seen.shape[1]) / (seen.sum(1, keepdims=True) + PRIOR)
        return self._at_the_end(np.rint(self._missing() * share).astype(np.int64))

    def _hope(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds that more samples will hardly better: none if only hits come, and few by the samples so far."""
        lower, upper = self._at_the_end(np.zeros_like(self.counts))
        upper = np.where(np.arange(upper.shape[1]) == self.selected[:, None], 0.0, upper)
        n = self.counts.sum(1, keepdims=True)
        likely_high = np.where(n > 0, upper_confidence_bound(self.counts, np.maximum(n, 1), FUTILITY), 1.0)
        likely_low = np.where(n > 0, lower_confidence_bound(self.counts, np.maximum(n, 1), FUTILITY), 0.0)
        return np.minimum(lower, likely_high), np.maximum(upper, likely_low)

    def _missing(self) -> np.ndarray:
        return self.cascade.plan.n - self.counts.sum(1, keepdims=True)

    def _at_the_end(self, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The last look's bounds if the other classes get so many more hits and the selected one all the rest."""
        unseen = (self.selected == UNSEEN)[:, None]
        own = np.arange(more.shape[1]) == np.maximum(self.selected, 0)[:, None]
        others = np.where(own | unseen, 0, self.counts + more)
        counts = np.where(own, self.cascade.plan.n - others.sum(1, keepdims=True), others)
        lower, upper = level_bounds(counts, np.maximum(self.selected, 0), self.cascade.plan.alphas[-1])
        # A level not seen yet: every sample may hit, whichever the class.
        return np.where(unseen, lower.max(1, keepdims=True), lower), np.where(unseen, 0.0, upper)
