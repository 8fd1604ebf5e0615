"""Published networks at full size, with random weights: ``python benchmarks/full_size.py``.

Each is written in its published format, converted, loaded, and run on one image; the output must be that of the network
that was written. Says the parameters, the seconds, and the largest memory of a process that does nothing else.
"""

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from cpur.checkpoints import convert, count_parameters, load_network
from cpur.networks.openai_unet import OpenAIUNet
from cpur.networks.song_unet import SongUNet
from cpur.paths import root


@dataclass(frozen=True)
class Published:
    """A network as it is published: how to make it, its format, and what the tensors do not tell."""

    make: Callable[[], nn.Module]
    format: str
    size: int
    arguments: dict[str, Any]
    prefix: str = ""


def cifar_ddpm() -> nn.Module:
    """improved-diffusion's unconditional CIFAR-10 model, 50 M."""
    return OpenAIUNet(
        in_channels=3,
        model_channels=128,
        out_channels=6,
        num_res_blocks=3,
        attention_resolutions=(2, 4),
        channel_mult=(1, 2, 2, 2),
        num_heads=4,
        use_scale_shift_norm=True,
    )


def cifar_edm() -> nn.Module:
    """EDM's unconditional CIFAR-10 model, DDPM++."""
    return SongUNet(
        img_resolution=32,
        in_channels=3,
        out_channels=3,
        augment_dim=9,
        model_channels=128,
        channel_mult=[2, 2, 2],
        num_blocks=4,
        attn_resolutions=[16],
    )


def imagenet_consistency() -> nn.Module:
    """OpenAI's consistency model for ImageNet-64."""
    return OpenAIUNet(
        in_channels=3,
        model_channels=192,
        out_channels=3,
        num_res_blocks=3,
        attention_resolutions=(2, 4, 8),
        channel_mult=(1, 2, 3, 4),
        num_classes=1000,
        num_head_channels=64,
        use_scale_shift_norm=True,
        resblock_updown=True,
        three_first=True,
        projections_2d=True,
    )


NETWORKS = {
    "improved-diffusion, CIFAR-10": Published(cifar_ddpm, "improved-diffusion", 32, {"num_heads": 4}),
    "EDM DDPM++, CIFAR-10": Published(cifar_edm, "edm", 32, {}, "model."),
    "consistency model, ImageNet-64": Published(
        imagenet_consistency, "consistency-models", 64, {"num_head_channels": 64}
    ),
}


@torch.inference_mode()
def round_trip(name: str) -> dict[str, Any]:
    """Writes, converts, loads and runs a network."""
    published = NETWORKS[name]
    torch.manual_seed(0)
    network = published.make().eval()
    for parameter in network.parameters():  # published ones start some layers at zero: random ones tell more
        nn.init.normal_(parameter, std=0.02)
    classes = torch.zeros(1, dtype=torch.long) if network.num_classes else None
    x, t = torch.randn(1, 3, published.size, published.size), torch.tensor([0.7])
    expected, parameters = network(x, t, classes), count_parameters(network)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pt"
        torch.save({published.prefix + key: value for key, value in network.state_dict().items()}, file)
        del network
        start = time.perf_counter()
        target = convert(file, Path(folder) / "net", published.format, published.arguments)
        converted = time.perf_counter()
        again = load_network(target)
        loaded = time.perf_counter()
        found = again(x, t, classes)
        end = time.perf_counter()
    return {
        "network": name,
        "parameters": parameters,
        "equal": bool(torch.equal(found, expected)),
        "convert_s": round(converted - start, 1),
        "load_s": round(loaded - converted, 1),
        "forward_s": round(end - loaded, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main(out: str | None = None) -> None:
    """One process a network, one after the other.

    Args:
        out: file for the results as JSON.
    """
    rows = []
    for name in NETWORKS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(round_trip, name).result())
        print(rows[-1])
    if out:
        (root() / out).write_text(
            json.dumps({"torch": torch.__version__, "device": "cpu", "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    tyro.cli(main)
