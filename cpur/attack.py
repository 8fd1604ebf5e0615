r"""An attack on certified images: a check of the certificates, not a defence.

L2 PGD with expectation over the noise looks for a point :math:`x'` with :math:`|x' - x| \le (1 - 10^{-6}) R` where the
smoothed classifier returns another class than at x. There is none, if the certificate is true. At such a real
:math:`x'`, off the lattice, the smoothed classifier samples :math:`Q(x' + \sigma e)`, never :math:`x' + Q(\sigma e)`.

Source: Salman et al. (2019), section 3, for the gradient; Athalye et al. (2018) for the expectation over noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cpur.bounds import upper_confidence_bound
from cpur.noise import BLOCK, LATTICE, NoiseKey, from_lattice

INSIDE = 1 - 1e-6  # of the certified radius


@dataclass(frozen=True)
class Level:
    """A base classifier and the noise level that it is smoothed at."""

    base_classifier: nn.Module
    sigma: float


def pgd(
    levels: Sequence[Level],
    images: Float[Tensor, "b c h w"],
    classes: Int64[Tensor, "b"],
    radii: Float[Tensor, "b"],
    steps: int = 20,
    copies: int = 16,
    seed: int = 0,
) -> Float[Tensor, "b c h w"]:
    r"""Points within the radii that the smoothed classifier is least sure of the classes at, as float64.

    Ascends :math:`-\sum_k \log \frac1m \sum_i \mathrm{softmax}\, f_k(x' + \sigma_k e_i)_y` with fresh noise at every
    step, by normalised gradients of length :math:`2.5 R /` ``steps``, and projects onto the ball. Pixels may leave
    [0, 1]: the certificate holds there too.

    Args:
        levels: one for a smoothed classifier; all of a cascade.
        images: the certified images.
        classes: what was certified.
        radii: within which.
        steps: of ascent.
        copies: noisy copies of an image a step, m.
        seed: key of the noise.
    """
    start, reach = images.double(), (INSIDE * radii.double()).view(-1, 1, 1, 1)
    shift = torch.zeros_like(start)
    shape = (copies, *images.shape)
    for step in range(steps):
        generator = torch.Generator(images.device).manual_seed(NoiseKey(seed, "attack", 0).torch_seed(step))
        shift.requires_grad_(True)
        attacked = (start + shift).float()
        loss = torch.zeros((), device=images.device)
        for level in levels:
            e = torch.randn(shape, generator=generator, device=images.device)
            logits = level.base_classifier((attacked + level.sigma * e).flatten(0, 1)).unflatten(0, shape[:2])
            shares = logits.float().log_softmax(-1).logsumexp(0)
            loss = loss - shares.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(loss, shift)
        with torch.no_grad():
            shift = shift + 2.5 * reach / steps * gradient / _norm(gradient).clamp_min(1e-30)
            shift = shift * (reach / _norm(shift).clamp_min(1e-30)).clamp(max=1)
    return start + shift


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


@torch.inference_mode()
def counts_at(
    level: Level, x: Float[Tensor, "c h w"], n: int, num_classes: int, key: NoiseKey, batch_size: int = 250
) -> Int64[np.ndarray, "k"]:
    r"""Votes of the base classifier on n samples :math:`Q(x' + \sigma e)` at a real image x', given in float64."""
    counts = np.zeros(num_classes, np.int64)
    e = np.concatenate([key.philox(block).standard_normal((BLOCK, *x.shape)) for block in range(-(-n // BLOCK))])[:n]
    points = torch.from_numpy(np.rint((x.cpu().numpy() + level.sigma * e) * LATTICE).astype(np.int64))
    for part in from_lattice(points).split(batch_size):
        padding = part[-1:].expand(batch_size - len(part), *x.shape)  # the base classifier sees one shape
        votes = level.base_classifier(torch.cat([part, padding]).to(x.device)).argmax(1)[: len(part)]
        counts += np.bincount(votes.cpu().numpy(), minlength=num_classes)
    return counts


def failure_bound(failures: int, images: int, alpha: float = 0.05) -> float:
    """Upper bound of the rate of failures.

    Guarantee: P(rate <= bound) >= 1 - alpha, for images drawn at random (Clopper-Pearson).
    """
    return float(upper_confidence_bound(failures, images, alpha))
