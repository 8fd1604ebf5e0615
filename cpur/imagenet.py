"""ImageNet and its kin, from the files that their authors publish, and any folder of images.

``imagenet``: validation (or training) images in a folder a class, at 224 x 224. ``imagenet64``: the official arrays at
64 x 64, or the same folders scaled to 64. ``imagenet-a`` and ``imagenet-r``: 200 of the classes; their labels number
these, and ``classes`` says which of a classifier's 1,000 logits they are.

Source: Russakovsky et al. (2015); Chrabaszcz et al. (2017); Hendrycks et al. (2021a, 2021b).
"""

import re
from pathlib import Path

import numpy as np
import torch

from cpur.errors import InputError
from cpur.images import FolderSet, ImageSet, data_folder, inside, only_test, subset_rows, whole_image
from cpur.paths import anchored, shown
from cpur.unpickle import read_arrays

CLASSES = 1000
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
PART = {"test": "val", "train": "train"}  # folders; what papers test on is the validation set
LISTS = ("imagenet_class_index.json", "LOC_synset_mapping.txt", "synset_words.txt", "imagenet_synsets.txt")
BATCHES = {"test": ["val_data"], "train": [f"train_data_batch_{i}" for i in range(1, 11)]}

WHERE = {
    "imagenet": "the validation images of ILSVRC 2012 (6.7 GB, image-net.org), a folder a class below val/",
    "imagenet64": (
        "Imagenet64_val.zip (509 MB, image-net.org, downsampled images) with map_clsloc.txt of the development kit "
        "beside it, or the folders of imagenet"
    ),
    "imagenet-a": "the folder imagenet-a of imagenet-a.tar (655 MB, github.com/hendrycks/natural-adv-examples)",
    "imagenet-r": "the folder imagenet-r of imagenet-r.tar (2.2 GB, github.com/hendrycks/imagenet-r)",
}


def imagenet(split: str, root: str | None, subset: str | None) -> FolderSet:
    """A folder a class, sorted: the order of the 1,000 classes."""
    _check_split("imagenet", split)
    return _by_class("imagenet", split, data_folder("imagenet", root, WHERE["imagenet"]), subset, 224, 256)


def imagenet64(split: str, root: str | None, subset: str | None) -> ImageSet | FolderSet:
    """The official arrays where there are any, else folders."""
    folder = data_folder("imagenet64", root, WHERE["imagenet64"])
    _check_split("imagenet64", split)
    if not any(_arrays(folder, BATCHES[split][0])):
        return _by_class("imagenet64", split, folder, subset, 64, 64)
    order = _class_order(folder / "map_clsloc.txt")
    pixels, labels = zip(*(_batch(folder, name) for name in BATCHES[split]), strict=True)
    pixels, labels = np.concatenate(pixels), np.concatenate(labels)
    if labels.min() < 1 or labels.max() > CLASSES:
        raise InputError(f"labels of imagenet64 must lie in 1 to {CLASSES}; got {labels.min()} to {labels.max()}")
    rows = subset_rows("imagenet64", subset)
    classes = torch.from_numpy(order[labels[rows] - 1])
    return ImageSet("imagenet64", split, torch.from_numpy(np.ascontiguousarray(pixels[rows])), classes, CLASSES)


def imagenet_a(split: str, root: str | None, subset: str | None) -> FolderSet:
    """Natural images that fool a classifier."""
    return _some_classes("imagenet-a", split, root, subset)


def imagenet_r(split: str, root: str | None, subset: str | None) -> FolderSet:
    """Renditions: art, cartoons, toys."""
    return _some_classes("imagenet-r", split, root, subset)


def image_folder(name: str, split: str, subset: str | None) -> FolderSet:
    """Any folder with a folder a class, at the size of its first image; the one of the split, where it has such."""
    folder = inside(anchored(name), split)
    classes = _class_folders(folder)
    first = next((file for one in classes for file in _files(one)), None)
    if first is None:
        raise InputError(f"{shown(folder)} must hold a folder of images for each class; it has none")
    size = min(whole_image(first).shape[1:])
    return _folders(name, split, classes, subset, size, size)


