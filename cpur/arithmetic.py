"""How networks compute: number format, memory format, compilation. All of it is part of the certified function."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpur.errors import InputError

NUMBERS = ("float32", "tf32", "bfloat16")
OPTIONS = ("channels_last", "compile", "graphs")


@dataclass(frozen=True)
class Arithmetic:
    """One setting, written ``number+option+option``, such as ``bfloat16+channels_last+compile``.

    ``float32`` is IEEE single precision everywhere, also in CUDA's convolutions, which torch would else run in
    TF32; ``tf32`` lets matrix products and convolutions on CUDA round to TF32; ``bfloat16`` is torch's autocast.
    ``channels_last`` is the memory format, ``compile`` is ``torch.compile`` with fixed shapes, and ``graphs``
    compiles with CUDA graphs.
    """

    number: str = "float32"
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Arithmetic":
        """Reads the setting.

        Raises:
            InputError: an unknown part.
        """
        number, *options = text.split("+")
        if number not in NUMBERS or not set(options) <= set(OPTIONS) or len(set(options)) < len(options):
            raise InputError(
                f"precision must be one of {', '.join(NUMBERS)}, with any of +{', +'.join(OPTIONS)} after it; "
                f"got {text!r}"
            )
        return cls(number, tuple(option for option in OPTIONS if option in options))

    def __str__(self) -> str:
        return "+".join((self.number, *self.options))

    def apply(self, module: nn.Module) -> nn.Module:
        """The module as it computes under this setting; its logits are float32."""
        return _Computed(module, self)

    @contextmanager
    def active(self, device: torch.device) -> Iterator[None]:
        """The setting's number format, for the time of the block."""
        with torch.autocast(device.type, torch.bfloat16, enabled=self.number == "bfloat16"):
            if device.type != "cuda":
                yield
                return
            before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
            tf32 = self.number == "tf32"
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(before[0])
                torch.backends.cudnn.allow_tf32 = before[1]


class _Computed(nn.Module):
    def __init__(self, module: nn.Module, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.arithmetic = arithmetic
        last = "channels_last" in arithmetic.options
        self.memory_format = torch.channels_last if last else torch.contiguous_format
        self.module = module.to(memory_format=self.memory_format)
        self.compute = self.module
        if {"compile", "graphs"} & set(arithmetic.options):
            mode = "reduce-overhead" if "graphs" in arithmetic.options else "default"
            self.compute = torch.compile(self.module, dynamic=False, mode=mode)

    def forward(self, x: Float[Tensor, "b c h w"], *sigma: Float[Tensor, "b"]) -> Float[Tensor, "b k"]:
        with self.arithmetic.active(x.device):
            return self.compute(x.contiguous(memory_format=self.memory_format), *sigma).float()
