r"""Classifiers trained for noise, without diffusion: Gaussian augmentation and Consistency Regularization.

Of m noisy copies of an image x with label y let :math:`F_i = \mathrm{softmax}\, f(x + \sigma e_i)`, and
:math:`\bar F` their mean. Then

.. math:: L = \frac1m \sum_i \mathrm{CE}(F_i, y) + \lambda\, \frac1m \sum_i \mathrm{KL}(\bar F \,\|\, F_i)
    + \eta\, H(\bar F).

With :math:`\lambda = \eta = 0` it is the Gaussian augmentation of Cohen et al. (2019). The network is its own base
classifier: it is certified as the classifier behind the purifier ``none``.

Source: Cohen et al. (2019), section 3.3; Jeong & Shin (2020), equations 6 and 8, and the code released with it, where
the gradient flows through :math:`\bar F` as well.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from cpur import checkpoints, paths
from cpur.arithmetic import Arithmetic
from cpur.augment import crop_and_flip, resized_crop_and_flip, small_jitter
from cpur.backbones import CIFAR, is_backbone, new_backbone
from cpur.classifiers import CLASSIFIERS, load_classifier, save_classifier
from cpur.data import load_dataset
from cpur.errors import InputError, choose
from cpur.noise import NoiseKey
from cpur.recipes import BaselineConfig
from cpur.records import hash8
from cpur.training_state import TrainingState

TRAINED = "trained.json"  # in the folder of a checkpoint: how it was made

AUGMENTATIONS = {"digits": small_jitter, "cifar10": crop_and_flip, "imagenet": resized_crop_and_flip}


def consistency_regularization(
    logits: Float[Tensor, "m b k"], labels: Int64[Tensor, "b"], lam: float, eta: float
) -> Float[Tensor, ""]:
    """The loss above, from the logits of m noisy copies of each image, averaged over the images."""
    log_shares = logits.log_softmax(-1)
    mean = log_shares.exp().mean(0)
    fit = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))
    if lam == eta == 0:
        return fit
    entropy = -(mean * mean.clamp_min(1e-20).log()).sum(-1).mean()
    # KL(mean || F_i) = -H(mean) - sum mean log F_i, averaged over i.
    spread = -entropy - (mean * log_shares).sum(-1).mean()
    return fit + lam * spread + eta * entropy


@dataclass(frozen=True)
class Baseline:
    """What training gave: a folder for ``load_classifier``, the mean loss of every epoch, and the seconds it took."""

    folder: Path
    history: pd.DataFrame
    seconds: float


class Training:
    """A training run that can be interrupted after any epoch and resumed, bit for bit on the CPU.

    Raises:
        InputError: what the configuration names is missing, or its folder holds another run.
    """

    def __init__(self, config: BaselineConfig) -> None:
        self.config = config
        self.device = checkpoints.inference_device(config.device)
        self.data = load_dataset(config.dataset, "train", config.root)
        self.augment = AUGMENTATIONS[config.preset]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(NoiseKey(config.seed, "initialisation", 0).torch_seed(0))
            self.model = new_classifier(config.classifier, self.data.num_classes).to(self.device)
        options = {"momentum": config.momentum, "weight_decay": config.weight_decay, "nesterov": config.momentum > 0}
        self.optimizer = torch.optim.SGD(self.model.parameters(), config.lr, **options)
        self.decay = torch.optim.lr_scheduler.StepLR(self.optimizer, config.decay_every, 0.1)
        self.losses: list[float] = []
        self.seconds = 0.0
        name = f"{config.dataset}-s{config.sigma:g}-{hash8(config.identity)}"
        self.out = paths.anchored(config.out or f"runs/baselines/{name}")
        kept = {"model": self.model, "optimizer": self.optimizer, "decay": self.decay}
        self.state = TrainingState(self.out, config.identity, kept)
        if before := self.state.restore(self.device):
            self.losses, self.seconds = before["losses"], before["seconds"]

    def run(self, progress=None) -> Baseline:
        """Trains all epochs and writes the last weights; ``progress(epochs, done, total)`` wraps the loop."""
        start, total = len(self.losses), self.config.epochs
        epochs = range(start, total)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for epoch in progress(epochs, start, total) if progress else epochs:
                began = time.perf_counter()
                torch.manual_seed(NoiseKey(self.config.seed, "baseline", 0).torch_seed(epoch))
                loss = self._epoch()
                if not math.isfinite(loss):
                    raise InputError(
                        f"the loss of epoch {epoch + 1} is not finite: lower lr and start anew in another out"
                    )
                self.losses.append(loss)
                self.decay.step()
                self.seconds += time.perf_counter() - began
                self.state.save(losses=self.losses, seconds=self.seconds)
        return self._written()

    def _epoch(self) -> float:
        config, losses = self.config, []
        self.model.train()
        for batch in torch.randperm(len(self.data)).split(config.batch_size):
            images = self.augment(self.data.batch(batch)).to(self.device)
            labels = self.data.labels[batch].to(self.device)
            noisy = images + config.sigma * torch.randn((config.copies, *images.shape), device=self.device)
            with Arithmetic.parse(config.precision).active(self.device):
                logits = self.model(noisy.flatten(0, 1)).unflatten(0, noisy.shape[:2])
            loss = consistency_regularization(logits.float(), labels, config.lam, config.eta)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    def _written(self) -> Baseline:
        folder = self.out / "classifier"
        folder.mkdir(parents=True, exist_ok=True)
        save_classifier(self.model.eval(), folder)
        checkpoints.write_json(folder / TRAINED, self.config.identity | {"seconds": round(self.seconds, 1)})
        history = pd.DataFrame({"epoch": range(1, len(self.losses) + 1), "loss": self.losses})
        return Baseline(folder, history, self.seconds)


def new_classifier(name: str, num_classes: int) -> nn.Module:
    """An untrained network by its name; a function ``module:function`` says itself what its weights are."""
    if is_backbone(name):
        return new_backbone(name, num_classes)
    if ":" in name:
        return load_classifier(name)
    choose("classifier", name, (*CLASSIFIERS, *CIFAR, "torchvision:<model>", "module:function"))
    return CLASSIFIERS[name]()
