"""The page of a data set: its commands parse as they are printed, and it shows records where there are some."""

import functools
import json
import subprocess
import sys

import nbformat
import pandas as pd
import papermill
import papermill.cli
import pytest
import torch
import yaml
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Markdown
from matplotlib.figure import Figure
from test_datasets import MAKE, cifar_folder
from traitlets.config import Config

from cpur import CertifyConfig, FinetuneConfig, certify_dataset, cli
from cpur.checkpoints import convert, load_network
from cpur.known import known_checkpoints
from cpur.networks.openai_unet import OpenAIUNet
from cpur.paths import root
from cpur.purifiers import PFODE
from cpur.recipes import PRESETS
from cpur.tables import ENVELOPE
from studies import protocol_commands as commands
from studies import protocol_tables as tables
from studies.protocols import PROTOCOLS, protocol_of

BLOCKS = (commands.data, commands.convert, commands.certify, commands.finetune, commands.cascade, commands.show)
STUBS = """
for name in cpur papermill tar unzip hf cp mkdir; do
  eval "$name() { printf '%s\\n' $name \\"\\$@\\" | base64 -w0; echo; }"
done
"""


@pytest.fixture(scope="module", params=PROTOCOLS)
def protocol(request):
    return PROTOCOLS[request.param]


@pytest.fixture(scope="module")
def words(protocol, tmp_path_factory):
    """The words of every command that a shell comes to in what is printed, loops run through."""
    script = STUBS + "\n".join(block(protocol).removeprefix("```\n").removesuffix("\n```") for block in BLOCKS)
    folder = tmp_path_factory.mktemp("shell")
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    lines = subprocess.run(
        ["bash", "-c", "while read -r x; do base64 -d <<<$x | tr '\\n' '\\t'; echo; done"],
        input=done.stdout,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads((folder / "arguments.json").read_text())
    return [line.removesuffix("\t").split("\t") for line in lines.splitlines()]


def test_commands_parse(protocol, words, monkeypatch):
    """Each command line of cpur is parsed by its own command line, which then runs nothing."""
    called = []

    def stub(command):
        def call(*given, **values):
            called.append((command.__name__, [*given, *values.values()]))

        return functools.wraps(command)(call)

    monkeypatch.setattr(cli, "COMMANDS", tuple(map(stub, cli.COMMANDS)))
    for line in words:
        if line[0] == "cpur":
            monkeypatch.setattr(sys, "argv", line)
            cli.main()
    names = [name for name, _ in called]
    runs = len(protocol.sigmas) * (len(protocol.purifiers) + 1)
    counts = {"convert": len(protocol.purifiers), "certify": runs + 1, "cascade": 1, "table": 1}
    assert {name: names.count(name) for name in set(names)} == counts
    configs = [value for _, values in called for value in values if hasattr(value, "num_images")]
    for config in configs:
        assert (config.dataset, config.n, config.n0, config.alpha) == (protocol.dataset, 10_000, 100, 0.001)
        assert (config.epsilons, config.num_images) == (protocol.epsilons, 500)
    certified = {(config.sigma, config.checkpoint) for config in configs[:-1]}
    folders = [*(one.purifier for one in protocol.purifiers), "consistency-tuned"]
    assert certified == {(s, f"checkpoints/{protocol.dataset}/{name}") for s in protocol.sigmas for name in folders}
    assert configs[-1].levels == protocol.sigmas


def test_the_notebooks_take_what_is_printed(protocol, words):
    """papermill's own parser reads each line, and the notebook knows every parameter."""
    lines = [line for line in words if line[0] == "papermill"]
    assert [line[1] for line in lines] == ["notebooks/finetune.ipynb", "notebooks/dataset.ipynb"]
    given = []
    for line in lines:
        values = papermill.cli.papermill.make_context("papermill", line[1:]).params
        given.append(dict(values["parameters"]))
        for text in values["parameters_yaml"]:
            given[-1] |= yaml.safe_load(text)
        assert set(given[-1]) <= set(papermill.inspect_notebook(str(root() / line[1])))
    config = FinetuneConfig(**given[0])
    assert config.certifications()[0].epsilons == protocol.epsilons
    assert config.sigmas == protocol.sigmas
    assert given[1] == {"dataset": protocol.dataset, "records_dir": commands.RECORDS}


def test_files_and_formats_are_those_of_the_page_of_checkpoints(protocol):
    known = [(entry["checkpoint"], entry["format"]) for entry in known_checkpoints()]
    for one in protocol.purifiers:
        name = one.file.split("/")[0]
        assert any(name in published and kind == one.format for published, kind in known), one


def test_lines_of_commands_are_short(protocol):
    for make in BLOCKS:
        assert max(map(len, make(protocol).splitlines())) <= 85


def test_settings_are_those_of_the_preset(protocol):
    assert protocol.sigmas == PRESETS[protocol.dataset]["sigmas"]
    table = tables.settings(protocol).set_index("setting")
    assert table.source.str.startswith("ours").sum() == {"cifar10": 1, "imagenet64": 6}[protocol.dataset]
    assert table.value["noise levels"] == table.value["its noise levels"]


def test_what_n_samples_certify_by_hand():
    """All of 10,000 hits have the lower bound alpha^(1/n): 3.199 sigma, so 0.75 is in reach of 0.25, and 1 is not."""
    cifar = tables.needed(protocol_of("cifar10"))
    assert cifar.loc["1", "sigma 0.25"] == "-"
    assert cifar.loc["0.75", "sigma 0.25"] == "99.97"
    assert set(cifar.loc["0"]) == {"51.56"}
    axes = tables.reach(protocol_of("cifar10")).axes[0]
    ends = [line.get_ydata()[-1] for line in axes.get_lines() if len(line.get_xdata()) > 2]
    assert ends == pytest.approx([3.1986 * sigma for sigma in (0.25, 0.5, 1.0)], abs=1e-4)


def test_operations_are_counted():
    """A convolution: 2 x outputs x weights of one output."""
    make = functools.partial(torch.nn.Conv2d, 3, 4, 3, padding=1, bias=False)
    assert tables.operations(make, 8) == 2 * (4 * 8 * 8) * (3 * 3 * 3)


def test_a_class_conditional_model_is_converted_unconditional(tmp_path, rejected):
    shape = {"in_channels": 3, "model_channels": 32, "out_channels": 3, "num_res_blocks": 1, "num_head_channels": 16}
    make = functools.partial(OpenAIUNet, **shape, attention_resolutions=(2,), channel_mult=(1, 2))
    network = make(num_classes=5).eval()
    torch.save(network.state_dict(), tmp_path / "cd.pt")
    (given,) = [one.arguments for one in protocol_of("imagenet64").purifiers if one.purifier == "consistency"]
    (tmp_path / "arguments.json").write_text(given.replace("64", "16"))
    one = load_network(convert(tmp_path / "cd.pt", tmp_path / "net", "consistency-models", tmp_path / "arguments.json"))
    assert torch.equal(one.label_emb.weight[0], network.label_emb.weight.mean(0))
    assert one(torch.rand(1, 3, 16, 16), torch.ones(1)).shape == (1, 3, 16, 16)
    torch.save(make().state_dict(), tmp_path / "plain.pt")
    with rejected("the network knows no classes: leave out the argument unconditional"):
        convert(tmp_path / "plain.pt", tmp_path / "none", "consistency-models", tmp_path / "arguments.json")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of tiny CIFAR-10 images in the true format, at two noise levels; and one that was stopped."""
    folder = tmp_path_factory.mktemp("cifar")
    cifar_folder(folder)
    (folder / "tiny_classifier.py").write_text(MAKE)
    shared = {
        "dataset": "cifar10",
        "root": str(folder),
        "purifier": "none",
        "classifier": "tiny_classifier:make",
        "n": 100,
        "n0": 20,
        "num_images": 3,
        "batch_size": 60,
        "records_dir": str(folder / "records"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for sigma in (0.25, 0.5):
            certify_dataset(CertifyConfig(**shared, sigma=sigma))
        stopped = certify_dataset(CertifyConfig(**shared, sigma=1.0)).file
    stopped.write_text("\n".join(stopped.read_text().splitlines()[:2]) + "\n")
    return folder / "records"


def page(**parameters):
    """What the cells of the notebook return, run one by one in a shell of their own, as a kernel runs them."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    found = []
    for cell in nbformat.read(root() / "notebooks/dataset.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            done = shell.run_cell(cell.source, store_history=True, silent=False)
            done.raise_error()
            found.append(done.result)
            if "parameters" in cell.metadata.get("tags", []):
                shell.user_ns.update(parameters)
    return found


def test_the_page_shows_the_records_that_there_are(records):
    results = page(dataset="cifar10", records_dir=str(records))
    text = [one.data for one in results if isinstance(one, Markdown)]
    assert text[0].startswith("**2 records of CIFAR-10 in")
    (table,) = [one for one in results if isinstance(one, pd.DataFrame) and "ACR" in one]
    assert table.index.tolist() == [("0.25", "none"), ("0.5", "none")]
    for sigma, (header, frame) in zip(("0.25", "0.5"), tables.records_of(protocol_of("cifar10"), records), strict=True):
        assert header["config"]["sigma"] == float(sigma)
        assert table.loc[(sigma, "none"), "eps 0"].startswith(f"{100 * frame.correct.mean():.1f} ")
    curves = [one for one in results if isinstance(one, Figure)][-1]
    assert [axes.get_title() for axes in curves.axes] == ["σ = 0.25", "σ = 0.5"]
    assert ENVELOPE in text


def test_the_page_without_records_says_so(tmp_path):
    results = page(dataset="imagenet64", records_dir=str(tmp_path))
    text = [one.data for one in results if isinstance(one, Markdown)]
    assert "There is no record of ImageNet-64" in text[0]
    assert "None yet." in text
    for make in BLOCKS:
        assert any(make(protocol_of("imagenet64")) in one for one in text)
    assert ENVELOPE not in text
    assert sum(isinstance(one, Figure) for one in results) == 1


def test_a_data_set_without_a_protocol_is_named(rejected):
    with rejected("dataset must be one of cifar10, imagenet64"):
        protocol_of("digits")


def test_calls_are_those_of_the_purifiers():
    calls = {one.purifier: one.calls for one in protocol_of("cifar10").purifiers}
    assert calls["pf-ode"] == PFODE(lambda x, sigma: x).network_calls
    assert {calls[name] for name in calls if name != "pf-ode"} == {1}
