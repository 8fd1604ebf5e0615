"""Certifies a data set, many images at once, into a record that can be resumed."""

import platform
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cpur import checkpoints, paths
from cpur.arithmetic import Arithmetic
from cpur.checkpoints import FINETUNED
from cpur.classifiers import BaseClassifier, SomeClasses, classifier_hash, load_classifier
from cpur.config import CertifyConfig, MultiscaleConfig
from cpur.data import load_dataset
from cpur.errors import InputError
from cpur.images import ImageSet
from cpur.merge import merge, parts, parts_folder
from cpur.noise import NOISE_VERSION
from cpur.plans import StoppingRule
from cpur.purifiers import load_purifier, purifier_folder
from cpur.records import FORMAT, Record, read_lines, record_name, row, standing
from cpur.sampling import Done, Procedure, Sampler, Task
from cpur.shares import Share
from cpur.smooth import certification
from cpur.steering import Cascade
from cpur.steering import certification as steered

THREADS = torch.get_num_threads()  # the cores of this process, or OMP_NUM_THREADS; asked before any worker sets its own

Progress = Callable[[Iterable[dict], list[dict], int], Iterable[dict]]


@dataclass(frozen=True)
class Job:
    """A configuration with what it names, loaded: data, base classifier, identity of its record."""

    config: CertifyConfig | MultiscaleConfig
    data: ImageSet
    classifier: nn.Module
    base_classifier: nn.Module
    network_calls: int  # of the purifier, for one sample
    identity: dict[str, Any]

    @property
    def file(self) -> Path:
        """Where its record stands, made or not."""
        return paths.anchored(self.config.records_dir) / record_name(self.identity)

    def procedure(self) -> Callable[[], Procedure]:
        """Makes the procedure that certifies one image."""
        config, plan = self.config, self.config.sampling_plan
        if isinstance(config, CertifyConfig):
            return partial(certification, plan, StoppingRule(plan, config.sigma, config.epsilons))
        epsilons = config.epsilons if config.plan == "sequential" else ()
        return partial(steered, Cascade(config.sigmas, config.threshold, plan, epsilons), self.data.num_classes)


