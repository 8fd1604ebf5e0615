"""The command line: ``cpur COMMAND --help``."""

import sys
import time
from pathlib import Path

import tyro

from cpur import paths
from cpur.errors import InputError


def pretrain(out: Path = Path("models"), seed: int = 0, effort: float = 1.0) -> None:
    """Train the embedded digits models from scratch.

    Args:
        out: folder that the checkpoints are written to.
        seed: seed of initialisation and training.
        effort: share of the training steps, below 1 for a quick look.
    """
    from cpur.embedded import Workshop

    start = time.perf_counter()
    Workshop(paths.anchored(out), seed, effort).make_all()
    print(f"trained into {paths.shown(paths.anchored(out))} in {time.perf_counter() - start:.0f} s")


def show(source: tyro.conf.Positional[Path]) -> None:
    """Print the table of a record.

    Args:
        source: a record, or a certify notebook that papermill has run.
    """
    from cpur.records import load_record
    from cpur.tables import speed, summary

    source = paths.anchored(source)
    file = _record_of(source) if source.suffix == ".ipynb" else source
    header, frame = load_record(file)
    config = header["config"]
    print(f"\ncertified accuracy in percent [95% Wilson interval], sigma = {config['sigma']:g}, ", end="")
    print(f"n = {config['n']:,}, alpha = {config['alpha']:g}, {len(frame)} images of {config['dataset']}")
    print(summary([(header, frame)]).T.to_string())
    print(speed(header, frame).drop("images").to_string())
    print(f"record: {paths.shown(file)}")


def _record_of(notebook: Path) -> Path:
    """The record that an executed certify notebook made or resumed, by its parameters."""
    from cpur.checkpoints import read_json
    from cpur.config import CertifyConfig
    from cpur.engine import record_file

    parameters = read_json(notebook)["metadata"].get("papermill", {}).get("parameters")
    if parameters is None:
        raise InputError(f"{paths.shown(notebook)} was not run by papermill")
    return record_file(CertifyConfig(**parameters))


def verify(records_dir: Path = Path("records"), images: int = 5) -> None:
    """Certify a few images of every record again and compare the counts.

    Args:
        records_dir: folder of records.
        images: how many images of each record.
    """
    from cpur.verify import recertify

    files = sorted(paths.anchored(records_dir).glob("*.jsonl"))
    if not files:
        raise InputError(f"there is no record in {records_dir}")
    for file in files:
        start = time.perf_counter()
        moves = [moved for _, moved in recertify(file, images)]
        seconds = time.perf_counter() - start
        print(f"{file.name}: {len(moves)} images, largest move of a count {max(moves)}, {seconds:.1f} s")


def records(records_dir: str = "records") -> None:
    """Make the committed records of the book that are missing or unfinished.

    Args:
        records_dir: folder of records.
    """
    from cpur.campaign import make_records

    start = time.perf_counter()
    made = make_records(records_dir)
    print(f"{len(made)} records in {records_dir}, {time.perf_counter() - start:.0f} s")


def table(records_dir: Path = Path("records"), dataset: str = "digits") -> None:
    """Print the largest records of a data set as the Markdown table of the README.

    Args:
        records_dir: folder of records.
        dataset: data set of the records.
    """
    from cpur.tables import find_records, markdown, most_images

    print(markdown(most_images(find_records(records_dir, dataset=dataset))))


def picture(out: Path = Path("book/assets/purified.png"), sigma: float = 0.5) -> None:
    """Draw clean, noisy and purified digits: the picture of the README and the introduction.

    Args:
        out: file to write.
        sigma: standard deviation of the noise.
    """
    from cpur import load_classifier, load_dataset
    from cpur.config import CertifyConfig
    from cpur.figures import purification_grid
    from cpur.purifiers import comparable_purifiers

    purifiers = comparable_purifiers(CertifyConfig(sigma=sigma))
    figure = purification_grid(load_dataset("digits"), purifiers, load_classifier(), sigma, indices=range(12))
    figure.savefig(paths.anchored(out), dpi=150)


def main() -> None:
    """Runs a command; bad input ends in one sentence."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {command.__name__: command for command in (pretrain, records, show, table, picture, verify)},
            prog="cpur",
            description="Certified robustness by purification.",
        )
    except InputError as error:
        sys.exit(f"cpur: {error}")
