"""Samplers of several steps as base classifiers, for the study of steps (:mod:`studies.sampling`).

The records of that study hold a hash of this file, so that a change here asks for new records; ``cpur verify`` says so.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpur import load_classifier, load_purifier
from cpur.classifiers import BaseClassifier
from cpur.noise import to_lattice
from cpur.paths import models
from cpur.purifiers import PFODE, Purifier, Sigma, per_image
from cpur.schedules import karras_sigmas

SIGMA_MIN = 0.001  # where the consistency models end, on [0, 1] pixels


class Euler(PFODE):
    r"""The probability-flow ODE by Euler's method, on the same discretisation.

    .. math:: x_{i+1} = x_i + (\sigma_{i+1} - \sigma_i)\, \frac{x_i - D(x_i; \sigma_i)}{\sigma_i}.

    With one step it is D itself. Source: Song, Meng & Ermon (2021), where it is DDIM.
    """

    @property
    def network_calls(self) -> int:
        """One a step."""
        return self.steps

    def path(self, x: Float[Tensor, "b c h w"], sigma: Sigma):
        """Yields the state after each step."""
        grids = [karras_sigmas(s, self.sigma_min, self.steps, self.rho) for s in per_image(sigma, x).tolist()]
        for now, then in pairwise(torch.stack(grids, dim=1).to(x)):
            slope = (x - self.inner(x, now)) / now.view(-1, 1, 1, 1)
            x = x + (then - now).view(-1, 1, 1, 1) * slope
            yield x


class MultiStep(Purifier):
    r"""Multi-step consistency sampling: purify, add weaker noise, purify again.

    .. math:: \hat x_0 = f(x, \sigma), \qquad
        \hat x_k = f\Big(\hat x_{k-1} + \sqrt{\sigma_k^2 - \sigma_{\min}^2}\; z_k(x),\; \sigma_k\Big),
        \quad \sigma_k = r^k \sigma.

    The noise z_k(x) comes from a generator keyed by the lattice point of x, so that purification stays one function
    of its input, and certificates hold for it. Source: Song et al. (2023), algorithm 1.
    """

    def __init__(self, consistency: Purifier, steps: int, ratio: float) -> None:
        super().__init__()
        self.inner = consistency
        self.steps = steps
        self.ratio = ratio

    @property
    def network_calls(self) -> int:
        """One a step."""
        return self.steps

    def denoise(self, x: Float[Tensor, "b c h w"], sigma: Sigma) -> Float[Tensor, "b c h w"]:
        level, clean = per_image(sigma, x), self.inner.denoise(x, sigma)
        for step in range(1, self.steps):
            level = level * self.ratio
            std = (level**2 - SIGMA_MIN**2).sqrt().view(-1, 1, 1, 1)
            clean = self.inner.denoise(clean + std * keyed_noise(x, step), level)
        return clean


def keyed_noise(x: Float[Tensor, "b c h w"], step: int) -> Float[Tensor, "b c h w"]:
    """Standard normal noise, a function of each row of ``x`` on the lattice and of the step."""
    rows = [
        np.random.Generator(np.random.Philox(key=[_digest(points), step])).standard_normal(points.shape)
        for points in to_lattice(x).cpu().numpy()
    ]
    return torch.from_numpy(np.stack(rows)).to(x)


def _digest(points: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(points.astype("<i8").tobytes(), digest_size=8).digest(), "little")


FAMILIES = {
    "heun": lambda steps, value: PFODE(load_purifier("onestep-edm"), steps, value),
    "euler": lambda steps, value: Euler(load_purifier("onestep-edm"), steps, value),
    "consistency": lambda steps, value: MultiStep(load_purifier("consistency"), steps, value),
    "features": lambda steps, value: MultiStep(
        load_purifier("consistency", models() / "digits-consistency-features"), steps, value
    ),
}


@dataclass(frozen=True)
class Spec:
    """A sampler: its family, its steps, and the value of its schedule (sigma_min of the ODE, r of a consistency model).

    As text: ``heun-3:0.01``.
    """

    family: str
    steps: int
    value: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text form."""
        name, value = text.split(":")
        family, steps = name.split("-")
        return cls(family, int(steps), float(value))

    def __str__(self) -> str:
        return f"{self.family}-{self.steps}:{self.value:g}"

    def purifier(self) -> Purifier:
        """The sampler, loaded."""
        return FAMILIES[self.family](self.steps, self.value).eval()


def sampled(text: str) -> BaseClassifier:
    """The base classifier of ``SPEC@SIGMA``, purified with it and classified by ``digits-cnn``.

    ``-p purifier none -p classifier studies.samplers:sampled -p classifier_checkpoint heun-3:0.01@0.5``. Its text is
    among its buffers, and so in the hash of its record.
    """
    spec, sigma = text.split("@")
    base = BaseClassifier(Spec.parse(spec).purifier(), load_classifier(), float(sigma))
    base.register_buffer("text", torch.tensor(list(text.encode()), dtype=torch.uint8))
    return base
