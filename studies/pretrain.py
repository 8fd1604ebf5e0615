"""Trains the embedded digits models from scratch: a DDPM, an EDM, a consistency model and a classifier."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pandas as pd
import torch
from diffusers import UNet2DModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import MLP

from cpur.augment import jitter
from cpur.checkpoints import DiffusersNetwork
from cpur.classifiers import DigitsCNN
from cpur.finetune import stretches
from cpur.images import ImageSet
from cpur.purifiers import Consistency, OneStepDDPM, OneStepEDM
from cpur.schedules import alphas_cumprod

SIGMA_DATA = 0.75  # of the digits on [-1, 1]
SIGMA_MIN = 0.002
DDPM_SCHEDULE = ("squaredcos_cap_v2", 4000)

# Takes the indices of a batch and the progress of training in [0, 1).
Loss = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a network is trained."""

    steps: int
    lr: float
    batch_size: int = 256
    ema: float = 0.999
    warmup: int = 200
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam


# Chosen on validation images; the cards beside the checkpoints state what came out.
DDPM = Recipe(steps=14_000, lr=3e-3)
EDM = Recipe(steps=9000, lr=3e-3)
CONSISTENCY = Recipe(steps=5000, lr=5e-4, ema=0.998, optimizer=torch.optim.RAdam)
CLASSIFIER = Recipe(steps=1400, lr=4e-3, batch_size=64, ema=0.99, optimizer=torch.optim.AdamW)
VIT = replace(CLASSIFIER, steps=4000, lr=2e-3)
AUTOENCODER = replace(CLASSIFIER, steps=2000)


def new_network() -> DiffusersNetwork:
    """The network of all three diffusion models: 160k parameters on 2 x 2 patches.

    Patches make it about twice as fast as one of that size on pixels (``benchmarks/network_width.py``).
    """
    return DiffusersNetwork(
        UNet2DModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            norm_num_groups=8,
            add_attention=False,
        )
    )


def posterior_mean(
    z: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], images: Float[Tensor, "n c h w"]
) -> Float[Tensor, "b c h w"]:
    r"""The mean of the training images y given z = y + t e.

    .. math:: E[y \mid z] = \sum_i w_i y_i, \quad w \propto \exp\big(-\lVert z - y_i\rVert^2 / 2t^2\big).

    Regressing on it has the minimiser of regressing on the y that was drawn, with less variance; one product with
    the training set is affordable where that is small. Source: Xu et al. (2023), section 3.
    """
    data = images.flatten(1)
    logits = (z.flatten(1) @ data.T - data.square().sum(1) / 2) / t[:, None] ** 2
    return (logits.softmax(dim=1) @ data).view_as(z)


def ddpm_loss(model: OneStepDDPM, images: Tensor) -> Loss:
    r"""Noise prediction, s uniform.

    .. math:: E\,\lVert \hat e - \epsilon(\sqrt{\bar\alpha_s}\,y + \sqrt{1 - \bar\alpha_s}\,e,\, s)\rVert^2,

    where :math:`\hat e` is the mean of the noise e over the training set, given the noisy image
    (:func:`posterior_mean`). Source: Ho et al. (2020), equation 14.
    """
    images = 2 * images - 1

    def loss(batch: Tensor, progress: float) -> Tensor:
        s = torch.randint(len(model.alphas_cumprod), (len(batch),))
        abar = model.alphas_cumprod[s].float()
        t = ((1 - abar) / abar).sqrt()
        z = images[batch] + _column(t) * torch.randn_like(images[batch])
        target = (z - posterior_mean(z, t, images)) / _column(t)
        return F.mse_loss(model.network(_column(abar).sqrt() * z, s.float()), target)

    return loss


def noise_levels(count: int, mean: float = -0.3, std: float = 1.0) -> Float[Tensor, "b"]:
    """Log-normal noise levels t on [-1, 1] pixels: half of them between 0.38 and 1.45."""
    return (mean + std * torch.randn(count)).exp()


def edm_loss(model: OneStepEDM, images: Tensor) -> Loss:
    r"""Denoising: :math:`E\,\lVert D(y + t e; t) - \hat y\rVert^2 / c_{out}(t)^2`.

    :math:`\hat y` is the mean of y over the training set, given the noisy image (:func:`posterior_mean`).
    Source: Karras et al. (2022), equation 8.
    """
    images = 2 * images - 1

    def loss(batch: Tensor, progress: float) -> Tensor:
        t = noise_levels(len(batch))
        scalings = model.scalings(t)
        z = images[batch] + _column(t) * torch.randn_like(images[batch])
        error = model.precondition(z, t, scalings) - posterior_mean(z, t, images)
        return (error / _column(scalings[1])).square().mean()

    return loss


def consistency_loss(model: Consistency, images: Tensor, stages: int = 8, c: float = 0.03) -> Loss:
    r"""Easy Consistency Tuning: f agrees at t and at a nearby r < t on one trajectory.

    .. math:: E\,\frac{1}{t - r}\Big(\sqrt{\lVert f(y + te, t) - f^-(y + re, r)\rVert^2 + c^2} - c\Big), \quad
        r = \max\big(0,\, t\,(1 - 2^{-(k+1)}(1 + 8\,\mathrm{sigmoid}(-t)))\big)

    in stage k; :math:`f^-` is held fixed, and is y itself where r is 0. The gap closes from stage to stage, from
    denoising to consistency. Source: Geng et al. (2024), algorithm 1 and section 3.
    """

    images = 2 * images - 1

    def loss(batch: Tensor, progress: float) -> Tensor:
        y = images[batch]
        t = noise_levels(len(y)).clamp(min=2 * model.sigma_min)
        stage = min(int(progress * stages), stages - 1)
        r = t * (1 - 2.0 ** -(stage + 1) * (1 + 8 * torch.sigmoid(-t)))
        r = torch.where(r > model.sigma_min, r, 0.0)
        e = torch.randn_like(y)
        student = _at(model, y, e, t)
        with torch.no_grad():
            teacher = torch.where(_column(r) > 0, _at(model, y, e, r.clamp(min=model.sigma_min)), y)
        distance = ((student - teacher).square().flatten(1).sum(1) + c**2).sqrt() - c
        return (distance / (t - r)).mean()

    return loss


