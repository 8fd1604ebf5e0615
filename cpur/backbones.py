"""Published checkpoints as classifiers of images in [0, 1] of any size, each with its own resize and normalisation.

- ``transformers``: the folder of a Hugging Face image classification model, or its name on the hub where the local
  cache has it; such as the ViT-B/16 for CIFAR-10 of Carlini et al. (2023) and Li et al. (2024).
- ``torchvision:<model>``, such as ``torchvision:resnet50``: a state dict.
- ``wrn-28-10`` and ``resnet110``: a state dict of a CIFAR network.

A state dict may be wrapped as ``{"state_dict": ...}``, and its keys may begin with ``module.``; behind the
normalisation layer of Cohen et al. (2019) they begin with ``1.``. What fine-tuning writes, a folder of
model.safetensors and preprocessor_config.json, is read as well.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torchvision
from jaxtyping import Float
from safetensors.torch import save_model
from torch import Tensor, nn

from cpur import preprocessing
from cpur.checkpoints import hub_folder, read_json
from cpur.errors import InputError
from cpur.networks.cifar_resnets import CifarResNet, WideResNet, on_meta, settings_agree
from cpur.paths import anchored, shown
from cpur.preprocessing import Preprocess, Preprocessing
from cpur.state_dicts import agree, first_line, fit, read_weights

TORCHVISION = "torchvision:"
WEIGHTS = "model.safetensors"


class Backbone(nn.Module):
    """A network behind its preprocessing: images in [0, 1] to logits."""

    def __init__(self, network: nn.Module, settings: Preprocessing) -> None:
        super().__init__()
        self.preprocess = Preprocess(settings)
        self.network = network

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.network(self.preprocess(x))

    @property
    def identity(self) -> dict[str, Any]:
        """All that the logits depend on but the weights and the name, as JSON has it."""
        return {"preprocessing": self.preprocess.settings.identity}

    def save(self, folder: Path) -> None:
        """Writes model.safetensors and preprocessor_config.json, from which the same name loads it."""
        save_model(self.network, str(folder / WEIGHTS))
        preprocessing.write(self.preprocess.settings, folder / preprocessing.FILE)


class HubBackbone(Backbone):
    """A model of transformers behind its preprocessing."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.network(pixel_values=self.preprocess(x)).logits

    @property
    def identity(self) -> dict[str, Any]:
        """As of every backbone, with what the model's own configuration says."""
        config = self.network.config.to_diff_dict()
        kept = {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}
        return super().identity | {"config": kept}

    def save(self, folder: Path) -> None:
        """Writes the folder that ``from_pretrained`` reads."""
        self.network.save_pretrained(folder)
        preprocessing.write(self.preprocess.settings, folder / preprocessing.FILE)


def load_backbone(name: str, checkpoint: str | Path | None) -> Backbone:
    """Loads a published checkpoint, in evaluation mode and single precision.

    Raises:
        InputError: the checkpoint is missing, damaged or of another network, or its library is missing.
    """
    if checkpoint is None:
        raise InputError(f"the classifier {name} has no embedded checkpoint: give classifier_checkpoint")
    try:
        if name.startswith(TORCHVISION):
            return load_torchvision(checkpoint, name.removeprefix(TORCHVISION)).float().eval()
        return BACKBONES[name](checkpoint).float().eval()
    except InputError as error:
        raise InputError(f"cannot load {name} from {shown(checkpoint)}: {error}") from error


def is_backbone(name: str) -> bool:
    """Whether the name is that of a published checkpoint, and not of a digits network or a function."""
    return name in BACKBONES or name.startswith(TORCHVISION)


def load_transformers(checkpoint: str | Path) -> HubBackbone:
    """An ``AutoModelForImageClassification``; the labels keep the model's own order."""
    try:
        from transformers import AutoModelForImageClassification  # here, since it is optional and takes seconds
    except ImportError as error:
        raise InputError(f'it needs transformers: pip install "cpur[hub]" ({error})') from error
    folder = hub_folder(checkpoint)
    settings = preprocessing.read(folder / preprocessing.FILE)
    read_json(folder / "config.json")
    try:
        with _no_bar():
            network, report = AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:  # the library and its readers raise many kinds
        raise InputError(f"transformers cannot read it: {first_line(error)}") from error
    agree(list(report["missing_keys"]), list(report["unexpected_keys"]))
    if network.num_labels < 2:
        raise InputError(f"a classifier needs num_labels of 2 or more; got {network.num_labels}")
    return HubBackbone(network, settings)


@contextmanager
def _no_bar() -> Iterator[None]:
    """Without the progress bar of transformers, which a page would keep, frozen."""
    from transformers.utils import logging

    shown_before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown_before:
            logging.enable_progress_bar()


