"""The command line: ``cpur COMMAND --help``. Each command imports what it needs when it runs."""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from cpur import paths
from cpur.config import CertifyConfig, MultiscaleConfig, recorded
from cpur.errors import InputError
from cpur.recipes import BaselineConfig

INTERRUPTED = 130  # exit status after Ctrl-C, as a shell gives it


def certify(
    config: Annotated[CertifyConfig, tyro.conf.arg(name="")],
    estimate: bool = False,
    shard: int = 0,
    shards: int = 1,
) -> None:
    """Certify images into a record. An interrupted run goes on where it stopped: give the same command again.

    Under torchrun, each rank writes a part of its own and takes the next image when it has room. So does each task
    of a cluster's array with its number as shard. `cpur merge` joins the parts.

    Args:
        config: what is certified, and how.
        estimate: only say what the run will cost, from a short measurement.
        shard: number of this task among the shards, from 0.
        shards: number of tasks that share the images.
    """
    from cpur import engine
    from cpur.estimate import estimate as measured

    if estimate:
        print(measured(config, config.num_images - len(engine.lines_so_far(engine.record_file(config)))))
    else:
        _certify(config, shard, shards)


def cascade(
    config: Annotated[MultiscaleConfig, tyro.conf.arg(name="")],
    shard: int = 0,
    shards: int = 1,
) -> None:
    """Certify images by a cascade of noise levels into a record; it is resumed and shared as that of `cpur certify`.

    Args:
        config: what is certified, and how.
        shard: number of this task among the shards, from 0.
        shards: number of tasks that share the images.
    """
    _certify(config, shard, shards)


