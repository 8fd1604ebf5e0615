"""Data sets: images in [0, 1] with labels, in a fixed order."""

import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from cpur.corruptions import corrupted
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
    known by its position in its split. ``digits-c`` holds the same images under the corruptions of
    :mod:`cpur.corruptions`. ``digits-shift`` is the digits in the order of their file: the last 500, from other
    writers, are the test images, and of the 1,297 before them 200 the validation images.

    Args:
        name: ``digits``, ``digits-c`` or ``digits-shift``.
        split: ``train``, ``val`` or ``test``.
        root: the folder of a data set on disk; the digits need none.
        subset: ``every-K`` keeps the images 0, K, 2K, ...; None keeps all. Of ``digits-c`` it starts with the
            corruption and its severity: ``gaussian_noise-3``, or ``gaussian_noise-3/every-5``.

    Raises:
        InputError: an unknown name, split or subset, or a root that is not used.
    """
    choose("dataset", name, DATASETS)
    choose("split", split, SPLITS)
    if not (subset is None or isinstance(subset, str)):
        raise InputError(f"subset must be text or None; got {subset!r}")
    parts = subset.split("/") if subset else []
    step = re.fullmatch(r"every-([1-9]\d*)", parts[-1]) if parts else None
    data = DATASETS[name](split, root, "/".join(parts[:-1] if step else parts) or None)
    if step is None:
        return data
    every = slice(None, None, int(step[1]))
    return ImageSet(name, split, data.images[every], data.labels[every], data.num_classes)


def _digits(split: str, root: str | None, subset: str | None) -> ImageSet:
    _whole("digits", subset)
    pixels, labels = _read_digits(root)
    rest, test = train_test_split(np.arange(len(labels)), test_size=500, stratify=labels, random_state=SPLIT_SEED)
    return _part("digits", split, pixels, labels, rest, test)


def _digits_c(split: str, root: str | None, subset: str | None) -> ImageSet:
    if subset is None:
        raise InputError("digits-c needs subset: a corruption and its severity, such as gaussian_noise-3")
    clean = _digits(split, root, None)
    return ImageSet("digits-c", split, corrupted(clean.images, subset), clean.labels, 10)


def _digits_shift(split: str, root: str | None, subset: str | None) -> ImageSet:
    _whole("digits-shift", subset)
    pixels, labels = _read_digits(root)
    return _part("digits-shift", split, pixels, labels, *np.split(np.arange(len(labels)), [len(labels) - 500]))


def _whole(name: str, subset: str | None) -> None:
    if subset is not None:
        raise InputError(f"subset must be None or every-K, such as every-20, for {name}; got {subset!r}")


def _read_digits(root: str | None) -> tuple[np.ndarray, np.ndarray]:
    if root is not None:
        raise InputError(f"digits ships inside scikit-learn and reads no folder: leave root unset; got {root!r}")
    return load_digits(return_X_y=True)


def _part(
    name: str, split: str, pixels: np.ndarray, labels: np.ndarray, rest: np.ndarray, test: np.ndarray
) -> ImageSet:
    train, val = train_test_split(rest, test_size=200, stratify=labels[rest], random_state=SPLIT_SEED)
    keep = {"train": train, "val": val, "test": test}[split]
    images = torch.from_numpy(pixels[keep] / 16).float().view(-1, 1, 8, 8)
    return ImageSet(name, split, images, torch.from_numpy(labels[keep]).long(), 10)


DATASETS = {"digits": _digits, "digits-c": _digits_c, "digits-shift": _digits_shift}
