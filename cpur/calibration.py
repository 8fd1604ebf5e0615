r"""Diffusion calibration: a denoiser that is consistent where the image can be recovered, and diverse where not.

The classifier g is frozen and one denoiser D serves all noise levels. Of two noisy copies of a training image with
label y, let :math:`F_i = \mathrm{softmax}\, g(D(x + \sigma e_i, \sigma))`. Then

.. math:: L = L_{\text{diffusion}} + \lambda \Big( \underbrace{\tfrac12 \sum_i \lVert F_i - \mathbf 1_y
    \rVert^2}_{\text{Brier}} + a\; \mathbf 1[\text{both copies wrong}]\; \underbrace{\langle F_1, F_2
    \rangle}_{\text{anti-consistency}} \Big).

The indicator gates the last term only: an image that neither copy gives back is taken for lost, and its copies are
asked to disagree, so that no wrong class collects the votes. Brier's score is bounded, so that such images do not
dominate the loss. :math:`L_{\text{diffusion}}` is the distance that the denoiser is fine-tuned with.

Source: Jeong & Shin (2023). Their training code was never published; this is a reconstruction, and the form of the
anti-consistency term is this project's.
"""

from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F


def brier(shares: Float[Tensor, "b k"], labels: Int64[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The squared distance of a distribution over classes from the label."""
    return (shares - F.one_hot(labels, shares.shape[1])).square().sum(1)


def both_wrong(
    first: Float[Tensor, "b k"], second: Float[Tensor, "b k"], labels: Int64[Tensor, "b"]
) -> Bool[Tensor, "b"]:
    """Whether neither copy is classified as its image."""
    return (first.argmax(1) != labels) & (second.argmax(1) != labels)


def anti_consistency(
    first: Float[Tensor, "b k"], second: Float[Tensor, "b k"], labels: Int64[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """The agreement of two copies where both are wrong, 0 elsewhere."""
    return (first * second).sum(1) * both_wrong(first, second, labels)
