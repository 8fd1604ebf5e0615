"""Certifies a data set image by image, into a record that can be resumed."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cpur import checkpoints, paths
from cpur.classifiers import BaseClassifier, classifier_folder, load_classifier
from cpur.config import CertifyConfig
from cpur.data import ImageSet, load_dataset
from cpur.errors import InputError
from cpur.noise import NOISE_VERSION
from cpur.purifiers import load_purifier, purifier_folder
from cpur.records import FORMAT, Record, record_name, row
from cpur.smooth import Smooth

Progress = Callable[[Iterable[dict], int, int], Iterable[dict]]


@dataclass(frozen=True)
class Job:
    """A configuration with what it names, loaded: data, base classifier, identity of its record."""

    config: CertifyConfig
    data: ImageSet
    base_classifier: BaseClassifier
    identity: dict[str, Any]

    @property
    def smooth(self) -> Smooth:
        """The smoothed classifier."""
        return Smooth(self.base_classifier, self.data.num_classes, self.config.sigma, self.config.seed)


def identity(config: CertifyConfig) -> dict[str, Any]:
    """All that the counts of a record depend on, up to the arithmetic of a machine."""
    purifier = purifier_folder(config.purifier, config.checkpoint)
    return {
        "dataset": config.dataset,
        "subset": config.subset,
        "num_images": config.num_images,
        "purifier": config.purifier,
        "purifier_hash": purifier and checkpoints.checkpoint_hash(purifier),
        "classifier": config.classifier,
        "classifier_hash": checkpoints.checkpoint_hash(
            classifier_folder(config.classifier, config.classifier_checkpoint)
        ),
        "sigma": config.sigma,
        "n0": config.n0,
        "n": config.n,
        "alpha": config.alpha,
        "plan": config.plan,
        "epsilons": list(config.epsilons),
        "seed": config.seed,
        "noise": NOISE_VERSION,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "device_type": torch.device(config.device).type,
    }


def record_file(config: CertifyConfig) -> Path:
    """Where the record of a configuration stands, made or not."""
    return paths.anchored(config.records_dir) / record_name(identity(config))


def prepare(config: CertifyConfig) -> Job:
    """Loads what a configuration names.

    Raises:
        InputError: anything it names is missing or does not fit.
    """
    device = checkpoints.inference_device(config.device)
    data = load_dataset(config.dataset, "test", config.root, config.subset)
    if config.num_images > len(data):
        raise InputError(
            f"num_images must be at most {len(data)}, the images of {config.dataset}; got {config.num_images}"
        )
    purifier = load_purifier(config.purifier, config.checkpoint)
    classifier = load_classifier(config.classifier, config.classifier_checkpoint)
    base_classifier = BaseClassifier(purifier, classifier, config.sigma).to(device).eval()
    return Job(config, data, base_classifier, identity(config))


def header(job: Job) -> dict[str, Any]:
    """The first line of a record."""
    return {
        "format": FORMAT,
        "identity": job.identity,
        "config": asdict(job.config),
        "network_calls": job.base_classifier.purifier.network_calls,
        "versions": {name: version(name) for name in ("cpur", "torch", "diffusers", "numpy", "scipy")},
        "hardware": {
            "device": device_name(job.config.device),
            "cores": os.cpu_count(),
            "workers": workers(job.config.device),
            "threads": 1 if torch.device(job.config.device).type == "cpu" else torch.get_num_threads(),
            "compile": False,
        },
    }


def device_name(device: str) -> str:
    """What computes, in words."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.device(device).type} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def certify_dataset(config: CertifyConfig, progress: Progress | None = None) -> Record:
    """Certifies the images of ``config`` that its record does not hold yet, and returns the record.

    Guarantee: each line certifies its image at error probability alpha, as :meth:`cpur.smooth.Smooth.certify`
    does; the guarantee holds for one image at a time, not for all of them at once.

    Args:
        config: what to certify.
        progress: wraps the iteration over the lines as they come: ``progress(lines, done, total)``.

    Raises:
        InputError: bad input; the images certified so far are kept.
    """
    job = prepare(config)
    record = Record(record_file(config), header(job))
    todo = [index for index in range(config.num_images) if index not in record.done]
    lines = certify_images(job, todo)
    for line in progress(lines, len(record.done), config.num_images) if progress else lines:
        record.append(line)
    return record


def certify_images(job: Job, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Yields the lines of a record in the order of ``indices``.

    On a CPU the images are certified side by side, one a core: a small network on one thread a batch does twice
    the work of one on all threads, and its arithmetic does not depend on the number of cores.
    """
    if torch.device(job.config.device).type != "cpu":
        yield from (certify_image(job, index) for index in indices)
        return
    pool = ThreadPoolExecutor(workers(job.config.device), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(partial(certify_image, job), indices)
    finally:
        pool.shutdown(cancel_futures=True)


def workers(device: str) -> int:
    """How many images are certified side by side."""
    return (os.cpu_count() or 1) if torch.device(device).type == "cpu" else 1


def certify_image(job: Job, index: int) -> dict[str, Any]:
    """Certifies one image: a line of the record."""
    config = job.config
    image, label = job.data[index]
    start = time.perf_counter()
    certificate = job.smooth.certificate(
        image.to(config.device), config.n0, config.n, config.alpha, config.batch_size, index=index
    )
    return row(index, label, config.n0, config.n, certificate, time.perf_counter() - start)
