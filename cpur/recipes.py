"""The configurations of training runs, and the presets of the papers."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from cpur.arithmetic import NUMBERS
from cpur.config import CertifyConfig, NotebookConfig, noise_level, number, numbers, text
from cpur.errors import InputError, choose

BACKBONES = ("vgg", "alex", "squeeze")  # of the loss lpips
TRAINS = {"purifier": ("purifier",), "classifier": ("classifier",), "both": ("purifier", "classifier")}

EVALUATION = ("num_images", "n", "epsilons", "records_dir")  # say how a result is certified, not how it is made
CALIBRATION = ("brier", "anticonsistency")

# What a preset sets where the configuration says None. CIFAR-10: as in the authors' released code, but for the number
# of steps and the learning rate of the classifier, which are not published. ImageNet-64: the sigmas of the paper, the
# rest as for CIFAR-10.
_PAPER = {
    "loss": "lpips",
    "steps": 400_000,
    "batch_size": 64,
    "lr": 1e-4,
    "classifier_lr": 1e-5,
    "ema": 0.9999,
    "flip": True,
}
PRESETS: dict[str, dict[str, Any]] = {
    # chosen on validation images
    "digits": {
        "loss": "features",
        "sigmas": (0.25, 0.5, 1.0),
        "steps": 2000,
        "batch_size": 128,
        "lr": 5e-4,
        "classifier_lr": 2e-3,
        "ema": 0.998,
        "flip": False,
    },
    "cifar10": _PAPER | {"sigmas": (0.25, 0.5, 1.0)},
    "imagenet64": _PAPER | {"sigmas": (0.05, 0.15, 0.25)},
}


@dataclass(frozen=True)
class FinetuneConfig(NotebookConfig):
    """What is fine-tuned, and how.

    Raises:
        InputError: a value of the wrong type or out of range, in one sentence.
    """

    preset: str = "digits"  # digits, cifar10 or imagenet64: the values of what is None below
    dataset: str = "digits"  # data set; its training images are used
    root: str | None = None  # folder of the data set; digits needs none
    purifier: str = "consistency"  # consistency, onestep-edm (the control) or onestep-ddpm
    checkpoint: str | None = None  # the purifier to start from, a folder or a name on the hub; None: the embedded one
    classifier: str = "digits-cnn"  # digits-cnn, transformers, torchvision:NAME, wrn-28-10 ..., or module:function
    classifier_checkpoint: str | None = None  # its checkpoint; None takes the embedded one
    train: str = "purifier"  # purifier, classifier, or both
    loss: str | None = None  # l1, l2, lpips; on digits features, features-random, features-autoencoder
    lpips_net: str = "vgg"  # backbone of the loss lpips: vgg, alex or squeeze
    sigmas: tuple[float, ...] | None = None  # noise levels to draw from; pixels are in [0, 1]
    continuous: bool = False  # draw uniformly between 0 and the largest sigma instead
    steps: int | None = None  # optimizer steps in all
    batch_size: int | None = None  # images a step
    accumulate: int = 1  # pieces that a step is computed in, to save memory
    lr: float | None = None  # learning rate of the purifier
    classifier_lr: float | None = None  # learning rate of the classifier
    ema: float | None = None  # decay of the averaged weights, which are the result
    flip: bool | None = None  # mirror images at random
    brier: float = 0.0  # calibration: weight of the Brier score, lambda; 0 leaves it out
    anticonsistency: float = 0.0  # calibration: weight of the anti-consistency, lambda times a; 0 leaves it out
    seed: int = 0  # seed of all that training draws
    device: str = "cpu"  # torch device: cpu, cuda, cuda:1, mps
    precision: str = "float32"  # float32, tf32 or bfloat16
    out: str | None = None  # folder of the result and of the state to resume from; None makes one in runs/finetuned
    num_images: int = 200  # test images certified before and after
    n: int = 1000  # noise samples a certificate
    epsilons: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)  # radii of interest, in the l2 norm of the pixels
    records_dir: str = "runs/records"  # where those certificates are written and resumed

    def __post_init__(self) -> None:
        choose("preset", self.preset, PRESETS)
        values = {name: value for name, value in PRESETS[self.preset].items() if getattr(self, name) is None}
        given = {field.name: getattr(self, field.name) for field in fields(self)} | values
        for name, low in {"steps": 1, "batch_size": 1, "accumulate": 1, "seed": 0}.items():
            values[name] = number(name, given[name], whole=True)
            if not low <= values[name] < 2**63:
                raise InputError(f"{name} must be at least {low} and below 2**63; got {values[name]}")
        for name in ("lr", "classifier_lr", "ema"):
            values[name] = number(name, given[name])
            if not 0 < values[name] < 1:
                raise InputError(f"{name} must lie in (0, 1); got {given[name]!r}")
        for name in CALIBRATION:
            values[name] = number(name, given[name])
            if values[name] < 0:
                raise InputError(f"{name} must not be negative; got {given[name]!r}")
        for name in ("continuous", "flip"):
            if not isinstance(given[name], bool):
                raise InputError(f"{name} must be True or False, so spelled; got {given[name]!r}")
        values["sigmas"] = numbers("sigmas", given["sigmas"], "noise levels")
        text("loss", given["loss"], optional=False)
        text("out", self.out, optional=True)
        choose("lpips_net", self.lpips_net, BACKBONES)
        choose("train", self.train, TRAINS)
        choose("precision", self.precision, NUMBERS)
        if values["accumulate"] > values["batch_size"]:
            raise InputError(f"accumulate must be at most batch_size, {values['batch_size']}; got {self.accumulate}")
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.calibrates and self.train != "purifier":
            raise InputError(f"calibration trains the purifier against a frozen classifier; got train {self.train!r}")
        self.certifications()  # checks what it shares with them, before anything is trained

    def certifications(self, **changed: Any) -> list[CertifyConfig]:
        """How the starting point is certified at each noise level; with ``changed`` checkpoints, the result."""
        shared = ("dataset", "root", "purifier", "checkpoint", "classifier", "classifier_checkpoint", "device")
        values = {name: getattr(self, name) for name in (*shared, "precision", *EVALUATION)} | changed
        return [CertifyConfig(**values, sigma=sigma) for sigma in self.sigmas]

    @property
    def trains(self) -> tuple[str, ...]:
        """The parts that are trained."""
        return TRAINS[self.train]

    @property
    def calibrates(self) -> bool:
        """Whether terms of :mod:`cpur.calibration` join the loss."""
        return any(getattr(self, name) > 0 for name in CALIBRATION)

    @property
    def terms(self) -> dict[str, float]:
        """The terms of the loss and their weights."""
        terms = {f"{self.loss} distance": 1.0} if "purifier" in self.trains else {}
        if self.calibrates:
            terms |= {"Brier score": self.brier, "anti-consistency": self.anticonsistency}
        return terms | ({"cross-entropy": 1.0} if "classifier" in self.trains else {})


# What a preset sets where the configuration says None. CIFAR-10 and ImageNet: as in the authors' released code.
_NOISE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "epochs": 90, "decay_every": 30}
BASELINES: dict[str, dict[str, Any]] = {
    # chosen on validation images
    "digits": _NOISE | {"lr": 0.02, "epochs": 390, "decay_every": 130, "batch_size": 64},
    "cifar10": _NOISE | {"batch_size": 256},
    "imagenet": _NOISE | {"batch_size": 400},
}


@dataclass(frozen=True)
class BaselineConfig:
    """What is trained for noise, and how.

    Raises:
        InputError: a value of the wrong type or out of range, in one sentence.
    """

    preset: str = "digits"  # digits, cifar10 or imagenet: the values of what is None below, and the augmentation
    dataset: str = "digits"  # data set; its training images are used
    root: str | None = None  # folder of the data set; digits needs none
    classifier: str = "digits-cnn"  # digits-cnn, transformers, torchvision:NAME, wrn-28-10 ..., or module:function
    sigma: float = 0.5  # standard deviation of the noise; pixels are in [0, 1]
    copies: int = 1  # noisy copies of an image, m; 2 for Consistency Regularization
    lam: float = 0.0  # weight of the consistency of the copies, lambda; 0 leaves it out
    eta: float = 0.0  # weight of the entropy of their mean; 0.5 for Consistency Regularization
    epochs: int | None = None  # passes over the training images
    decay_every: int | None = None  # epochs after which the learning rate falls to a tenth
    batch_size: int | None = None  # images a step, each with all its copies
    lr: float | None = None  # learning rate of SGD at the start
    momentum: float | None = None  # of SGD
    weight_decay: float | None = None  # of SGD
    seed: int = 0  # seed of initialisation and training
    device: str = "cpu"  # torch device: cpu, cuda, cuda:1, mps
    precision: str = "float32"  # float32, tf32 or bfloat16
    out: str | None = None  # folder of the result and of the state to resume from; None makes one in runs/baselines

    def __post_init__(self) -> None:
        choose("preset", self.preset, BASELINES)
        choose("precision", self.precision, NUMBERS)
        for name in ("dataset", "classifier", "device", "root", "out"):
            text(name, getattr(self, name), optional=name in ("root", "out"))
        preset = {name: value for name, value in BASELINES[self.preset].items() if getattr(self, name) is None}
        values: dict[str, Any] = {"sigma": noise_level("sigma", self.sigma)}
        for name, low in {"copies": 1, "epochs": 1, "decay_every": 1, "batch_size": 1, "seed": 0}.items():
            values[name] = number(name, preset.get(name, getattr(self, name)), whole=True)
            if not low <= values[name] < 2**63:
                raise InputError(f"{name} must be at least {low} and below 2**63; got {values[name]}")
        for name in ("lam", "eta", "lr", "momentum", "weight_decay"):
            values[name] = number(name, preset.get(name, getattr(self, name)))
            if values[name] < 0:
                raise InputError(f"{name} must not be negative; got {values[name]!r}")
        if values["lam"] > 0 and values["copies"] < 2:
            raise InputError(f"lam compares noisy copies: take copies of 2 or more; got {values['copies']}")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def identity(self) -> dict[str, Any]:
        """All that the weights depend on."""
        return {name: value for name, value in asdict(self).items() if name not in ("root", "out", "device")}
