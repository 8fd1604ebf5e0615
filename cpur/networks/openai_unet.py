r"""The U-Net of improved-diffusion, guided-diffusion and OpenAI's consistency models.

One family: what the three differ in is settings. The tensors tell all of it but the number of attention heads and,
for 1-D projections, the order of their rows.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpur.errors import InputError
from cpur.networks.openai_blocks import (
    GROUPS,
    AttentionBlock,
    ResBlock,
    Stage,
    double,
    double_by_conv,
    halve,
    halve_by_conv,
    timestep_embedding,
)
from cpur.networks.openai_keys import architecture
from cpur.networks.settings import plain_settings
from cpur.state_dicts import check_state


class OpenAIUNet(nn.Module):
    r"""The raw network: pixels in [-1, 1], and the time argument as it is embedded.

    Args:
        model_channels: the base width; level l has ``channel_mult[l] * model_channels`` channels.
        attention_resolutions: attention stands where the image is smaller than the input by one of these factors.
        num_classes: None for an unconditional network.
        num_heads: attention heads; read where ``num_head_channels`` is None.
        num_head_channels: channels of a head, which gives wider levels more heads.
        num_heads_upsample: heads of the upward path; None for as many as elsewhere.
        use_scale_shift_norm: the embedding scales and shifts a normalised image, instead of being added before.
        conv_resample: resolution is changed by convolutions, instead of by pooling and repeating.
        resblock_updown: it is changed inside residual blocks, and ``conv_resample`` is not read.
        three_first: the rows of qkv are ordered (three, head, d), instead of (head, three, d).
        projections_2d: qkv and proj_out hold 1 x 1 kernels of images, instead of kernels of sequences.

    Raises:
        InputError: no number of heads, heads that do not divide the channels, or channels that the groups of the
            normalisation do not.

    Source: Nichol & Dhariwal (2021); Dhariwal & Nichol (2021), section 3; Song et al. (2023), appendix C.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        channel_mult: Sequence[int | float],
        num_classes: int | None = None,
        num_heads: int | None = None,
        num_head_channels: int | None = None,
        num_heads_upsample: int | None = None,
        use_scale_shift_norm: bool = False,
        conv_resample: bool = True,
        resblock_updown: bool = False,
        three_first: bool = False,
        projections_2d: bool = False,
    ) -> None:
        arguments = locals()
        super().__init__()
        self.settings = plain_settings(arguments) | {"attention_resolutions": sorted(attention_resolutions)}
        if not num_heads and not num_head_channels:
            raise InputError("the tensors do not tell the number of heads: give num_heads or num_head_channels")
        widths = [round(mult * model_channels) for mult in channel_mult]
        if any(width % GROUPS for width in widths):
            raise InputError(f"the channels of every level must be multiples of {GROUPS}; got {widths}")
        embedding_channels = 4 * model_channels
        residual = partial(ResBlock, embedding_channels=embedding_channels, scale_shift=use_scale_shift_norm)

        def attention(channels: int, heads: int | None) -> AttentionBlock:
            quotient, remainder = divmod(channels, num_head_channels or heads)
            if remainder:
                given = {"num_heads": heads, "num_head_channels": num_head_channels}
                raise InputError(f"attention heads must divide {channels} channels: give this network's; got {given}")
            return AttentionBlock(channels, quotient if num_head_channels else heads, three_first, projections_2d)

        def blocks(width: int, out: int, level: int, heads: int | None) -> list[nn.Module]:
            attends = 2**level in attention_resolutions
            return [residual(width, out), *([attention(out, heads)] if attends else [])]

        def resampled(width: int, plain: Callable[[], nn.Module], by_conv: Callable[[int], nn.Module]) -> nn.Module:
            if resblock_updown:
                return residual(width, width, resample=plain())
            return by_conv(width) if conv_resample else plain()

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, embedding_channels),
            nn.SiLU(),
            nn.Linear(embedding_channels, embedding_channels),
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, embedding_channels)
        width = widths[0]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channels, width, 3, padding=1))])
        skips = [width]
        for level, out in enumerate(widths):
            if level > 0:
                self.input_blocks.append(Stage(resampled(width, halve, halve_by_conv)))
                skips.append(width)
            for _ in range(num_res_blocks):
                self.input_blocks.append(Stage(*blocks(width, out, level, num_heads)))
                width = out
                skips.append(width)
        self.middle_block = Stage(residual(width, width), attention(width, num_heads), residual(width, width))
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for block in range(num_res_blocks + 1):
                stage = blocks(width + skips.pop(), out, level, num_heads_upsample or num_heads)
                width = out
                if level > 0 and block == num_res_blocks:
                    stage.append(resampled(width, double, double_by_conv))
                self.output_blocks.append(Stage(*stage))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], labels: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        """The network's output; labels are class indices.

        Raises:
            InputError: labels are given to an unconditional network or not to a class-conditional one, or the image
                has other channels, or sides that cannot be halved as often as the network does.
        """
        classes, channels = self.settings["num_classes"], self.settings["in_channels"]
        if labels is None and classes == 1:  # the learned token of an unconditional model
            labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        if labels is None and classes:
            raise InputError(
                f"the network is class-conditional ({classes} classes) and purification knows no class: fine-tune it, "
                "which turns it unconditional"
            )
        if labels is not None and classes is None:
            raise InputError("labels are given, and the network knows no classes")
        factor = 2 ** (len(self.settings["channel_mult"]) - 1)
        if x.shape[1] != channels or x.shape[2] % factor or x.shape[3] % factor:
            raise InputError(
                f"the network takes images of {channels} channels and sides that are multiples of {factor}; "
                f"got {list(x.shape[1:])}"
            )
        embedding = self.time_embed(timestep_embedding(t, self.settings["model_channels"]).to(x.dtype))
        if labels is not None:
            embedding = embedding + self.label_emb(labels)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, embedding)
            skips.append(x)
        x = self.middle_block(x, embedding)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out(x)

    @property
    def num_classes(self) -> int | None:
        """Of a class-conditional network."""
        return self.settings["num_classes"]

    def unconditional(self) -> "OpenAIUNet":
        """A copy that knows one class, a token to be learned: at first the mean of the classes' embeddings."""
        one = copy.deepcopy(self)
        token = self.label_emb.weight.detach().mean(0, keepdim=True)
        one.label_emb = nn.Embedding.from_pretrained(token, freeze=False)
        one.settings["num_classes"] = 1
        return one


