"""Turns published checkpoints into folders that the purifiers load: config.json, safetensors, and what is known beside.

The architecture is inferred from the tensors where they tell it and checked always. Arguments, those of the public
class's constructor, are wanted only for what tensors cannot tell, such as the number of heads.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cpur import checkpoints, paths
from cpur.errors import InputError, choose
from cpur.networks import dhariwal_unet, ncsnpp, openai_unet, song_unet
from cpur.networks.edm_pickle import read_edm_pickle
from cpur.networks.edm_state import raw_state
from cpur.networks.flax_names import state_dict_of
from cpur.networks.flax_reader import read_parameters
from cpur.state_dicts import read_state_dict

Arguments = Mapping[str, Any]
SIGMA_MAX, RHO = 80.0, 7.0  # of the discrete times of published consistency models


@dataclass(frozen=True)
class Converted:
    """A network with its weights, and the JSON files that say what it predicts."""

    network: nn.Module
    files: dict[str, dict[str, Any]]


def convert(
    source: str | Path, destination: str | Path, format: str, arguments: str | Path | Arguments | None = None
) -> Path:
    """Writes the folder of a published checkpoint, and returns it; nothing is written where anything is wrong.

    Args:
        source: the published file.
        destination: a folder that does not exist, or is empty.
        format: ``improved-diffusion``, ``guided-diffusion``, ``consistency-models``, ``edm``, ``ect`` or
            ``jax-consistency``.
        arguments: constructor arguments of the public class by its names, or a JSON file of them; ``"inf"`` is a
            number.

    Raises:
        InputError: the file is not of that format, would run code, or an argument is missing or contradicts it.
    """
    choose("format", format, FORMATS)
    source, destination = paths.anchored(source), paths.anchored(destination)
    if not source.is_file():
        raise InputError(f"there is no file {paths.shown(source)}: give the published checkpoint")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{paths.shown(destination)} is not empty: name a new folder")
    converted = FORMATS[format](source, _arguments(arguments))
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    checkpoints.save_network(converted.network, partial)
    for name, values in converted.files.items():
        checkpoints.write_json(partial / name, values)
    if destination.exists():
        destination.rmdir()
    return partial.replace(destination)


def _arguments(given: str | Path | Arguments | None) -> dict[str, Any]:
    if isinstance(given, str | Path):
        given = checkpoints.read_json(paths.anchored(given))
    if not isinstance(given or {}, Mapping):
        raise InputError(f"arguments must be a JSON object of names and values; got {given!r}")
    return {name: float("inf") if value == "inf" else value for name, value in (given or {}).items()}


def _openai(source: Path, arguments: Arguments) -> nn.Module:
    state = read_state_dict(source)
    network = openai_unet.OpenAIUNet(**openai_unet.infer_settings(state, arguments))
    network.load_state_dict(state)
    return network


def discrete(schedule: str, steps: int, rescale: bool) -> Callable[[Path, Arguments], Converted]:
    """The reader of a discrete diffusion model that predicts the noise, with these defaults of its repository."""

    def read(source: Path, arguments: Arguments) -> Converted:
        count = int(arguments.get("steps", arguments.get("diffusion_steps", steps)))
        name = arguments.get("noise_schedule", schedule)
        choose("noise_schedule", name, SCHEDULES)
        values = {
            "_class_name": "DDPMScheduler",
            **SCHEDULES[name](count),
            "num_train_timesteps": count,
            "prediction_type": "epsilon",
            "rescale_timesteps": bool(arguments.get("rescale_timesteps", rescale)),
        }
        return Converted(_openai(source, arguments), {"scheduler_config.json": values})

    return read


# diffusers' words for the schedules of improved-diffusion; the linear one is scaled to the number of steps.
SCHEDULES = {
    "cosine": lambda steps: {"beta_schedule": "squaredcos_cap_v2"},
    "linear": lambda steps: {"beta_schedule": "linear", "beta_start": 0.1 / steps, "beta_end": 20 / steps},
}


def consistency_models(source: Path, arguments: Arguments) -> Converted:
    """OpenAI's ImageNet-64 models; ``distillation`` False is their EDM teacher.

    Discretely trained models know ``num_scales`` times, 40 by default; None conditions on the exact time.
    With ``unconditional`` the class embeddings give way to their mean, one token to be learned.
    """
    distilled = bool(arguments.get("distillation", True))
    network = _openai(source, arguments)
    if arguments.get("unconditional", False):
        if not network.num_classes:
            raise InputError("the network knows no classes: leave out the argument unconditional")
        network = network.unconditional()
    return Converted(network, _preconditioning(distilled, 250.0, arguments, num_scales=40))


def edm(source: Path, arguments: Arguments) -> Converted:
    """NVlabs' EDM: a pickle, or a plain state dict."""
    network, known = _edm_network(source, arguments)
    return Converted(network, _preconditioning(False, 0.25, known))