def load_torchvision(checkpoint: str | Path, model: str) -> Backbone:
    """A classification model of torchvision by its name, for any number of classes.

    The preprocessing is that of the published weights of the file's name, else of the model's default weights. As
    where torchvision loads published weights, Inception and GoogLeNet turn their input into their own normalisation.
    """
    _check_model(model)
    file, written = _source(checkpoint)
    state, normalisation = read_weights(file)
    for key in [key for key in state if OLD_DENSENET.search(key)]:
        state[OLD_DENSENET.sub(r"\1\2.", key)] = state.pop(key)
    published = torchvision.models.get_model_weights(model)
    entry = next((entry for entry in published if entry.url.endswith(f"/{file.name}")), published.DEFAULT)
    settings = written or _published(entry)
    network = _untrained(model, state, settings.size)
    fit(network, state)
    return Backbone(network, replace(settings, **normalisation))


def _check_model(model: str) -> None:
    if model not in torchvision.models.list_models(module=torchvision.models):
        raise InputError(f"torchvision has no classification model {model!r}: take one such as resnet50 or vit_b_16")


def _published(weights: torchvision.models.WeightsEnum) -> Preprocessing:
    preset = weights.transforms()
    size = (preset.crop_size[0],) * 2
    return Preprocessing(size, preset.interpolation.value, tuple(preset.mean), tuple(preset.std))


OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")  # names in torchvision's files, without a hook


def _untrained(model: str, state: Mapping[str, Tensor], size: tuple[int, int] | None) -> nn.Module:
    network = _made(model)
    last = next(reversed(network.state_dict()))  # of the layer that gives the logits
    settings = {"num_classes": len(state[last])} if last in state and state[last].ndim else {}
    if isinstance(network, torchvision.models.VisionTransformer) and size:
        settings["image_size"] = size[0]
    if settings not in ({"num_classes": 1000}, {"num_classes": 1000, "image_size": 224}):
        network = _made(model, **settings)
    if hasattr(network, "transform_input"):
        network.transform_input = True
    return network


def _made(model: str, **settings: int) -> nn.Module:
    with warnings.catch_warnings():  # not on meta, where some models cannot be made
        warnings.simplefilter("ignore", FutureWarning)  # of initial weights, which are not used
        return torchvision.models.get_model(model, weights=None, **settings)


def load_cifar(checkpoint: str | Path, network: type[nn.Module], std: tuple[float, ...], **wanted: int) -> Backbone:
    """A CIFAR network of these settings, for any number of classes; ``std`` is that of its usual normalisation."""
    file, written = _source(checkpoint)
    state, normalisation = read_weights(file)
    settings = network.infer_settings(state)
    settings_agree(settings, wanted)
    model = on_meta(network, settings)
    fit(model, state)
    return Backbone(model, replace(written or _usual(std), **normalisation))


def new_backbone(name: str, num_classes: int) -> Backbone:
    """An untrained network, behind the preprocessing of its usual weights.

    Raises:
        InputError: a name of none, or a model of transformers, which has no sizes without a checkpoint.
    """
    if name in CIFAR:
        network, std, settings = CIFAR[name]
        return Backbone(network(**settings, num_classes=num_classes), _usual(std))
    model = name.removeprefix(TORCHVISION)
    if model == name:
        raise InputError(f"{name} cannot be trained from scratch: take torchvision:<model> or {' or '.join(CIFAR)}")
    _check_model(model)
    settings = _published(torchvision.models.get_model_weights(model).DEFAULT)
    return Backbone(_made(model, num_classes=num_classes), settings)


def _usual(std: tuple[float, ...]) -> Preprocessing:
    return Preprocessing((32, 32), "bilinear", CIFAR_MEAN, std)


CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR: dict[str, tuple[type[nn.Module], tuple[float, ...], dict[str, int]]] = {  # with the usual std, and the sizes
    "wrn-28-10": (WideResNet, (0.2471, 0.2435, 0.2616), {"depth": 28, "widen_factor": 10}),
    "resnet110": (CifarResNet, (0.2023, 0.1994, 0.2010), {"depth": 110}),
}
BACKBONES: dict[str, Callable[[str | Path], Backbone]] = {"transformers": load_transformers} | {
    name: partial(load_cifar, network=network, std=std, **sizes) for name, (network, std, sizes) in CIFAR.items()
}


def _source(checkpoint: str | Path) -> tuple[Path, Preprocessing | None]:
    """The file of weights, and the preprocessing that a folder has beside it."""
    path = anchored(checkpoint)
    return (path / WEIGHTS, preprocessing.read(path / preprocessing.FILE)) if path.is_dir() else (path, None)
