"""What a run will cost, told before it starts, from a short measurement."""

from dataclasses import dataclass

import numpy as np
import psutil
import torch

from cpur.characteristics import simulate
from cpur.config import CertifyConfig
from cpur.engine import prepare, workers
from cpur.images import ImageSet
from cpur.plans import StoppingRule
from cpur.sampling import Draw, Sampler, Task, once

IMAGES = 20  # of the run, evenly spread
SAMPLES = 200  # of each


@dataclass(frozen=True)
class Estimate:
    """Samples, time and memory of a run, extrapolated from a few samples of a few images."""

    images: int  # still to certify
    samples: float  # expected, of all of them
    most_samples: int  # what they cannot exceed
    samples_per_second: float
    memory: int  # bytes
    device: str

    @property
    def seconds(self) -> float:
        """Expected duration on this machine."""
        return self.samples / self.samples_per_second

    def __str__(self) -> str:
        longest = self.most_samples / self.samples_per_second
        return "\n".join(
            [
                f"images            {self.images}",
                f"noise samples     about {self.samples:,.0f}, at most {self.most_samples:,}",
                f"samples a second  {self.samples_per_second:,.0f} on {self.device}, measured just now",
                f"time              about {duration(self.seconds)}, at most {duration(longest)}",
                f"memory            {self.memory / 2**30:.1f} GiB",
            ]
        )


def duration(seconds: float) -> str:
    """A time in words that a reader takes in at once."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def estimate(config: CertifyConfig, remaining: int | None = None) -> Estimate:
    """Measures a few samples of a few images, and extrapolates.

    For a plan that may stop early, the p of each image is drawn from its posterior given the few samples, and the
    plan is simulated. One sampler is measured, and the speed multiplied by the number that work side by side.

    Args:
        config: the run.
        remaining: images that are still to certify; None takes all of them.
    """
    job = prepare(config)
    plan = config.sampling_plan
    remaining = config.num_images if remaining is None else remaining
    indices = np.unique(np.linspace(0, config.num_images - 1, min(IMAGES, config.num_images)).astype(int)).tolist()
    threads = torch.get_num_threads()
    if torch.device(config.device).type == "cpu":
        torch.set_num_threads(1)
    try:
        sampler = Sampler(job.base_classifier, job.data.num_classes, (config.sigma,), config.seed, config.batch_size)
        list(sampler.run(_tasks(config, job.data, indices[:1], config.batch_size, "warm-up")))
        start, rows = sampler.clock()
        done = list(sampler.run(_tasks(config, job.data, indices, SAMPLES, "estimate")))
        end, all_rows = sampler.clock()
    finally:
        torch.set_num_threads(threads)
    speed = (all_rows - rows) / (end - start) * workers(config.device)
    rng = np.random.default_rng(0)
    rule = StoppingRule(plan, config.sigma, config.epsilons)
    top = [image.result.max() for image in done]
    samples = [
        simulate(plan, rule, p, 1, rng, config.alpha).samples[0]
        for hits in top
        for p in rng.beta(hits + 1, SAMPLES - hits + 1, size=50)
    ]
    return Estimate(
        images=remaining,
        samples=remaining * (plan.n0 + float(np.mean(samples))),
        most_samples=remaining * (plan.n0 + plan.n),
        samples_per_second=speed,
        memory=memory_in_use(config.device),
        device=config.device,
    )


def _tasks(config: CertifyConfig, data: ImageSet, indices: list[int], n: int, purpose: str):
    for index in indices:
        yield Task(index, data[index][0].to(config.device), once(Draw(purpose, n)))


def memory_in_use(device: str) -> int:
    """Bytes in use: at the peak on CUDA, by the process elsewhere."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
