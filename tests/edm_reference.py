"""What the tests of EDM's networks share: weights to compute with, and the reference vectors."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cpur.networks.edm_state import raw_state
from cpur.schedules import consistency_scalings, edm_scalings

GOLDEN = Path(os.environ.get("CPUR_GOLDEN", "/nowhere")) / "04_edm_preconditioned"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="CPUR_GOLDEN does not name the folder of the reference vectors"
)


def filled(network: nn.Module) -> nn.Module:
    """The network in evaluation mode with weights that keep the scale of the features, the same on every machine."""
    rng = np.random.default_rng(0)
    state = network.state_dict()
    for name in sorted(name for name in state if "resample_filter" not in name):
        value = torch.from_numpy(rng.standard_normal(state[name].shape)).float()
        if value.ndim > 1:
            value /= value[0].numel() ** 0.5
        elif "norm" in name:
            value = 0.1 * value + name.endswith("weight")
        state[name] = value
    network.load_state_dict(state)
    return network.eval()


def output(network: nn.Module, labels: torch.Tensor | None = None) -> torch.Tensor:
    """The network at two images of 8 x 8 pixels and two noise levels."""
    x = torch.sin(torch.arange(2 * 3 * 8 * 8, dtype=torch.float64) ** 2).float().view(2, 3, 8, 8)
    with torch.inference_mode():
        return network(x, torch.tensor([-0.3, 0.2]), labels)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference over the largest absolute value."""
    return float((found - expected).abs().max() / expected.abs().max())


def check_reference(folder: str, infer_settings, network_class) -> None:
    """Raw outputs at every noise level, and denoised images of two levels in a batch, are the reference's."""
    config = json.loads((GOLDEN / folder / "config.json").read_text())["network"]
    arguments = config["constructor_arguments"]
    if "channels_per_head" in config:  # not an argument of the public class, which fixes 64
        arguments["channels_per_head"] = config["channels_per_head"]
    state = torch.load(GOLDEN / folder / "checkpoint.pt", weights_only=True)
    network = network_class(**infer_settings(state, arguments)).eval()
    network.load_state_dict(raw_state(state))
    with np.load(GOLDEN / folder / "io.npz") as arrays:
        io = {name: torch.from_numpy(value) for name, value in arrays.items()}
    labels = io["class_labels_onehot"].argmax(1) if arguments["label_dim"] else None

    def scalings(sigma):
        if config["class_name"].endswith("ECMPrecond"):
            return consistency_scalings(sigma, 0.5, arguments["sigma_min"])
        return edm_scalings(sigma, 0.5)

    with torch.inference_mode():
        for sigma, x, expected in zip(io["sigma"], io["x_noisy"], io["network_output_F"], strict=True):
            found = network(scalings(sigma)[2] * x, (sigma.log() / 4).expand(len(x)), labels)
            assert relative(found, expected) < 2e-5
        sigma, x = io["mixed_sigma"], io["mixed_x_noisy"]
        c_skip, c_out, c_in = (c.view(-1, 1, 1, 1) for c in scalings(sigma))
        found = c_skip * x + c_out * network(c_in * x, sigma.log() / 4, labels)
        assert relative(found, io["mixed_denoised"]) < 2e-5
