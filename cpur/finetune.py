r"""Fine-tunes a purifier, the classifier behind it, or both, on noisy images.

With a clean training image x, standard normal e and a noise level :math:`\sigma` drawn for each image,

.. math:: \min_\theta E\, d\big(D_\theta(x + \sigma e,\, \sigma),\, x\big), \qquad
    \min_\phi E\, \mathrm{CE}\big(g_\phi(D_\theta(x + \sigma e,\, \sigma)),\, y\big),

the first over the purifier D, for a distance d of :mod:`cpur.losses`, the second over the classifier g. No gradient
of the second reaches the purifier. The terms of :mod:`cpur.calibration` may join the first. Source: Li et al. (2024),
section 4.2 and algorithm 1; they do not describe how the classifier is fine-tuned.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cpur import checkpoints, paths
from cpur.arithmetic import Arithmetic
from cpur.calibration import anti_consistency, brier
from cpur.classifiers import classifier_hash, load_classifier, save_classifier
from cpur.data import load_dataset
from cpur.errors import InputError
from cpur.losses import load_loss
from cpur.noise import NoiseKey
from cpur.purifiers import Purifier, load_purifier, purifier_folder
from cpur.recipes import CALIBRATION, EVALUATION, FinetuneConfig
from cpur.records import hash8
from cpur.training_state import TrainingState

SAVE_EVERY = 200  # steps between two states on disk


def unconditional(network: nn.Module) -> nn.Module:
    """A class-conditional network turned unconditional: one learned token, at first the mean class embedding.

    A network without classes is returned as it is. Source: Li et al. (2024), section 5.1, for ImageNet-64.

    Raises:
        InputError: the network takes classes and has no embedding of them to average (EDM's take them one-hot).
    """
    if not getattr(network, "num_classes", None):
        return network
    if not hasattr(network, "unconditional"):
        raise InputError(
            f"a class-conditional {type(network).__name__} cannot be fine-tuned: take an unconditional checkpoint"
        )
    return network.unconditional()


@dataclass(frozen=True)
class Finetuned:
    """What fine-tuning gave: folders for ``load_purifier`` and ``load_classifier`` (None where frozen), losses."""

    purifier: Path | None
    classifier: Path | None
    history: pd.DataFrame | None = None


class Finetuning:
    """A fine-tuning run that can be interrupted and resumed, bit for bit on the CPU.

    All that step i draws is keyed by (seed, i), so the state on disk needs no generator.

    Raises:
        InputError: what the configuration names is missing, its folder holds another run, or the loss is not finite.
    """

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config
        self.device = checkpoints.inference_device(config.device)
        self.data = load_dataset(config.dataset, "train", config.root)
        self.purifier = _trainable(config).to(self.device)
        self.classifier = load_classifier(config.classifier, config.classifier_checkpoint).to(self.device)
        self.distance = load_loss(config.loss, config.lpips_net).to(self.device)
        parts = {"purifier": self.purifier, "classifier": self.classifier}
        for part in parts.values():
            part.requires_grad_(False)
        self.trained = nn.ModuleDict({name: parts[name].requires_grad_(True) for name in config.trains})
        self.average = AveragedModel(self.trained, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
        lr = {"purifier": config.lr, "classifier": config.classifier_lr}
        groups = [{"params": list(part.parameters()), "lr": lr[name]} for name, part in self.trained.items()]
        self.optimizer = torch.optim.RAdam(groups)
        self.losses: list[list[float]] = []
        self.identity = identity(config)
        self.out = paths.anchored(config.out or f"runs/finetuned/{run_name(self.identity)}")
        kept = {"trained": self.trained, "average": self.average, "optimizer": self.optimizer}
        self.state = TrainingState(self.out, self.identity, kept)
        if before := self.state.restore(self.device):
            self.losses = before["losses"]
        if len(self.losses) > config.steps:
            raise InputError(
                f"{paths.shown(self.out)} holds {len(self.losses)} steps, and steps is {config.steps}: "
                "name another folder"
            )

    def run(self, progress=None) -> Finetuned:
        """Trains up to ``steps`` and writes the averaged weights; ``progress(steps, done, total)`` wraps the loop."""
        start, total = len(self.losses), self.config.steps
        steps = range(start, total)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for step in progress(steps, start, total) if progress else steps:
                torch.manual_seed(NoiseKey(self.config.seed, "finetune", 0).torch_seed(step))
                losses = self._step()
                if not all(map(math.isfinite, losses)):
                    raise InputError(
                        f"the loss of step {step + 1} is not finite: lower lr and start anew in another folder"
                    )
                self.losses.append(losses)
                if (step + 1) % SAVE_EVERY == 0:
                    self.state.save(losses=self.losses)
        self.state.save(losses=self.losses)
        return self._written()

    def _step(self) -> list[float]:
        config, data = self.config, self.data
        batch = torch.randint(len(data), (config.batch_size,))
        clean, labels = data.batch(batch).to(self.device), data.labels[batch].to(self.device)
        if config.flip:
            clean = torch.where(torch.rand(len(clean), 1, 1, 1, device=self.device) < 0.5, clean.flip(-1), clean)
        sigma = self._sigmas(len(clean))
        copies = [clean + sigma.view(-1, 1, 1, 1) * torch.randn_like(clean) for _ in range(1 + config.calibrates)]
        weights = torch.tensor(list(config.terms.values()), device=self.device)
        self.trained.train()
        self.optimizer.zero_grad()
        total = torch.zeros(len(weights))
        for piece in torch.arange(len(clean)).chunk(config.accumulate):
            losses = self._losses(clean[piece], [noisy[piece] for noisy in copies], sigma[piece], labels[piece])
            share = len(piece) / len(clean)
            (share * (weights * losses).sum()).backward()
            total += share * losses.detach().cpu()
        self.optimizer.step()
        self.average.update_parameters(self.trained)
        return total.tolist()

    def _sigmas(self, count: int) -> Tensor:
        sigmas = torch.tensor(self.config.sigmas, device=self.device)
        if self.config.continuous:
            return sigmas.max() * (1 - torch.rand(count, device=self.device))  # in (0, max]
        return sigmas[torch.randint(len(sigmas), (count,), device=self.device)]

    def _losses(self, clean: Tensor, copies: list[Tensor], sigma: Tensor, labels: Tensor) -> Tensor:
        """The terms of the loss, without their weights."""
        with Arithmetic.parse(self.config.precision).active(self.device):
            with torch.set_grad_enabled("purifier" in self.trained):
                purified = [self.purifier.denoise(noisy, sigma) for noisy in copies]
            losses = []
            if "purifier" in self.trained:
                losses.append(sum(self.distance(one, clean).mean() for one in purified) / len(purified))
            if self.config.calibrates:
                first, second = (self.classifier(one).softmax(1) for one in purified)
                losses.append((brier(first, labels) + brier(second, labels)).mean() / 2)
                losses.append(anti_consistency(first, second, labels).mean())
            if "classifier" in self.trained:
                losses.append(F.cross_entropy(self.classifier(purified[0].detach()), labels))
        return torch.stack([loss.float() for loss in losses])

    def _written(self) -> Finetuned:
        folders = dict.fromkeys(("purifier", "classifier"))
        for name, part in self.average.module.items():
            folders[name] = folder = self.out / name
            folder.mkdir(parents=True, exist_ok=True)
            if name == "classifier":
                save_classifier(part, folder)
            else:
                source = purifier_folder(self.config.purifier, self.config.checkpoint)
                checkpoints.save_network(part.network, folder)
                file, values = checkpoints.conventions(source)
                checkpoints.write_json(folder / file, values)
            checkpoints.write_json(folder / checkpoints.FINETUNED, self.identity | {"steps": self.config.steps})
        history = stretches(pd.DataFrame(self.losses, columns=list(self.config.terms)))
        history.to_csv(self.out / "history.csv", index=False, float_format="%.5g")
        return Finetuned(**folders, history=history)


def _trainable(config: FinetuneConfig) -> Purifier:
    purifier = load_purifier(config.purifier, config.checkpoint)
    if not hasattr(purifier, "network"):
        raise InputError(
            f"purifier {config.purifier} cannot be fine-tuned: take onestep-ddpm, onestep-edm or consistency"
        )
    purifier.network = unconditional(purifier.network)
    return purifier


def run_name(identity: dict[str, Any]) -> str:
    """``<dataset>-<purifier>-<what is trained>-<loss>-<hash8>``."""
    named = (identity[key] for key in ("dataset", "purifier", "train", "loss"))
    return "-".join((*named, hash8(identity)))


def identity(config: FinetuneConfig) -> dict[str, Any]:
    """All that the weights depend on but the number of steps, so that a run can be made longer."""
    source = purifier_folder(config.purifier, config.checkpoint)
    values = asdict(config)
    for name in ("preset", "root", "checkpoint", "classifier_checkpoint", "steps", "out", *EVALUATION):
        del values[name]
    if not config.calibrates:  # as if these terms did not exist
        for name in CALIBRATION:
            del values[name]
    return values | {
        "sigmas": list(config.sigmas),
        "purifier_hash": source and checkpoints.checkpoint_hash(source),
        "classifier_hash": classifier_hash(config.classifier, config.classifier_checkpoint),
    }


def stretches(losses: pd.DataFrame) -> pd.DataFrame:
    """The losses of every step, averaged over 100 stretches of training, with the last ``step`` of each."""
    stretch = max(1, len(losses) // 100)
    step = pd.Series(range(1, len(losses) + 1), name="step")
    grouped = losses.groupby(losses.index // stretch)
    return pd.concat([step.groupby(step.index // stretch).max(), grouped.mean()], axis=1)
