r"""Transport: how far purification moves an image, in data whose posterior mean and flow are known, and anywhere.

Purification at noise t maps x to d(x + t e). Its *coupled* transport is :math:`T = E\lVert x - d(x + te)\rVert`
(Li et al. 2024, definition 3.2), and :math:`P(\lVert x - d(x + te)\rVert > r) \le T/r` (theorem 3.3, by Markov's
inequality). The Wasserstein distance W1 between images and purified images is the infimum of such an expectation over
all couplings, and never larger.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import ot
import pandas as pd
import torch
from jaxtyping import Float
from scipy import integrate, special, stats
from torch import Tensor

from cpur.errors import InputError
from cpur.purifiers import Denoise, Purifier, Sigma, per_image


def displacement(x: Float[Tensor, "b ..."], purified: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
    r""":math:`\lVert x_i - \hat x_i\rVert_2` of each pair, in units of [0, 1] pixels; its mean estimates T."""
    return (x.double() - purified.double()).flatten(1).norm(dim=1)


def wasserstein(x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."]) -> float:
    r"""W1 between two samples of equal size, solved exactly.

    .. math:: W_1 = \min_\pi \frac1n \sum_i \lVert x_i - y_{\pi(i)} \rVert_2.

    Guarantee: for pairs (x_i, y_i) it is at most the mean of :func:`displacement`; for the distributions behind the
    samples it is biased upwards, so that equal distributions give more than 0.

    Source: Kantorovich's linear program, by POT.
    """
    cost = torch.cdist(x.flatten(1).double(), y.flatten(1).double()).cpu().numpy()
    return float(ot.emd2([], [], cost, numItermax=10_000_000))


class Mixture(Purifier):
    r"""The exact posterior mean of a mixture of Gaussians :math:`\sum_k w_k N(m_k, s^2 I)`; of points where s is 0.

    .. math:: D(x; \sigma) = \sum_k r_k \frac{\sigma^2 m_k + s^2 x}{s^2 + \sigma^2},
        \quad r_k \propto w_k \exp\Big(-\frac{\lVert x - m_k\rVert^2}{2(s^2 + \sigma^2)}\Big).

    The score of the noisy density is :math:`(D(x; \sigma) - x)/\sigma^2`.

    Args:
        means: one row a component, of the shape of an image.
        std: s.
        weights: w; None makes them equal.
    """

    def __init__(
        self, means: Float[Tensor, "k ..."], std: float = 0.0, weights: Float[Tensor, "k"] | None = None
    ) -> None:
        super().__init__()
        self.means = means
        self.std = std
        self.weights = torch.ones(len(means)).to(means) / len(means) if weights is None else weights

    def denoise(self, x: Float[Tensor, "b ..."], sigma: Sigma) -> Float[Tensor, "b ..."]:
        variance = per_image(sigma, x)[:, None] ** 2
        means, flat = self.means.to(x).flatten(1), x.flatten(1)
        total = variance + self.std**2
        logits = (flat @ means.T - means.square().sum(1) / 2) / total + self.weights.to(x).log()
        return ((variance * (logits.softmax(1) @ means) + self.std**2 * flat) / total).view_as(x)

    def sample(self, count: int, seed: int = 0) -> Float[Tensor, "n ..."]:
        """Draws clean points."""
        rng = torch.Generator().manual_seed(seed)
        chosen = self.means[torch.multinomial(self.weights, count, replacement=True, generator=rng)]
        return chosen + self.std * torch.randn(chosen.shape, generator=rng, dtype=chosen.dtype)


class Flow(Purifier):
    r"""The consistency function of a denoiser: the end of the PF-ODE trajectory through x, to high accuracy.

    .. math:: \frac{dx}{du} = x - D(x; e^u), \quad u = \ln\sigma \to \ln\sigma_{\min},

    by an adaptive Runge-Kutta method of order 8 in float64, then Euler's step to 0.
    Source: Karras et al. (2022), equation 1.
    """

    network_calls = 0  # adaptive

    def __init__(self, denoise: Denoise, sigma_min: float = 1e-4, tolerance: float = 1e-9) -> None:
        super().__init__()
        self.inner = denoise
        self.sigma_min = sigma_min
        self.tolerance = tolerance

    def denoise(self, x: Float[Tensor, "b ..."], sigma: float) -> Float[Tensor, "b ..."]:
        def slope(u: float, flat: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(flat).view(x.shape)
            return (state - self.inner(state, math.exp(u))).flatten().numpy()

        span = (math.log(sigma), math.log(self.sigma_min))
        start = x.double().flatten().numpy()
        options = {"method": "DOP853", "rtol": self.tolerance, "atol": self.tolerance}
        solved = integrate.solve_ivp(slope, span, start, t_eval=span[1:], **options)
        if not solved.success:
            raise InputError(f"the trajectory from sigma {sigma} could not be followed: {solved.message}")
        end = torch.from_numpy(solved.y[:, -1]).view(x.shape)
        return self.inner(end, self.sigma_min).to(x)  # Euler's step from sigma_min to 0


def gaussian_maps(s: float, t: float) -> dict[str, float]:
    r"""The factor a of the linear purifier :math:`d(y) = a\,y` for data :math:`N(0, s^2 I)`.

    Posterior mean :math:`s^2/(s^2 + t^2)`; consistency function :math:`s/\sqrt{s^2 + t^2}`.
    """
    return {"posterior mean": s**2 / (s**2 + t**2), "consistency function": s / math.hypot(s, t)}


def gaussian_transport(a: float, s: float, t: float, dimension: int) -> dict[str, float]:
    r"""Transport of :math:`d(y) = a y` on data :math:`N(0, s^2 I)`, in closed form.

    With :math:`v = (1 - a)^2 s^2 + a^2 t^2` and n the dimension,

    .. math:: T = \sqrt{2v}\,\frac{\Gamma((n + 1)/2)}{\Gamma(n/2)}, \quad E\lVert\cdot\rVert^2 = n v, \quad
        W_2 = \sqrt n\,\big|s - a\sqrt{s^2 + t^2}\big|.
    """
    v = ((1 - a) * s) ** 2 + (a * t) ** 2
    chi = math.exp(special.gammaln((dimension + 1) / 2) - special.gammaln(dimension / 2))
    return {
        "T": math.sqrt(2 * v) * chi,
        "squared": dimension * v,
        "W2": math.sqrt(dimension) * abs(s - a * math.hypot(s, t)),
    }


def two_point_transport(t: float) -> dict[str, dict[str, float]]:
    r"""Transport for data at -1 and +1, each with probability 1/2 (Li et al. 2024, example 3.1).

    The posterior mean is :math:`\tanh(y/t^2)`, and the consistency function is :math:`\mathrm{sign}(y)`, which errs,
    by 2, with probability :math:`\Phi(-1/t)`. By symmetry x = 1 is taken.
    """
    z = np.linspace(-12, 12, 200_001)  # the integrand is smooth, and nothing is left beyond
    gap = 1 - np.tanh((1 + t * z) / t**2)
    density = stats.norm.pdf(z)
    flipped = float(stats.norm.cdf(-1 / t))
    return {
        "posterior mean": {
            "T": float(integrate.trapezoid(gap * density, z)),
            "squared": float(integrate.trapezoid(gap**2 * density, z)),
        },
        "consistency function": {"T": 2 * flipped, "squared": 4 * flipped},
    }


def transports(
    mixture: Mixture, purifiers: Mapping[str, Purifier], sigmas: Sequence[float], seed: int = 0
) -> pd.DataFrame:
    """T, its square and W1 on the same 500 pairs; W1 is never larger than T."""
    clean = mixture.sample(500, seed)
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for sigma in sigmas:
        noisy = clean + sigma * torch.randn(clean.shape, generator=rng).to(clean)
        for name, purifier in purifiers.items():
            moved = displacement(clean, purified := purifier.denoise(noisy, sigma))
            row = {
                "T": moved.mean().item(),
                "squared": moved.square().mean().item(),
                "W1": wasserstein(clean, purified),
            }
            rows.append({"sigma": sigma, "purifier": name} | row)
    return pd.DataFrame(rows).round(3)
