"""Checkpoints: a folder with config.json, safetensors weights, and what the purifier must know beside them.

A network folder is what diffusers' ``UNet2DModel.save_pretrained`` writes. Beside it stands either
``scheduler_config.json`` (a discrete diffusion model, in diffusers' words) or ``preconditioning.json``
(an EDM or a consistency model: ``sigma_data``, ``sigma_min``, ``sigma_max``).
"""

import copy
import hashlib
import json
import pkgutil
import re
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from cpur import paths
from cpur.errors import InputError, choose


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
        classes = self.num_classes
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

    @property
    def num_classes(self) -> int | None:
        """Of a class-conditional network."""
        return self.unet.config.num_class_embeds

    def unconditional(self) -> "DiffusersNetwork":
        """A copy that knows one class, a token to be learned: at first the mean of the classes' embeddings."""
        one = copy.deepcopy(self)
        token = self.unet.class_embedding.weight.detach().mean(0, keepdim=True)
        one.unet.class_embedding = nn.Embedding.from_pretrained(token, freeze=False)
        one.unet.register_to_config(num_class_embeds=1)
        return one


def resolve(checkpoint: str | Path | None, default: str) -> Path:
    """The folder of a checkpoint, anchored at the repository; None is the embedded one called ``default``.

    A name such as ``google/ddpm-cifar10-32`` that is no folder is one on the hub.
    """
    if checkpoint is not None:
        return hub_folder(checkpoint)
    folder = paths.models() / default
    if not folder.is_dir():
        raise InputError(f"there is no checkpoint folder at {paths.shown(folder)}: run `make models`")
    return folder


def hub_folder(name: str | Path) -> Path:
    """The folder itself, or that of a model on the hub, downloaded where the local cache lacks it.

    What lies in a folder that exists is no name on the hub.

    Raises:
        InputError: there is no such folder, and no such model on the hub or no way to it.
    """
    folder = paths.anchored(name)
    if folder.is_dir():
        return folder
    missing = f"there is no checkpoint folder at {paths.shown(folder)}"
    if folder.parent.is_dir() or not HUB_NAME.fullmatch(str(name)):
        raise InputError(f"{missing}: give the folder that holds its config.json")
    from huggingface_hub import snapshot_download

    for where in ({"local_files_only": True}, {"allow_patterns": ["*.json", "*.safetensors"]}):
        try:
            return Path(snapshot_download(str(name), **where))
        except Exception as error:  # of a name that is none, of a cache that lacks it, of every kind of network
            reason = str(error).split("\n", 1)[0]
    raise InputError(
        f"{missing}, and no model of that name in the local cache of the hub or on it ({reason}): give the folder that "
        f"holds its config.json, or run `hf download {name}` where there is a network"
    )


HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SCHEDULER, PRECONDITIONING = "scheduler_config.json", "preconditioning.json"

