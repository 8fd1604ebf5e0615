"""Samples the base classifier on noisy copies of many images, packed into batches of one shape.

What is wanted of an image is a *procedure*: a generator that yields a :class:`Draw`, receives the class counts,
and returns a result. The sampler fills each batch with the draws of several images, so that small requests cost
no padding; the counts stay on the device, and are read when a request is whole, never once a batch.
"""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cpur.errors import InputError
from cpur.noise import NoiseKey, NoiseStream, from_lattice, to_lattice

IN_FLIGHT = 64  # images that a batch may be made of, and rows of the table of counts


@dataclass(frozen=True)
class Draw:
    """A request: the class counts of the first ``n`` samples of a purpose at a noise level."""

    purpose: str
    n: int
    level: int = 0  # index of the noise level


Procedure = Generator[Draw, np.ndarray, Any]


def once(draw: Draw) -> Procedure:
    """The procedure that makes one draw and returns its counts."""
    return (yield draw)


@dataclass(frozen=True)
class Task:
    """An image and the procedure that asks for its samples; ``index`` keys the noise."""

    index: int
    image: Float[Tensor, "c h w"]
    procedure: Procedure


@dataclass(frozen=True)
class Done:
    """A finished task: what its procedure returned, and the time of its share of the batches it was in."""

    index: int
    result: Any
    seconds: float


class _Stream:
    """The samples of one purpose and level of an image: its noise, how many were taken, and the counts read so far."""

    def __init__(self, noise: NoiseStream) -> None:
        self.noise = noise
        self.taken = 0
        self.counts: np.ndarray | int = 0


class _Flight:
    """A task on its way: the draw it waits for, and how much of it has been sent to the device."""

    def __init__(self, task: Task, sampler: "Sampler", counts: Int64[Tensor, "k"]) -> None:
        self.task = task
        self.counts = counts  # its row of the table; the last entry counts logits that are not finite
        self.pixels = to_lattice(task.image)
        self._sampler = sampler
        self._draw = Draw("", 0)
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._start = sampler.clock()
        self._rows = 0
        self.done: Done | None = None
        self.ask(None)

    @property
    def level(self) -> int:
        """The noise level of its draw."""
        return self._draw.level

    @property
    def pending(self) -> int:
        """Samples that its draw still lacks."""
        return self._draw.n - self._stream.taken

    @property
    def _stream(self) -> _Stream:
        return self._streams[self._draw.purpose, self._draw.level]

    def take(self, count: int) -> Int64[Tensor, "b c h w"]:
        """The next ``count`` noisy copies, as lattice points."""
        self._stream.taken += count
        self._rows += count
        return self.pixels + self._stream.noise.take(count)

    def answer(self, counts: np.ndarray) -> None:
        """Adds the counts that were read from its row, and gives the procedure the sum."""
        self._stream.counts = self._stream.counts + counts
        self.ask(self._stream.counts)

    def ask(self, counts: np.ndarray | None) -> None:
        """Gives the procedure its answer and takes its next draw, or its result."""
        try:
            self._draw = draw = self.task.procedure.send(counts)
        except StopIteration as stop:
            seconds, rows = (now - then for now, then in zip(self._sampler.clock(), self._start, strict=True))
            self.done = Done(self.task.index, stop.value, seconds * self._rows / max(rows, 1))
            return
        self.counts.zero_()
        if (draw.purpose, draw.level) not in self._streams:
            sampler, image = self._sampler, self.task.image
            key = NoiseKey(sampler.seed, draw.purpose, self.task.index, draw.level)
            noise = NoiseStream(key, tuple(image.shape), sampler.sigmas[draw.level], image.device)
            self._streams[draw.purpose, draw.level] = _Stream(noise)


