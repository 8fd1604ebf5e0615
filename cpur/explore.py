"""What the explorer shows of one image, computed: no widget and no figure in here.

Everything is what the rest of the package computes: the noisy copies are those of :class:`cpur.smooth.Smooth` with
the same seed, the looks those of plan ``sequential``, the cascade that of :func:`cpur.cascade.certify_counts`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpur import checkpoints
from cpur.classifiers import BaseClassifier, SomeClasses, load_classifier
from cpur.config import noise_level, number
from cpur.data import load_dataset
from cpur.errors import InputError, choose
from cpur.images import AnySet
from cpur.noise import NoiseKey, noisy_images
from cpur.plans import Plan, sequential
from cpur.purifiers import PFODE, NoPurifier, Purifier, embedded_purifiers, load_purifiers
from cpur.sampling import Draw, Procedure, Sampler, Task
from cpur.schedules import karras_sigmas
from cpur.views import Looks, Path, Pictures, Progress, cascade


@dataclass(frozen=True)
class Stage:
    """What there is to choose from: images, a classifier and purifiers, on one device."""

    data: AnySet
    classifier: nn.Module
    purifiers: Mapping[str, Purifier]
    sigmas: tuple[float, ...] = (1.0, 0.5, 0.25)  # of the cascade, from the largest down
    n0: int = 100
    alpha: float = 0.001
    batch_size: int = 50
    device: str = "cpu"


def load_stage(
    dataset: str = "digits",
    root: str | None = None,
    purifiers: Sequence[str] | None = None,
    classifier: str = "digits-cnn",
    classifier_checkpoint: str | None = None,
    device: str = "cpu",
) -> Stage:
    """Loads what is shown; ``purifiers`` are ``name`` or ``name@folder``, None takes none and the embedded ones.

    Raises:
        InputError: anything named is missing or does not fit.
    """
    data, model = load_dataset(dataset, "test", root), load_classifier(classifier, classifier_checkpoint)
    model = SomeClasses(model, data.classes) if data.classes else model
    loaded = {"none": NoPurifier()} | embedded_purifiers() if purifiers is None else load_purifiers(purifiers)
    where = checkpoints.inference_device(device)
    return Stage(data, model.to(where), {name: one.to(where) for name, one in loaded.items()}, device=device)


@dataclass(frozen=True)
class Choice:
    """What a reader chose.

    Raises:
        InputError: a noise level, a number of samples or a seed out of range.
    """

    index: int  # of the test image
    sigma: float
    purifier: str  # whose certificate is shown
    n: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        noise_level("sigma", self.sigma)
        for name, low in (("index", 0), ("n", 1), ("seed", 0)):
            if number(name, getattr(self, name), whole=True) < low:
                raise InputError(f"{name} must be at least {low}; got {getattr(self, name)!r}")

    def image(self, stage: Stage) -> tuple[Float[Tensor, "c h w"], int]:
        """The clean image, on the device, and its class."""
        choose("purifier", self.purifier, stage.purifiers)
        if self.index >= len(stage.data):
            raise InputError(f"index must be below {len(stage.data)}, the images of the set; got {self.index}")
        image, label = stage.data[self.index]
        return image.to(stage.device), label

    def noisy(self, stage: Stage) -> Float[Tensor, "1 c h w"]:
        """The one noisy copy that is looked at."""
        image, _ = self.image(stage)
        return noisy_images(image, self.sigma, 1, NoiseKey(self.seed, "figure", self.index))


def _classified(stage: Stage, label: int, entries: Sequence[tuple[str, int, Tensor]]) -> Pictures:
    """What the classifier sees in ``(name, calls, image 1 c h w)``."""
    names, calls, images = zip(*entries, strict=True)
    stacked = torch.cat(images)
    return Pictures(names, calls, stacked, tuple(stage.classifier(stacked).argmax(1).tolist()), label)


@torch.inference_mode()
def purified(stage: Stage, choice: Choice) -> Pictures:
    """The clean image, one noisy copy, and what every purifier makes of that copy."""
    (image, label), noisy = choice.image(stage), choice.noisy(stage)
    entries = [("clean", 0, image[None]), ("noisy", 0, noisy)]
    for name, purifier in stage.purifiers.items():
        if not isinstance(purifier, NoPurifier):
            entries.append((name, purifier.network_calls, purifier.denoise(noisy, choice.sigma)))
    return _classified(stage, label, entries)


@torch.inference_mode()
def path(stage: Stage, choice: Choice) -> Path | None:
    """The way of the first PF-ODE among the purifiers; None where there is none."""
    flow = next((one for one in stage.purifiers.values() if isinstance(one, PFODE)), None)
    if flow is None:
        return None
    (_, label), noisy = choice.image(stage), choice.noisy(stage)
    states = [noisy, *flow.path(noisy, choice.sigma)]
    levels = karras_sigmas(choice.sigma, flow.sigma_min, flow.steps, flow.rho).tolist()
    calls = [min(2 * step, flow.network_calls) for step in range(len(states))]
    entries = [(f"σ {level:.2g}", *rest) for level, *rest in zip(levels, calls, states, strict=True)]
    once = [(name, 1, one.denoise(noisy, choice.sigma)) for name, one in stage.purifiers.items() if jumps(one)]
    states = _classified(stage, label, entries)
    return Path(tuple(levels), states, _classified(stage, label, once) if once else None)


def jumps(purifier: Purifier) -> bool:
    """Whether a purifier is one call of its network."""
    return purifier.network_calls == 1


def looks(stage: Stage, choice: Choice, seen: Callable[[Looks], None] = lambda _: None) -> Looks:
    """Certifies the choice by plan ``sequential``, to its last look; ``seen`` is given the state after every batch.

    The counts are those of :meth:`cpur.smooth.Smooth.counts` with the same seed, image and batch size.

    Guarantee: that of :class:`cpur.views.Looks`.
    """
    image, label = choice.image(stage)
    plan = sequential(stage.n0, choice.n, stage.alpha)
    base = BaseClassifier(stage.purifiers[choice.purifier], stage.classifier, choice.sigma)
    sampler = Sampler(base, stage.data.num_classes, (choice.sigma,), choice.seed, stage.batch_size)
    (done,) = sampler.run([Task(choice.index, image, _growing(plan, choice.sigma, label, stage.batch_size, seen))])
    return done.result


def _growing(plan: Plan, sigma: float, label: int, step: int, seen: Callable[[Looks], None]) -> Procedure:
    selected = int((yield Draw("selection", plan.n0)).argmax())
    taken: tuple[np.ndarray, ...] = ()
    for n in sorted({*plan.looks, *range(step, plan.n, step)}):
        counts = yield Draw("estimation", n)
        taken += (counts,) if n in plan.looks else ()
        state = Looks(plan, sigma, label, selected, counts, taken)
        seen(state)
    return state


def explore(stage: Stage, choice: Choice, emit: Callable[[object], None]) -> None:
    """Computes all that is shown of a choice, the quick things first; each goes to ``emit`` when it is there.

    ``emit`` ends the work by raising; it is called after every batch.
    """
    emit(purified(stage, choice))
    if (way := path(stage, choice)) is not None:
        emit(way)
    levels = {choice.sigma: looks(stage, choice, emit)}
    for sigma in stage.sigmas:
        if sigma not in levels:
            levels[sigma] = looks(stage, replace(choice, sigma=sigma), _report(choice.n, sigma, emit))
        emit(cascade(stage.sigmas, {s: levels[s] for s in stage.sigmas if s in levels}, stage.alpha))


def _report(n: int, sigma: float, emit: Callable[[object], None]) -> Callable[[Looks], None]:
    return lambda state: emit(Progress(f"Cascade: {state.counts.sum():,} of {n:,} samples at σ = {sigma:g}."))
