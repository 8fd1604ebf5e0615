"""Data sets: images in [0, 1] with labels, in a fixed order."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cpur.cifar import cifar10, cifar10_1, cifar10_c
from cpur.corruptions import corrupted
from cpur.errors import InputError, choose
from cpur.imagenet import image_folder, imagenet, imagenet64, imagenet_a, imagenet_r
from cpur.images import AnySet, ImageSet, subset_rows
from cpur.paths import anchored

SPLITS = ("train", "val", "test")
SPLIT_SEED = 0


def load_dataset(name: str, split: str = "test", root: str | None = None, subset: str | None = None) -> AnySet:
    """Loads a data set by name.

    ``digits`` is the handwritten digits inside scikit-learn (1,797 real images, 8 x 8, values in
    sixteenths): 1,097 train, 200 validation and 500 test images, stratified, by a fixed seed. An image is
    known by its position in its split. ``digits-c`` holds the same images under the corruptions of
    :mod:`cpur.corruptions`. ``digits-shift`` is the digits in the order of their file: the last 500, from other
    writers, are the test images, and of the 1,297 before them 200 the validation images. The other sets are read from
    ``root``: :mod:`cpur.cifar`, :mod:`cpur.imagenet`.

    Args:
        name: ``digits``, ``digits-c``, ``digits-shift``, ``cifar10``, ``cifar10.1``, ``cifar10-c``, ``imagenet``,
            ``imagenet64``, ``imagenet-a``, ``imagenet-r``; or a folder, which holds a folder of images a class.
        split: ``train``, ``val`` or ``test``.
        root: the folder of a data set on disk; the digits need none.
        subset: ``every-K`` keeps the images 0, K, 2K, ... (papers certify every-20 of CIFAR-10, every-100 of
            ImageNet); None keeps all. Of ``digits-c`` and ``cifar10-c`` it starts with the corruption and its
            severity: ``gaussian_noise-3``, or ``gaussian_noise-3/every-5``.

    Raises:
        InputError: an unknown name, split or subset, or files that are missing, torn or of another set.
    """
    choose("split", split, SPLITS)
    if not (subset is None or isinstance(subset, str)):
        raise InputError(f"subset must be text or None; got {subset!r}")
    if name not in DATASETS and anchored(name).is_dir():
        return image_folder(name, split, subset)
    choose("dataset", name, (*DATASETS, "a folder"))
    return DATASETS[name](split, root, subset)


def _digits(split: str, root: str | None, subset: str | None) -> ImageSet:
    pixels, labels = _read_digits(root)
    rest, test = train_test_split(np.arange(len(labels)), test_size=500, stratify=labels, random_state=SPLIT_SEED)
    return _part("digits", split, pixels, labels, rest, test, subset)


def _digits_c(split: str, root: str | None, subset: str | None) -> ImageSet:
    if subset is None:
        raise InputError("digits-c needs subset: a corruption and its severity, such as gaussian_noise-3")
    corruption, _, rest = subset.partition("/")
    clean = _digits(split, root, None)
    rows = subset_rows("digits-c", rest or None)
    return ImageSet("digits-c", split, corrupted(clean.images, corruption)[rows], clean.labels[rows], 10)


def _digits_shift(split: str, root: str | None, subset: str | None) -> ImageSet:
    pixels, labels = _read_digits(root)
    rest, test = np.split(np.arange(len(labels)), [len(labels) - 500])
    return _part("digits-shift", split, pixels, labels, rest, test, subset)


def _read_digits(root: str | None) -> tuple[np.ndarray, np.ndarray]:
    if root is not None:
        raise InputError(f"digits ships inside scikit-learn and reads no folder: leave root unset; got {root!r}")
    return load_digits(return_X_y=True)


def _part(
    name: str,
    split: str,
    pixels: np.ndarray,
    labels: np.ndarray,
    rest: np.ndarray,
    test: np.ndarray,
    subset: str | None,
) -> ImageSet:
    train, val = train_test_split(rest, test_size=200, stratify=labels[rest], random_state=SPLIT_SEED)
    keep = {"train": train, "val": val, "test": test}[split][subset_rows(name, subset)]
    images = torch.from_numpy(pixels[keep].astype(np.uint8)).view(-1, 1, 8, 8)
    return ImageSet(name, split, images, torch.from_numpy(labels[keep]).long(), 10, white=16)


DATASETS = {
    "digits": _digits,
    "digits-c": _digits_c,
    "digits-shift": _digits_shift,
    "cifar10": cifar10,
    "cifar10.1": cifar10_1,
    "cifar10-c": cifar10_c,
    "imagenet": imagenet,
    "imagenet64": imagenet64,
    "imagenet-a": imagenet_a,
    "imagenet-r": imagenet_r,
}
