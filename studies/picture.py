"""Draws the picture of the README and the introduction: ``python -m studies.picture``."""

from pathlib import Path

import tyro

from cpur import CertifyConfig, load_classifier, load_dataset, paths
from cpur.figures import purification_grid
from cpur.purifiers import comparable_purifiers


def main(out: Path = Path("book/assets/purified.png"), sigma: float = 0.5) -> None:
    """Draws the picture.

    Args:
        out: file to write.
        sigma: standard deviation of the noise.
    """
    purifiers = comparable_purifiers(CertifyConfig(sigma=sigma))
    figure = purification_grid(load_dataset("digits"), purifiers, load_classifier(), sigma, indices=range(12))
    figure.savefig(paths.anchored(out), dpi=150)


if __name__ == "__main__":
    tyro.cli(main)