def identity(config: CertifyConfig | MultiscaleConfig, classifier: nn.Module | None = None) -> dict[str, Any]:
    """All that the counts of a record depend on, up to the arithmetic of a machine.

    ``root`` and the order in which images are certified are not among it. The classifier may be given where it is
    loaded already.
    """
    purifier = purifier_folder(config.purifier, config.checkpoint)
    return {
        "dataset": config.dataset,
        "subset": config.subset,
        "num_images": config.num_images,
        "purifier": config.purifier,
        "purifier_hash": purifier and checkpoints.checkpoint_hash(purifier),
        "classifier": config.classifier,
        "classifier_hash": classifier_hash(config.classifier, config.classifier_checkpoint, classifier),
        **config.noise,
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


def record_file(config: CertifyConfig | MultiscaleConfig) -> Path:
    """Where the record of a configuration stands, made or not."""
    return paths.anchored(config.records_dir) / record_name(identity(config))


def prepare(config: CertifyConfig | MultiscaleConfig) -> Job:
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
    names = identity(config, classifier)
    classifier = SomeClasses(classifier, data.classes) if data.classes else classifier
    base_classifier = BaseClassifier(purifier, classifier, config.levels[0]).to(device).eval()
    computed = Arithmetic.parse(config.precision).apply(base_classifier)
    return Job(config, data, classifier, computed, purifier.network_calls, names)


def header(job: Job, share: Share) -> dict[str, Any]:
    """The first line of a record."""
    config = job.config
    classifier = config.classifier_checkpoint and paths.anchored(config.classifier_checkpoint)
    folders = filter(None, (purifier_folder(config.purifier, config.checkpoint), classifier))
    return {
        "format": FORMAT,
        "identity": job.identity,
        "config": asdict(config),
        "finetuned": [checkpoints.read_json(f / FINETUNED) for f in folders if (f / FINETUNED).is_file()],
        "network_calls": job.network_calls,
        "versions": versions(),
        "hardware": {
            "device": device_name(config.device),
            "processes": share.processes,
            "workers": workers(config.device),
            "threads": 1 if torch.device(config.device).type == "cpu" else torch.get_num_threads(),
        },
    }


def versions() -> dict[str, str]:
    """The versions of what the figures depend on."""
    return {name: version(name) for name in ("cpur", "torch", "diffusers", "numpy", "scipy")}


def device_name(device: str) -> str:
    """What computes, in words."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.device(device).type} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def certify_dataset(
    config: CertifyConfig | MultiscaleConfig, progress: Progress | None = None, share: Share | None = None
) -> Record:
    """Certifies the images of ``config`` that no record holds yet, and returns the record.

    Guarantee: each line certifies its image at error probability alpha, as :func:`cpur.smooth.certification`
    or :func:`cpur.steering.certification` does; the guarantee holds for one image at a time, not for all at once.

    Args:
        config: what to certify.
        progress: wraps the iteration over the lines as they come: ``progress(lines, lines_before, num_images)``.
        share: which images are this process's; None takes all. With a share, the record is a part.

    Raises:
        InputError: bad input; the images certified so far are kept.
    """
    share = share or Share()
    job = prepare(config)
    file = job.file
    if parts(file) and not share.part:
        merge([file for file in (standing(file), *parts(file)) if file.exists()])
    record = Record(parts_folder(file) / f"{share.part}.jsonl" if share.part else file, header(job, share))
    before = lines_so_far(file)
    todo = (index for index in share.indices(config.num_images) if index not in before)
    lines = share.counted(certify_images(job, todo))
    try:
        for line in progress(lines, [*before.values()], config.num_images) if progress else lines:
            record.append(line)
    except InputError:
        record.close()
        raise
    return record


def lines_so_far(file: Path) -> dict[int, dict[str, Any]]:
    """The images that a record and its parts hold, by index; other processes may be writing them."""
    files = [part for part in (standing(file), *parts(file)) if part.exists()]
    return {line["index"]: line for part in files for line in read_lines(part)[1]}


def certify_images(job: Job, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Yields the lines of a record as images are finished.

    On a CPU several workers certify side by side, one thread each: a small network on one thread a batch does more
    work than one on all threads, and its arithmetic does not depend on the number of cores.
    """
    config = job.config
    procedure = job.procedure()

    def tasks() -> Iterator[Task]:
        for index in indices:
            yield Task(index, job.data[index][0].to(config.device), procedure())

    for done in run_tasks(job, tasks()):
        yield row(done.index, job.data[done.index][1], config.sampling_plan, done.result, done.seconds)


def run_tasks(job: Job, tasks: Iterator[Task]) -> Iterator[Done]:
    """Runs tasks at the noise levels of a job."""
    config = job.config

    def sampler() -> Sampler:
        return Sampler(job.base_classifier, job.data.num_classes, config.levels, config.seed, config.batch_size)

    alone = torch.device(config.device).type != "cpu"
    return sampler().run(tasks) if alone else side_by_side(sampler, tasks, workers(config.device))


def workers(device: str) -> int:
    """How many samplers work side by side: on a CPU as many as torch would use threads, elsewhere one."""
    return THREADS if torch.device(device).type == "cpu" else 1


def side_by_side(sampler: Callable[[], Sampler], tasks: Iterator[Task], count: int) -> Iterator[Any]:
    """Runs ``count`` samplers, each in a thread of its own with one torch thread, on tasks that they share."""
    results: queue.SimpleQueue = queue.SimpleQueue()
    lock = threading.Lock()
    samplers = [sampler() for _ in range(count)]

    def next_task() -> Task | None:
        with lock:
            return next(tasks, None)

    def work(own: Sampler) -> None:
        torch.set_num_threads(1)
        try:
            for done in own.run(iter(next_task, None)):
                results.put(done)
            results.put(None)
        except BaseException as error:  # handed to the thread that reads the results
            results.put(error)

    threads = [threading.Thread(target=work, args=(own,), daemon=True) for own in samplers]
    for thread in threads:
        thread.start()
    try:
        while count:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                count -= 1
            else:
                yield result
    finally:
        for own in samplers:
            own.close()
        for thread in threads:
            thread.join()
