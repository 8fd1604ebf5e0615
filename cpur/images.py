"""Sets of images with labels, in a fixed order, kept in bytes until they are looked at."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from cpur.errors import InputError
from cpur.paths import anchored, shown

THREADS = 8  # that decode the files of a batch


@dataclass(frozen=True)
class ImageSet:
    """Images and labels; item i is the pair of an image ``c h w`` in [0, 1] and its label.

    Attributes:
        pixels: in bytes; ``white`` is 1.
        classes: those of a larger classifier that the labels number; None where it has no others.
    """

    name: str
    split: str
    pixels: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, "n"]
    num_classes: int
    white: int = 255
    classes: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Float[Tensor, "c h w"], int]:
        return self.batch([i])[0], int(self.labels[i])

    def batch(self, rows: Sequence[int] | Tensor) -> Float[Tensor, "b c h w"]:
        """Some of the images."""
        return self.pixels[rows].float() / self.white

    @property
    def images(self) -> Float[Tensor, "n c h w"]:
        """All of the images."""
        return self.pixels.float() / self.white

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return tuple(self.pixels.shape[1:])


@dataclass(frozen=True)
class FolderSet:
    """Image files, decoded when they are looked at: as :class:`ImageSet`, but not all in memory.

    Attributes:
        files: the images.
        size: of the square in the middle that is taken, in bytes.
        resize: what the shorter side is scaled to before (bilinear, antialiased).
    """

    name: str
    split: str
    files: tuple[Path, ...]
    labels: Int64[Tensor, "n"]
    num_classes: int
    size: int
    resize: int
    classes: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Float[Tensor, "c h w"], int]:
        return self.decode(self.files[i]).float() / 255, int(self.labels[i])

    def batch(self, rows: Sequence[int] | Tensor) -> Float[Tensor, "b c h w"]:
        """Some of the images, decoded by several threads."""
        files = [self.files[i] for i in (rows.tolist() if isinstance(rows, Tensor) else rows)]
        with ThreadPoolExecutor(THREADS) as pool:
            return torch.stack(list(pool.map(self.decode, files))).float() / 255

    @property
    def images(self) -> Float[Tensor, "n c h w"]:
        """All of the images; mind the memory."""
        return self.batch(range(len(self)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return 3, self.size, self.size

    def decode(self, file: Path) -> UInt8[Tensor, "3 h w"]:
        """The bytes of one image, scaled and cropped."""
        return v2.CenterCrop(self.size)(v2.Resize(self.resize, antialias=True)(whole_image(file)))


AnySet = ImageSet | FolderSet


def whole_image(file: Path) -> UInt8[Tensor, "3 h w"]:
    """The bytes of an image file, in colour.

    Raises:
        InputError: the file is torn, or no image.
    """
    try:
        with Image.open(file) as image:
            return F.pil_to_tensor(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{shown(file)} is not a whole image: {error}") from error


def data_folder(name: str, root: str | None, where: str) -> Path:
    """The folder of a data set that is not shipped.

    Raises:
        InputError: there is none; ``where`` says what to get.
    """
    if root is None or not anchored(root).is_dir():
        given = "" if root is None else f"there is no folder {shown(anchored(root))}: "
        raise InputError(f"{given}{name} is not shipped: get {where}, and give the folder as root")
    return anchored(root)


def inside(folder: Path, name: str) -> Path:
    """The folder of that name inside, where there is one, else the folder itself."""
    return folder / name if (folder / name).is_dir() else folder


def only_test(name: str, split: str) -> None:
    """Raises InputError for any split but ``test``."""
    if split != "test":
        raise InputError(f"{name} has test images only; got split {split!r}")


def subset_rows(name: str, subset: str | None) -> slice:
    """The rows that ``every-K`` keeps: 0, K, 2K, ...; None keeps all.

    Raises:
        InputError: any other subset.
    """
    if subset is None:
        return slice(None)
    if match := re.fullmatch(r"every-([1-9]\d*)", subset):
        return slice(None, None, int(match[1]))
    raise InputError(f"subset must be None or every-K, such as every-20, for {name}; got {subset!r}")
