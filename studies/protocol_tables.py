"""What the page of a data set shows: its records, its protocol, what n samples can certify, and what it costs."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16, vit_b_16

from cpur.accuracy import Records, order
from cpur.bounds import certified_radius
from cpur.figures import PALETTE, finished, subplots
from cpur.networks.openai_unet import OpenAIUNet
from cpur.networks.song_unet import SongUNet
from cpur.paths import anchored
from cpur.plans import minimum_hits
from cpur.recipes import PRESETS
from cpur.records import load_record, record_files
from cpur.tables import summary
from studies.protocols import OURS, PAPER, Protocol

PETA = 1e15


def records_of(protocol: Protocol, records_dir: str) -> Records:
    """The complete records of single noise levels of the data set, by noise level; none is no error."""
    files = record_files(anchored(records_dir))
    found = [load_record(file) for file in files if file.name.startswith(f"{protocol.dataset}-")]
    whole = [
        (header, frame)
        for header, frame in found
        if header["config"]["dataset"] == protocol.dataset
        and "sigma" in header["config"]
        and len(frame) == header["identity"]["num_images"]
    ]
    return sorted(whole, key=lambda record: (record[0]["config"]["sigma"], order(record[0])))


def status(protocol: Protocol, records: Records, records_dir: str) -> str:
    """In Markdown, whether there are records, and where the commands are."""
    if not records:
        return (
            f"**There is no record of {protocol.title} in `{records_dir}` yet**: neither the data set nor a "
            "published checkpoint was at hand where this was built. The commands below make them; nothing on this page "
            "is a result."
        )
    sigmas = sorted({header["config"]["sigma"] for header, _ in records})
    return (
        f"**{len(records)} records of {protocol.title} in `{records_dir}`**, at noise levels "
        f"{', '.join(f'{sigma:g}' for sigma in sigmas)}."
    )


def results(records: Records) -> pd.DataFrame | None:
    """Certified accuracy of every record, one row a noise level and purifier; None without records."""
    if not records:
        return None
    levels: dict[str, Records] = {}
    for header, frame in records:
        levels.setdefault(f"{header['config']['sigma']:g}", []).append((header, frame))
    return pd.concat({sigma: summary(part) for sigma, part in levels.items()}, names=["sigma"])


def settings(protocol: Protocol) -> pd.DataFrame:
    """What the paper says, what its code says, and what is ours, each with its source."""
    tuned = PRESETS[protocol.dataset]
    rows = [
        ("noise levels", _numbers(protocol.sigmas), PAPER),
        ("test images", f"{protocol.subset}: {protocol.images}", PAPER),
        ("radii", _numbers(protocol.epsilons), protocol.epsilons_source),
        ("n", f"{protocol.n:,}", PAPER),
        ("n0, alpha", f"{protocol.n0}, {protocol.alpha:g}", protocol.code_source),
        ("classifier", "ViT-B/16 at 224 x 224", PAPER),
        ("its checkpoint", protocol.classifier_checkpoint, protocol.classifier_source),
        *((one.purifier, f"{one.file}, {_calls(one.calls)}", one.source) for one in protocol.purifiers),
        ("fine-tuning", "LPIPS to the clean image", PAPER),
        ("its noise levels", _numbers(tuned["sigmas"]), PAPER),
        ("its start", protocol.start, PAPER),
        (
            "its optimizer",
            f"RAdam, lr {tuned['lr']:g}, batch {tuned['batch_size']}, EMA {tuned['ema']:g}",
            protocol.code_source,
        ),
        ("its steps", f"{tuned['steps']:,}", OURS),
        ("the number reported", "at each radius the best over noise levels", PAPER),
    ]
    return pd.DataFrame(rows, columns=["setting", "value", "source"])


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _calls(calls: int) -> str:
    return f"{calls} call{'s' if calls > 1 else ''}"


def needed(protocol: Protocol) -> pd.DataFrame:
    """The share of n samples, in percent, that must be in one class to certify each radius; "-" where none is enough.

    Columns: the noise levels.
    """

    def share(sigma: float, epsilon: float) -> str:
        hits = minimum_hits(protocol.n, protocol.alpha, sigma, epsilon)
        return "-" if hits > protocol.n else f"{100 * hits / protocol.n:.2f}"

    table = {f"sigma {sigma:g}": [share(sigma, epsilon) for epsilon in protocol.epsilons] for sigma in protocol.sigmas}
    return pd.DataFrame(table, index=pd.Index([f"{e:g}" for e in protocol.epsilons], name="radius"))


def reach(protocol: Protocol) -> Figure:
    """The radius that n samples certify, against the share of them in one class, for each noise level."""
    figure, axes = subplots(figsize=(6.4, 3.4))
    hits = np.arange(protocol.n // 2, protocol.n + 1)
    for sigma, color in zip(protocol.sigmas, sns.color_palette(PALETTE), strict=False):
        radii = certified_radius(hits, protocol.n, protocol.alpha, sigma)
        axes.plot(100 * hits / protocol.n, radii, color=color, label=f"σ = {sigma:g}, at most {radii[-1]:.2f}")
        axes.plot(100, radii[-1], "o", color=color, clip_on=False)
    for epsilon in protocol.epsilons[1:]:
        axes.axhline(epsilon, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel="samples in one class (%)", ylabel="certified radius ($\\ell_2$ of [0, 1] pixels)")
    axes.set_xlim(50, 100)
    axes.set_title(f"n = {protocol.n:,}, α = {protocol.alpha:g}; dotted: the radii of interest", fontsize=9)
    axes.legend(fontsize=8)
    return finished(figure)


def cost(protocol: Protocol) -> pd.DataFrame:
    """Operations of certifying with each purifier at all noise levels, and of fine-tuning, counted on the networks.

    A multiplication and an addition are two. Fine-tuning is taken at three forward passes of the purifier a step, and
    four of the backbone of LPIPS, whose weights are frozen.
    """
    classifier = operations(vit_b_16, 224)
    rows = []
    for one in protocol.purifiers:
        each = one.calls * operations(one.network, protocol.size) + classifier
        rows.append((f"certify {one.purifier}", f"{protocol.samples:,} samples", each, protocol.samples * each))
    tuned = PRESETS[protocol.dataset]
    images = tuned["steps"] * tuned["batch_size"]
    each = 3 * operations(protocol.purifiers[-1].network, protocol.size) + 4 * operations(backbone, 224)
    rows.append(("fine-tune consistency", f"{images:,} images", each, images * each))
    return pd.DataFrame(
        [(name, count, f"{each / 1e9:.0f}", f"{total / PETA:,.0f}") for name, count, each, total in rows],
        columns=["what", "how many", "10⁹ operations each", "10¹⁵ operations"],
    )


def backbone() -> nn.Module:
    """The VGG-16 of LPIPS."""
    return vgg16().features


@cache
def operations(make: Callable[[], nn.Module], size: int) -> int:
    """Floating-point operations of one image through a network; nothing is computed."""
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network = make().eval()
        image = (torch.empty(1, 3, size, size),)
        if isinstance(network, OpenAIUNet | SongUNet):  # it takes a time, and one of several classes labels
            image += (torch.ones(1), *([torch.zeros(1, dtype=torch.long)] if network.num_classes else []))
        network(*image)
    return counter.get_total_flops()
