"""Checkpoint folders: loaded, saved, hashed, refused."""

import hashlib
import json
import re
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from cpur import load_classifier, load_purifier
from cpur.checkpoints import checkpoint_hash, inference_device, load_network, save_network
from cpur.classifiers import classifier_hash, save_classifier
from cpur.paths import models
from studies.ablation import PUBLISHED
from studies.baselines import SIGMAS
from studies.models import WHAT
from studies.pretrain import new_network

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    save_network(new_network(), tmp_path / "net")
    return tmp_path / "net"


def test_round_trip(tmp_path):
    torch.manual_seed(0)
    network = new_network().eval()
    save_network(network, tmp_path)
    x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    with torch.inference_mode():
        out = load_network(tmp_path)(x, t)
        assert out.shape == x.shape
        assert torch.equal(out, network(x, t))


def test_a_model_in_the_layout_of_cifar10_on_the_hub(tmp_path):
    """Random weights in the layout of google/ddpm-cifar10-32, smaller: 3 x 32 x 32, linear schedule."""
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    unet = UNet2DModel(32, 3, 3, block_out_channels=(32, 64), freq_shift=1, flip_sin_to_cos=False, **blocks)
    unet.save_pretrained(tmp_path)
    DDPMScheduler(1000, beta_schedule="linear", variance_type="fixed_large").save_pretrained(tmp_path)
    purifier = load_purifier("onestep-ddpm", tmp_path)
    noisy = torch.rand(2, 3, 32, 32) + 0.25 * torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        y, abar = 2 * noisy - 1, purifier.alphas_cumprod[145].float()
        epsilon = unet.eval()(abar.sqrt() * y, torch.tensor([145.0, 145.0])).sample
        expected = (abar.sqrt() * y - (1 - abar).sqrt() * epsilon) / abar.sqrt()
        assert torch.allclose(purifier.denoise(noisy, 0.25), (expected + 1) / 2, atol=1e-5)


def test_damaged_networks_are_refused(folder, tmp_path, rejected):
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:1000])
    with rejected("cannot load the network in"):
        load_network(folder)
    (folder / WEIGHTS).unlink()
    with rejected("cannot load the network in"):
        load_network(folder)
    with rejected("lacks config.json"):
        load_network(tmp_path / "empty")


@pytest.mark.parametrize("change", [{"layers_per_block": 2}, {"block_out_channels": [64]}])
def test_weights_of_another_architecture_are_refused(folder, change, rejected):
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with rejected("cannot load the network|do not fit"):
        load_network(folder)


def test_classifier_round_trip_and_damage(tmp_path, rejected):
    model = load_classifier()
    save_classifier(model, tmp_path)
    x = torch.rand(4, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(load_classifier("digits-cnn", tmp_path)(x), model(x))
    (tmp_path / "config.json").write_text('{"width": 8}')
    with rejected("cannot load digits-cnn"):
        load_classifier("digits-cnn", tmp_path)
    (tmp_path / "config.json").write_text("{")
    with rejected("not valid JSON"):
        load_classifier("digits-cnn", tmp_path)
    with rejected("classifier must be one of"):
        load_classifier("resnet")


def test_hash_covers_what_is_computed_with(tmp_path):
    copy = shutil.copytree(models() / "digits-edm", tmp_path / "copy")
    before = checkpoint_hash(copy)
    assert before == checkpoint_hash(models() / "digits-edm")
    (copy / "README.md").write_text("another card")
    assert checkpoint_hash(copy) == before
    settings = json.loads((copy / "preconditioning.json").read_text())
    (copy / "preconditioning.json").write_text(json.dumps(settings | {"sigma_data": 0.5}))
    assert checkpoint_hash(copy) != before


def test_embedded_models_are_small_and_have_cards():
    files = list(models().rglob("*.safetensors"))
    baselines = {f"{method}-s{sigma:g}" for method in ("gaussian", "consistency") for sigma in SIGMAS}
    assert {file.parent.name for file in files} == {*WHAT, *PUBLISHED.values()} | baselines
    assert max(file.stat().st_size for file in files) < 3e6
    for file in files:
        card = (file.parent / "README.md").read_text()
        length = "epochs" if file.parent.name in baselines else "steps"
        for words in ("Made by `", "seed 0", rf"\d {length}\b", "oss curve"):
            assert re.search(words, card), (file, words)
        assert (file.parent / "history.csv").is_file()


def test_device(rejected):
    assert inference_device("cpu").type == "cpu"
    for name in ("gpu", "cuda:99"):
        with rejected("device must be one that torch can use here"):
            inference_device(name)


def test_a_hash_follows_the_sources_of_others_alone(tmp_path, monkeypatch):
    """A comment in this package must not disown committed records; its version is in each of them."""
    monkeypatch.syspath_prepend(tmp_path)
    source = (
        "from cpur.classifiers import load_classifier\n\n\ndef made(checkpoint=None):\n    return load_classifier()\n"
    )
    (tmp_path / "cpur_test_theirs.py").write_text(source)
    theirs = classifier_hash("cpur_test_theirs:made")
    (tmp_path / "cpur_test_theirs.py").write_text(source + "# a comment\n")
    assert classifier_hash("cpur_test_theirs:made") != theirs
    weights = hashlib.sha256()
    for key, value in sorted(load_classifier().state_dict().items()):
        weights.update(f"{key} {tuple(value.shape)} {value.dtype}".encode() + value.numpy().tobytes())
    assert classifier_hash("cpur.classifiers:load_classifier") == weights.hexdigest()[:16]
