"""The configuration of a certification run: one object for notebook, command line and record."""

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Self

from cpur.arithmetic import Arithmetic
from cpur.errors import InputError, choose
from cpur.plans import PLANS, Plan, sequential

PURIFIERS = ("none", "onestep-ddpm", "onestep-edm", "pf-ode", "consistency")


def number(field: str, value: Any, whole: bool = False) -> float | int:
    """``value`` as a finite number, or InputError."""
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{field} must be {kind}; got {value!r} ({type(value).__name__})")
    if whole and value != int(value):
        raise InputError(f"{field} must be {kind}; got {value!r}")
    return int(value) if whole else float(value)


def numbers(field: str, value: Any, kind: str) -> tuple[float, ...]:
    """``value`` as finite numbers, at least one, or InputError."""
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{field} must be a list of {kind}; got {value!r} (papermill: -y '{field}: [0.25, 0.5]')")
    return tuple(number(field, one) for one in value)


def noise_level(field: str, value: Any) -> float:
    """``value`` as a noise level, or InputError."""
    sigma = number(field, value)
    if not 0 < sigma <= 16:
        raise InputError(f"{field} must lie in (0, 16] (pixels are in [0, 1], so 0.5 is strong noise); got {value!r}")
    return sigma


def text(field: str, value: Any, optional: bool) -> str | None:
    """``value`` as text that is not empty, or None where that is allowed; else InputError."""
    if (optional and value is None) or (isinstance(value, str) and value):
        return value
    raise InputError(f"{field} must be text{' or None' if optional else ''}; got {value!r}")


class NotebookConfig:
    """A configuration whose fields are the parameters of a notebook; subclasses are frozen dataclasses."""

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Reads the parameters of a notebook from its ``globals()`` and rejects unknown ones.

        papermill writes what it is given into a cell of its own, known or not; its names are read from
        the kernel's input history, so that a misspelled parameter never leaves the default in force.
        """
        known = {field.name: field for field in fields(cls)}
        for name in injected_names(namespace):
            choose("parameter", name, known)
        missing = [name for name in known if name not in namespace]
        if missing:
            raise InputError(f"the parameters cell lacks {', '.join(missing)}: run it first, unrenamed")
        return cls(**{name: namespace[name] for name in known})

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every field with its default value."""
        return {field.name: field.default for field in fields(cls) if field.default is not MISSING}


@dataclass(frozen=True)
class Subject:
    """What is certified."""

    dataset: str = "digits"  # digits, cifar10, imagenet, imagenet64 ... (cpur.data.DATASETS), or a folder of images
    root: str | None = None  # folder of the data set; digits needs none
    subset: str | None = None  # such as every-20, or gaussian_noise-3/every-20; None takes the images in order
    purifier: str = "onestep-edm"  # none, onestep-ddpm, onestep-edm, pf-ode or consistency
    checkpoint: str | None = None  # of the purifier: a folder or a name on the hub; None takes the embedded one
    classifier: str = "digits-cnn"  # digits-cnn, transformers, torchvision:NAME, wrn-28-10 ..., or module:function
    classifier_checkpoint: str | None = None  # its checkpoint; None takes the embedded one


@dataclass(frozen=True)
class Sampling:
    """How it is certified."""

    n0: int = 100  # noise samples that select the class
    n: int = 10_000  # fresh noise samples that estimate its probability, at most
    alpha: float = 0.001  # each certificate fails with probability at most alpha
    plan: str = "fixed"  # sampling plan: fixed (n0, then n), or sequential, which stops when epsilons are decided
    epsilons: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)  # radii of interest, in the l2 norm of the pixels
    num_images: int = 200  # test images to certify, in the order of the subset
    seed: int = 0  # key of the noise
    batch_size: int = 250  # the one batch shape the networks ever see (padded)
    device: str = "cpu"  # torch device: cpu, cuda, cuda:1, mps
    precision: str = "float32"  # float32, tf32 or bfloat16, and any of +channels_last +compile +graphs
    records_dir: str = "runs/records"  # where the record is written and resumed

    PLANS: ClassVar[Mapping[str, Callable[[int, int, float], Plan]]] = PLANS

    def shared(self) -> dict[str, Any]:
        """The checked values of what every certification has, as the types that they stand for."""
        values: dict[str, Any] = {}
        for name in ("dataset", "purifier", "classifier", "plan", "device", "precision", "records_dir"):
            text(name, getattr(self, name), optional=False)
        for name in ("root", "subset", "checkpoint", "classifier_checkpoint"):
            text(name, getattr(self, name), optional=True)
        for name in ("n0", "n", "num_images", "seed", "batch_size"):
            values[name] = number(name, getattr(self, name), whole=True)
            low = 0 if name == "seed" else 1
            if not low <= values[name] < 2**63:
                raise InputError(f"{name} must be at least {low} and below 2**63; got {values[name]}")
        choose("purifier", self.purifier, PURIFIERS)
        choose("plan", self.plan, self.PLANS)
        values["precision"] = str(Arithmetic.parse(self.precision))
        values["alpha"] = number("alpha", self.alpha)
        if not 0 < values["alpha"] < 0.5:
            raise InputError(f"alpha must lie in (0, 0.5), commonly 0.001; got {self.alpha!r}")
        values["epsilons"] = numbers("epsilons", self.epsilons, "radii")
        if min(values["epsilons"]) < 0:
            raise InputError(f"epsilons must not be negative; got {self.epsilons!r}")
        return values

    def keep(self, values: dict[str, Any]) -> None:
        """Sets checked values, and checks that n samples can certify at all."""
        for name, value in values.items():
            object.__setattr__(self, name, value)
        last = self.sampling_plan.alphas[-1] / self.shares
        if last ** (1 / self.n) <= self.majority:
            fewest = math.floor(math.log(last) / math.log(self.majority)) + 1
            raise InputError(
                f"n = {self.n} samples can never certify at alpha = {self.alpha} (plan {self.plan}): all of them in "
                f"one class would still be no proof of a share above {self.majority:g}; take n >= {fewest}"
            )

    @property
    def sampling_plan(self) -> Plan:
        """The plan with its looks."""
        return self.PLANS[self.plan](self.n0, self.n, self.alpha)


