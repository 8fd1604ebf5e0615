"""What a published classifier wants done to an image first, in the words of Hugging Face's preprocessor_config.json."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpur.checkpoints import read_json, write_json
from cpur.errors import InputError, choose
from cpur.paths import shown

FILE = "preprocessor_config.json"
MODES = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
PROCESSORS = ("ViT", "DeiT", "Beit", "ConvNext")  # whose steps are no others than those below
STEPS = ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb")


@dataclass(frozen=True)
class Preprocessing:
    r"""Resizes an image x in [0, 1] where it has another size, then takes :math:`(s x - \mu) / \sigma` of each channel.

    All of it is floating point and differentiable. PIL rounds to bytes after each direction of a resize, and clips;
    this does neither. Where a published pipeline resizes and then crops, this resizes to the size after the crop: the
    crop is the data set's.

    Raises:
        InputError: a value of the wrong type or out of range.
    """

    size: tuple[int, int] | None  # height and width; None keeps those of the image
    mode: str  # of the resize: bilinear or bicubic, with antialiasing
    mean: tuple[float, ...]  # of a channel, mu
    std: tuple[float, ...]  # of a channel, sigma
    scale: float = 1.0  # s

    def __post_init__(self) -> None:
        choose("interpolation", self.mode, MODES.values())
        if self.size is not None and not all(_whole(value) and value > 0 for value in self.size):
            raise InputError(f"size must be a height and a width in pixels; got {self.size!r}")
        if not len(self.mean) == len(self.std) > 0 or not all(map(_finite, (*self.mean, *self.std))):
            raise InputError(f"mean and std must be a number a channel; got {self.mean!r} and {self.std!r}")
        if min(self.std) <= 0 or not _finite(self.scale) or self.scale <= 0:
            raise InputError(f"std and scale must be positive; got {self.std!r} and {self.scale!r}")

    @property
    def identity(self) -> dict[str, Any]:
        """All values, as JSON has them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class Preprocess(nn.Module):
    """The images that a network sees of images in [0, 1].

    Raises:
        InputError: the images have another number of channels.
    """

    def __init__(self, settings: Preprocessing) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", torch.tensor(settings.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        settings = self.settings
        if x.shape[1] != len(settings.mean):
            raise InputError(f"the classifier takes images of {len(settings.mean)} channels; got {x.shape[1]}")
        if settings.size is not None and tuple(x.shape[2:]) != settings.size:
            x = F.interpolate(x, settings.size, mode=settings.mode, antialias=True)
        return (settings.scale * x - self.mean) / self.std


def read(file: Path) -> Preprocessing:
    """Reads preprocessor_config.json; an image is resized, rescaled and normalised where it does not say otherwise.

    Raises:
        InputError: the file is missing or damaged, or wants a step that is not known here.
    """
    values = read_json(file)
    try:
        return _parsed(values)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{shown(file)} lacks a value, or has one of the wrong kind: {error}") from error
    except InputError as error:
        raise InputError(f"{shown(file)}: {error}") from error


def _parsed(values: Mapping[str, Any]) -> Preprocessing:
    kind = values.get("image_processor_type", values.get("feature_extractor_type", PROCESSORS[0]))
    if re.sub("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind) not in PROCESSORS:
        raise InputError(f"{kind} may take steps that are not known here: take the model by a function module:function")
    others = [name for name, on in values.items() if name.startswith("do_") and name not in STEPS and on]
    if others:
        raise InputError(f"the step {others[0]} is not known here: take the model by a function module:function")
    size = None
    if values.get("do_center_crop", False):
        size = _size(values["crop_size"])
    elif values.get("do_resize", True):
        size = _size(values["size"])
    resample = values["resample"] if size else 2
    choose("resample", resample, MODES)
    normalises = values.get("do_normalize", True)
    return Preprocessing(
        size,
        MODES[resample],
        tuple(values["image_mean"]) if normalises else (0.0, 0.0, 0.0),
        tuple(values["image_std"]) if normalises else (1.0, 1.0, 1.0),
        255 * values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 255.0,
    )


def _size(value: Any) -> tuple[int, int]:
    """Height and width of a square, by its edge or its shortest edge, or as they are named."""
    if _whole(value):
        return value, value
    return (value["shortest_edge"],) * 2 if "shortest_edge" in value else (value["height"], value["width"])


def write(preprocessing: Preprocessing, file: Path) -> None:
    """Writes preprocessor_config.json, which the library reads as well."""
    values = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": preprocessing.size is not None,
        "resample": {mode: number for number, mode in MODES.items()}[preprocessing.mode],
        "do_rescale": True,
        "rescale_factor": preprocessing.scale / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if preprocessing.size is not None:
        values["size"] = dict(zip(("height", "width"), preprocessing.size, strict=True))
    write_json(file, values)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return (_whole(value) or isinstance(value, float)) and math.isfinite(value)
