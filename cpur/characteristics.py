"""What a sampling plan does, known before any image is sampled: its exact error, and the samples it takes."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from cpur.bounds import certified_radius, lower_confidence_bound
from cpur.plans import Plan, StoppingRule

GRID = np.linspace(0, 4, 201)  # z of p = Phi(z)
TAIL = 1e-25  # probability left out at either end of a binomial


def family_wise_error(plan: Plan, p: float) -> float:
    r"""The exact probability that any look of the plan bounds p falsely.

    .. math:: P\Big(\max_i \underline{p}_i > p\Big), \quad \mathrm{hits}_i \sim \mathrm{Binomial}(n_i, p),

    by dynamic programming over the hits: the distribution of the hits that no look has crossed with is convolved
    with the binomial of the samples up to the next look. Stopping early can only make the error smaller.

    Guarantee: exact but for floating point and a tail of 1e-25 a look; no simulation.
    """
    state, low, before, crossed = np.ones(1), 0, 0, 0.0
    for n, alpha in zip(plan.looks, plan.alphas, strict=True):
        step = stats.binom(n - before, p)
        first, last = int(step.ppf(TAIL)), int(step.isf(TAIL))
        state = np.convolve(state, step.pmf(np.arange(first, last + 1)))
        low, before = low + first, n
        bound = partial(lower_confidence_bound, n=n, alpha=alpha)
        true = max(bisect_right(range(n + 1), p, key=bound) - low, 0)  # as many of the hits bound p truly
        crossed += float(state[true:].sum())
        state = state[:true]
        if not true:
            break
    return crossed


def worst_error(plan: Plan, z: Sequence[float]) -> tuple[float, float]:
    r"""The largest family-wise error near :math:`p = \Phi(z)`, and the p where it is attained.

    Between two values that a bound can take the error grows with p, and there it falls. So each p of the grid is
    moved up to just below the next value of the last look's bound, where the error has a local maximum.
    """
    n, alpha = plan.looks[-1], plan.alphas[-1]
    rungs = lower_confidence_bound(np.arange(n + 1), n, alpha)
    grid = stats.norm.cdf(np.asarray(z))
    grid = np.unique(np.nextafter(rungs[np.minimum(np.searchsorted(rungs, grid), n)], 0))
    errors = [family_wise_error(plan, p) for p in grid]
    worst = int(np.argmax(errors))
    return errors[worst], float(grid[worst])


@dataclass(frozen=True)
class Outcome:
    """Simulated runs of a plan at one p: each array has one entry a run."""

    samples: np.ndarray  # estimation samples drawn
    certified: np.ndarray  # runs x epsilons: certified by the plan
    certified_fixed: np.ndarray  # runs x epsilons: certified by the fixed plan on the same stream continued to n


def simulate(plan: Plan, rule: StoppingRule, p: float, runs: int, rng: np.random.Generator, alpha: float) -> Outcome:
    """Simulates the plan on images whose selected class has probability p, beside the fixed plan at ``alpha``."""
    increments = np.diff(plan.looks, prepend=0)
    hits = rng.binomial(increments, p, size=(runs, len(increments))).cumsum(axis=1)
    stop = rule.decided(hits).argmax(axis=1)
    epsilons = np.array(rule.epsilons)
    reached = np.maximum.accumulate(hits[..., None] >= rule.certified, axis=1)
    radius = certified_radius(hits[:, -1], plan.n, alpha, rule.sigma)[:, None]
    return Outcome(
        samples=np.array(plan.looks)[stop],
        certified=reached[np.arange(runs), stop],
        certified_fixed=(radius >= epsilons) & (radius > 0),
    )