def _by_class(name: str, split: str, folder: Path, subset: str | None, size: int, resize: int) -> FolderSet:
    folder = inside(folder, PART[split])
    classes = _class_folders(folder)
    if len(classes) != CLASSES:
        raise InputError(
            f"{shown(folder)} has {len(classes)} class folders (n01440764, ...); expected {CLASSES}: it must be "
            f"{WHERE[name]}"
        )
    return _folders(name, split, classes, subset, size, resize)


def _some_classes(name: str, split: str, root: str | None, subset: str | None) -> FolderSet:
    only_test(name, split)
    folder = inside(data_folder(name, root, WHERE[name]), name)
    classes = _class_folders(folder)
    if len(classes) != 200:
        raise InputError(f"{shown(folder)} has {len(classes)} class folders; expected 200: it must be {WHERE[name]}")
    order = {wnid: index for index, wnid in enumerate(_all_classes(folder))}
    unknown = [one.name for one in classes if one.name not in order]
    if unknown:
        raise InputError(f"{shown(folder)} has folders that are no class of ImageNet: {', '.join(unknown[:5])}")
    indices = tuple(order[one.name] for one in classes)
    return _folders(name, split, classes, subset, 224, 256, indices)


def _all_classes(folder: Path) -> list[str]:
    """The names of the 1,000 classes in their order, from a list beside the images."""
    for place in (folder, folder.parent):
        for name in LISTS:
            if (place / name).is_file():
                found = list(dict.fromkeys(re.findall(r"\bn\d{8}\b", (place / name).read_text())))
                if len(found) != CLASSES:
                    raise InputError(f"{shown(place / name)} names {len(found)} classes; expected {CLASSES}")
                return sorted(found)
    raise InputError(
        f"nothing beside {shown(folder)} says which of the {CLASSES} classes its folders are: put one of "
        f"{', '.join(LISTS)} there"
    )


def _folders(
    name: str,
    split: str,
    classes: list[Path],
    subset: str | None,
    size: int,
    resize: int,
    indices: tuple[int, ...] | None = None,
) -> FolderSet:
    pairs = [(file, label) for label, one in enumerate(classes) for file in _files(one)]
    if not pairs:
        raise InputError(f"there is no image in the class folders of {shown(classes[0].parent)}")
    files, labels = zip(*pairs[subset_rows(name, subset)], strict=True)
    return FolderSet(name, split, files, torch.tensor(labels), len(classes), size, resize, indices)


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _check_split(name: str, split: str) -> None:
    if split not in PART:
        raise InputError(f"{name} has splits test (the validation images) and train; got {split!r}")


def _arrays(folder: Path, name: str) -> list[Path]:
    return [file for file in (folder / name, folder / f"{name}.npz") if file.is_file()]


def _batch(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    files = _arrays(folder, name)
    if not files:
        raise InputError(f"{shown(folder)} lacks {name}: it must be {WHERE['imagenet64']}, unpacked whole")
    try:
        if files[0].suffix == ".npz":
            batch = dict(np.load(files[0], allow_pickle=False))
        else:
            batch = {_text(key): value for key, value in read_arrays(files[0]).items()}
        data = np.asarray(batch["data"]).reshape(-1, 3, 64, 64)
        labels = np.asarray(batch["labels"])
    except (KeyError, ValueError, AttributeError, OSError) as error:
        raise InputError(f"{shown(files[0])} is not an array of ImageNet at 64 x 64: {error!r}") from error
    if data.dtype != np.uint8 or len(data) != len(labels):
        raise InputError(f"{shown(files[0])} must hold images in 8 bits and a label for each; got {data.dtype}")
    return data, labels


def _text(key: bytes | str) -> str:
    return key.decode() if isinstance(key, bytes) else key


def _class_order(file: Path) -> np.ndarray:
    """For each label of the arrays, less 1, its place among the sorted classes: the arrays number them otherwise."""
    if not file.is_file():
        raise InputError(
            f"{shown(file.parent)} lacks map_clsloc.txt of the development kit: the arrays number the classes in its "
            "order, and classifiers in that of their names"
        )
    lines = (line.split()[:2] for line in file.read_text().splitlines() if line.strip())
    pairs = sorted((int(number), name) for name, number in lines)
    if [number for number, _ in pairs] != list(range(1, CLASSES + 1)):
        raise InputError(f"{shown(file)} must number the classes from 1 to {CLASSES}")
    names = sorted(name for _, name in pairs)
    return np.array([names.index(name) for _, name in pairs])
