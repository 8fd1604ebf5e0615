"""Data sets: images in [0, 1] with labels, in a fixed order."""

import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from cpur.errors import InputError, choose

SPLITS = ("train", "val", "test")
SPLIT_SEED = 0


@dataclass(frozen=True)
class ImageSet:
    """Images and labels; item i is the pair of an image ``c h w`` in [0, 1] and its label."""

    name: str
    split: str
    images: Float[Tensor, "n c h w"]
    labels: Int64[Tensor, "n"]
    num_classes: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Float[Tensor, "c h w"], int]:
        return self.images[i], int(self.labels[i])

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return tuple(self.images.shape[1:])


def load_dataset(name: str, split: str = "test", root: str | None = None, subset: str | None = None) -> ImageSet:
    """Loads a data set by name.

    ``digits`` is the handwritten digits inside scikit-learn (1,797 real images, 8 x 8, values in
    sixteenths): 1,097 train, 200 validation and 500 test images, stratified, by a fixed seed. An image is
    known by its position in its split.

    Args:
        name: ``digits``.
        split: ``train``, ``val`` or ``test``.
        root: the folder of a data set on disk; ``digits`` needs none.
        subset: ``every-K`` keeps the images K - 1, 2K - 1, ... counted from 0 as 0, K, 2K, ...; None keeps all.

    Raises:
        InputError: an unknown name, split or subset, or a root that is not used.
    """
    choose("dataset", name, DATASETS)
    choose("split", split, SPLITS)
    data = DATASETS[name](split, root)
    if subset is None:
        return data
    match = re.fullmatch(r"every-([1-9]\d*)", subset) if isinstance(subset, str) else None
    if not match:
        raise InputError(f"subset must be None or every-K, such as every-20; got {subset!r}")
    step = int(match[1])
    return ImageSet(name, split, data.images[::step], data.labels[::step], data.num_classes)


def _digits(split: str, root: str | None) -> ImageSet:
    if root is not None:
        raise InputError(f"digits ships inside scikit-learn and reads no folder: leave root unset; got {root!r}")
    pixels, labels = load_digits(return_X_y=True)
    rest, test = train_test_split(np.arange(len(labels)), test_size=500, stratify=labels, random_state=SPLIT_SEED)
    train, val = train_test_split(rest, test_size=200, stratify=labels[rest], random_state=SPLIT_SEED)
    keep = {"train": train, "val": val, "test": test}[split]
    images = torch.from_numpy(pixels[keep] / 16).float().view(-1, 1, 8, 8)
    return ImageSet("digits", split, images, torch.from_numpy(labels[keep]).long(), 10)


DATASETS = {"digits": _digits}
