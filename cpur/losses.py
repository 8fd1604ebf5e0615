r"""Distances between a purified image and the clean one that fine-tuning minimises.

Each maps two batches of images in [0, 1] to one number an image. The purified image is not clipped.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as backbones

from cpur.classifiers import DigitsCNN, embedded_features
from cpur.errors import InputError, choose

Distance = Callable[[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]], Float[Tensor, "b"]]


class L1(nn.Module):
    r"""The mean over pixels of :math:`|x - y|`."""

    def forward(self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        return (x - y).abs().flatten(1).mean(1)


class L2(nn.Module):
    r"""The mean over pixels of :math:`(x - y)^2`; the posterior mean minimises its expectation."""

    def forward(self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        return (x - y).square().flatten(1).mean(1)


class Features(nn.Module):
    r"""The form of LPIPS on the features of a small network; it is not LPIPS, whose weights fit human judgements.

    .. math:: d(x, y) = \sum_l \frac{1}{h_l w_l} \sum_{i} \lVert \hat\phi_l(x)_i - \hat\phi_l(y)_i \rVert^2,

    where :math:`\hat\phi_l(x)_i` is the feature vector of layer l at place i, scaled to length 1.
    Source of the form: Zhang et al. (2018), equation 1 with all weights 1.

    Args:
        network: has a method ``features(x)`` that returns the maps ``b c h w`` of its layers. It is frozen.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        maps = zip(self.network.features(x), self.network.features(y), strict=True)
        return sum((_unit(a) - _unit(b)).square().sum(1).mean((1, 2)) for a, b in maps)


def _unit(features: Tensor) -> Tensor:
    # The small number keeps the gradient finite where all features are 0.
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()


WEIGHTS = {
    "vgg": backbones.VGG16_Weights.IMAGENET1K_V1,
    "alex": backbones.AlexNet_Weights.IMAGENET1K_V1,
    "squeeze": backbones.SqueezeNet1_1_Weights.IMAGENET1K_V1,
}


class LPIPS(nn.Module):
    r"""LPIPS, by the package of its authors, on images resized to 224 x 224 (bilinear), in [-1, 1].

    The gradient flows through the resize; an image of one channel is repeated to three.
    Source: Zhang et al. (2018); resize and use as a loss: Song et al. (2023), section 6.

    Args:
        net: the backbone: ``vgg``, ``alex`` or ``squeeze``. Its weights are those of torchvision, where torch's cache
            holds them; they are not downloaded here.

    Raises:
        InputError: an unknown backbone, or one whose weights are missing or damaged.
    """

    def __init__(self, net: str = "vgg") -> None:
        super().__init__()
        choose("lpips_net", net, WEIGHTS)
        url = WEIGHTS[net].url
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        if not file.is_file():
            raise InputError(
                f"loss lpips needs the weights of its backbone {net}, and there is no {file}: download {url} to that "
                "place, or take the loss l1, l2 or features"
            )
        import lpips

        try:
            with warnings.catch_warnings(action="ignore"):  # of the words by which it asks torchvision
                self.model = lpips.LPIPS(net=net, verbose=False).eval().requires_grad_(False)
        except Exception as error:  # unpickling and loading raise many kinds
            raise InputError(f"the weights of the backbone {net} in {file} cannot be loaded: {error}") from error

    def forward(self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        large = (F.interpolate(2 * images - 1, size=224, mode="bilinear", align_corners=False) for images in (x, y))
        return self.model(*(images.expand(-1, 3, -1, -1) for images in large)).flatten()


def random_network(seed: int = 0) -> DigitsCNN:
    """The network of the loss ``features`` as it is before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DigitsCNN(**embedded_features("digits-features").settings)


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "l1": L1,
    "l2": L2,
    "lpips": LPIPS,
    "features": lambda: Features(embedded_features("digits-features")),
    "features-random": lambda: Features(random_network()),
    "features-autoencoder": lambda: Features(embedded_features("digits-autoencoder")),
}


def load_loss(name: str, lpips_net: str = "vgg") -> nn.Module:
    """Loads a distance by name.

    ``l1``, ``l2``, ``lpips``; on the digits ``features`` (of a classifier trained apart from the evaluated one) and
    its controls, ``features-random`` (of the same network, untrained) and ``features-autoencoder`` (of a network that
    never saw a label).

    Raises:
        InputError: an unknown name, or missing weights.
    """
    choose("loss", name, LOSSES)
    return LPIPS(lpips_net) if name == "lpips" else LOSSES[name]()
