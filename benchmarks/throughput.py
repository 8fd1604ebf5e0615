"""The engine against the naive loop, in one run, at equal n: ``python benchmarks/throughput.py [--device cuda]``.

On a CPU it times the digits pipeline, with one thread and with all, and one process against two. On a GPU it times a
network of EDM's size (32 x 32) before a ViT-B/16 at 224, random weights, step by step, and sets the floating-point
operations of a sample against the measured matrix peak. ``--tiny`` takes small networks of the same kind, for a test.

The naive loop is written anew after what public code does: one image at a time, float32, a batch of copies plus
``randn``, votes brought to the host and counted there one by one.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn
from torch.nn.functional import interpolate
from torch.utils.flop_counter import FlopCounterMode

from cpur import load_classifier, load_dataset, load_purifier
from cpur.arithmetic import Arithmetic
from cpur.checkpoints import DiffusersNetwork, count_parameters, inference_device
from cpur.classifiers import BaseClassifier
from cpur.engine import THREADS, device_name, side_by_side
from cpur.errors import InputError
from cpur.purifiers import OneStepEDM
from cpur.sampling import Draw, Sampler, Task, once

SIGMA = 0.5
# Processes forked from a server that has imported everything start at once; elsewhere each one imports anew.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def naive_counts(base: nn.Module, x: torch.Tensor, n: int, batch_size: int, num_classes: int) -> np.ndarray:
    """The published loop."""
    counts = np.zeros(num_classes, dtype=int)
    with torch.no_grad():
        while n > 0:
            size = min(batch_size, n)
            n -= size
            batch = x.repeat((size, 1, 1, 1))
            votes = base(batch + SIGMA * torch.randn_like(batch)).argmax(1)
            for vote in votes.cpu().numpy():
                counts[vote] += 1
    return counts


def naive(base: nn.Module, images: torch.Tensor, n: int, batch_size: int, num_classes: int) -> float:
    """Samples a second of the naive loop."""
    start = time.perf_counter()
    for x in images:
        naive_counts(base, x, n, batch_size, num_classes)
    return len(images) * n / (time.perf_counter() - start)


def engine(base: nn.Module, images: torch.Tensor, n: int, batch_size: int, num_classes: int) -> float:
    """Samples a second of one sampler."""
    sampler = Sampler(base, num_classes, (SIGMA,), 0, batch_size)
    start = time.perf_counter()
    list(sampler.run(Task(i, x, once(Draw("benchmark", n))) for i, x in enumerate(images)))
    return len(images) * n / (time.perf_counter() - start)


def paired(rounds: int, **contenders: Callable[[], float]) -> dict[str, list[float]]:
    """Times the contenders in turn, so that what slows the machine slows both; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            rate = contender()
            if turn:
                rates[name].append(round(rate, 1))
    return rates


def ratio(rates: dict[str, list[float]], one: str, other: str) -> str:
    """The median of the paired ratios, and their range."""
    ratios = np.divide(rates[one], rates[other])
    return f"{np.median(ratios):.2f} [{ratios.min():.2f}-{ratios.max():.2f}]"


def digits() -> BaseClassifier:
    """The digits pipeline."""
    return BaseClassifier(load_purifier("onestep-edm"), load_classifier(), SIGMA).eval()


def process(seconds: float, barrier, rates) -> None:
    """Certifies digits in a process of one thread, between two barriers."""
    torch.set_num_threads(1)
    base, images = digits(), load_dataset("digits").images
    engine(base, images[:1], 1000, 250, 10)
    barrier.wait()
    start, samples = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        engine(base, images[:1], 5000, 250, 10)
        samples += 5000
    rates.put(samples / (time.perf_counter() - start))
    barrier.wait()


