"""CIFAR-10 and its kin, from the files that their authors publish.

``cifar10``: the folder ``cifar-10-batches-py`` of the official archive, or torchvision's folder around it. Training
images are the first 45,000 of its five batches, validation images the last 5,000. ``cifar10.1``: the arrays of version
6. ``cifar10-c``: the folder CIFAR-10-C, with a corruption and its severity.

Source: Krizhevsky (2009); Recht et al. (2018); Hendrycks & Dietterich (2019).
"""

from pathlib import Path

import numpy as np
import torch

from cpur.errors import InputError
from cpur.images import ImageSet, data_folder, inside, only_test, subset_rows
from cpur.paths import shown
from cpur.unpickle import read_arrays

CLASSES = 10
VALIDATION = 5000  # of the training images, at their end
SEVERITIES = (1, 2, 3, 4, 5)
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}

WHERE = {
    "cifar10": "the folder cifar-10-batches-py of cifar-10-python.tar.gz (163 MB, www.cs.toronto.edu/~kriz/cifar.html)",
    "cifar10.1": "cifar10.1_v6_data.npy and cifar10.1_v6_labels.npy (6 MB, github.com/modestyachts/CIFAR-10.1)",
    "cifar10-c": "the folder CIFAR-10-C of CIFAR-10-C.tar (2.7 GB, zenodo.org/records/2535967)",
}


def cifar10(split: str, root: str | None, subset: str | None) -> ImageSet:
    """The batches of the official archive."""
    folder = inside(data_folder("cifar10", root, WHERE["cifar10"]), "cifar-10-batches-py")
    names = BATCHES["test" if split == "test" else "train"]
    parts = [_batch(_file("cifar10", folder, name)) for name in names]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if split != "test":
        cut = len(pixels) - min(VALIDATION, len(pixels) // 10)  # of a small copy, a tenth
        rows = slice(cut, None) if split == "val" else slice(cut)
        pixels, labels = pixels[rows], labels[rows]
    return _images("cifar10", split, pixels, labels, subset)


def cifar10_1(split: str, root: str | None, subset: str | None) -> ImageSet:
    """Two thousand test images of another collection."""
    only_test("cifar10.1", split)
    folder = inside(data_folder("cifar10.1", root, WHERE["cifar10.1"]), "datasets")
    data, labels = (_array(_file("cifar10.1", folder, f"cifar10.1_v6_{part}.npy")) for part in ("data", "labels"))
    return _images("cifar10.1", split, _channels_first(data, "cifar10.1_v6_data.npy"), labels, subset)


def cifar10_c(split: str, root: str | None, subset: str | None) -> ImageSet:
    """The test images under a corruption: ``gaussian_noise-3``, or ``gaussian_noise-3/every-20``."""
    only_test("cifar10-c", split)
    corruption, _, rest = (subset or "").partition("/")
    name, _, severity = corruption.rpartition("-")
    if severity not in map(str, SEVERITIES) or not name:
        raise InputError(
            "cifar10-c needs subset: a corruption and its severity from 1 to 5, such as gaussian_noise-3; got "
            f"{subset!r}"
        )
    folder = inside(data_folder("cifar10-c", root, WHERE["cifar10-c"]), "CIFAR-10-C")
    known = sorted(file.stem for file in folder.glob("*.npy") if file.stem != "labels")
    if name not in known:
        raise InputError(f"{shown(folder)} has no corruption {name}; it has {', '.join(known) or 'none'}")
    data, labels = _array(folder / f"{name}.npy"), _array(_file("cifar10-c", folder, "labels.npy"))
    if len(data) != len(labels) or len(data) % len(SEVERITIES):
        raise InputError(f"{shown(folder)}: {name}.npy has {len(data)} images, labels.npy {len(labels)}")
    rows = np.array_split(np.arange(len(data)), len(SEVERITIES))[int(severity) - 1]
    return _images("cifar10-c", split, _channels_first(data[rows], f"{name}.npy"), labels[rows], rest or None)


def _file(name: str, folder: Path, file: str) -> Path:
    if not (folder / file).is_file():
        raise InputError(f"{shown(folder)} lacks {file}: it must be {WHERE[name]}, unpacked whole")
    return folder / file


def _batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = read_arrays(file)
    try:
        data, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
        return data.reshape(-1, 3, 32, 32), labels
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{shown(file)} is not a batch of CIFAR-10: {error!r}") from error


def _array(file: Path) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{shown(file)} is not a whole NumPy array: {error}") from error


def _channels_first(data: np.ndarray, name: str) -> np.ndarray:
    if data.ndim != 4 or data.shape[1:] != (32, 32, 3):
        raise InputError(f"{name} must hold images of shape (n, 32, 32, 3); got {data.shape}")
    return data.transpose(0, 3, 1, 2)


def _images(name: str, split: str, pixels: np.ndarray, labels: np.ndarray, subset: str | None) -> ImageSet:
    if pixels.dtype != np.uint8 or len(pixels) != len(labels):
        raise InputError(
            f"{name} must hold images in 8 bits and a label for each; got {pixels.dtype}, {len(pixels)} images and "
            f"{len(labels)} labels"
        )
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= CLASSES:
        found = f"{labels.min()} to {labels.max()}" if len(labels) else "none"
        raise InputError(f"labels of {name} must lie in 0 to {CLASSES - 1}; got {found}")
    rows = subset_rows(name, subset)
    pixels, labels = np.ascontiguousarray(pixels[rows]), labels[rows].astype(np.int64)
    return ImageSet(name, split, torch.from_numpy(pixels), torch.from_numpy(labels), CLASSES)