class Sampler:
    """Runs procedures on images, many images to a batch.

    Args:
        base_classifier: maps images ``b c h w`` in [0, 1] plus noise to logits ``b num_classes``; where there are
            several noise levels, it is also given that of every image, a tensor ``b`` on the CPU.
        num_classes: number of classes.
        sigmas: standard deviations of the noise, one a level.
        seed: key of the noise.
        batch_size: the one batch shape that the base classifier sees; a part-filled batch is padded.
    """

    def __init__(self, base_classifier, num_classes: int, sigmas: Sequence[float], seed: int, batch_size: int) -> None:
        self.base_classifier = base_classifier
        self.num_classes = num_classes
        self.sigmas = tuple(sigmas)
        self.seed = seed
        self.batch_size = batch_size
        self._rows = 0
        self._started = time.perf_counter()
        self._closed = False

    def close(self) -> None:
        """Ends :meth:`run` after the present batch; what is unfinished is dropped. Any thread may call it."""
        self._closed = True

    def clock(self) -> tuple[float, int]:
        """Seconds and samples since this sampler was made."""
        return time.perf_counter() - self._started, self._rows

    @torch.inference_mode()
    def run(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """Yields each task as it is finished; the oldest have precedence, and a new one starts when there is room.

        The counts of a task depend on its noise key alone, as long as f treats a row alike wherever it stands.

        Raises:
            InputError: the base classifier fails, or returns logits of the wrong shape or that are not finite.
        """
        if isinstance(self.base_classifier, torch.nn.Module):
            self.base_classifier.eval()
        tasks = iter(tasks)
        table = free = None
        flights: list[_Flight] = []
        reading: deque[tuple[Tensor, Any, list[_Flight]]] = deque()
        while not self._closed:
            while reading and _arrived(reading[0]):
                yield from self._answer(reading, flights, free)
            runs, room = [], self.batch_size
            while room:
                for flight in flights:
                    if (count := min(flight.pending, room)) > 0:
                        runs.append((flight, flight.take(count)))
                        room -= count
                if not room:
                    break
                if (free is None or free) and (task := next(tasks, None)) is not None:
                    if table is None:
                        shape = (IN_FLIGHT, self.num_classes + 1)
                        table = torch.zeros(shape, dtype=torch.int64, device=task.image.device)
                        free = list(table)
                    flights.append(_Flight(task, self, free.pop()))
                elif reading:
                    yield from self._answer(reading, flights, free)
                else:
                    break
            if not runs:
                return
            self._count(runs)
            whole = [flight for flight, _ in runs if not flight.pending]
            if whole:
                reading.append(_read([flight.counts for flight in whole], whole))

    def _count(self, runs: list[tuple[_Flight, Tensor]]) -> None:
        """Evaluates one batch and adds its votes to the counts, without a word from the device."""
        parts = [part for _, part in runs]
        sizes = [len(part) for part in parts]
        last, filled = parts[-1][-1:], sum(sizes)
        padding = last.expand(self.batch_size - filled, *last.shape[1:])
        logits = self._logits(from_lattice(torch.cat([*parts, padding])), runs)
        self._rows += filled
        votes = torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), self.num_classes)[:filled]
        for (flight, _), own in zip(runs, votes.split(sizes), strict=True):
            flight.counts.scatter_add_(0, own, torch.ones_like(own))

    def _logits(self, batch: Float[Tensor, "b c h w"], runs: list[tuple[_Flight, Tensor]]) -> Float[Tensor, "b k"]:
        images = ", ".join(dict.fromkeys(str(flight.task.index) for flight, _ in runs))
        try:
            logits = self.base_classifier(batch, *self._levels(runs))
        except torch.OutOfMemoryError as error:
            raise InputError(f"a batch of {self.batch_size} does not fit into memory: lower batch_size") from error
        except Exception as error:  # whatever a foreign base classifier raises
            reason = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            raise InputError(f"the base classifier failed on noisy copies of image {images}: {reason}") from error
        shape = tuple(getattr(logits, "shape", ()))
        if shape != (self.batch_size, self.num_classes):
            raise InputError(
                f"the base classifier returned shape {shape}; expected {(self.batch_size, self.num_classes)}: "
                "check num_classes"
            )
        return logits

    def _levels(self, runs: list[tuple[_Flight, Tensor]]) -> tuple[Tensor, ...]:
        """The noise level of every row of a batch, where there is more than one."""
        if len(self.sigmas) == 1:
            return ()
        sigmas = [self.sigmas[flight.level] for flight, part in runs for _ in range(len(part))]
        return (torch.tensor(sigmas + sigmas[-1:] * (self.batch_size - len(sigmas))),)

    def _answer(self, reading: deque, flights: list[_Flight], free: list[Tensor]) -> Iterator[Done]:
        """Waits for the oldest counts and gives them to their procedures."""
        counts, event, whole = reading.popleft()
        if event is not None:
            event.synchronize()
        for flight, row in zip(whole, counts.numpy(), strict=True):
            if row[-1]:
                raise InputError(
                    f"the base classifier returned logits that are not finite on image {flight.task.index} at sigma "
                    f"{self.sigmas[flight.level]}: check the checkpoint and the precision"
                )
            flight.answer(row[:-1])
            if flight.done:
                flights.remove(flight)
                free.append(flight.counts)
                yield flight.done


def _read(rows: list[Tensor], whole: list[_Flight]) -> tuple[Tensor, Any, list[_Flight]]:
    """Starts the copy of counts to the host; on CUDA it does not wait."""
    counts = torch.stack(rows)
    if counts.device.type != "cuda":
        return counts.cpu(), None, whole
    host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True).copy_(counts, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event, whole


def _arrived(read: tuple[Tensor, Any, list[_Flight]]) -> bool:
    return read[1] is None or read[1].query()
