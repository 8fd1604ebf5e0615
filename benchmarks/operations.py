"""Floating-point operations of published networks, one image: ``python benchmarks/operations.py``.

Counted by torch on networks without weights (a multiplication and an addition are two), so nothing is computed.
"""

import json
from pathlib import Path

import torch
import tyro
from full_size import cifar_ddpm, cifar_edm
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vit_b_16

from cpur.paths import root

OUT = root() / "benchmarks/results/operations.json"


def operations(network: torch.nn.Module, *inputs: torch.Tensor) -> int:
    """Of one forward pass."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(*inputs)
    return counter.get_total_flops()


def main(out: Path = OUT) -> None:
    """Counts the U-Nets of CIFAR-10 and the vision transformer that is put behind them.

    Args:
        out: JSON file to write.
    """
    with torch.device("meta"):
        image, time = torch.empty(1, 3, 32, 32), torch.empty(1)
        counts = {
            "improved-diffusion": operations(cifar_ddpm().eval(), image, time),
            "EDM": operations(cifar_edm().eval(), image, time),
            "ViT-B/16": operations(vit_b_16().eval(), torch.empty(1, 3, 224, 224)),
        }
    for name, count in counts.items():
        print(f"{name:<18} {count / 1e9:6.1f} billion")
    out.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
