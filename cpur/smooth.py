"""The smoothed classifier and its certificate, one image at a time: the interface of Cohen et al. (2019)."""

import operator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy import stats
from torch import Tensor

from cpur.errors import InputError
from cpur.plans import Plan, StoppingRule, fixed
from cpur.sampling import Draw, Procedure, Sampler, Task, once

ABSTAIN = -1


@dataclass(frozen=True)
class Certificate:
    """What certification says of one image, and the counts that say it."""

    prediction: int  # the certified class, or ABSTAIN
    radius: float  # in the unit of the pixels; 0.0 where it abstains
    selected: int  # the class selected by the first n0 samples
    looks: tuple[np.ndarray, ...]  # class counts of the estimation samples at every look taken, int64

    @property
    def counts(self) -> np.ndarray:
        """Class counts of all estimation samples."""
        return self.looks[-1]


def certification(plan: Plan, rule: StoppingRule) -> Procedure:
    """The procedure that certifies one image: select a class, then look at fresh samples until the rule stops.

    Guarantee: with probability at least 1 - alpha of the plan, the certificate is no error: it abstains, or the
    smoothed classifier returns its class at every point closer than its radius.
    """
    selected = int((yield Draw("selection", plan.n0)).argmax())
    looks: list[np.ndarray] = []
    for n in plan.looks:
        looks.append((yield Draw("estimation", n)))
        hits = [counts[selected] for counts in looks]
        if rule.stops(hits):
            break
    radius = plan.radius(hits, rule.sigma)
    return Certificate(selected if radius > 0 else ABSTAIN, radius, selected, tuple(looks))


def majority(counts: Int64[np.ndarray, "k"], alpha: float) -> int:
    """The most probable class, or ABSTAIN: by a two-sided binomial test between the two with the most counts.

    Guarantee: with probability at least 1 - alpha it abstains or is the most probable class.

    Source: Hung & Fithian (2019); Cohen et al. (2019), Algorithm Predict.
    """
    second, first = np.argsort(counts, kind="stable")[-2:]
    test = stats.binomtest(int(counts[first]), int(counts[first] + counts[second]), 0.5)
    return int(first) if test.pvalue <= alpha else ABSTAIN


class Smooth:
    r"""A classifier smoothed by Gaussian noise.

    .. math:: G(x) = \arg\max_c P[f(Q(x + \sigma e)) = c], \quad e \sim N(0, I),

    where Q rounds to the lattice of :mod:`cpur.noise` and f is the base classifier, at one batch shape.

    Args:
        base_classifier: maps images ``b c h w`` in [0, 1] plus noise to logits ``b num_classes``; a module
            is put into evaluation mode.
        num_classes: number of classes.
        sigma: standard deviation of the noise; pixels are in [0, 1].
        seed: key of the noise.

    Raises:
        InputError: sigma not positive and finite, fewer than two classes, or a negative seed.

    Source: Cohen et al. (2019).
    """

    ABSTAIN = ABSTAIN

    def __init__(self, base_classifier, num_classes: int, sigma: float, seed: int = 0) -> None:
        if not 0 < sigma < float("inf"):
            raise InputError(f"sigma must be positive and finite; got {sigma!r}")
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2; got {num_classes!r}")
        if seed < 0:
            raise InputError(f"seed must not be negative; got {seed!r}")
        self.base_classifier = base_classifier
        self.num_classes = operator.index(num_classes)
        self.sigma = float(sigma)
        self.seed = operator.index(seed)

    def certify(
        self, x: Float[Tensor, "c h w"], n0: int, n: int, alpha: float, batch_size: int, *, index: int = 0
    ) -> tuple[int, float]:
        """The class of ``x`` and the radius within which it cannot change, or ``(ABSTAIN, 0.0)``.

        Guarantee: with probability at least 1 - alpha over the noise, either it abstains, or G returns
        this class at every point closer to ``x`` than the radius.

        Args:
            x: an image in [0, 1], rounded to the lattice where it is off it.
            n0: samples that select the class.
            n: fresh samples that estimate its probability.
            alpha: error probability.
            batch_size: the batch shape that f is evaluated at.
            index: index of the image in its data set; it keys the noise.

        Raises:
            InputError: bad arguments, logits of the wrong shape, or logits that are not finite.

        Source: Cohen et al. (2019), Algorithm Certify.
        """
        certificate = self.certificate(x, n0, n, alpha, batch_size, index=index)
        return certificate.prediction, certificate.radius

    def certificate(
        self, x: Float[Tensor, "c h w"], n0: int, n: int, alpha: float, batch_size: int, *, index: int = 0
    ) -> Certificate:
        """As :meth:`certify`, with the counts behind the answer.

        Guarantee: that of :meth:`certify`; the samples that select the class are never used to estimate it.
        """
        if not 0 < alpha < 1:
            raise InputError(f"alpha must lie in (0, 1); got {alpha!r}")
        for name, value in (("n0", n0), ("n", n)):
            _whole(name, value, 1)
        plan = fixed(n0, n, alpha)
        return self._run(x, certification(plan, StoppingRule(plan, self.sigma, ())), batch_size, index)

    def predict(self, x: Float[Tensor, "c h w"], n: int, alpha: float, batch_size: int, *, index: int = 0) -> int:
        """The class that G returns at ``x``, or ``ABSTAIN``.

        Guarantee: with probability at least 1 - alpha over the noise it abstains or returns G(x).

        Raises:
            InputError: as :meth:`certify`.

        Source: Cohen et al. (2019), Algorithm Predict; Hung & Fithian (2019).
        """
        if not 0 < alpha < 1:
            raise InputError(f"alpha must lie in (0, 1); got {alpha!r}")
        return majority(self.counts(x, n, batch_size, index=index, purpose="prediction"), alpha)

    def counts(
        self,
        x: Float[Tensor, "c h w"],
        n: int,
        batch_size: int,
        *,
        index: int = 0,
        purpose: str = "estimation",
    ) -> np.ndarray:
        """How often f returns each class on ``n`` noisy copies of ``x``: int64, length ``num_classes``.

        The counts depend on the seed, the purpose and the index, and not on how the samples are batched.
        They stay on the device of ``x`` until the last one is drawn.

        Raises:
            InputError: bad arguments, logits of the wrong shape, or logits that are not finite.
        """
        _whole("n", n, 1)
        return self._run(x, once(Draw(purpose, n)), batch_size, index)

    def _run(self, x: Float[Tensor, "c h w"], procedure: Procedure, batch_size: int, index: int):
        _whole("batch_size", batch_size, 1)
        _whole("index", index, 0)
        if x.ndim != 3:
            raise InputError(f"x must be one image c h w; got shape {tuple(x.shape)}")
        sampler = Sampler(self.base_classifier, self.num_classes, (self.sigma,), self.seed, operator.index(batch_size))
        (done,) = sampler.run([Task(operator.index(index), x, procedure)])
        return done.result


def _whole(name: str, value: int, low: int) -> None:
    if operator.index(value) < low:
        raise InputError(f"{name} must be a whole number, at least {low}; got {value!r}")
