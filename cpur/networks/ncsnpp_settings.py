"""The settings of an NCSN++, and what the shapes of its parameters tell of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

from cpur.errors import InputError, choose

EMBEDDINGS = ("fourier", "positional")
PYRAMIDS = ("residual", "input_skip", "none")
NONLINEARITIES = ("swish", "relu", "elu", "lrelu")
ONLY = {  # switches of the public class that stand still here
    "resblock_type": "biggan",
    "progressive": "none",
    "normalization": "GroupNorm",
    "double_heads": False,
    "scale_by_sigma": False,
    "conv_size": 3,
}


@dataclass(frozen=True)
class NCSNppSettings:
    """The arguments of :class:`cpur.networks.ncsnpp.NCSNpp`, by their public names.

    Attributes:
        nf: channels of the first convolution.
        ch_mult: channels of each level, in multiples of ``nf``.
        num_res_blocks: residual blocks of a level of the encoder; the decoder has one more.
        attn_resolutions: heights at which attention follows the blocks; the middle always has it.
        image_size: height and width of the images, which say at what level a resolution is.
        num_channels: channels of the images.
        embedding_type: of the time argument: ``fourier``, or ``positional`` as in DDPM.
        conditional: whether the network heeds the time.
        fir: whether resampling is filtered, with the taps ``fir_kernel``.
        fir_kernel: the taps.
        progressive_input: what smaller and smaller copies of the input do: they become features (``residual``), are
            added to the features (``input_skip``), or there are ``none``.
        skip_rescale: whether sums of two branches are divided by the root of 2.
        nonlinearity: ``swish``, ``relu``, ``elu`` or ``lrelu``.

    Raises:
        InputError: a value that no such network has.
    """

    nf: int
    ch_mult: Sequence[int]
    num_res_blocks: int
    attn_resolutions: Sequence[int]
    image_size: int = 32
    num_channels: int = 3
    embedding_type: str = "fourier"
    conditional: bool = True
    fir: bool = True
    fir_kernel: Sequence[int | float] = (1, 3, 3, 1)
    progressive_input: str = "residual"
    skip_rescale: bool = True
    nonlinearity: str = "swish"

    def __post_init__(self) -> None:
        for field in fields(self):  # lists, as JSON has them
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        choose("embedding_type", self.embedding_type, EMBEDDINGS)
        choose("progressive_input", self.progressive_input, PYRAMIDS)
        choose("nonlinearity", self.nonlinearity, NONLINEARITIES)
        for name in ("nf", "num_res_blocks", "image_size", "num_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more; got {getattr(self, name)}")
        if not self.ch_mult or min(self.ch_mult) < 1 or self.image_size % 2 ** (len(self.ch_mult) - 1):
            raise InputError(f"image_size {self.image_size} cannot be halved for each of the ch_mult {self.ch_mult}")

    @property
    def attended(self) -> list[bool]:
        """Whether a level has attention, the finest first."""
        return [self.image_size >> level in self.attn_resolutions for level in range(len(self.ch_mult))]


def settings_of(shapes: Mapping[str, tuple[int, ...]], arguments: Mapping[str, Any]) -> NCSNppSettings:
    """The settings by the shapes of the parameters in flax's tree, and by ``arguments`` where shapes do not tell.

    Raises:
        InputError: as :func:`cpur.networks.ncsnpp.infer_settings`, but for a shape that tells no setting.
    """
    given = {name: _plain(value) for name, value in arguments.items()}
    for name, value in ONLY.items():
        if given.get(name, value) != value:
            raise InputError(f"{name} must be {value!r}, the one kind of NCSN++ here; got {given[name]!r}")
    found = _told_by_shapes(shapes)
    for name, value in found.items():
        if given.get(name, value) != value:
            raise InputError(f"{name} is {given[name]!r} in the arguments, but {value!r} by the parameters")
    names = {field.name for field in fields(NCSNppSettings)}
    known = {name: value for name, value in given.items() if name in names} | found
    return NCSNppSettings(**known | {"attn_resolutions": _attended(shapes, known)})


def _told_by_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """All settings that names and shapes tell by themselves."""
    block = "ResnetBlockBigGANpp"
    kernels = _numbered(shapes, block, "Conv_0/kernel", 4)
    first = shapes.get("Conv_0/kernel", ())
    if not kernels or len(first) != 4 or any(kernel[3] % first[3] for kernel in kernels):
        raise InputError(
            "the parameters are not those of an NCSN++ with BigGAN blocks: each ResnetBlockBigGANpp has the channels "
            "of Conv_0, or a multiple"
        )
    num_channels, nf = first[2:]
    # Only blocks that resample have a shortcut between equal widths: one a level on either side, but for one level.
    resampling = [k for k, (_, _, c, out) in enumerate(kernels) if c == out and f"{block}_{k}/Conv_2/kernel" in shapes]
    levels = len(resampling) // 2 + 1
    num_res_blocks = (len(kernels) // levels - 3) // 2
    if num_res_blocks < 1 or len(kernels) != levels * (2 * num_res_blocks + 3):
        raise InputError(
            "the parameters do not fit an NCSN++: it has five, seven or more ResnetBlockBigGANpp for each level; got "
            f"{len(kernels)} for {levels} levels"
        )
    found = {
        "nf": nf,
        "num_channels": num_channels,
        "num_res_blocks": num_res_blocks,
        "ch_mult": [kernel[3] // nf for kernel in kernels[:: num_res_blocks + 1][:levels]],
        "embedding_type": "fourier" if "GaussianFourierProjection_0/W" in shapes else "positional",
        "conditional": "Dense_0/kernel" in shapes,
    }
    if levels > 1:
        fused, plain = (f"Downsample_0/{name}" in shapes for name in ("Conv2d_0/weight", "Conv_0/kernel"))
        skip = "Combine_0/Conv_0/kernel" in shapes
        found["progressive_input"] = "residual" if fused or plain else "input_skip" if skip else "none"
        if fused or plain:
            found["fir"] = fused
    return found


def _attended(shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, Any]) -> list[int]:
    """The resolutions of attention: as given where the widths of the attention blocks agree, or the only ones."""
    blocks, levels = known["num_res_blocks"], range(len(known["ch_mult"]))
    multiples = [shape[0] / known["nf"] for shape in _numbered(shapes, "AttnBlockpp", "NIN_0/W", 2)]

    def agree(chosen: tuple[int, ...]) -> bool:
        places = *(i for i in chosen for _ in range(blocks)), levels[-1], *reversed(chosen)
        return [known["ch_mult"][i] for i in places] == multiples

    size = known.get("image_size", NCSNppSettings.image_size)
    every = [chosen for n in range(len(levels) + 1) for chosen in combinations(levels, n) if agree(chosen)]
    options = [[size >> i for i in chosen] for chosen in every]
    if not options:
        raise InputError(f"the parameters do not fit an NCSN++: no levels have its {len(multiples)} AttnBlockpp")
    fit = " or ".join(map(str, options))
    if "attn_resolutions" in known:
        given = {size >> i for i in levels}.intersection(known["attn_resolutions"])
        if given not in map(set, options):
            raise InputError(
                f"attn_resolutions is {known['attn_resolutions']} in the arguments, but {fit} by the parameters, for "
                f"an image_size of {size}"
            )
        return known["attn_resolutions"]
    if len(options) > 1:
        raise InputError(
            f"attn_resolutions is needed, since the parameters fit {fit} of an image_size of {size}: take it from the "
            "model's configuration"
        )
    return options[0]


def _numbered(shapes: Mapping[str, tuple[int, ...]], module: str, parameter: str, axes: int) -> list[tuple[int, ...]]:
    """The shapes of a parameter of all modules of one class, which flax numbers from 0."""
    modules = {path.split("/")[0] for path in shapes if path.startswith(f"{module}_")}
    paths = [f"{module}_{k}/{parameter}" for k in range(len(modules))]
    for path in paths:
        if len(shapes.get(path, ())) != axes:
            raise InputError(f"the parameters do not fit an NCSN++: {path}, of {axes} axes, is missing")
    return [shapes[path] for path in paths]


def _plain(value: Any) -> Any:
    """A sequence as a list, anything else as it is."""
    return list(value) if isinstance(value, tuple) else value
