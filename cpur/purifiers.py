r"""Purifiers: denoisers with one contract, ``denoise(x, sigma) -> x0``.

``x`` is a clean image in [0, 1] plus ``sigma`` times standard normal noise; ``x0`` is not clipped. Only the
classes here know that the networks live on [-1, 1], where the noise level is :math:`t = 2\sigma`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpur import checkpoints
from cpur.config import PURIFIERS, CertifyConfig
from cpur.errors import InputError, choose
from cpur.paths import models
from cpur.schedules import alphas_cumprod, consistency_scalings, edm_scalings, karras_sigmas, timestep_of

Sigma = float | Float[Tensor, "b"]
Denoise = Callable[[Tensor, Tensor], Tensor]


class Purifier(nn.Module):
    """A denoiser: subclasses define :meth:`denoise`."""

    network_calls = 1  # per purification

    def denoise(self, x: Float[Tensor, "b c h w"], sigma: Sigma) -> Float[Tensor, "b c h w"]:
        """An estimate of the clean image behind ``x``, both in units of [0, 1] pixels, not clipped."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "b c h w"], sigma: Sigma) -> Float[Tensor, "b c h w"]:
        return self.denoise(x, sigma)


class NoPurifier(Purifier):
    """The identity: the classifier sees the noise."""

    network_calls = 0

    def denoise(self, x: Float[Tensor, "b c h w"], sigma: Sigma) -> Float[Tensor, "b c h w"]:
        return x


