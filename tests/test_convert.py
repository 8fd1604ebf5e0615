"""Published checkpoints as folders: parity from file to denoiser, and nothing written where anything is wrong."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cpur import load_purifier
from cpur.checkpoints import convert, load_network, read_json
from cpur.networks.openai_unet import OpenAIUNet
from cpur.networks.song_unet import SongUNet
from cpur.purifiers import Consistency, OneStepEDM
from cpur.schedules import timestep_of

GOLDEN = Path(os.environ.get("CPUR_GOLDEN", "/nowhere"))
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="CPUR_GOLDEN does not name the folder of the reference vectors"
)


def arguments_of(config):
    network = config["network"]
    given = dict(network.get("constructor_arguments") or network["model_config"])
    if "channels_per_head" in network:
        given["channels_per_head"] = network["channels_per_head"]
    return given


def close(found, expected, bound=2e-5):
    """The largest absolute difference over the largest absolute value."""
    expected = torch.as_tensor(expected)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= bound * expected.abs().max()


def golden(folder):
    return json.loads((GOLDEN / folder / "config.json").read_text()), np.load(GOLDEN / folder / "io.npz")


DISCRETE = {
    "01_improved_diffusion_unet/cifar_small": "improved-diffusion",
    "02_guided_diffusion_unet/uncond_wide": "guided-diffusion",
}


@needs_golden
@pytest.mark.parametrize("folder", DISCRETE)
@torch.inference_mode()
def test_one_step_of_a_published_diffusion_model(folder, tmp_path):
    config, data = golden(folder)
    target = convert(GOLDEN / folder / "checkpoint.pt", tmp_path / "net", DISCRETE[folder], arguments_of(config))
    network, purifier = load_network(target), load_purifier("onestep-ddpm", target)
    x0 = torch.from_numpy(data["x0_pm1"])
    for i, t in enumerate(data["raw_t"]):
        x = torch.from_numpy(data["raw_x"]) if "raw_x" in data else x0
        close(network(x, torch.full((len(x),), float(t))), data["raw_out"][i])
    for i, step in enumerate(config["one_step"]):
        sigma = step["sigma_01"]
        s = int(timestep_of(torch.tensor([2.0 * sigma]), purifier.alphas_cumprod))
        assert s == step["rule_A_t"] == step["rule_B_t"]
        assert purifier.time_scale * s == step["network_time_argument"]
        abar = float(purifier.alphas_cumprod[s])
        assert abar == pytest.approx(step["alpha_bar"], rel=1e-9)
        noisy = torch.from_numpy(data["x_t_scaled_addnoise"][i]) / abar**0.5  # on [-1, 1], noise 2 sigma
        found = 2 * purifier.denoise((noisy + 1) / 2, sigma) - 1
        close(found, data["pred_xstart_unclipped_scaled_addnoise"][i], 1e-4)


@needs_golden
@pytest.mark.parametrize("distillation", [True, False])
@torch.inference_mode()
def test_a_published_consistency_model(distillation, tmp_path):
    folder = "03_consistency_models_unet/imagenet64_small"
    config, data = golden(folder)
    given = arguments_of(config) | {"distillation": distillation, "num_scales": None}
    target = convert(GOLDEN / folder / "checkpoint.pt", tmp_path / "net", "consistency-models", given)
    network, labels = load_network(target), torch.from_numpy(data["labels"])
    purifier = load_purifier("consistency" if distillation else "onestep-edm", target)
    expected = data[f"denoised_distillation_{str(distillation).lower()}"]
    for i, sigma in enumerate(torch.from_numpy(data["sigma"])):
        x, t = torch.from_numpy(data["x_t"][i]), sigma.expand(len(labels))
        c_skip, c_out, c_in = (c.view(-1, 1, 1, 1) for c in purifier.scalings(t))
        out = network(c_in * x, purifier.c_noise * t.log(), labels)
        close(out, data["model_output"][i])
        close(c_skip * x + c_out * out, expected[i])


PRECONDITIONED = {
    "edm_ddpmpp": ("edm", "onestep-edm"),
    "edm_ncsnpp": ("edm", "onestep-edm"),
    "ect_ecm_ddpmpp": ("ect", "consistency"),
}


@needs_golden
@pytest.mark.parametrize("name", PRECONDITIONED)
@torch.inference_mode()
def test_a_published_edm_or_ect_model(name, tmp_path):
    folder = f"04_edm_preconditioned/{name}"
    config, data = golden(folder)
    format_, purifier_name = PRECONDITIONED[name]
    target = convert(GOLDEN / folder / "checkpoint.pt", tmp_path / "net", format_, arguments_of(config))
    purifier = load_purifier(purifier_name, target)
    for i, t in enumerate(data["sigma"].tolist()):
        x = torch.from_numpy(data["x_noisy"][i])
        close(2 * purifier.denoise((x + 1) / 2, t / 2) - 1, data["denoised"][i])


@needs_golden
@torch.inference_mode()
def test_a_published_edm_model_with_classes(tmp_path):
    folder = "04_edm_preconditioned/edm_adm_labels"
    config, data = golden(folder)
    target = convert(GOLDEN / folder / "checkpoint.pt", tmp_path / "net", "edm", arguments_of(config))
    network, purifier = load_network(target), load_purifier("onestep-edm", target)
    labels = torch.from_numpy(data["class_labels_onehot"]).argmax(1)
    for i, sigma in enumerate(torch.from_numpy(data["sigma"])):
        x, t = torch.from_numpy(data["x_noisy"][i]), sigma.expand(len(labels))
        c_skip, c_out, c_in = (c.view(-1, 1, 1, 1) for c in purifier.scalings(t))
        close(c_skip * x + c_out * network(c_in * x, purifier.c_noise * t.log(), labels), data["denoised"][i])


@needs_golden
@torch.inference_mode()
def test_a_published_jax_model(tmp_path):
    folder = "06_jax_ncsnpp_consistency/ncsnpp_cd_small"
    config, data = golden(folder)
    given = arguments_of(config) | {"num_scales": None}
    target = convert(GOLDEN / folder / "checkpoint_1.msgpack", tmp_path / "net", "jax-consistency", given)
    purifier = load_purifier("consistency", target)
    for i, t in enumerate(data["t"].tolist()):
        x = torch.from_numpy(data["x_t"][i]).permute(0, 3, 1, 2)
        expected = torch.from_numpy(data["consistency_output"][i]).permute(0, 3, 1, 2)
        close(2 * purifier.denoise((x + 1) / 2, t / 2) - 1, expected)


def openai_state(**changed):
    torch.manual_seed(0)
    settings = {
        "in_channels": 3,
        "model_channels": 32,
        "out_channels": 6,
        "num_res_blocks": 1,
        "attention_resolutions": [2],
        "channel_mult": [1, 2],
        "num_heads": 4,
        "use_scale_shift_norm": True,
    }
    return OpenAIUNet(**settings | changed).state_dict()


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(openai_state(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_an_improved_diffusion_checkpoint_purifies(checkpoint, tmp_path):
    target = convert(checkpoint, tmp_path / "net", "improved-diffusion", {"num_heads": 4})
    assert sorted(file.name for file in target.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
    ]
    assert read_json(target / "scheduler_config.json")["rescale_timesteps"] is True
    purifier = load_purifier("onestep-ddpm", target)
    assert len(purifier.alphas_cumprod) == 4000
    assert purifier.time_scale == 0.25
    found = purifier.denoise(torch.rand(2, 3, 16, 16), 0.5)
    assert found.shape == (2, 3, 16, 16)
    again = convert(checkpoint, tmp_path / "other", "guided-diffusion", {"num_heads": 4})
    other = load_purifier("onestep-ddpm", again)
    assert (len(other.alphas_cumprod), other.time_scale) == (1000, 1.0)


def test_safetensors_are_read_too(tmp_path):
    save_file(openai_state(), tmp_path / "model.safetensors")
    target = convert(tmp_path / "model.safetensors", tmp_path / "net", "improved-diffusion", {"num_heads": 4})
    for key, value in load_network(target).state_dict().items():
        assert torch.equal(value, openai_state()[key])


SONG = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "model_channels": 16, "channel_mult": [1, 2]}


@pytest.mark.parametrize(
    ("format_", "name", "kind"), [("edm", "onestep-edm", OneStepEDM), ("ect", "consistency", Consistency)]
)
def test_a_plain_state_dict_of_edm_and_ect(format_, name, kind, tmp_path):
    torch.manual_seed(0)
    network = SongUNet(**SONG, num_blocks=1, attn_resolutions=[4])
    torch.save({f"model.{key}": value for key, value in network.state_dict().items()}, tmp_path / "edm.pt")
    target = convert(tmp_path / "edm.pt", tmp_path / "net", format_, {"sigma_max": "inf"})
    purifier = load_purifier(name, target)
    assert type(purifier) is kind
    assert purifier.c_noise == 0.25
    assert purifier.denoise(torch.rand(2, 3, 8, 8), 0.3).shape == (2, 3, 8, 8)
    if format_ == "ect":
        assert purifier.times is None
        assert purifier.sigma_min == 0.003


def test_discrete_times_are_the_grid_that_was_trained(tmp_path):
    """The time nearest to 2 sigma = 0.5 is 0.585 on the grid of 18 scales, and 0.470 on that of 40, the default."""
    state = openai_state(
        out_channels=3, num_classes=1, num_heads=None, num_head_channels=16, projections_2d=True, three_first=True
    )
    torch.save(state, tmp_path / "cd.pt")
    target = convert(tmp_path / "cd.pt", tmp_path / "net", "consistency-models", {"num_head_channels": 16})
    purifier = load_purifier("consistency", target)
    assert len(purifier.times) == 40
    assert nearest(purifier) == pytest.approx(0.470, abs=1e-3)
    assert purifier.denoise(torch.rand(1, 3, 16, 16), 0.25).shape == (1, 3, 16, 16)
    given = {"num_head_channels": 16, "num_scales": 18}
    assert nearest(
        load_purifier("consistency", convert(tmp_path / "cd.pt", tmp_path / "18", "consistency-models", given))
    ) == pytest.approx(0.585, abs=1e-3)


def nearest(purifier):
    return float(purifier.times[(purifier.times - 0.5).abs().argmin()])


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/cpur-convert-was-here",)


def spoiled(name, file):
    state = openai_state()
    if name == "missing tensor":
        del state["out.2.bias"]
    elif name == "extra tensor":
        state["more"] = torch.zeros(1)
    elif name == "wrong shape":
        state["out.2.bias"] = torch.zeros(7)
    torch.save(state, file)
    if name == "torn":
        os.truncate(file, 1000)
    elif name == "code":
        file.write_bytes(pickle.dumps({"ema": Evil()}))


@pytest.mark.parametrize(
    ("name", "format_", "sentence"),
    [
        ("missing tensor", "improved-diffusion", "out.2.bias is missing"),
        ("extra tensor", "improved-diffusion", "more is unknown"),
        ("wrong shape", "improved-diffusion", r"out.2.bias has shape \[7\] instead of \[6\]"),
        ("torn", "improved-diffusion", "model"),
        ("code", "edm", "posix.system|system"),
        ("other architecture", "edm", "state dict"),
        ("other architecture", "jax-consistency", "model"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_written(name, format_, sentence, tmp_path, rejected):
    file = tmp_path / ("model.pkl" if name == "code" else "model.pt")
    spoiled(name, file)
    with rejected(sentence):
        convert(file, tmp_path / "net", format_, {"num_heads": 4})
    assert not (tmp_path / "net").exists()
    assert not Path("/tmp/cpur-convert-was-here").exists()


def test_bad_calls_are_named(checkpoint, tmp_path, rejected):
    with rejected("format must be one of improved-diffusion"):
        convert(checkpoint, tmp_path / "net", "onnx")
    with rejected("there is no file"):
        convert(tmp_path / "nowhere.pt", tmp_path / "net", "edm")
    with rejected("give num_heads or num_head_channels"):
        convert(checkpoint, tmp_path / "net", "improved-diffusion")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with rejected("is not empty: name a new folder"):
        convert(checkpoint, tmp_path / "full", "improved-diffusion", {"num_heads": 4})
    with rejected("arguments must be a JSON object"):
        convert(checkpoint, tmp_path / "net", "improved-diffusion", [1])
    (tmp_path / "a.json").write_text('{"num_heads": 4}')
    assert convert(checkpoint, tmp_path / "net", "improved-diffusion", tmp_path / "a.json").is_dir()
