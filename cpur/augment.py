"""Augmentations of a batch of images, drawn for each image by itself."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

Images = Float[Tensor, "b c h w"]


def jitter(x: Images, shift: float = 0.7, degrees: float = 8.0, scale: float = 0.08) -> Images:
    """Random rotation, scale and shift (in pixels) of each image."""
    spread = 2 * torch.rand(4, len(x)) - 1
    angle, size = torch.deg2rad(degrees * spread[0]), 1 + scale * spread[1]
    cos, sin = size * angle.cos(), size * angle.sin()
    moves = 2 * shift / x.shape[-1] * spread[2:]
    matrix = torch.stack([torch.stack([cos, -sin, moves[0]], 1), torch.stack([sin, cos, moves[1]], 1)], 1)
    return F.grid_sample(x, F.affine_grid(matrix, x.shape, align_corners=False), align_corners=False)


def small_jitter(x: Images) -> Images:
    """Half of :func:`jitter`: noisy digits leave a network less to lose."""
    return jitter(x, shift=0.35, degrees=4.0, scale=0.04)


def crop_and_flip(x: Images, padding: int = 4) -> Images:
    """Each image shifted by up to ``padding`` pixels, black outside, and mirrored at random: as CIFAR-10 is trained."""
    augment = v2.Compose([v2.RandomCrop(x.shape[-2:], padding=padding), v2.RandomHorizontalFlip()])
    return torch.stack([augment(image) for image in x])


def resized_crop_and_flip(x: Images) -> Images:
    """A random part of each image at its size, mirrored at random: as ImageNet is trained."""
    augment = v2.Compose([v2.RandomResizedCrop(x.shape[-2:], antialias=True), v2.RandomHorizontalFlip()])
    return torch.stack([augment(image) for image in x])
