"""Samples per second of candidate networks for the digits, on one thread: ``python benchmarks/network_width.py``.

A network on 2 x 2 patches of the image does the work of one on pixels at a quarter of the positions.
"""

import time

import torch
from diffusers import UNet2DModel

CANDIDATES = [(1, (16, 32)), (1, (32, 64)), (2, (32,)), (2, (48,)), (2, (64,)), (2, (32, 64))]  # patch, channels
BATCH = 250


def network(patch: int, channels: tuple[int, ...]) -> UNet2DModel:
    """A U-Net without attention on 8 x 8 images cut into patches."""
    return UNet2DModel(
        sample_size=8 // patch,
        in_channels=patch**2,
        out_channels=patch**2,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        norm_num_groups=8,
        add_attention=False,
    ).eval()


@torch.inference_mode()
def samples_per_second(unet: UNet2DModel, patch: int, seconds: float = 5.0) -> float:
    """Throughput at one batch shape, after two batches to warm up."""
    x = torch.randn(BATCH, patch**2, 8 // patch, 8 // patch)
    t = torch.zeros(BATCH)
    unet(x, t)
    unet(x, t)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        unet(x, t)
        done += BATCH
    return done / (time.perf_counter() - start)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| patch | channels | parameters | samples/s |\n|---|---|---|---|")
    for patch, channels in CANDIDATES:
        unet = network(patch, channels)
        parameters = sum(parameter.numel() for parameter in unet.parameters())
        print(f"| {patch} | {channels} | {parameters:,} | {samples_per_second(unet, patch):,.0f} |")
