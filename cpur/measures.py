"""What one purifier does to a set of images at one noise level, in numbers: transport, FID, KID, nearest images."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpur.images import ImageSet
from cpur.metrics import fid, kid, nearest
from cpur.noise import NoiseKey, noisy_images
from cpur.purifiers import Purifier
from cpur.transport import displacement, wasserstein


@torch.inference_mode()
def purified_images(
    purifier: Purifier, data: ImageSet, sigma: float, seed: int, batch_size: int = 250
) -> Float[Tensor, "n c h w"]:
    """Each image with one draw of noise, purified; equal seeds give every purifier the same noise."""
    device = next((parameter.device for parameter in purifier.parameters()), torch.device("cpu"))
    batches = []
    for start in range(0, len(data), batch_size):
        chosen = range(start, min(start + batch_size, len(data)))
        noisy = torch.cat([noisy_images(data[i][0], sigma, 1, NoiseKey(seed, "measure", i)) for i in chosen])
        batches.append(purifier.denoise(noisy.to(device), sigma).cpu())
    return torch.cat(batches)


def measure(
    images: Float[Tensor, "n c h w"], clean: ImageSet, train: ImageSet, features: nn.Module
) -> dict[str, float]:
    r"""Compares a set of images with the clean ones behind them, in the same order.

    ``T`` and ``squared`` are the coupled transport and its square, ``W1`` the Wasserstein distance on the same pairs,
    ``FID`` and ``KID`` of ``features``, and ``train`` and ``unseen`` the mean distance to the nearest of equally many
    training images, and test images other than the own one.
    """
    moved = displacement(clean.images, images)
    return {
        "T": moved.mean().item(),
        "squared": moved.square().mean().item(),
        "W1": wasserstein(clean.images, images),
        "FID": fid(clean.images, images, features),
        "KID": kid(clean.images, images, features),
        "train": nearest(images, train.images[: len(clean) - 1]).mean().item(),
        "unseen": nearest(images, clean.images, own=True).mean().item(),
    }


def measured(
    purifiers: Mapping[str, Purifier],
    clean: ImageSet,
    train: ImageSet,
    features: nn.Module,
    sigmas: Sequence[float],
    seeds: Sequence[int],
) -> pd.DataFrame:
    """A row each purifier, noise level and noise seed: :func:`measure` of the purified images."""
    rows = [
        {"purifier": name, "sigma": sigma, "seed": seed}
        | measure(purified_images(purifier, clean, sigma, seed), clean, train, features)
        for name, purifier in purifiers.items()
        for sigma in sigmas
        for seed in seeds
    ]
    return pd.DataFrame(rows)


def floor(clean: ImageSet, train: ImageSet, features: nn.Module) -> dict[str, float]:
    """FID, KID and W1 between clean test images and equally many clean training images: what no purifier can beat."""
    other = train.images[: len(clean)]
    return {
        "W1": wasserstein(clean.images, other),
        "FID": fid(clean.images, other, features),
        "KID": kid(clean.images, other, features),
    }
