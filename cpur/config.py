"""The configuration of a certification run: one object for notebook, command line and record."""

import ast
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

from cpur.arithmetic import Arithmetic
from cpur.errors import InputError, choose
from cpur.plans import PLANS, Plan

PURIFIERS = ("none", "onestep-ddpm", "onestep-edm", "pf-ode", "consistency")


def number(field: str, value: Any, whole: bool = False) -> float | int:
    """``value`` as a finite number, or InputError."""
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{field} must be {kind}; got {value!r} ({type(value).__name__})")
    if whole and value != int(value):
        raise InputError(f"{field} must be {kind}; got {value!r}")
    return int(value) if whole else float(value)


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
class CertifyConfig(NotebookConfig):
    """What is certified, and how.

    Raises:
        InputError: a value of the wrong type or out of range, in one sentence.
    """

    dataset: str = "digits"  # data set: digits, the handwritten digits inside scikit-learn
    root: str | None = None  # folder of the data set; digits needs none
    subset: str | None = None  # every-K takes every K-th test image; None takes them in order
    purifier: str = "onestep-edm"  # none, onestep-ddpm, onestep-edm, pf-ode or consistency
    checkpoint: str | None = None  # purifier checkpoint, a folder; None takes the embedded one
    classifier: str = "digits-cnn"  # digits-cnn, digits-mlp, digits-vit, or a function module:function that makes one
    classifier_checkpoint: str | None = None  # its checkpoint; None takes the embedded one
    sigma: float = 0.5  # standard deviation of the smoothing noise; pixels are in [0, 1]
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

    def __post_init__(self) -> None:
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
        choose("plan", self.plan, PLANS)
        values["precision"] = str(Arithmetic.parse(self.precision))

        values["sigma"] = number("sigma", self.sigma)
        if not 0 < values["sigma"] <= 16:
            raise InputError(
                f"sigma must lie in (0, 16] (pixels are in [0, 1], so 0.5 is strong noise); got {self.sigma!r}"
            )
        values["alpha"] = number("alpha", self.alpha)
        if not 0 < values["alpha"] < 0.5:
            raise InputError(f"alpha must lie in (0, 0.5), commonly 0.001; got {self.alpha!r}")
        last = PLANS[self.plan](values["n0"], values["n"], values["alpha"]).alphas[-1]
        if last ** (1 / values["n"]) <= 0.5:
            fewest = math.floor(math.log2(1 / last)) + 1
            raise InputError(
                f"n = {values['n']} samples can never certify at alpha = {values['alpha']} (plan {self.plan}): "
                f"all of them in one class would still be no majority; take n >= {fewest}"
            )
        if not isinstance(self.epsilons, list | tuple) or not self.epsilons:
            raise InputError(
                f"epsilons must be a list of radii; got {self.epsilons!r} (papermill: -y 'epsilons: [0, 0.5]')"
            )
        values["epsilons"] = tuple(number("epsilons", e) for e in self.epsilons)
        if min(values["epsilons"]) < 0:
            raise InputError(f"epsilons must not be negative; got {self.epsilons!r}")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def sampling_plan(self) -> Plan:
        """The plan with its looks."""
        return PLANS[self.plan](self.n0, self.n, self.alpha)


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