def infer_settings(state: Mapping[str, Tensor], arguments: Mapping[str, Any] | None = None) -> dict:
    """The settings of :class:`OpenAIUNet` that a public checkpoint was made with.

    Args:
        state: the public state dict.
        arguments: arguments of the public constructor, by its names. ``num_heads`` or ``num_head_channels`` is
            needed; ``num_heads_upsample`` and ``use_new_attention_order`` are read; what the tensors tell is compared;
            other names are ignored. The consistency models, told by their 2-D projections, are always three first.

    Raises:
        InputError: a needed argument is missing, one contradicts the tensors, or keys or shapes are those of another
            network.
    """
    arguments, told = dict(arguments or {}), architecture(state)
    if arguments.get("dims", 2) != 2:
        raise InputError(f"dims must be 2, for images; got {arguments['dims']!r}")
    for name in (name for name in told if name in arguments):
        given = arguments[name]
        if name == "attention_resolutions" and isinstance(given, list | tuple | set):
            # One that the network never reaches is no contradiction.
            given = [2**level for level in range(len(told["channel_mult"])) if 2**level in given]
        given = list(given) if isinstance(given, tuple) else given
        if given != told[name]:
            raise InputError(
                f"{name} is {arguments[name]!r} in the arguments, but {told[name]!r} by the tensors: give the "
                "arguments that this checkpoint was made with"
            )
    heads = {
        name: None if arguments.get(name) == -1 else arguments.get(name)  # -1 is the public word for unset
        for name in ("num_heads", "num_head_channels", "num_heads_upsample")
    }
    for name, value in heads.items():
        if value is not None and not (isinstance(value, int) and value > 0):
            raise InputError(f"{name} must be a positive whole number, or -1 for unset; got {value!r}")
    qkv = "middle_block.1.qkv.weight"
    projections_2d = qkv in state and state[qkv].ndim == 4
    three_first = projections_2d or bool(arguments.get("use_new_attention_order", False))
    with torch.device("meta"):
        network = OpenAIUNet(**told, **heads, three_first=three_first, projections_2d=projections_2d)
    check_state(state, network.state_dict())
    return network.settings
