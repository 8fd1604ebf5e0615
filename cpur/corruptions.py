"""Corruptions of small gray images, after CIFAR-10-C: ten families, five severities, the same every time.

Of the families of CIFAR-10-C and its extras those are here that mean something at 8 x 8; left out are glass blur and
zoom blur (finer than a pixel), snow, frost, fog and spatter (textures larger than the image), saturate (there is no
color). Blur takes a Gaussian kernel. Severities are set so that accuracy falls visibly from the first to the last.

Source of the families: Hendrycks & Dietterich (2019).
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpur.errors import InputError, choose
from cpur.noise import NoiseKey

SEVERITIES = (1, 2, 3, 4, 5)
Images = Float[np.ndarray, "n h w"]


def gaussian_noise(x: Images, std: float, rng: np.random.Generator) -> Images:
    """Independent normal noise."""
    return x + std * rng.standard_normal(x.shape)


def shot_noise(x: Images, photons: float, rng: np.random.Generator) -> Images:
    """Poisson noise of so many photons at white."""
    return rng.poisson(x * photons) / photons


def impulse_noise(x: Images, share: float, rng: np.random.Generator) -> Images:
    """Salt and pepper on this share of the pixels."""
    hit, salt = rng.random(x.shape) < share, rng.random(x.shape) < 0.5
    return np.where(hit, salt, x)


def gaussian_blur(x: Images, width: float, rng: np.random.Generator) -> Images:
    """A Gaussian kernel of this standard deviation in pixels."""
    return ndimage.gaussian_filter(x, (0, width, width))


def motion_blur(x: Images, length: float, rng: np.random.Generator) -> Images:
    """The mean along a stroke of this length in pixels, in a direction drawn for each image."""
    angles = rng.uniform(0, np.pi, len(x))
    strokes = np.linspace(-length / 2, length / 2, 9)
    return np.stack(
        [
            np.mean([ndimage.shift(image, (s * np.sin(a), s * np.cos(a)), order=1, mode="nearest") for s in strokes], 0)
            for image, a in zip(x, angles, strict=True)
        ]
    )


def brightness(x: Images, added: float, rng: np.random.Generator) -> Images:
    """Everything brighter by this much."""
    return x + added


def contrast(x: Images, factor: float, rng: np.random.Generator) -> Images:
    """Deviations from the mean of the image shrink by this factor."""
    mean = x.mean((1, 2), keepdims=True)
    return mean + factor * (x - mean)


def elastic_transform(x: Images, pixels: float, rng: np.random.Generator) -> Images:
    """Smooth random displacements of this standard deviation in pixels."""
    n, h, w = x.shape
    smooth = ndimage.gaussian_filter(rng.standard_normal((n, 2, h, w)), (0, 0, 1.5, 1.5))
    moved = np.indices((h, w)) + pixels * smooth / smooth.std((2, 3), keepdims=True)
    return np.stack([ndimage.map_coordinates(i, at, order=1, mode="nearest") for i, at in zip(x, moved, strict=True)])


def pixelate(x: Images, share: float, rng: np.random.Generator) -> Images:
    """This share of the means over blocks of 2 x 2 pixels, and the rest of the image: finer steps do not exist here."""
    means = F.avg_pool2d(torch.from_numpy(x)[:, None], 2)
    blocks = F.interpolate(means, size=x.shape[1:], mode="nearest")[:, 0].numpy()
    return (1 - share) * x + share * blocks


def jpeg_compression(x: Images, quality: float, rng: np.random.Generator) -> Images:
    """Written and read as JPEG of this quality; 8 x 8 pixels are just one of its blocks."""
    return np.stack([_jpeg(image, int(quality)) for image in _bytes(x)]) / 255


def _jpeg(image: UInt8[np.ndarray, "h w"], quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _bytes(x: Images) -> UInt8[np.ndarray, "n h w"]:
    return np.rint(255 * x.clip(0, 1)).astype(np.uint8)


CORRUPTIONS: dict[str, tuple[Callable[..., Images], tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (60.0, 25.0, 12.0, 5.0, 3.0)),
    "impulse_noise": (impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.8, 1.0, 1.3)),
    "motion_blur": (motion_blur, (1.0, 1.5, 2.0, 2.5, 3.5)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.7, 0.5, 0.35, 0.25, 0.15)),
    "elastic_transform": (elastic_transform, (0.2, 0.35, 0.5, 0.65, 0.8)),
    "pixelate": (pixelate, (0.6, 0.7, 0.8, 0.9, 1.0)),
    "jpeg_compression": (jpeg_compression, (25.0, 18.0, 15.0, 10.0, 7.0)),
}


def corrupted(images: Float[Tensor, "n 1 h w"], name: str) -> UInt8[Tensor, "n 1 h w"]:
    """The bytes of images under a corruption such as ``gaussian_noise-3``: a family and a severity; in 8 bits.

    Args:
        images: gray, in [0, 1].
        name: family and severity, 1 to 5.

    Raises:
        InputError: there is no such family or severity.
    """
    family, _, severity = name.rpartition("-")
    choose("corruption", family or name, CORRUPTIONS)
    if severity not in map(str, SEVERITIES):
        raise InputError(
            f"a corruption is a family and a severity from 1 to 5, such as {family or name}-3; got {name!r}"
        )
    corrupt, levels = CORRUPTIONS[family]
    rng = NoiseKey(0, name, 0).philox(0)
    x = corrupt(images[:, 0].double().numpy(), levels[int(severity) - 1], rng)
    return torch.from_numpy(_bytes(x))[:, None]