def processes(count: int, seconds: float) -> float:
    """Samples a second of ``count`` processes at once."""
    context = multiprocessing.get_context(METHOD)
    context.set_forkserver_preload(["cpur.engine", "cpur.purifiers", "diffusers.models.unets.unet_2d"])
    barrier, rates = context.Barrier(count), context.Queue()
    workers = [context.Process(target=process, args=(seconds, barrier, rates)) for _ in range(count)]
    for worker in workers:
        worker.start()
    total = sum(rates.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total


def all_cores(base: nn.Module, images: torch.Tensor, n: int, batch_size: int, num_classes: int) -> float:
    """Samples a second of the samplers that the engine runs side by side on a CPU."""
    tasks = (Task(i, x, once(Draw("benchmark", n))) for i, x in enumerate(images))
    start = time.perf_counter()
    list(side_by_side(lambda: Sampler(base, num_classes, (SIGMA,), 0, batch_size), tasks, THREADS))
    return len(images) * n / (time.perf_counter() - start)


def on_cpu(rounds: int, images: int, n: int, seconds: float) -> dict:
    """The digits pipeline: engine against naive loop, on one thread and on all, and one process against two."""
    base, data = digits(), load_dataset("digits").images[:images]
    pipeline = (base, data, n, 250, 10)
    rates = {}
    for threads, contender in ((1, engine), (THREADS, all_cores)):
        torch.set_num_threads(threads)
        rates[str(threads)] = paired(
            rounds, naive=lambda: naive(*pipeline), engine=lambda run=contender: run(*pipeline)
        )
    # Each process warms up by itself, so that no round is lost.
    one, two = zip(*((processes(1, seconds), processes(2, seconds)) for _ in range(rounds)), strict=True)
    torch.set_num_threads(1)
    votes = torch.zeros(250, 10)
    alone = max(engine(lambda x: votes, data[:1], 10 * n, 250, 10) for _ in range(3))
    return {"threads": rates, "processes": {"one": one, "two": two}, "without_network": alone, "n": n, "images": images}


def report_cpu(figures: dict) -> str:
    """The figures of the digits pipeline as text."""
    lines = [f"{figures['device']}, {figures['images']} digits a round, n = {figures['n']:,}; samples a second"]
    for threads, rates in figures["threads"].items():
        naive_rate, engine_rate = (np.median(rates[name]) for name in ("naive", "engine"))
        lines.append(f"threads {threads}: naive {naive_rate:8,.0f}, engine {engine_rate:8,.0f}, engine / naive")
        lines[-1] += f" {ratio(rates, 'engine', 'naive')}"
    scaling = figures["processes"]
    one, two = np.median(scaling["one"]), np.median(scaling["two"])
    lines.append(f"processes: one {one:8,.0f}, two {two:11,.0f}, two / one {ratio(scaling, 'two', 'one'):>21}")
    share = np.median(figures["threads"]["1"]["engine"]) / figures["without_network"]
    lines.append(
        f"without a network one sampler draws and counts {figures['without_network']:,.0f}: {share:.1%} of its"
    )
    lines.append("time; the rest is the network's arithmetic, for which two processes share the")
    lines.append("memory and the clock of one chip")
    return "\n".join(lines)


def large(tiny: bool) -> tuple[BaseClassifier, tuple[int, ...], int]:
    """A network of EDM's size before a ViT-B/16 at 224, with random weights; or small ones of the same kind."""
    from diffusers import UNet2DModel
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    width, layers = (32, 1) if tiny else (256, 4)
    unet = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=layers,
        block_out_channels=(width, width, width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    size, blocks, hidden = (32, 2, 64) if tiny else (224, 12, 768)
    vit = VisionTransformer(size, 16, blocks, hidden // 64, hidden, 4 * hidden, num_classes=10)

    class Resized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = vit

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.vit(interpolate(x, size=(size, size), mode="bilinear", antialias=True))

    return BaseClassifier(OneStepEDM(DiffusersNetwork(unet), 0.5), Resized(), SIGMA).eval(), (3, 32, 32), 10


def matrix_peak(device: torch.device, number: str, tiny: bool) -> float:
    """Floating-point operations a second of a large square matrix product in a number format, the best of ten."""
    size = 256 if tiny else 8192
    dtype = torch.bfloat16 if number == "bfloat16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    with Arithmetic(number).active(device):
        for _ in range(10):
            synchronize(device)
            start = time.perf_counter()
            for _ in range(5):
                a @ a
            synchronize(device)
            best = max(best, 5 * 2 * size**3 / (time.perf_counter() - start))
    return best


def synchronize(device: torch.device) -> None:
    """Waits for a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


STEPS = ("float32", "tf32", "bfloat16", "bfloat16+channels_last", "bfloat16+channels_last+compile")
STEPS += ("bfloat16+channels_last+graphs",)


def on_accelerator(device: torch.device, rounds: int, n: int, batch_size: int, tiny: bool, steps: tuple) -> dict:
    """The large pipeline, step by step, against the naive loop."""
    base, shape, classes = large(tiny)
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        base(images[:1])
    flop = counter.get_total_flops()
    images, base = images.to(device), base.to(device)
    contenders = {"naive": lambda: naive(base, images, n, batch_size, classes)}
    for step in steps:
        computed = Arithmetic.parse(step).apply(large(tiny)[0].to(device))
        contenders[step] = lambda computed=computed: engine(computed, images, n, batch_size, classes)
    rates = paired(rounds, **contenders)
    peaks = {number: matrix_peak(device, number, tiny) for number in ("float32", "tf32", "bfloat16")}
    parameters = count_parameters(base)
    return {"parameters": parameters, "flop": flop, "rates": rates, "peaks": peaks, "n": n, "batch_size": batch_size}


def report_accelerator(figures: dict) -> str:
    """The figures of the large pipeline as text."""
    rates, flop = figures["rates"], figures["flop"]
    lines = [f"{figures['device']}: {figures['parameters'] / 1e6:.1f}M parameters, {flop / 1e9:.2f} GFLOP a sample"]
    for step in rates:
        peak = figures["peaks"][step.split("+")[0] if step != "naive" else "float32"]
        rate = np.median(rates[step])
        lines.append(f"{step:34} {rate:10,.1f} samples/s, {ratio(rates, step, 'naive'):>20} times the naive loop,")
        lines[-1] += f" {rate * flop / peak:.0%} of {peak / 1e12:.2f} TFLOP/s"
    return "\n".join(lines)


def main(
    device: str = "cpu",
    rounds: int = 5,
    images: int = 4,
    n: int = 10_000,
    seconds: float = 10.0,
    batch_size: int = 1024,
    tiny: bool = False,
    steps: tuple[str, ...] = STEPS,
    out: Path | None = None,
) -> None:
    """Times the engine against the naive loop.

    Args:
        device: cpu times the digits pipeline; any other, the large one.
        rounds: paired rounds after one that warms up.
        images: digits that are certified in a round.
        n: samples of each image.
        seconds: time that the processes run.
        batch_size: batch of the large pipeline.
        tiny: the large pipeline with small networks, on any device.
        steps: settings of the large pipeline.
        out: file that the figures are written to, as JSON, and what is printed beside it as text.
    """
    try:
        inference_device(device)
    except InputError as error:
        sys.exit(f"throughput: {error}")
    figures = {"device": device_name(device), "torch": torch.__version__}
    if device == "cpu" and not tiny:
        figures |= on_cpu(rounds, images, n, seconds)
        text = report_cpu(figures)
    else:
        figures |= on_accelerator(torch.device(device), rounds, n, batch_size, tiny, steps)
        text = report_accelerator(figures)
    print(text)
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n")
        out.with_suffix(".txt").write_text(text + "\n")


if __name__ == "__main__":
    tyro.cli(main)
