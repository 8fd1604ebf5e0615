"""Who certifies which image: one process alone, the ranks of torchrun, or the tasks of a cluster's array.

No process waits for another. Each appends to a record of its own, a *part*; :mod:`cpur.merge` joins them.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpur.errors import InputError


@dataclass(frozen=True)
class Share:
    """The images of one process.

    Args:
        shard: number of this task among ``shards``, from 0; the images are cut by a fixed permutation.
        shards: number of tasks that share the work without speaking to each other.
        rank: number of this process among those that torchrun started; None without torchrun.
        store: the key-value store that torchrun runs: a rank takes the next image from its counter.

    Raises:
        InputError: a shard that is not one of the shards.
    """

    shard: int = 0
    shards: int = 1
    rank: int | None = None
    store: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.shard < self.shards:
            raise InputError(f"shard must lie in 0 ... {self.shards - 1} for {self.shards} shards; got {self.shard}")

    @classmethod
    def from_environment(cls, shard: int = 0, shards: int = 1) -> "Share":
        """The share of this process: a rank's where torchrun started it."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls(shard, shards)
        from torch.distributed import PrefixStore, TCPStore

        rank = int(os.environ["RANK"])
        hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "False"
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=hosts, wait_for_workers=False)
        # Ranks that torchrun starts again count from the beginning; what is in a record they pass over.
        attempt = f"cpur/{shard}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        return cls(shard, shards, rank, PrefixStore(attempt, store))

    @property
    def local_rank(self) -> int:
        """Number of this rank on its machine, and of its GPU."""
        return int(os.environ["LOCAL_RANK"])

    @property
    def part(self) -> str | None:
        """The name of this process's part; None where it is alone."""
        names = [f"shard{self.shard}"] * (self.shards > 1) + [f"rank{self.rank}"] * (self.rank is not None)
        return "-".join(names) or None

    @property
    def processes(self) -> int:
        """Processes that work on this run."""
        return self.shards * int(os.environ.get("WORLD_SIZE", "1") if self.rank is not None else "1")

    def indices(self, num_images: int) -> Iterator[int]:
        """The images to certify, in order; with a store, each rank takes one when it has room."""
        order = range(num_images)
        if self.shards > 1:
            order = np.random.default_rng(0).permutation(num_images)[self.shard :: self.shards].tolist()
        if self.store is None:
            yield from order
            return
        while (taken := self.store.add("next", 1)) <= len(order):
            yield order[taken - 1]

    def counted(self, lines: Iterable[dict]) -> Iterator[dict]:
        """Passes the lines on, and counts them where other ranks can read it."""
        for line in lines:
            yield line
            if self.store is not None:
                self.store.add("finished", 1)

    def finished(self) -> int | None:
        """Images that all ranks of this run have finished; None without a store."""
        return None if self.store is None else self.store.add("finished", 0)
