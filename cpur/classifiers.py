"""Classifiers of images in [0, 1], and the base classifier: purify, then classify."""

import hashlib
import inspect
import itertools
import json
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.ops import MLP

from cpur import checkpoints
from cpur.backbones import BACKBONES, Backbone, is_backbone, load_backbone
from cpur.errors import InputError, choose
from cpur.paths import models, root, shown
from cpur.purifiers import Purifier

WEIGHTS = "model.safetensors"


class DigitsCNN(nn.Module):
    """Three convolutions and two linear layers for 8 x 8 digits; it normalises its own input."""

    def __init__(self, width: int = 16, dropout: float = 0.3, num_classes: int = 10, hidden: int = 128) -> None:
        super().__init__()
        self.settings = {"width": width, "dropout": dropout, "num_classes": num_classes, "hidden": hidden}
        self.layers = nn.Sequential(
            *_convolution(1, width),
            *_convolution(width, 2 * width, stride=2),
            *_convolution(2 * width, 2 * width),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * 16, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b k"]:
        return self.layers(2 * x - 1)

    def features(self, x: Float[Tensor, "b 1 8 8"]) -> list[Tensor]:
        """The maps ``b c h w`` after each convolution."""
        maps, x = [], 2 * x - 1
        for layer in itertools.takewhile(lambda layer: not isinstance(layer, nn.Flatten), self.layers):
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps

    def embedding(self, x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b d"]:
        """The ``hidden`` features that the last layer sees."""
        return self.layers[:-1](2 * x - 1)


class DigitsMLP(nn.Module):
    """Three linear layers for 8 x 8 digits."""

    def __init__(self, width: int = 256, dropout: float = 0.3, num_classes: int = 10) -> None:
        super().__init__()
        self.settings = {"width": width, "dropout": dropout, "num_classes": num_classes}
        self.layers = MLP(64, [width, width, num_classes], dropout=dropout)

    def forward(self, x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b k"]:
        return self.layers((2 * x - 1).flatten(1))


class DigitsViT(nn.Module):
    """A small vision transformer on the 16 patches of 2 x 2 pixels of a digit."""

    def __init__(self, width: int = 32, depth: int = 2, dropout: float = 0.1, num_classes: int = 10) -> None:
        super().__init__()
        self.settings = {"width": width, "depth": depth, "dropout": dropout, "num_classes": num_classes}
        self.vit = VisionTransformer(8, 2, depth, 4, width, 2 * width, dropout, num_classes=num_classes)

    def forward(self, x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b k"]:
        return self.vit((2 * x - 1).expand(-1, 3, -1, -1))


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


CLASSIFIERS = {"digits-cnn": DigitsCNN, "digits-mlp": DigitsMLP, "digits-vit": DigitsViT}


def load_classifier(name: str = "digits-cnn", checkpoint: str | Path | None = None) -> nn.Module:
    """Loads a classifier that maps images in [0, 1] to logits, in evaluation mode.

    Args:
        name: ``digits-cnn``, ``digits-mlp`` or ``digits-vit``; ``transformers``, ``torchvision:<model>``,
            ``wrn-28-10`` or ``resnet110`` for a published checkpoint (:mod:`cpur.backbones`); or ``module:function``,
            a function that returns an ``nn.Module``, in a module that can be imported from the current folder or the
            repository. It is called without arguments, or with the checkpoint where there is one.
        checkpoint: for a digits network a folder with config.json and model.safetensors; None takes the embedded one.
            For the others the published file or folder.

    Raises:
        InputError: an unknown name, or a folder or function that gives no such model.
    """
    if is_backbone(name):
        return load_backbone(name, checkpoint)
    if ":" in name:
        return _called(name, checkpoint).eval()
    choose("classifier", name, (*CLASSIFIERS, "torchvision:<model>", *BACKBONES, "module:function"))
    folder = checkpoints.resolve(checkpoint, name)
    try:
        model = CLASSIFIERS[name](**checkpoints.read_json(folder / "config.json"))
        load_model(model, folder / WEIGHTS)
    except (OSError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load {name} from {shown(folder)}: {error}") from error
    return model.eval()


def _called(name: str, checkpoint: str | Path | None) -> nn.Module:
    with _importable(Path.cwd(), root()):
        try:
            make = pkgutil.resolve_name(name)
            model = make() if checkpoint is None else make(checkpoint)
        except Exception as error:  # whatever foreign code raises
            raise InputError(f"cannot make the classifier {name}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"the classifier {name} must return an nn.Module; got {type(model).__name__}")
    return model


@contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    before = sys.path.copy()
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before


def classifier_hash(name: str, checkpoint: str | Path | None = None, model: nn.Module | None = None) -> str:
    """Sixteen hexadecimal digits that change with the classifier.

    Of a digits network's checkpoint; of a published one's weights, preprocessing and configuration; or, for
    ``module:function``, of the model's weights and the source files of the function and of the model's class, but for
    those of this package, whose version every record names. The model is loaded where it is not given.
    """
    if ":" not in name and not is_backbone(name):
        choose("classifier", name, CLASSIFIERS)
        return checkpoints.checkpoint_hash(checkpoints.resolve(checkpoint, name))
    model = load_classifier(name, checkpoint) if model is None else model
    if isinstance(model, Backbone):
        digest = hashlib.sha256(json.dumps([name, model.identity], sort_keys=True).encode())
    else:
        digest = hashlib.sha256()
        with _importable(Path.cwd(), root()):
            made = (type(model), pkgutil.resolve_name(name))
        for source in (Path(inspect.getfile(inspect.unwrap(one))) for one in made):
            if Path(__file__).parent not in source.parents:
                digest.update(source.read_bytes())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def embedded_features(name: str) -> DigitsCNN:
    """An embedded network trained for its features: ``digits-features``, ``digits-fid`` or ``digits-autoencoder``."""
    return load_classifier("digits-cnn", models() / name)


def save_classifier(model: nn.Module, folder: Path) -> None:
    """Writes model.safetensors, and the settings of a network that is not made by a function of its own."""
    if isinstance(model, Backbone):
        model.save(folder)
        return
    if hasattr(model, "settings"):
        checkpoints.write_json(folder / "config.json", model.settings)
    save_model(model, str(folder / WEIGHTS))


class SomeClasses(nn.Module):
    """A classifier restricted to some of its classes, in the order given: the logit mask of ImageNet-A and -R."""

    def __init__(self, classifier: nn.Module, classes: tuple[int, ...]) -> None:
        super().__init__()
        self.classifier = classifier
        self.classes = list(classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classifier(x)[:, self.classes]


class BaseClassifier(nn.Module):
    """The base classifier f: ``classifier(denoise(x, sigma))``, at one noise level or at that of each image."""

    def __init__(self, purifier: Purifier, classifier: nn.Module, sigma: float) -> None:
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier
        self.sigma = sigma

    def forward(self, x: Float[Tensor, "b c h w"], sigma: Float[Tensor, "b"] | None = None) -> Float[Tensor, "b k"]:
        """The logits; without noise levels, one an image, at its own."""
        return self.classifier(self.purifier.denoise(x, self.sigma if sigma is None else sigma))
