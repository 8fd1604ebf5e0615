"""What the keys and shapes of an OpenAI U-Net's state dict tell of the network.

``input_blocks`` are numbered through: the first convolution, then per level its residual blocks and the change of
resolution, but for the last level. ``output_blocks`` are one more a level, and hold that change in their last one.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from cpur.errors import InputError
from cpur.state_dicts import shape_of


def architecture(state: Mapping[str, Tensor]) -> dict:
    """The settings that the tensors tell: all but the heads and their order, and a resampling that is not used.

    Raises:
        InputError: a key that every such network has is missing or of another rank, or the blocks do not come in
            levels of one length.
    """
    model_channels = shape_of(state, "time_embed.0.weight", 2)[1]
    in_channels = shape_of(state, "input_blocks.0.0.weight", 4)[1]
    out_channels = shape_of(state, "out.2.weight", 4)[0]
    inputs, outputs = _numbers(state, r"input_blocks\.(\d+)\."), _numbers(state, r"output_blocks\.(\d+)\.")
    by_block = len(_numbers(state, r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight"))
    by_conv = len(_numbers(state, r"output_blocks\.(\d+)\.[12]\.conv\.weight"))
    levels = 1 + (by_block or by_conv or len(outputs - inputs))  # pooling has no weights, but takes a number
    length = len(outputs) // levels
    if len(outputs) % levels or length < 2:
        raise InputError(
            f"the weights are not those of an OpenAI U-Net: {len(outputs)} output_blocks do not make {levels} levels "
            "of two or more"
        )
    firsts = [f"input_blocks.{1 + level * length}" for level in range(levels)]
    widths = [shape_of(state, f"{first}.0.in_layers.2.weight", 4)[0] for first in firsts]
    emb_channels = shape_of(state, f"{firsts[0]}.0.emb_layers.1.weight", 2)[0]
    told = {
        "in_channels": in_channels,
        "model_channels": model_channels,
        "out_channels": out_channels,
        "num_res_blocks": length - 1,
        "attention_resolutions": [2**i for i, first in enumerate(firsts) if f"{first}.1.qkv.weight" in state],
        "channel_mult": [_ratio(width, model_channels) for width in widths],
        "num_classes": len(state["label_emb.weight"]) if "label_emb.weight" in state else None,
        "use_scale_shift_norm": emb_channels == 2 * widths[0],
    }
    if by_block:
        return told | {"resblock_updown": True}
    return told | ({"resblock_updown": False, "conv_resample": by_conv > 0} if levels > 1 else {})


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    """The numbers in the group of the pattern, of the keys that begin with it."""
    return {int(match[1]) for match in map(re.compile(pattern).match, state) if match}


def _ratio(width: int, base: int) -> int | float:
    return width // base if width % base == 0 else width / base
