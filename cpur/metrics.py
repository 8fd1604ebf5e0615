r"""How much purified images are like clean ones, as a set: FID, KID, and distances to the nearest images.

FID and KID compare features. Of an Inception network they are the metrics of that name; of the small network
``digits-fid`` (64 features) they are the same formulas, and comparable with nothing outside this book.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpur.classifiers import DigitsCNN, embedded_features
from cpur.errors import InputError, choose

INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


class DigitsFeatures(nn.Module):
    """The 64 features of ``digits-fid``."""

    name = "digits-fid"

    def __init__(self) -> None:
        super().__init__()
        self.network: DigitsCNN = embedded_features("digits-fid")
        self.num_features = self.network.settings["hidden"]

    def forward(self, x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b d"]:
        return self.network.embedding(x)


class InceptionFeatures(nn.Module):
    """The 2,048 features of the Inception network of TensorFlow (2015-12-05), on 8-bit images, by torch-fidelity.

    Raises:
        InputError: torch-fidelity or the weights are missing.
    """

    name = "inception"
    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION.rsplit("/", 1)[1]
        if not file.is_file():
            raise InputError(
                f"FID with inception needs its weights, and there is no {file}: download {INCEPTION} there"
            )
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise InputError(f"FID with inception needs torch-fidelity: pip install 'cpur[hub]' ({error})") from error
        self.network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(file))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        eight_bit = (x.clamp(0, 1) * 255).round().to(torch.uint8)
        return self.network(eight_bit.expand(-1, 3, -1, -1))[0]


EXTRACTORS: dict[str, Callable[[], nn.Module]] = {"digits-fid": DigitsFeatures, "inception": InceptionFeatures}


def load_extractor(name: str) -> nn.Module:
    """Loads a network of features by name: ``digits-fid`` or ``inception``."""
    choose("features", name, EXTRACTORS)
    return EXTRACTORS[name]().eval()


@torch.inference_mode()
def fid(real: Float[Tensor, "n c h w"], other: Float[Tensor, "m c h w"], features: nn.Module) -> float:
    r"""The Fréchet distance between Gaussians fitted to the features of two sets of equal size.

    .. math:: \lVert\mu_1 - \mu_2\rVert^2 + \mathrm{tr}\big(\Sigma_1 + \Sigma_2 - 2(\Sigma_1\Sigma_2)^{1/2}\big).

    It is biased upwards by the size of the sets. Source: Heusel et al. (2017), by torchmetrics.

    Raises:
        InputError: sets of unequal size, or no more images than features.
    """
    _comparable(real, other)
    if len(real) <= features.num_features:
        raise InputError(
            f"FID needs more images than the {features.num_features} features; got {len(real)}: take more images"
        )
    from torchmetrics.image.fid import FrechetInceptionDistance  # here, since torchmetrics takes seconds to import

    metric = FrechetInceptionDistance(features, normalize=True)
    for images, is_real in ((real, True), (other, False)):
        for batch in images.split(250):
            metric.update(batch, real=is_real)
    return float(metric.compute())


@torch.inference_mode()
def kid(real: Float[Tensor, "n c h w"], other: Float[Tensor, "m c h w"], features: nn.Module) -> float:
    r"""The unbiased squared maximum mean discrepancy of features under the kernel :math:`(x^\top y/d + 1)^3`.

    Its expectation is 0 for equal distributions, whatever the size; a value can be negative.
    Source: Binkowski et al. (2018), by torchmetrics, on whole sets.
    """
    from torchmetrics.image.kid import poly_mmd

    _comparable(real, other)
    maps = [torch.cat([features(batch) for batch in images.split(250)]).double() for images in (real, other)]
    return float(poly_mmd(*maps))


def _comparable(real: Tensor, other: Tensor) -> None:
    if len(real) != len(other):
        raise InputError(
            f"FID and KID depend on the size of the sets: give equal ones; got {len(real)} and {len(other)}"
        )


def nearest(x: Float[Tensor, "n c h w"], pool: Float[Tensor, "m c h w"], own: bool = False) -> Float[Tensor, "n"]:
    """The l2 distance of each image to the nearest of a pool.

    Args:
        x: images.
        pool: images to look among.
        own: the pool begins with the clean images behind ``x``, in the same order; each is left out for its own.
    """
    distances = torch.cdist(x.flatten(1), pool.flatten(1))
    if own:
        distances.diagonal().fill_(float("inf"))
    return distances.amin(1)