def ect(source: Path, arguments: Arguments) -> Converted:
    """Easy Consistency Tuning: a pickle, or a plain state dict; trained on continuous times."""
    network, known = _edm_network(source, {"sigma_min": ECT_SIGMA_MIN} | dict(arguments))
    return Converted(network, _preconditioning(True, 0.25, known))


ECT_SIGMA_MIN = 0.003  # the default of its class; a pickle says its own


def jax_consistency(source: Path, arguments: Arguments) -> Converted:
    """OpenAI's consistency models for CIFAR-10: flax bytes, read without JAX; ``num_scales`` as above, 18 by default.

    The averaged weights ``params_ema`` are taken. Its ``sigma_min`` and ``sigma_max`` are those of another schedule:
    the model's own are ``t_min`` and ``t_max``.
    """
    parameters = read_parameters(source)
    network = song_unet.SongUNet(**ncsnpp.infer_settings(parameters, {"attn_resolutions": [16]} | dict(arguments)))
    network.load_state_dict(state_dict_of(network, parameters))
    names = {"t_min": "sigma_min", "t_max": "sigma_max", "data_std": "sigma_data", "num_scales": "num_scales"}
    known = {ours: arguments[theirs] for theirs, ours in names.items() if theirs in arguments}
    consistent = bool(arguments.get("distillation", True))
    return Converted(network, _preconditioning(consistent, 0.25, known, num_scales=18))


def _edm_network(source: Path, arguments: Arguments) -> tuple[nn.Module, dict[str, Any]]:
    known = dict(arguments)
    if source.suffix == ".pkl":
        state, told = read_edm_pickle(source)
        known = told | {name: value for name, value in arguments.items() if name != "sigma_min"}
    else:
        state = read_state_dict(source)
    state = raw_state(state)
    module = dhariwal_unet if "out_conv.weight" in state else song_unet
    network = (module.DhariwalUNet if module is dhariwal_unet else module.SongUNet)(
        **module.infer_settings(state, known)
    )
    network.load_state_dict(state)
    return network, known


def _preconditioning(
    consistency: bool, c_noise: float, arguments: Arguments, num_scales: int | None = None
) -> dict[str, dict[str, Any]]:
    """``preconditioning.json``: what the time argument and the scalings are made of."""
    values = {
        "kind": "consistency" if consistency else "edm",
        "sigma_data": float(arguments.get("sigma_data", 0.5)),
        "sigma_min": float(arguments.get("sigma_min", 0.002)),
        "c_noise": c_noise,
    }
    scales = arguments.get("num_scales", num_scales)
    if consistency and scales:
        values["times"] = {
            "num_scales": int(scales),
            "sigma_max": float(arguments.get("sigma_max", SIGMA_MAX)),
            "rho": RHO,
        }
    return {"preconditioning.json": values}


FORMATS: dict[str, Callable[[Path, Arguments], Converted]] = {
    "improved-diffusion": discrete("cosine", 4000, True),
    "guided-diffusion": discrete("linear", 1000, False),
    "consistency-models": consistency_models,
    "edm": edm,
    "ect": ect,
    "jax-consistency": jax_consistency,
}
