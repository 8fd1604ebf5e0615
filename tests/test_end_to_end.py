"""From published files to certificates: CIFAR-10's archive, checkpoints in their true formats, a ViT at 224 pixels."""

import json

import numpy as np
import papermill
import pytest
import torch
from diffusers import CMStochasticIterativeScheduler
from test_convert import openai_state
from test_datasets import cifar_folder
from test_flax_reader import packed
from test_ncsnpp import TINY, filled
from test_notebooks import check
from test_pipelines import pipeline, small

from cpur import CertifyConfig, certify_dataset, load_record
from cpur.checkpoints import convert
from cpur.networks.song_unet import SongUNet
from cpur.paths import root

transformers = pytest.importorskip("transformers")


def improved_diffusion(folder):
    torch.save(openai_state(), folder / "cifar10_uncond.pt")
    return convert(folder / "cifar10_uncond.pt", folder / "ddpm", "improved-diffusion", {"num_heads": 4})


def edm(folder):
    torch.manual_seed(0)
    settings = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "model_channels": 16}
    network = SongUNet(**settings, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[16])
    torch.save({f"model.{key}": value for key, value in network.state_dict().items()}, folder / "edm.pt")
    return convert(folder / "edm.pt", folder / "edm", "edm")


def jax_consistency(folder):
    _, parameters = filled(TINY | {"image_size": 32})
    tree: dict = {}
    for path, value in parameters.items():
        *parents, name = path.split("/") if isinstance(path, str) else path
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = np.ascontiguousarray(value)
    (folder / "checkpoint_1").write_bytes(packed({"params_ema": tree}))
    given = {"image_size": 32, "attn_resolutions": TINY["attn_resolutions"]}
    return convert(folder / "checkpoint_1", folder / "jax", "jax-consistency", given)


def diffusers_consistency(folder):
    return pipeline(folder / "diffusers", CMStochasticIterativeScheduler(), small())


CHECKPOINTS = {
    "onestep-ddpm": improved_diffusion,
    "onestep-edm": edm,
    "pf-ode": edm,
    "consistency, from JAX": jax_consistency,
    "consistency, of diffusers": diffusers_consistency,
}


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """The parameters that say where a reader's own files lie."""
    folder = tmp_path_factory.mktemp("downloads")
    cifar_folder(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = transformers.ViTForImageClassification(
        transformers.ViTConfig(**sizes, image_size=224, patch_size=32, num_labels=10)
    )
    network.save_pretrained(folder / "vit")
    half = [0.5, 0.5, 0.5]
    processor = {
        "do_normalize": True,
        "do_resize": True,
        "image_mean": half,
        "image_std": half,
        "resample": 2,
        "size": 224,
    }
    (folder / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    return {
        "dataset": "cifar10",
        "root": str(folder),
        "classifier": "transformers",
        "classifier_checkpoint": str(folder / "vit"),
    }


SMALL = {"subset": "every-10", "n0": 10, "n": 40, "num_images": 2, "batch_size": 20}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_cifar10_is_certified(name, values, tmp_path):
    checkpoint = str(CHECKPOINTS[name](tmp_path))
    purifier = name.split(",")[0]
    config = CertifyConfig(
        **values | SMALL, purifier=purifier, checkpoint=checkpoint, records_dir=str(tmp_path / "records")
    )
    header, frame = load_record(certify_dataset(config).file)
    assert header["identity"]["dataset"] == "cifar10"
    assert frame["index"].tolist() == [0, 1]
    assert {sum(counts) for counts in frame.counts} == {40}


def parameters_of(name, values, tmp_path):
    shared = values | {"records_dir": str(tmp_path / "records"), "n": 40, "num_images": 2}
    if name == "finetune":
        checkpoint = str(jax_consistency(tmp_path))
        tuning = {"preset": "cifar10", "loss": "l2", "steps": 2, "batch_size": 4, "out": str(tmp_path / "out")}
        tuning["sigmas"] = [0.25, 0.5]  # one less than the preset's to certify
        return shared | tuning | {"purifier": "consistency", "checkpoint": checkpoint}
    levels = {"sigmas": [0.25, 0.5]} if name == "multiscale" else {}
    return shared | SMALL | levels | {"purifier": "onestep-ddpm", "checkpoint": str(improved_diffusion(tmp_path))}


@pytest.mark.parametrize("name", ["certify", "multiscale", "finetune"])
def test_notebooks_take_a_readers_files(name, values, tmp_path):
    notebook = root() / "notebooks" / f"{name}.ipynb"
    parameters = parameters_of(name, values, tmp_path)
    done = papermill.execute_notebook(notebook, tmp_path / "run.ipynb", parameters, progress_bar=False, cwd=tmp_path)
    check(done)
    assert list((tmp_path / "records").glob("cifar10-*.jsonl"))


def test_images_of_another_size_leave_no_record(tmp_path, rejected):
    config = CertifyConfig(
        purifier="onestep-ddpm", checkpoint=str(improved_diffusion(tmp_path)), records_dir=str(tmp_path / "records")
    )
    with rejected(r"takes images of 3 channels and sides that are multiples of 2; got \[1, 8, 8\]"):
        certify_dataset(config)
    assert not list((tmp_path / "records").iterdir())
