r"""The numbers that pages of the book name: ``{{ name }}`` in Markdown, computed from what is committed.

A Sphinx extension without torch, since every build reads it. A name that no page's number has fails the build.
"""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from cpur import __version__
from cpur.bounds import certified_radius
from cpur.paths import root
from cpur.plans import fixed, minimum_hits, sequential

NAMED = re.compile(r"\{\{\s*(\w+)\s*\}\}")
ALPHA = 0.001
SIGMA = 0.5  # of the figures on the first page


def numbers() -> dict[str, str]:
    """Every number, as a page prints it.

    Raises:
        LookupError: the record or the benchmark that it is computed from is missing.
    """
    return {**_certified(), **_calls(), **_ceilings(), **_plans(), **_benchmarks()}


def read_digits(purifier: str, **wanted: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and lines of the committed record of an embedded purifier with these values in its configuration."""
    wanted = {"purifier": purifier, "checkpoint": None, "classifier_checkpoint": None, **wanted}
    for file in sorted((root() / "records").glob(f"digits-{purifier}-s*.jsonl.gz")):
        with gzip.open(file, "rt") as lines:
            header = json.loads(next(lines))
            if all(header["config"].get(key) == value for key, value in wanted.items()):
                return header, [json.loads(line) for line in lines]
    raise LookupError(f"records/ has no record of {wanted}: make it with `make records`")


def share(lines: list[dict[str, Any]], epsilon: float) -> str:
    """Certified accuracy at a radius, in percent with its 95% Wilson interval."""
    hits = sum(line["prediction"] == line["label"] and line["radius"] >= epsilon for line in lines)
    interval = stats.binomtest(hits, len(lines)).proportion_ci(method="wilson")
    return f"{100 * hits / len(lines):.1f} [{100 * interval.low:.1f}–{100 * interval.high:.1f}]"


def _certified() -> dict[str, str]:
    found = {}
    for name, purifier in {"none": "none", "edm": "onestep-edm"}.items():
        header, lines = read_digits(purifier, sigma=SIGMA, num_images=500)
        found |= {f"{name}_at_{100 * epsilon:.0f}": share(lines, epsilon) for epsilon in (0.0, 0.25)}
    config = header["config"]
    return found | {
        "images": str(len(lines)),
        "samples": f"{config['n']:,}",
        "alpha": f"{config['alpha']:g}",
        "expected_false": f"{config['alpha'] * len(lines):g}",
    }


def _calls() -> dict[str, str]:
    names = {"none": "none", "ddpm": "onestep-ddpm", "edm": "onestep-edm", "pfode": "pf-ode"}
    names["consistency"] = "consistency"
    headers = {name: read_digits(purifier, sigma=SIGMA)[0] for name, purifier in names.items()}
    return {f"calls_{name}": str(header["network_calls"]) for name, header in headers.items()}


def _ceilings() -> dict[str, str]:
    samples = {"1k": 1_000, "10k": 10_000, "100k": 100_000}
    return {f"ceiling_{name}": f"{certified_radius(n, n, ALPHA, 1.0):.2f}" for name, n in samples.items()}


def _plans(n: int = 100_000) -> dict[str, str]:
    once, looks = fixed(100, n, ALPHA), sequential(100, n, ALPHA)
    hits = [minimum_hits(plan.n, plan.alphas[-1], SIGMA, SIGMA) for plan in (once, looks)]
    return {"plan_hits": f"{hits[0]:,}", "plan_more": str(hits[1] - hits[0])}


def _benchmarks() -> dict[str, str]:
    folder = root() / "benchmarks/results"
    threads = json.loads((folder / "throughput-cpu.json").read_text())["threads"]
    found = {}
    for count, rates in threads.items():
        ratios = np.divide(rates["engine"], rates["naive"])
        found[f"speed_{count}"] = f"{np.median(ratios):.2f} [{ratios.min():.2f}–{ratios.max():.2f}]"
    samples = json.loads((folder / "samples.json").read_text())
    return found | {"times_fewer": f"{samples['pooled_times_fewer']:.1f}"} | _operations(folder)


def _operations(folder: Path, samples: float = 500 * 100_000 * 3) -> dict[str, str]:
    """Of published networks, and of a campaign of 500 images at three noise levels."""
    counts = json.loads((folder / "operations.json").read_text())
    names = {"ddpm": "improved-diffusion", "edm": "EDM", "vit": "ViT-B/16"}
    found = {f"gflop_{key}": f"{counts[name] / 1e9:.1f}" for key, name in names.items()}
    for key, network in {"low": "improved-diffusion", "high": "EDM"}.items():
        count = counts[network] + counts["ViT-B/16"]
        found |= {f"gflop_{key}": f"{count / 1e9:.0f}", f"exaflop_{key}": f"{samples * count / 1e18:.0f}"}
    return found


def unknown(pages: Path, known: set[str]) -> list[str]:
    """The names in the pages that have no number, each with its page."""
    return [
        f"{page.name}: {name}"
        for page in sorted(pages.glob("*.md"))
        for name in NAMED.findall(page.read_text())
        if name not in known
    ]


def substitute(app, config) -> None:
    """Gives the numbers to MyST, and ends the build where a page names another."""
    from sphinx.errors import ExtensionError

    found = numbers()
    if missing := unknown(Path(app.srcdir), set(found)):
        raise ExtensionError(f"studies/numbers.py has no number for {', '.join(missing)}")
    config.myst_substitutions = {**config.myst_substitutions, **found}


def setup(app) -> dict[str, Any]:
    """Registers the extension."""
    app.connect("config-inited", substitute, priority=100)  # before MyST reads the configuration
    return {"version": __version__, "parallel_read_safe": True}