# Networks of converted checkpoints, by the name that their config.json gives.
NETWORKS = {
    "OpenAIUNet": "cpur.networks.openai_unet:OpenAIUNet",
    "SongUNet": "cpur.networks.song_unet:SongUNet",
    "DhariwalUNet": "cpur.networks.dhariwal_unet:DhariwalUNet",
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_network(folder: str | Path) -> nn.Module:
    """Loads a raw network whose ``forward(x, t, labels=None)`` takes and gives NCHW, in evaluation mode.

    The folder is one that :func:`cpur.convert.convert` wrote, or of diffusers: of a ``UNet2DModel``, or of a pipeline
    with one in ``unet``, in full or half precision.

    Raises:
        InputError: the folder, its config or its weights are missing, damaged or do not fit together.
    """
    folder = Path(folder)
    folder = folder / "unet" if (folder / "unet").is_dir() else folder
    config = read_json(folder / "config.json")
    name = config.pop("_class_name", "UNet2DModel")
    return _diffusers_network(folder) if name == "UNet2DModel" else _own_network(folder, name, config)


def _own_network(folder: Path, name: str, settings: dict) -> nn.Module:
    choose("network", name, (*NETWORKS, "UNet2DModel"))
    try:
        network = pkgutil.resolve_name(NETWORKS[name])(**settings)
        load_model(network, folder / WEIGHTS)
    except (OSError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load the network in {paths.shown(folder)}: {error}") from error
    return network.eval()


def _diffusers_network(folder: Path) -> nn.Module:
    from diffusers import UNet2DModel  # here, since diffusers takes seconds to import

    half = not any((folder / name).is_file() for name in (WEIGHTS, "diffusion_pytorch_model.bin"))
    variant = {"variant": "fp16"} if half and (folder / "diffusion_pytorch_model.fp16.safetensors").is_file() else {}
    try:
        unet, report = UNet2DModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False, **variant
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load the network in {paths.shown(folder)}: {error}") from error
    wrong = [f"{kind} {name}" for kind in ("missing_keys", "unexpected_keys") for name in report[kind]]
    if wrong:
        raise InputError(f"the weights in {paths.shown(folder)} do not fit its config.json: {', '.join(wrong)}")
    return DiffusersNetwork(unet.float()).eval()


def save_network(network: nn.Module, folder: str | Path) -> None:
    """Writes config.json and safetensors, as ``UNet2DModel.save_pretrained`` does, but for the path it came from."""
    if not isinstance(network, DiffusersNetwork):
        write_json(Path(folder) / "config.json", {"_class_name": type(network).__name__} | network.settings)
        save_model(network, str(Path(folder) / WEIGHTS))
        return
    network.unet.save_pretrained(folder)
    config = read_json(Path(folder) / "config.json")
    config.pop("_name_or_path", None)
    (Path(folder) / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def conventions(folder: Path) -> tuple[str, dict]:
    """What a purifier must know of a network, and the name of the file that says so in a folder of cpur.

    The schedulers of diffusers' consistency models and EDMs are put into the words of ``preconditioning.json``.

    Raises:
        InputError: no such file, or one that is damaged.
    """
    if (folder / PRECONDITIONING).is_file():
        return PRECONDITIONING, read_json(folder / PRECONDITIONING)
    inside = folder / "scheduler" / SCHEDULER
    schedule = read_json(inside if inside.is_file() else folder / SCHEDULER)
    match schedule:
        case {"_class_name": "CMStochasticIterativeScheduler"}:
            times = {"sigma_max": schedule["sigma_max"], "rho": schedule["rho"]}
            times["num_scales"] = schedule["num_train_timesteps"]
            known = {key: schedule[key] for key in ("sigma_data", "sigma_min", "sigma_max")}
            return PRECONDITIONING, {"kind": "consistency", **known, "times": times}
        case {"_class_name": "EDMEulerScheduler" | "EDMDPMSolverMultistepScheduler"}:
            known = {key: schedule[key] for key in ("sigma_data", "sigma_min", "sigma_max")}
            return PRECONDITIONING, {"kind": "edm", **known, "c_noise": 0.25}
    return SCHEDULER, schedule


def read_json(file: Path) -> dict:
    """Reads a JSON object, or raises InputError with the file's name."""
    try:
        values = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(f"{paths.shown(file.parent)} lacks {file.name}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{paths.shown(file)} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{paths.shown(file)} holds a {type(values).__name__}; expected an object, in braces")
    return values


def write_json(file: Path, value: dict) -> None:
    """Writes a JSON object as it is committed."""
    file.write_text(json.dumps(value, indent=2) + "\n")


def checkpoint_hash(folder: str | Path) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of what is computed with: weights and configuration."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).rglob("*")):
        if file.suffix in (".safetensors", ".bin") or file.name in CONFIGURATION:
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


FINETUNED = "finetune.json"  # how a fine-tuned model was made
CONFIGURATION = ("config.json", SCHEDULER, PRECONDITIONING)


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


def convert(source: str | Path, destination: str | Path, format: str, arguments=None) -> Path:
    """:func:`cpur.convert.convert`, which loads the readers of all formats when it is called."""
    from cpur.convert import convert as converted

    return converted(source, destination, format, arguments)
