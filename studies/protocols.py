"""How Li et al. (2024) certify CIFAR-10 and ImageNet-64: what is published, and what is ours.

Behind ``notebooks/dataset.ipynb``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from benchmarks.full_size import cifar_ddpm, imagenet_consistency
from cpur.cifar import WHERE as CIFAR
from cpur.errors import choose
from cpur.imagenet import WHERE as IMAGENET
from cpur.networks.openai_unet import OpenAIUNet
from cpur.networks.song_unet import SongUNet

OURS = "ours: not published"
CODE = "the code released with it"
PAPER = "Li et al. (2024)"


@dataclass(frozen=True)
class Purified:
    """A purifier of a protocol: the published file behind it, and how that is converted."""

    purifier: str
    file: str  # as it is published
    format: str
    arguments: str  # JSON, of what its tensors do not tell
    network: Callable[[], nn.Module]  # of its size, with random weights
    source: str  # who says that it is this file
    calls: int = 1  # of the network, for one purification


@dataclass(frozen=True)
class Protocol:
    """How a data set is certified by Li et al. (2024), and which choices are ours."""

    dataset: str
    title: str
    size: int  # height and width of an image, in pixels
    data: str  # what to get
    unpack: tuple[str, ...]  # commands
    root: str
    subset: str
    images: int
    sigmas: tuple[float, ...]
    epsilons: tuple[float, ...]
    epsilons_source: str
    code_source: str  # of what only released code says
    classifier_checkpoint: str
    classifier_source: str
    purifiers: tuple[Purified, ...]
    start: str  # where fine-tuning starts
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001

    @property
    def folder(self) -> str:
        """Where the converted checkpoints are put."""
        return f"checkpoints/{self.dataset}"

    @property
    def samples(self) -> int:
        """Noise samples of a purifier over all noise levels."""
        return len(self.sigmas) * self.images * (self.n0 + self.n)


def cifar_ncsnpp() -> nn.Module:
    """The NCSN++ of the CIFAR-10 models of Song et al. (2023)."""
    return SongUNet(
        img_resolution=32,
        in_channels=3,
        out_channels=3,
        model_channels=128,
        channel_mult=[2, 2, 2],
        num_blocks=4,
        attn_resolutions=[16],
        embedding_type="fourier",
        encoder_type="residual",
        channel_mult_noise=2,
        resample_filter=[1, 3, 3, 1],
    )


def imagenet_ddpm() -> nn.Module:
    """improved-diffusion's unconditional ImageNet-64 model, 120 M."""
    return OpenAIUNet(
        in_channels=3,
        model_channels=128,
        out_channels=6,
        num_res_blocks=3,
        attention_resolutions=(4, 8),
        channel_mult=(1, 2, 3, 4),
        num_heads=4,
        use_scale_shift_norm=True,
    )


def _jax(purifier: str, file: str, arguments: str, source: str, calls: int = 1) -> Purified:
    return Purified(purifier, file, "jax-consistency", arguments, cifar_ncsnpp, source, calls)


_EDM = ("edm_cifar10_ema", '{"attn_resolutions": [16], "distillation": false}', CODE)
PROTOCOLS = {
    protocol.dataset: protocol
    for protocol in (
        Protocol(
            dataset="cifar10",
            title="CIFAR-10",
            size=32,
            data=CIFAR["cifar10"],
            unpack=("mkdir -p data", "tar xzf cifar-10-python.tar.gz -C data"),
            root="data",
            subset="every-20",
            images=500,
            sigmas=(0.25, 0.5, 1.0),
            epsilons=(0.0, 0.25, 0.5, 0.75, 1.0),
            epsilons_source=PAPER,
            code_source=CODE,
            classifier_checkpoint="aaraki/vit-base-patch16-224-in21k-finetuned-cifar10",
            classifier_source=CODE,
            purifiers=(
                Purified(
                    *("onestep-ddpm", "cifar10_uncond_50M_500K.pt", "improved-diffusion", '{"num_heads": 4}'),
                    *(cifar_ddpm, CODE),
                ),
                _jax("onestep-edm", *_EDM),
                _jax("pf-ode", *_EDM[:2], "the same; 8 steps are ours, 7 to 9 there", 15),
                _jax("consistency", "cd-lpips/checkpoint_80", '{"attn_resolutions": [16]}', CODE),
            ),
            start="the distilled consistency model",
        ),
        Protocol(
            dataset="imagenet64",
            title="ImageNet-64",
            size=64,
            data=IMAGENET["imagenet64"],
            unpack=(
                "mkdir -p data/imagenet64",
                "unzip Imagenet64_val.zip -d data/imagenet64",
                "unzip 'Imagenet64_train_part*.zip' -d data/imagenet64  # to fine-tune",
                "cp map_clsloc.txt data/imagenet64",
            ),
            root="data/imagenet64",
            subset="every-100",
            images=500,
            sigmas=(0.05, 0.15, 0.25),
            epsilons=(0.0, 0.05, 0.15, 0.25, 0.5),
            epsilons_source="ours: 0, the noise levels, and twice the largest",
            code_source="ours: as for CIFAR-10, since no code was released",
            classifier_checkpoint="google/vit-base-patch16-224",
            classifier_source="ours: the paper names the architecture only",
            purifiers=(
                Purified(
                    *("onestep-ddpm", "imagenet64_uncond_100M_1500K.pt", "improved-diffusion", '{"num_heads": 4}'),
                    *(imagenet_ddpm, "ours: the paper does not name the file"),
                ),
                Purified(
                    *("consistency", "cd_imagenet64_lpips.pt", "consistency-models"),
                    *('{"num_head_channels": 64, "unconditional": true}', imagenet_consistency),
                    "the paper; which of the three files is ours",
                ),
            ),
            start="the class-conditional model, made unconditional by one learned token",
        ),
    )
}


def protocol_of(dataset: str) -> Protocol:
    """The protocol of a data set.

    Raises:
        InputError: it has none.
    """
    choose("dataset", dataset, PROTOCOLS)
    return PROTOCOLS[dataset]