def _certify(config: CertifyConfig | MultiscaleConfig, shard: int, shards: int) -> None:
    import torch

    from cpur import engine
    from cpur.checkpoints import inference_device
    from cpur.progress import certification_bar
    from cpur.shares import Share

    share = Share.from_environment(shard, shards)
    if share.rank is not None and config.device == "cuda":
        torch.cuda.set_device(inference_device(f"cuda:{share.local_rank}"))
    file = engine.record_file(config)
    try:
        # One bar is enough where ranks work side by side.
        progress = None if share.rank else partial(certification_bar, finished=share.finished)
        record = engine.certify_dataset(config, progress, share)
    except KeyboardInterrupt:
        done = len(engine.lines_so_far(file))
        print(f"\nstopped: {done} of {config.num_images} images are certified and kept", file=sys.stderr)
        print("give the same command again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if share.part is None:
        show(record.file)
    else:
        done = len(engine.lines_so_far(file))
        print(f"{share.part}: {len(record.rows)} images; all parts together: {done} of {config.num_images}")
        print(f"when all are done: cpur merge {paths.shown(record.file.parent)}")


def merge(sources: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
    """Join the parts of a record that several processes wrote, and name what is missing.

    Args:
        sources: folders of parts, or records of one configuration.
        out: file to write; without one, the record's own name in the folder above the parts.
    """
    from cpur.merge import merge as joined

    files = []
    for source in map(paths.anchored, sources):
        files += sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
    merged = joined(files, out and paths.anchored(out))
    print(f"{paths.shown(merged.file)}: {merged.images} images")
    if merged.missing:
        some = ", ".join(map(str, merged.missing[:20])) + ", ..." * (len(merged.missing) > 20)
        raise InputError(
            f"{len(merged.missing)} images are missing: {some}; certify them with the same command, and merge again"
        )


def plan(
    name: tyro.conf.Positional[str] = "sequential",
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    sigma: float = 0.5,
    epsilons: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> None:
    """Print a sampling plan: its looks, the hits that certify each radius, and its exact error.

    Args:
        name: fixed or sequential.
        n0: samples that select the class.
        n: estimation samples at most.
        alpha: error probability that the plan may spend.
        sigma: standard deviation of the noise.
        epsilons: radii.
    """
    from cpur.characteristics import GRID, worst_error
    from cpur.plans import StoppingRule
    from cpur.tables import plan_table

    config = CertifyConfig(plan=name, n0=n0, n=n, alpha=alpha, sigma=sigma, epsilons=epsilons)
    chosen = config.sampling_plan
    print(plan_table(chosen, StoppingRule(chosen, config.sigma, config.epsilons)).to_string(index=False))
    error, p = worst_error(chosen, GRID)
    print(f"\nexact family-wise error: {error:.6g} at the worst of {len(GRID)} values of p,")
    print(f"p = {p:.6g}; alpha = {alpha:g} is {'kept' if error <= alpha else 'NOT KEPT'}")
    if error > alpha:
        sys.exit(1)


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
    sigmas = ", ".join(f"{sigma:g}" for sigma in recorded(config).levels)
    print(f"\ncertified accuracy in percent [95% Wilson interval], sigma = {sigmas}, ", end="")
    print(f"n = {config['n']:,}, alpha = {config['alpha']:g}, {len(frame)} images of {config['dataset']}")
    print(summary([(header, frame)]).T.to_string())
    print(speed(header, frame).drop("images").to_string())
    print(f"record: {paths.shown(file)}")


def _record_of(notebook: Path) -> Path:
    """The record that an executed certify notebook made or resumed, by its parameters."""
    from cpur.checkpoints import read_json
    from cpur.engine import record_file

    parameters = read_json(notebook)["metadata"].get("papermill", {}).get("parameters")
    if parameters is None:
        raise InputError(f"{paths.shown(notebook)} was not run by papermill")
    return record_file(recorded(parameters))


def verify(records_dir: Path = Path("records"), images: int = 5) -> None:
    """Certify a few images of every record again and compare the counts.

    Args:
        records_dir: folder of records.
        images: how many images of each record.
    """
    from cpur.multiscale import FOLDER
    from cpur.records import record_files
    from cpur.verify import recertify

    folder = paths.anchored(records_dir)
    files = record_files(folder) + record_files(folder / FOLDER)
    if not files:
        raise InputError(f"there is no record in {records_dir}")
    for file in files:
        start = time.perf_counter()
        moves = [moved for _, moved in recertify(file, images)]
        seconds = time.perf_counter() - start
        print(f"{file.name}: {len(moves)} images, largest move of a count {max(moves)}, {seconds:.1f} s")


def table(
    sources: tyro.conf.Positional[tuple[Path, ...]] = (),
    records_dir: Path = Path("records"),
    dataset: str = "digits",
    epsilons: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75),
    envelope: bool = False,
    latex: bool = False,
) -> None:
    """Print certified accuracy with its intervals as a Markdown table: the one of the README by default.

    Args:
        sources: records; with none, the largest of a data set in a folder.
        records_dir: that folder.
        dataset: that data set.
        epsilons: radii.
        envelope: the best over sigma at each radius, instead of a row a sigma.
        latex: LaTeX instead of Markdown.
    """
    from cpur import tables
    from cpur.records import load_record

    chosen = [load_record(paths.anchored(source)) for source in sources]
    chosen = chosen or tables.most_images(tables.find_records(records_dir, dataset=dataset))
    frame = (tables.envelope_overview if envelope else tables.overview)(chosen, epsilons)
    print((tables.latex if latex else tables.markdown)(frame))
    if envelope:
        print(f"\n{tables.ENVELOPE}")


def export(source: tyro.conf.Positional[Path], out: Path | None = None) -> None:
    """Write a record as the tab-separated log of Cohen et al.: idx label predict radius correct time.

    Args:
        source: a record.
        out: file to write; without one, standard output.
    """
    from cpur.export import tsv
    from cpur.records import load_record

    log = tsv(load_record(paths.anchored(source))[1])
    if out is None:
        print(log, end="")
    else:
        paths.anchored(out).write_text(log)


def audit(
    log: tyro.conf.Positional[Path],
    sigma: float | None = None,
    n: int | None = None,
    alpha: float | None = None,
    radii: tuple[float, ...] | None = None,
    rescore: float | None = None,
    floored: bool = False,
    selection: Path | None = None,
    core: Path | None = None,
    json: bool = False,
) -> None:
    """Audit a published certification log, or a record: what it says, and whether its samples can have said it.

    The exit status is 1 where there is a problem.

    Args:
        log: the log, with columns named as those of Cohen et al., or a record of cpur.
        sigma: its noise level; without one, that of the file's name, or the one that the radii tell.
        n: its number of samples; without one, some are tried.
        alpha: its error probability; without one, some are tried.
        radii: where certified accuracy is reported; without any, 0 to 3 in steps of 0.25.
        rescore: another alpha, to score the hits behind the radii again.
        floored: score again with radii rounded down instead.
        selection: the selector's log, of ACES.
        core: the core model's log, of ACES.
        json: print one JSON object instead of sentences.
    """
    from cpur import audit as auditor
    from cpur.aces_log import combine
    from cpur.audit_report import as_json, as_text
    from cpur.logs import read_log

    if log.name.endswith((".jsonl", ".jsonl.gz")):
        found = auditor.audit_record(log.absolute(), radii)
    else:
        options = {"sigma": sigma, "n": n, "alpha": alpha, "rescore": rescore, "floored": floored}
        found = auditor.audit_log(read_log(log.absolute()), radii=radii or auditor.RADII, **options)
    aces = None
    if selection or core:
        if not (selection and core):
            raise InputError("ACES needs both: give --selection and --core")
        logs = (file.absolute() for file in (log, selection, core))
        aces = combine(*logs, radii or auditor.RADII)
    print((as_json if json else as_text)(found, aces))
    if found.problems:
        sys.exit(1)


def convert(
    source: tyro.conf.Positional[Path],
    destination: tyro.conf.Positional[Path],
    format: str,
    arguments: Path | None = None,
) -> None:
    """Turn a published checkpoint into a folder that the purifiers load.

    Args:
        source: the published file.
        destination: a folder that does not exist yet.
        format: improved-diffusion, guided-diffusion, consistency-models, edm, ect or jax-consistency.
        arguments: a JSON file of constructor arguments of the public class, for what tensors cannot tell.
    """
    from cpur.checkpoints import convert as converted

    folder = converted(source, destination, format, arguments)
    print(f"{paths.shown(folder)}: {', '.join(sorted(file.name for file in folder.iterdir()))}")


def train(config: Annotated[BaselineConfig, tyro.conf.arg(name="")]) -> None:
    """Train a classifier for noise, without diffusion: Gaussian augmentation, or Consistency Regularization.

    An interrupted run goes on after its last whole epoch: give the same command again.

    Args:
        config: what is trained, and how.
    """
    from cpur.baselines import Training
    from cpur.progress import bar

    trained = Training(config).run(partial(bar, unit="epoch"))
    print(f"{trained.seconds:.0f} s, mean loss of the last epoch {trained.history.loss.iloc[-1]:.4f}")
    data = f"--dataset {config.dataset}" + (f" --root {config.root}" if config.root else "")
    model = f"--classifier {config.classifier} --classifier-checkpoint {paths.shown(trained.folder)}"
    print(f"certify it: cpur certify {data} --purifier none {model} --sigma {config.sigma:g}")


COMMANDS = (certify, cascade, merge, plan, show, table, export, verify, audit, train, convert)


def main() -> None:
    """Runs a command; bad input ends in one sentence."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {command.__name__: command for command in COMMANDS},
            prog="cpur",
            description="Certified robustness by purification.",
        )
        sys.stdout.flush()
    except InputError as error:
        sys.exit(f"cpur: {error}")
    except BrokenPipeError:  # the reader has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush would fail again
        sys.exit(1)
