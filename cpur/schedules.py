r"""Noise schedules and preconditioning, in the units of the network: pixels in [-1, 1], noise level t.

An image in [0, 1] with noise sigma is an image in [-1, 1] with noise :math:`t = 2\sigma`.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def alphas_cumprod(beta_schedule: str, num_train_timesteps: int, **options) -> Float[Tensor, "t"]:
    r"""The products :math:`\bar\alpha_t` of a discrete schedule, float64, by diffusers' names.

    ``squaredcos_cap_v2`` is the cosine schedule of Nichol & Dhariwal (2021), ``linear`` that of Ho et al. (2020).
    """
    from diffusers import DDPMScheduler  # here, since diffusers takes seconds to import

    scheduler = DDPMScheduler(num_train_timesteps, beta_schedule=beta_schedule, **options)
    betas = scheduler.betas.double()
    if beta_schedule == "linear":  # which diffusers rounds to float32
        start, end = scheduler.config.beta_start, scheduler.config.beta_end
        betas = torch.linspace(start, end, num_train_timesteps, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


def timestep_of(t: Float[Tensor, "b"], alphas_cumprod: Float[Tensor, "T"]) -> Tensor:
    r"""The first discrete timestep at least as noisy as t.

    .. math:: \min\{s : \sqrt{(1 - \bar\alpha_s)/\bar\alpha_s} \ge t\},

    counted from 0, and the last one where none is. Source: Carlini et al. (2023), section 3.
    """
    levels = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    return torch.searchsorted(levels, t.to(levels)).clamp(max=len(levels) - 1)


def karras_sigmas(sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0) -> Float[Tensor, "n"]:
    r"""EDM's discretisation, from ``sigma_max`` down to ``sigma_min``, then 0; float64, ``steps + 1`` values.

    .. math:: \sigma_i = \left(\sigma_{\max}^{1/\rho}
        + \tfrac{i}{N - 1}(\sigma_{\min}^{1/\rho} - \sigma_{\max}^{1/\rho})\right)^\rho, \quad \sigma_N = 0.

    Source: Karras et al. (2022), equation 5.
    """
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    sigmas[0] = sigma_max  # exactly: the power and its root leave a last digit
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def edm_scalings(t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Preconditioning of the EDM denoiser: c_skip, c_out, c_in.

    .. math:: c_{skip} = \frac{\sigma_d^2}{t^2 + \sigma_d^2}, \quad
        c_{out} = \frac{t\,\sigma_d}{\sqrt{t^2 + \sigma_d^2}}, \quad
        c_{in} = \frac{1}{\sqrt{t^2 + \sigma_d^2}}.

    Source: Karras et al. (2022), table 1.
    """
    norm = (t**2 + sigma_data**2).sqrt()
    return sigma_data**2 / norm**2, t * sigma_data / norm, 1 / norm


def consistency_scalings(t: Tensor, sigma_data: float, sigma_min: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Preconditioning of a consistency model: c_skip, c_out, c_in, with :math:`f(x, t_{\min}) = x`.

    .. math:: c_{skip} = \frac{\sigma_d^2}{(t - t_{\min})^2 + \sigma_d^2}, \quad
        c_{out} = \frac{\sigma_d (t - t_{\min})}{\sqrt{t^2 + \sigma_d^2}}, \quad
        c_{in} = \frac{1}{\sqrt{t^2 + \sigma_d^2}}.

    Source: Song et al. (2023), appendix C.
    """
    norm = (t**2 + sigma_data**2).sqrt()
    shifted = t - sigma_min
    return sigma_data**2 / (shifted**2 + sigma_data**2), sigma_data * shifted / norm, 1 / norm
