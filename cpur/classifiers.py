"""Classifiers of images in [0, 1], and the base classifier: purify, then classify."""

from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from cpur import checkpoints
from cpur.errors import InputError, choose
from cpur.paths import shown
from cpur.purifiers import Purifier

WEIGHTS = "model.safetensors"


class DigitsCNN(nn.Module):
    """Three convolutions and two linear layers for 8 x 8 digits; it normalises its own input."""

    def __init__(self, width: int = 16, dropout: float = 0.3, num_classes: int = 10) -> None:
        super().__init__()
        self.settings = {"width": width, "dropout": dropout, "num_classes": num_classes}
        self.num_classes = num_classes
        self.layers = nn.Sequential(
            *_convolution(1, width),
            *_convolution(width, 2 * width, stride=2),
            *_convolution(2 * width, 2 * width),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * 16, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, num_classes),
        )

    def forward(self, x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b k"]:
        return self.layers(2 * x - 1)


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


CLASSIFIERS = {"digits-cnn": DigitsCNN}


def classifier_folder(name: str, checkpoint: str | Path | None = None) -> Path:
    """The checkpoint folder of a classifier."""
    choose("classifier", name, CLASSIFIERS)
    return checkpoints.resolve(checkpoint, name)


def load_classifier(name: str = "digits-cnn", checkpoint: str | Path | None = None) -> nn.Module:
    """Loads a classifier that maps images in [0, 1] to logits, in evaluation mode.

    Args:
        name: ``digits-cnn``.
        checkpoint: a folder with config.json and model.safetensors; None takes the embedded one.

    Raises:
        InputError: an unknown name, or a folder that does not hold such a model.
    """
    folder = classifier_folder(name, checkpoint)
    try:
        model = CLASSIFIERS[name](**checkpoints.read_json(folder / "config.json"))
        load_model(model, folder / WEIGHTS)
    except (OSError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load {name} from {shown(folder)}: {error}") from error
    return model.eval()


def save_classifier(model: DigitsCNN, folder: Path) -> None:
    """Writes config.json and model.safetensors."""
    checkpoints.write_json(folder / "config.json", model.settings)
    save_model(model, str(folder / WEIGHTS))


class BaseClassifier(nn.Module):
    """The base classifier f at one noise level: ``classifier(denoise(x, sigma))``."""

    def __init__(self, purifier: Purifier, classifier: nn.Module, sigma: float) -> None:
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier
        self.sigma = sigma

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classifier(self.purifier.denoise(x, self.sigma))
