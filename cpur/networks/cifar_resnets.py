"""Residual networks for images of 32 x 32 pixels: wide ones, and ResNet-110.

The modules have the key names of the usual public PyTorch implementations, so that published weights fit.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpur.errors import InputError
from cpur.state_dicts import shape_of

STAGES = 3
FIRST_WIDTH = 16


class WideBlock(nn.Module):
    r"""Batch normalisation and ReLU before each of two convolutions.

    With a the activated input, :math:`y = s + \mathrm{conv}_2(\mathrm{act}_2(\mathrm{conv}_1(a)))`, where the
    shortcut s is the input itself, or a 1 x 1 convolution of a where the number of channels changes.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = _convolution(channels_in, channels_out, stride)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = _convolution(channels_out, channels_out)
        changes = channels_in != channels_out
        self.convShortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        a = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(a)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(a))))


class WideResNet(nn.Module):
    """WRN-depth-k: three stages of (depth - 4) / 6 blocks, of 16 k, 32 k and 64 k channels.

    Dropout has no tensors and does nothing in evaluation, so it is left out. Source: Zagoruyko & Komodakis (2016).

    Raises:
        InputError: a depth that is not 6 n + 4.
    """

    def __init__(self, depth: int = 28, widen_factor: int = 10, num_classes: int = 10) -> None:
        super().__init__()
        blocks = _blocks(depth, 4)
        widths = [FIRST_WIDTH * widen_factor * 2**stage for stage in range(STAGES)]
        self.conv1 = _convolution(3, FIRST_WIDTH)
        self.block1 = nn.Sequential(OrderedDict(layer=_stage(WideBlock, FIRST_WIDTH, widths[0], blocks, 1)))
        self.block2 = nn.Sequential(OrderedDict(layer=_stage(WideBlock, widths[0], widths[1], blocks, 2)))
        self.block3 = nn.Sequential(OrderedDict(layer=_stage(WideBlock, widths[1], widths[2], blocks, 2)))
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))

    @staticmethod
    def infer_settings(state: Mapping[str, Tensor]) -> dict[str, int]:
        """The arguments that the tensors tell."""
        width = shape_of(state, "block1.layer.0.conv1.weight", 4)[0]
        return {
            "depth": 6 * _count(state, r"block\d\.layer\.(\d+)\.") + 4,
            "widen_factor": width // FIRST_WIDTH,
            "num_classes": shape_of(state, "fc.weight", 2)[0],
        }


class BasicBlock(nn.Module):
    """Two convolutions with batch normalisation after each; the sum with the shortcut is activated."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = _convolution(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class CifarResNet(nn.Module):
    """ResNet-depth: three stages of (depth - 2) / 6 basic blocks, of 16, 32 and 64 channels.

    Where the size changes the shortcut is a 1 x 1 convolution. Source: He et al. (2016), section 4.2.

    Raises:
        InputError: a depth that is not 6 n + 2.
    """

    def __init__(self, depth: int = 110, num_classes: int = 10) -> None:
        super().__init__()
        blocks = _blocks(depth, 2)
        widths = [FIRST_WIDTH * 2**stage for stage in range(STAGES)]
        self.conv1 = _convolution(3, FIRST_WIDTH)
        self.bn1 = nn.BatchNorm2d(FIRST_WIDTH)
        self.layer1 = _stage(BasicBlock, FIRST_WIDTH, widths[0], blocks, 1)
        self.layer2 = _stage(BasicBlock, widths[0], widths[1], blocks, 2)
        self.layer3 = _stage(BasicBlock, widths[1], widths[2], blocks, 2)
        self.fc = nn.Linear(widths[2], num_classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))

    @staticmethod
    def infer_settings(state: Mapping[str, Tensor]) -> dict[str, int]:
        """The arguments that the tensors tell."""
        return {
            "depth": 6 * _count(state, r"layer\d\.(\d+)\.") + 2,
            "num_classes": shape_of(state, "fc.weight", 2)[0],
        }


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def _stage(block: type[nn.Module], channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks in a row, of which the first one strides."""
    rest = (block(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(channels_in, channels_out, stride), *rest)


def _blocks(depth: int, outside: int) -> int:
    blocks, rest = divmod(depth - outside, 2 * STAGES)
    if rest or blocks < 1:
        raise InputError(f"depth must be 6 n + {outside} with n of 1 or more; got {depth}")
    return blocks


def _count(state: Mapping[str, Tensor], block: str) -> int:
    """The most blocks of any stage: one that lacks some is named when the tensors are compared."""
    found = [int(match[1]) for match in (re.match(block, key) for key in state) if match]
    if not found:
        raise InputError("the weights have no residual blocks: give the state dict of the public checkpoint")
    return 1 + max(found)


def settings_agree(found: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    """Raises InputError where the settings that tensors tell are not those wanted."""
    wrong = [f"{name} {found[name]} instead of {value}" for name, value in wanted.items() if found[name] != value]
    if wrong:
        raise InputError(f"the weights are those of another network, of {' and '.join(wrong)}")


def on_meta(network: type[nn.Module], settings: Mapping[str, int]) -> nn.Module:
    """The network without memory, for its names and shapes."""
    with torch.device("meta"):
        return network(**settings)