@dataclass(frozen=True)
class Noise:
    """The noise."""

    sigma: float = 0.5  # standard deviation of the smoothing noise; pixels are in [0, 1]


@dataclass(frozen=True)
class Levels:
    """The noise levels of a cascade."""

    sigmas: tuple[float, ...] = (0.25, 0.5, 1.0)  # standard deviations of the noise; pixels are in [0, 1]
    threshold: float = 0.5  # p0: a level halts where the probability of a class is above it


# The fields of a class come after those of the classes to its right.


@dataclass(frozen=True)
class CertifyConfig(Sampling, Noise, Subject, NotebookConfig):
    """What is certified at one noise level, and how.

    Raises:
        InputError: a value of the wrong type or out of range, in one sentence.
    """

    shares: ClassVar[int] = 1  # bounds among which alpha is split
    majority: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        self.keep(self.shared() | {"sigma": noise_level("sigma", self.sigma)})

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels."""
        return (self.sigma,)

    @property
    def noise(self) -> dict[str, Any]:
        """The part of a record's identity that says what noise."""
        return {"sigma": self.sigma}


@dataclass(frozen=True)
class MultiscaleConfig(Sampling, Levels, Subject, NotebookConfig):
    """What is certified by a cascade of noise levels, and how.

    Raises:
        InputError: a value of the wrong type or out of range, in one sentence.
    """

    n: int = 1000  # fresh noise samples a level that estimate its probabilities, at most
    plan: str = "full"  # sampling plan: full (to the full radius), or sequential, which stops when epsilons are decided

    # Both have the looks of `sequential`.
    PLANS: ClassVar[Mapping[str, Callable[[int, int, float], Plan]]] = {"full": sequential, "sequential": sequential}

    def __post_init__(self) -> None:
        values = self.shared() | {"threshold": number("threshold", self.threshold)}
        values["sigmas"] = tuple(sorted(noise_level("sigmas", s) for s in numbers("sigmas", self.sigmas, "levels")))
        if len(set(values["sigmas"])) != len(values["sigmas"]):
            raise InputError(f"sigmas must all be different; got {self.sigmas!r}")
        if not 0 < values["threshold"] < 1:
            raise InputError(f"threshold must lie in (0, 1), commonly 0.5; got {self.threshold!r}")
        self.keep(values)

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels."""
        return self.sigmas

    @property
    def shares(self) -> int:
        """Bounds among which alpha is split."""
        return 2 * len(self.sigmas)

    @property
    def majority(self) -> float:
        """What a lower bound must exceed."""
        return self.threshold

    @property
    def noise(self) -> dict[str, Any]:
        """The part of a record's identity that says what noise."""
        return {"sigmas": list(self.sigmas), "threshold": self.threshold}


def recorded(values: Mapping[str, Any]) -> CertifyConfig | MultiscaleConfig:
    """The configuration that a record's header holds."""
    return (MultiscaleConfig if "sigmas" in values else CertifyConfig)(**values)


def injected_names(namespace: Mapping[str, Any]) -> list[str]:
    """Names assigned by the cell that papermill injected into a running notebook."""
    cells = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters")]
    assigned = [node for cell in cells for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
    return [target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)]


def check_types(namespace: Mapping[str, Any], **types: type) -> None:
    """Checks the few parameters of a notebook that has no configuration object.

    Raises:
        InputError: papermill injected another name, or a value has another type.
    """
    for name in injected_names(namespace):
        choose("parameter", name, types)
    for name, kind in types.items():
        value = namespace[name]
        stands_for = {list: (), int: 0.0}.get(type(value), value)  # what papermill may give for a tuple or a float
        right = isinstance(value, kind) or isinstance(stands_for, kind)
        if not right or (isinstance(value, bool) and kind is not bool):
            said = getattr(kind, "__name__", kind)
            raise InputError(f"{name} must be {said}; got {value!r} ({type(value).__name__})")