def _at(model: Consistency, y: Tensor, e: Tensor, t: Tensor) -> Tensor:
    return model.precondition(y + _column(t) * e, t, model.scalings(t))


def _column(t: Tensor) -> Tensor:
    """One number an image, to be broadcast over its pixels."""
    return t.view(-1, 1, 1, 1)


def classifier_loss(model: nn.Module, data: ImageSet) -> Loss:
    r"""Cross-entropy on mixed pairs of slightly turned, scaled and shifted images; no noise.

    Mixing (Zhang et al. 2018) teaches the classifier what lies between two images, where a posterior mean is.
    """
    targets = F.one_hot(data.labels, data.num_classes).float()

    def loss(batch: Tensor, progress: float) -> Tensor:
        images, target = jitter(data.images[batch]), targets[batch]
        weight, other = torch.rand(len(batch), 1), torch.randperm(len(batch))
        images = torch.lerp(images[other], images, _column(weight))
        return F.cross_entropy(model(images), torch.lerp(target[other], target, weight))

    return loss


def autoencoder_loss(model: nn.Module, images: Tensor, std: float = 0.1) -> Loss:
    r"""Denoising without labels: :math:`E\,\lVert g(x + s e) - x\rVert^2` on jittered images."""

    def loss(batch: Tensor, progress: float) -> Tensor:
        x = jitter(images[batch])
        return F.mse_loss(model(x + std * torch.randn_like(x)), x)

    return loss


def fit(module: nn.Module, loss: Loss, count: int, recipe: Recipe, progress=None) -> tuple[nn.Module, pd.DataFrame]:
    """Minimises ``loss(indices of a batch, progress)`` over ``module``, the indices drawn from ``count``.

    The learning rate warms up and decays by a cosine. Returns the exponential moving average of the module,
    and the losses averaged over 100 stretches of training. Draws from torch's global generator: seed it.
    """
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    optimizer = recipe.optimizer(module.parameters(), lr=recipe.lr, betas=(0.9, 0.99))
    pct_start = min(0.5, recipe.warmup / recipe.steps)
    cosine = OneCycleLR(optimizer, recipe.lr, recipe.steps, pct_start=pct_start, cycle_momentum=False)
    losses = []
    module.train()
    for step in progress(range(recipe.steps), 0, recipe.steps) if progress else range(recipe.steps):
        value = loss(torch.randint(count, (recipe.batch_size,)), step / recipe.steps)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        cosine.step()
        average.update_parameters(module)
        losses.append(value.detach())
    return average.module.eval(), stretches(pd.DataFrame({"loss": torch.stack(losses).tolist()}))


@dataclass(frozen=True)
class Trained:
    """A trained model and its loss curve."""

    model: nn.Module
    history: pd.DataFrame


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def train_classifier(
    data: ImageSet, recipe: Recipe = CLASSIFIER, seed: int = 0, progress=None, make: Callable[[], nn.Module] = DigitsCNN
) -> Trained:
    """Trains an off-the-shelf classifier, which ``make`` makes, on clean images."""
    with _seeded(seed):
        model = make()
        return Trained(*fit(model, classifier_loss(model, data), len(data), recipe, progress))


def train_encoder(data: ImageSet, recipe: Recipe = AUTOENCODER, seed: int = 0, progress=None) -> Trained:
    """Trains an autoencoder with a code of 16 numbers, and returns its encoder: features that know no label."""
    with _seeded(seed):
        encoder, decoder = DigitsCNN(num_classes=16), MLP(16, [128, data.images[0].numel()])
        model = nn.Sequential(encoder, decoder, nn.Unflatten(1, data.shape))
        average, history = fit(model, autoencoder_loss(model, data.images), len(data), recipe, progress)
        return Trained(average[0], history)


def train_ddpm(data: ImageSet, recipe: Recipe = DDPM, seed: int = 0, progress=None) -> Trained:
    """Trains a discrete diffusion model that predicts the noise."""
    with _seeded(seed):
        model = OneStepDDPM(new_network(), alphas_cumprod(*DDPM_SCHEDULE))
        return Trained(*fit(model, ddpm_loss(model, data.images), len(data), recipe, progress))


def train_edm(data: ImageSet, recipe: Recipe = EDM, seed: int = 0, progress=None) -> Trained:
    """Trains an EDM denoiser."""
    with _seeded(seed):
        model = OneStepEDM(new_network(), SIGMA_DATA)
        return Trained(*fit(model, edm_loss(model, data.images), len(data), recipe, progress))


def train_consistency(
    data: ImageSet, edm: OneStepEDM, recipe: Recipe = CONSISTENCY, seed: int = 0, progress=None
) -> Trained:
    """Tunes a consistency model from an EDM denoiser."""
    with _seeded(seed):
        model = Consistency(copy.deepcopy(edm.network), edm.sigma_data, SIGMA_MIN)
        return Trained(*fit(model, consistency_loss(model, data.images), len(data), recipe, progress))
