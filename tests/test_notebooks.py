"""Every notebook, run by papermill with small parameters, as a reader runs it."""

import dataclasses
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import pytest
from click.testing import CliRunner
from papermill.cli import papermill as papermill_command

from cpur import CertifyConfig, FinetuneConfig, MultiscaleConfig, load_record
from cpur.book import read_pages
from cpur.paths import root

NOTEBOOKS = sorted((root() / "notebooks").glob("*.ipynb"))
SMALL = {"n": 200, "n0": 20, "num_images": 4, "batch_size": 50}
LONG = SMALL | {"num_images": 100, "n": 500, "batch_size": 250}
RUNS = {  # the others are run as pages of the book by tests/test_book.py
    "checkpoints": [{"purifier": "onestep-ddpm"}],
    "certify": [SMALL | {"plan": "sequential", "purifier": "none"}],  # the other plan goes to stdout, below
    "multiscale": [SMALL],
    "finetune": [{"steps": 3, "batch_size": 16, "n": 100, "num_images": 4, "train": "both"}],
    "transport": [{"purifiers": ["onestep-edm", "consistency"], "sigmas": [0.5], "seeds": 1}],
    "explore": [{"live": False, "images": [12], "sigmas": [0.5], "n": 50}],
    "pretrain": [{"train": True, "effort": 0.0005}],
}


def run(name, target, **parameters):
    notebook = root() / "notebooks" / f"{name}.ipynb"
    return papermill.execute_notebook(notebook, target, parameters, progress_bar=False, cwd=target.parent)


def papermill_cli(*arguments, **options):
    command = [sys.executable, "-m", "papermill", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, **options)


def test_every_notebook_is_run():
    pages = {page.notebook.stem for page in read_pages(root() / "book/pages.yml")}
    assert {notebook.stem for notebook in NOTEBOOKS} == {*RUNS} | pages


@pytest.mark.parametrize("name", RUNS)
def test_notebook_runs(name, tmp_path):
    for number, parameters in enumerate(RUNS[name]):
        records = {"records_dir": str(tmp_path / "records")}
        folders = {
            "certify": records,
            "multiscale": records,
            "finetune": records | {"out": str(tmp_path / "out")},
            "pretrain": {"models_dir": str(tmp_path)},
        }
        extra = folders.get(name, {})
        done = run(name, tmp_path / f"{number}.ipynb", **parameters, **extra)
        check(done, pictures=name != "checkpoints", widgets=name == "explore")


def check(done, pictures=True, widgets=False):
    """A notebook that was run: every cell, its pictures and widgets, and no frozen progress bar."""
    assert all(cell.get("execution_count") for cell in done.cells if cell.cell_type == "code")
    text = json.dumps(done)
    assert ("image/png" in text) is pictures
    assert "it/s" not in text
    assert ('"widgets"' in text) is widgets


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert code[0].metadata.tags == ["parameters"]
    for line in code[0].source.splitlines():
        assert ":" in line.split("=")[0], f"{line} has no type"
        assert "  # " in line, f"{line} has no comment"


CONFIGURED = {"certify": CertifyConfig, "finetune": FinetuneConfig, "multiscale": MultiscaleConfig}


@pytest.mark.parametrize("name", CONFIGURED)
def test_parameters_are_the_fields_of_the_configuration(name):
    config = CONFIGURED[name]
    cells = nbformat.read(root() / f"notebooks/{name}.ipynb", as_version=4).cells
    cell = next(cell for cell in cells if cell.cell_type == "code")
    namespace = {}
    exec(cell.source, namespace)
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    assert {name: namespace[name] for name in fields} == fields
    assert list(namespace["__annotations__"]) == list(fields)
    source = "".join(inspect.getsource(part) for part in config.__mro__ if part is not object)
    for line in cell.source.splitlines():
        # With its comment; papermill's --help-notebook cannot read `str | None` or `tuple[float, ...]`.
        line = re.sub(r'"Optional\[(\w+)\]"', r"\1 | None", line)
        assert re.sub(r": tuple (.*)=", r": tuple[float, ...] \1=", line) in source


@pytest.mark.parametrize("name", CONFIGURED)
def test_help_describes_every_parameter(name):
    out = CliRunner().invoke(papermill_command, ["--help-notebook", str(root() / f"notebooks/{name}.ipynb")]).output
    for field in dataclasses.fields(CONFIGURED[name]):
        (line,) = [line for line in out.splitlines() if line.strip().startswith(f"{field.name}:")]
        assert "Unknown type" not in line


def test_a_bad_value_ends_in_one_sentence(tmp_path):
    done = papermill_cli(root() / "notebooks/certify.ipynb", tmp_path / "out.ipynb", "-p", "sigma", "big")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == "InputError: sigma must be a number; got 'big' (str)"


def test_an_unknown_parameter_is_refused(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="InputError: parameter must be one of dataset"):
        run("certify", tmp_path / "out.ipynb", sigme=0.5)


def test_without_an_output_path_the_notebook_goes_to_stdout(tmp_path):
    flags = [part for name, value in SMALL.items() for part in ("-p", name, value)]
    done = papermill_cli(root() / "notebooks/certify.ipynb", "-p", "records_dir", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    check(nbformat.reads(done.stdout, as_version=4))


def test_a_killed_notebook_goes_on_where_it_stopped(tmp_path):
    """SIGKILL in mid-run; the next run keeps every line and repeats none."""
    parameters = LONG | {"records_dir": str(tmp_path)}
    flags = [part for name, value in parameters.items() for part in ("-p", str(name), str(value))]
    command = [sys.executable, "-m", "papermill", str(root() / "notebooks/certify.ipynb"), str(tmp_path / "a.ipynb")]
    two = {"env": os.environ | {"OMP_NUM_THREADS": "2"}}  # samplers side by side
    with subprocess.Popen(
        [*command, *flags], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **two
    ) as process:
        kept = kill_when_lines(process, tmp_path, 5)
    run("certify", tmp_path / "b.ipynb", records_dir=str(tmp_path), **LONG)
    (file,) = tmp_path.glob("*.jsonl")
    assert file.read_bytes().startswith(kept)
    rows = [json.loads(line)["index"] for line in file.read_text().splitlines()[1:]]
    assert sorted(rows) == list(range(100))  # two samplers finish out of order; each image once
    assert len(load_record(file)[1]) == 100


def kill_when_lines(process, folder, count):
    """Kills the process group once a record has ``count`` images; returns the record's whole lines."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        files = list(folder.glob("*.jsonl"))
        if files and files[0].read_bytes().count(b"\n") > count:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            text = files[0].read_bytes()
            return text[: text.rfind(b"\n") + 1]
        time.sleep(0.02)
    raise AssertionError("the notebook wrote no record")
