r"""Noise on a lattice, keyed so that every draw has one name.

Image and noise are integers on one lattice of spacing :math:`h = 1/65280`, which holds 8-bit pixels
(:math:`65280 = 255 \cdot 256`) and the digits' sixteenths. With :math:`k = \mathrm{round}(x/h)` and
:math:`m = \mathrm{round}(\sigma e/h)`, :math:`e` standard normal in float64, a network sees
:math:`\mathrm{float32}(k + m)/65280`: a function of the integer sum alone, so that no rounding of a
floating-point addition can tell the image from the noise (Voracek & Hein 2023; Jin et al. 2022).
"""

import hashlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

LATTICE = 65_280  # points per unit: 255 * 256
BLOCK = 64  # draws per key; part of the noise, so a change is a new NOISE_VERSION
NOISE_VERSION = 1


@dataclass(frozen=True)
class NoiseKey:
    """The name of a noise stream: equal keys give equal noise, whatever the batch size or the order."""

    seed: int
    purpose: str  # "selection", "estimation" and "prediction" never share a draw
    image: int  # index of the image in its data set
    level: int = 0  # index of the noise level of a cascade

    def philox(self, block: int) -> np.random.Generator:
        """The CPU stream of one block: Philox4x64, keyed by seed, purpose and level, counted by image and block.

        The low two counter words belong to the stream, so that no two keys ever share a counter.
        """
        # uint64 arrays: a tuple with a word of 2**63 or more would pass through float64 and lose its last digits.
        key = np.array([self.seed, self._purpose() << 32 | self.level], dtype=np.uint64)
        counter = np.array([0, 0, block, self.image], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def torch_seed(self, block: int) -> int:
        """The seed of one block on CUDA, a hash of the same words."""
        words = (self.seed, self._purpose(), self.image, self.level, block)
        digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def _purpose(self) -> int:
        return int.from_bytes(hashlib.blake2b(self.purpose.encode(), digest_size=4).digest(), "little")


def to_lattice(x: Float[Tensor, "..."]) -> Tensor:
    """Rounds pixels to the lattice: :math:`k = \\mathrm{round}(x/h)`, int64."""
    wide = x.cpu() if x.device.type == "mps" else x  # MPS has no float64
    return (wide.double() * LATTICE).round().long().to(x.device)


def from_lattice(k: Tensor) -> Float[Tensor, "..."]:
    """The float32 pixels of lattice points; exact integers up to 2**24 before the one division."""
    return k.float() / LATTICE


def lattice_noise(key: NoiseKey, blocks: range, shape: tuple[int, ...], sigma: float, device: torch.device) -> Tensor:
    """Some blocks of :math:`m = \\mathrm{round}(\\sigma e/h)`, int64, of shape ``(len(blocks) * BLOCK, *shape)``.

    NumPy's Philox on the CPU (and for MPS, which has no float64), torch's generator on CUDA.
    """
    if device.type == "cuda":
        e = torch.empty((len(blocks), BLOCK, *shape), device=device, dtype=torch.float64)
        for part, block in zip(e, blocks, strict=True):
            part.normal_(generator=torch.Generator(device).manual_seed(key.torch_seed(block)))
        return e.mul_(sigma * LATTICE).round_().long().flatten(0, 1)
    e = np.empty((len(blocks), BLOCK, *shape))
    for part, block in zip(e, blocks, strict=True):
        key.philox(block).standard_normal(out=part)
    e *= sigma * LATTICE
    return torch.from_numpy(np.rint(e, out=e).astype(np.int64)).flatten(0, 1).to(device)


class NoiseStream:
    """The draws of one key, in order: draw i depends on the key and on i alone, however many are taken at once."""

    def __init__(self, key: NoiseKey, shape: tuple[int, ...], sigma: float, device: torch.device) -> None:
        self._blocks = partial(lattice_noise, key, shape=shape, sigma=sigma, device=device)
        self._drawn = 0
        self._ready = torch.empty((0, *shape), dtype=torch.int64, device=device)

    def take(self, count: int) -> Tensor:
        """The next ``count`` draws, int64 lattice points of shape ``(count, *shape)``."""
        missing = -(-max(0, count - len(self._ready)) // BLOCK)
        if missing:
            drawn = self._blocks(blocks=range(self._drawn, self._drawn + missing))
            self._ready = torch.cat([self._ready, drawn])
            self._drawn += missing
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken


def noisy_images(x: Float[Tensor, "c h w"], sigma: float, n: int, key: NoiseKey) -> Float[Tensor, "n c h w"]:
    """The first ``n`` noisy copies of ``x`` under a key."""
    return from_lattice(to_lattice(x) + NoiseStream(key, tuple(x.shape), sigma, x.device).take(n))