class OneStepDDPM(Purifier):
    r"""One step of a discrete diffusion model that predicts the noise.

    With :math:`y = 2x - 1`, t = 2 sigma and s the first timestep at least as noisy as t,

    .. math:: \hat x_0 = \frac{y_s - \sqrt{1 - \bar\alpha_s}\,\epsilon(y_s, s)}{\sqrt{\bar\alpha_s}},
        \quad y_s = \sqrt{\bar\alpha_s}\, y.

    A network with twice the channels also predicts a variance, which is not used.
    Source: Carlini et al. (2023).
    """

    def __init__(self, network: nn.Module, alphas_cumprod: Float[Tensor, "T"], time_scale: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.time_scale = time_scale  # the network is given s times this
        # A plain attribute: float64 tables stay on the CPU, also where the device has no float64.
        self.alphas_cumprod = alphas_cumprod.double().cpu()

    def denoise(self, x: Float[Tensor, "b c h w"], sigma: Sigma) -> Float[Tensor, "b c h w"]:
        s = timestep_of(2 * per_image(sigma, x).cpu().double(), self.alphas_cumprod)
        abar = self.alphas_cumprod[s].to(x.dtype).to(x.device).view(-1, 1, 1, 1)
        y_s = abar.sqrt() * (2 * x - 1)
        epsilon = self.network(y_s, self.time_scale * s.to(x.dtype).to(x.device))[:, : x.shape[1]]
        x0 = (y_s - (1 - abar).sqrt() * epsilon) / abar.sqrt()
        return (x0 + 1) / 2


class OneStepEDM(Purifier):
    r"""The posterior mean that an EDM network has learned, in one step.

    .. math:: D(y; t) = c_{skip}(t)\, y + c_{out}(t)\, F(c_{in}(t)\, y,\; c_{noise} \ln t),
        \quad y = 2x - 1,\ t = 2\sigma,

    where :math:`c_{noise}` is 250 for networks that embed the time as a timestep of a thousand, and 1/4 for EDM's own.
    Source: Karras et al. (2022), equation 7 and table 1.
    """

    def __init__(self, network: nn.Module, sigma_data: float, c_noise: float = 250.0) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.c_noise = c_noise

    def denoise(self, x: Float[Tensor, "b c h w"], sigma: Sigma) -> Float[Tensor, "b c h w"]:
        t = 2 * per_image(sigma, x)
        return (self.precondition(2 * x - 1, t, self.scalings(t)) + 1) / 2

    def scalings(self, t: Float[Tensor, "b"]) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in at noise level t of [-1, 1] pixels."""
        return edm_scalings(t, self.sigma_data)

    def precondition(self, y: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], scalings) -> Float[Tensor, "b c h w"]:
        """The preconditioned network on [-1, 1] pixels."""
        c_skip, c_out, c_in = (c.view(-1, 1, 1, 1) for c in scalings)
        return c_skip * y + c_out * self.network(c_in * y, self.c_noise * t.log())


class Consistency(OneStepEDM):
    r"""A consistency model: one step to the end of the PF-ODE trajectory through ``x``.

    As :class:`OneStepEDM` with the scalings that make :math:`f(y, t_{\min}) = y`. A model trained on
    discrete times is conditioned on the one nearest to t (the image is not rescaled); None takes t itself.

    Source: Song et al. (2023); Li et al. (2024), section 4.1.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float,
        sigma_min: float,
        times: Float[Tensor, "k"] | None = None,
        c_noise: float = 250.0,
    ) -> None:
        super().__init__(network, sigma_data, c_noise)
        self.sigma_min = sigma_min
        self.times = times

    def denoise(self, x: Float[Tensor, "b c h w"], sigma: Sigma) -> Float[Tensor, "b c h w"]:
        t = 2 * per_image(sigma, x)
        if self.times is not None:
            times = self.times.to(t)
            t = times[(t[:, None] - times).abs().argmin(dim=1)]
        return (self.precondition(2 * x - 1, t, self.scalings(t)) + 1) / 2

    def scalings(self, t: Float[Tensor, "b"]) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in at noise level t of [-1, 1] pixels."""
        return consistency_scalings(t, self.sigma_data, self.sigma_min)


class PFODE(Purifier):
    r"""The probability-flow ODE from ``x`` down to noise 0, by Heun's method.

    .. math:: \frac{dx}{d\sigma} = \frac{x - D(x; \sigma)}{\sigma},

    on EDM's discretisation, which starts at sigma exactly; the last step, to 0, is Euler's.

    Args:
        denoise: D, in units of [0, 1] pixels.
        steps: number of steps; ``2 * steps - 1`` network calls.
        sigma_min: the last level before 0, on [0, 1] pixels (half of EDM's 0.002).
        rho: exponent of the discretisation.

    Source: Karras et al. (2022), algorithm 1.
    """

    def __init__(self, denoise: Denoise, steps: int = 8, sigma_min: float = 0.001, rho: float = 7.0) -> None:
        super().__init__()
        self.inner = denoise
        self.steps = steps
        self.sigma_min = sigma_min
        self.rho = rho

    @property
    def network_calls(self) -> int:
        """Two a step, one in the last."""
        return 2 * self.steps - 1

    def denoise(self, x: Float[Tensor, "b c h w"], sigma: Sigma) -> Float[Tensor, "b c h w"]:
        *_, end = self.path(x, sigma)
        return end

    def path(self, x: Float[Tensor, "b c h w"], sigma: Sigma):
        """Yields the state after each step; the last one is the purified image."""
        levels, image = per_image(sigma, x).unique(return_inverse=True)
        if levels[0] <= self.sigma_min:
            raise InputError(f"pf-ode needs sigma above {self.sigma_min}, its last level; got {float(levels[0])}")
        grids = [karras_sigmas(level, self.sigma_min, self.steps, self.rho) for level in levels.tolist()]
        grid = torch.stack(grids, dim=1).to(x)[:, image]
        for step, (now, then) in enumerate(pairwise(grid)):
            s, s_next = now.view(-1, 1, 1, 1), then.view(-1, 1, 1, 1)
            slope = (x - self.inner(x, now)) / s
            end = x + (s_next - s) * slope
            if step < self.steps - 1:  # Heun's correction, but for the step to 0
                slope_there = (end - self.inner(end, then)) / s_next
                end = x + (s_next - s) * (slope + slope_there) / 2
            x = end
            yield x


def per_image(sigma: Sigma, x: Tensor) -> Float[Tensor, "b"]:
    """Sigma as one number an image; a number is checked, a tensor is not, which would wait for the device."""
    if not isinstance(sigma, Tensor) and not 0 < sigma < float("inf"):
        raise InputError(f"sigma must be positive and finite; got {sigma!r}")
    return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))


EMBEDDED = {
    "onestep-ddpm": "digits-ddpm",
    "onestep-edm": "digits-edm",
    "pf-ode": "digits-edm",
    "consistency": "digits-consistency",
}


def purifier_folder(name: str, checkpoint: str | Path | None = None) -> Path | None:
    """The checkpoint folder of a purifier; None for ``none``."""
    choose("purifier", name, PURIFIERS)
    if name != "none":
        return checkpoints.resolve(checkpoint, EMBEDDED[name])
    if checkpoint is not None:
        raise InputError(f"purifier none has no checkpoint: leave it unset; got {str(checkpoint)!r}")
    return None


def load_purifier(name: str, checkpoint: str | Path | None = None) -> Purifier:
    """Loads a purifier by the name the papers give it.

    Args:
        name: ``none``, ``onestep-ddpm``, ``onestep-edm``, ``pf-ode`` or ``consistency``.
        checkpoint: a checkpoint folder; None takes the embedded digits model.

    Raises:
        InputError: an unknown name, or a folder that does not hold such a model.
    """
    folder = purifier_folder(name, checkpoint)
    if folder is None:
        return NoPurifier()
    file, schedule = checkpoints.conventions(folder)
    if name == "onestep-ddpm":
        if file != checkpoints.SCHEDULER:
            raise InputError(f"onestep-ddpm needs a discrete diffusion model; {folder.name} is {schedule['kind']!r}")
        if schedule.get("prediction_type", "epsilon") != "epsilon":
            raise InputError(f"onestep-ddpm needs a model that predicts epsilon; got {schedule['prediction_type']!r}")
        options = {key: schedule[key] for key in ("beta_start", "beta_end") if key in schedule}
        abar = alphas_cumprod(schedule["beta_schedule"], schedule["num_train_timesteps"], **options)
        scale = 1000 / len(abar) if schedule.get("rescale_timesteps") else 1.0
        return OneStepDDPM(checkpoints.load_network(folder), abar, scale).eval()
    settings = schedule if file == checkpoints.PRECONDITIONING else {}
    kind = "consistency" if name == "consistency" else "edm"
    if settings.get("kind") != kind:
        found = settings.get("kind", "a discrete diffusion model")
        raise InputError(f"{name} needs a checkpoint of kind {kind}; {folder.name} is {found}")
    network = checkpoints.load_network(folder)
    c_noise = settings.get("c_noise", 250.0)
    if kind == "consistency":
        times = discrete_times(settings) if "times" in settings else None
        return Consistency(network, settings["sigma_data"], settings["sigma_min"], times, c_noise).eval()
    edm = OneStepEDM(network, settings["sigma_data"], c_noise)
    return (PFODE(edm) if name == "pf-ode" else edm).eval()


def discrete_times(settings: Mapping[str, Any]) -> Float[Tensor, "k"]:
    """The noise levels t that a discretely trained consistency model knows."""
    times = settings["times"]
    return karras_sigmas(times["sigma_max"], settings["sigma_min"], times["num_scales"], times["rho"])[:-1].flip(0)


def load_purifiers(entries: Sequence[str]) -> dict[str, Purifier]:
    """Loads several, each given as ``name`` or ``name@folder``; the keys are the names, or those of the folders."""
    pairs = [entry.split("@", 1) for entry in entries]
    return {Path([name, *folder][-1]).name: load_purifier(name, *folder) for name, *folder in pairs}


def embedded_purifiers() -> dict[str, Purifier]:
    """Those of the digits, and the consistency model fine-tuned with features."""
    return load_purifiers([*EMBEDDED, f"consistency@{models() / 'digits-consistency-features'}"])


def comparable_purifiers(config: CertifyConfig) -> dict[str, Purifier]:
    """The purifier of a configuration, and beside it the embedded ones where the data set is theirs."""
    purifiers = embedded_purifiers() if config.dataset == "digits" else {}
    return purifiers | {config.purifier: load_purifier(config.purifier, config.checkpoint)}
