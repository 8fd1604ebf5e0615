"""Checkpoints: a folder with config.json, safetensors weights, and what the purifier must know beside them.

A network folder is what diffusers' ``UNet2DModel.save_pretrained`` writes. Beside it stands either
``scheduler_config.json`` (a discrete diffusion model, in diffusers' words) or ``preconditioning.json``
(an EDM or a consistency model: ``sigma_data``, ``sigma_min``, ``sigma_max``).
"""

import hashlib
import json
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from cpur import paths
from cpur.errors import InputError


class DiffusersNetwork(nn.Module):
    """A raw ``diffusers.UNet2DModel``: its own pixel range and time argument, patches folded into channels.

    A network with :math:`c p^2` input channels works on the image cut into patches of p x p pixels. One that knows a
    single class needs no labels: the class is the learned token of an unconditional model.

    Raises:
        InputError: a network of several classes is called without labels.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], labels: Tensor | None = None
    ) -> Float[Tensor, "b d h w"]:
        """The network's output, of the height and width of ``x``."""
        classes = self.unet.config.num_class_embeds
        if labels is None and classes:
            if classes > 1:
                raise InputError(
                    f"the network is class-conditional ({classes} classes) and purification knows no class: fine-tune "
                    "it, which turns it unconditional"
                )
            labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        patch = round((self.unet.config.in_channels / x.shape[1]) ** 0.5)
        out = self.unet(pixel_unshuffle(x, patch), t, class_labels=labels, return_dict=False)[0]
        return pixel_shuffle(out, patch)


def resolve(checkpoint: str | Path | None, default: str) -> Path:
    """The folder of a checkpoint, anchored at the repository; None is the embedded one called ``default``."""
    folder = paths.models() / default if checkpoint is None else paths.anchored(checkpoint)
    if not folder.is_dir():
        hint = "run `make models`" if checkpoint is None else "give the folder that holds its config.json"
        raise InputError(f"there is no checkpoint folder at {paths.shown(folder)}: {hint}")
    return folder


def load_network(folder: str | Path) -> nn.Module:
    """Loads a raw network whose ``forward(x, t, labels=None)`` takes and gives NCHW, in evaluation mode.

    Raises:
        InputError: the folder, its config or its weights are missing, damaged or do not fit together.
    """
    from diffusers import UNet2DModel  # here, since diffusers takes seconds to import

    folder = Path(folder)
    read_json(folder / "config.json")
    try:
        unet, report = UNet2DModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load the network in {paths.shown(folder)}: {error}") from error
    wrong = [f"{kind} {name}" for kind in ("missing_keys", "unexpected_keys") for name in report[kind]]
    if wrong:
        raise InputError(f"the weights in {paths.shown(folder)} do not fit its config.json: {', '.join(wrong)}")
    return DiffusersNetwork(unet).eval()


def save_network(network: DiffusersNetwork, folder: str | Path) -> None:
    """Writes the network as ``UNet2DModel.save_pretrained`` does, but for the path that it was loaded from."""
    network.unet.save_pretrained(folder)
    config = read_json(Path(folder) / "config.json")
    config.pop("_name_or_path", None)
    (Path(folder) / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_json(file: Path) -> dict:
    """Reads a JSON object, or raises InputError with the file's name."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(f"{paths.shown(file.parent)} lacks {file.name}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{paths.shown(file)} is not valid JSON: {error}") from error


def write_json(file: Path, value: dict) -> None:
    """Writes a JSON object as it is committed."""
    file.write_text(json.dumps(value, indent=2) + "\n")


def checkpoint_hash(folder: str | Path) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of what is computed with: weights and configuration."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).rglob("*")):
        if file.suffix == ".safetensors" or file.name in CONFIGURATION:
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


FINETUNED = "finetune.json"  # how a fine-tuned model was made
CONFIGURATION = ("config.json", "scheduler_config.json", "preconditioning.json")


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def inference_device(device: str) -> torch.device:
    """The torch device of that name, checked to be usable.

    Raises:
        InputError: a name that torch does not know, or a device that this machine does not have.
    """
    try:
        torch.empty(1, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise InputError(f"device must be one that torch can use here, such as cpu; got {device!r}: {reason}") from None
