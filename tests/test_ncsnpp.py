"""NCSN++: parity with JAX, saved numbers of a tiny network, its settings from its parameters, and refusals."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cpur.networks.flax_names import flax_tree, state_dict_of
from cpur.networks.flax_reader import read_parameters
from cpur.networks.ncsnpp import infer_settings, song_settings
from cpur.networks.song_unet import SongUNet
from cpur.schedules import consistency_scalings, edm_scalings

GOLDEN = Path(os.environ.get("CPUR_GOLDEN", "/nowhere")) / "06_jax_ncsnpp_consistency"
CASES = sorted(file.parent for file in GOLDEN.glob("*/config.json"))
TINY = {"nf": 8, "ch_mult": [1, 2, 3], "num_res_blocks": 2, "attn_resolutions": [8, 4], "image_size": 16}
VARIANTS = [
    {"ch_mult": [2, 2, 2], "attn_resolutions": [8]},
    {"ch_mult": [2, 1, 1], "num_res_blocks": 1, "attn_resolutions": [16, 4]},
    {"ch_mult": [3], "attn_resolutions": []},
    {"num_channels": 1, "fir": False},
    {"progressive_input": "none", "fir_kernel": [1, 2, 1]},
    {"progressive_input": "none", "fir": False, "skip_rescale": False},
    {"progressive_input": "input_skip", "nonlinearity": "elu"},
    {"embedding_type": "positional", "nonlinearity": "relu"},
    {"embedding_type": "positional", "conditional": False, "nonlinearity": "lrelu"},
    {"conditional": False},
]


def nchw(array):
    return torch.from_numpy(array).movedim(-1, -3)


def difference(found, expected):
    """The largest absolute difference over the largest absolute value."""
    return float((found - expected).abs().max() / expected.abs().max())


def filled(fields):
    """A network, and its parameters as flax has them, drawn by NumPy in the order of their paths."""
    network, rng = SongUNet(**song_settings(fields)).eval(), np.random.default_rng(0)
    switches = fields.get("fir", True), fields.get("conditional", True)
    parameters = {}
    for path, value in sorted(flax_tree(network, *switches).items()):
        fan_in = value[..., 0].numel() if value.ndim > 1 else 25
        draw = rng.standard_normal(value.shape, np.float32) / fan_in**0.5 + path.endswith("scale")
        parameters[path] = 80 * draw if path.startswith("GaussianFourierProjection") else draw
    network.load_state_dict(state_dict_of(network, parameters))
    return network, parameters


def batch(channels=3):
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, channels, 16, 16), np.float32))
    return x, torch.tensor([-0.1733, 0.1733])  # a quarter of the logarithm of 0.5 and 2


@pytest.mark.skipif(not CASES, reason="CPUR_GOLDEN does not name the folder of the reference vectors")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outputs_are_those_of_jax(case):
    config = json.loads((case / "config.json").read_text())
    public = config["network"]
    parameters = read_parameters(case / config["checkpoint"]["file"])
    arguments = public["model_config"] | {key: public[key] for key in ("image_size", "num_channels")}
    network = SongUNet(**infer_settings(parameters, arguments)).eval()
    network.load_state_dict(state_dict_of(network, parameters))
    assert sum(value.numel() for value in flax_tree(network).values()) == public["parameters"]
    arrays, (sigma_data, sigma_min) = (
        np.load(case / "io.npz"),
        (public["model_config"][k] for k in ("data_std", "t_min")),
    )

    def check(x, t, expected, scalings, raw=None):
        c_skip, c_out, c_in = (c.view(-1, 1, 1, 1) for c in scalings)
        out = network(c_in * x, 0.25 * t.log())
        assert raw is None or difference(out, nchw(raw)) < 2e-5
        assert difference(c_skip * x + c_out * out, nchw(expected)) < 2e-5

    with torch.inference_mode():
        for i, level in enumerate(arrays["t"]):
            x, t = nchw(arrays["x_t"][i]), torch.full((len(arrays["x_t"][i]),), float(level))
            scalings = consistency_scalings(t, sigma_data, sigma_min)
            check(x, t, arrays["consistency_output"][i], scalings, arrays["network_output"][i])
            check(x, t, arrays["denoiser_output"][i], edm_scalings(t, sigma_data))
        t = torch.from_numpy(arrays["mixed_t"])
        scalings = consistency_scalings(t, sigma_data, sigma_min)
        check(nchw(arrays["mixed_x_t"]), t, arrays["mixed_consistency_output"], scalings)


def test_saved_numbers_of_a_tiny_network():
    network, parameters = filled(TINY)
    assert infer_settings(parameters, {"image_size": 16}) == network.settings == SongUNet(**network.settings).settings
    assert {path: value.numpy().tolist() for path, value in flax_tree(network).items()} == {
        path: value.tolist() for path, value in parameters.items()
    }
    with torch.inference_mode():
        out = network(*batch())
    saved = [[-0.28249440, -0.49010071, 2.01149511], [0.93148458, -0.30864683, -0.06958455]]
    assert difference(out[:, :, 3, 5], torch.tensor(saved)) < 1e-5
    assert float(out.std()) == pytest.approx(0.55371499, abs=1e-5)


@pytest.mark.parametrize("change", VARIANTS, ids=lambda change: " ".join(f"{k}={v}" for k, v in change.items()))
def test_every_variant_is_known_by_its_parameters(change):
    network, parameters = filled(TINY | change)
    assert infer_settings(parameters, TINY | change | {"dropout": 0.1}) == network.settings
    x, t = batch(network.settings["in_channels"])
    with torch.inference_mode():
        out = network(x, t)
        assert out.shape == x.shape
        assert out.isfinite().all()
        assert torch.equal(out, network(x, t.flip(0))) != change.get("conditional", True)
    assert json.loads(json.dumps(network.settings)) == network.settings


def test_the_published_network():
    fields = {"nf": 128, "ch_mult": (2, 2, 2), "num_res_blocks": 4, "attn_resolutions": (16,)}
    with torch.device("meta"):
        network = SongUNet(**song_settings(fields))
    tree = flax_tree(network)
    assert sum(value.numel() for value in tree.values()) == 56_395_651
    assert infer_settings(tree, {"attn_resolutions": (16,), "fourier_scale": 16}) == network.settings
    assert tree["ResnetBlockBigGANpp_4/Conv_2/kernel"].shape == (1, 1, 256, 256)  # halves the first level
    assert tree["Downsample_1/Conv2d_0/weight"].shape == (3, 3, 256, 256)
    assert "AttnBlockpp_5/NIN_3/W" in tree


@pytest.mark.parametrize(
    ("path", "shape", "sentence"),
    [
        ("Dense_1/kernel", None, "do not fit the network: Dense_1/kernel is missing$"),
        ("Dense_2/kernel", (32, 32), "Dense_2/kernel is unknown$"),
        ("Dense_1/kernel", (32, 33), r"Dense_1/kernel has shape \[32, 33\] instead of \[32, 32\]$"),
        ("ResnetBlockBigGANpp_3/Conv_0/kernel", None, "ResnetBlockBigGANpp_3/Conv_0/kernel, of 4 axes, is missing"),
        ("ResnetBlockBigGANpp_3/Conv_0/kernel", (3, 3, 8, 9), "not those of an NCSN.. with BigGAN blocks"),
        ("Conv_0/kernel", None, "not those of an NCSN.. with BigGAN blocks"),
        ("AttnBlockpp_3/NIN_0/W", (8, 8), "no levels have its 7 AttnBlockpp"),
        ("ResnetBlockBigGANpp_20/Dense_0/kernel", None, "got 20 for 3 levels"),
    ],
)
def test_parameters_of_another_network_are_refused(path, shape, sentence, rejected):
    _, parameters = filled(TINY)
    if path.startswith("ResnetBlockBigGANpp_20"):  # the last block
        parameters = {key: value for key, value in parameters.items() if not key.startswith("ResnetBlockBigGANpp_20")}
    elif shape is None:
        del parameters[path]
    else:
        parameters[path] = np.zeros(shape, np.float32)
    with rejected(sentence):
        infer_settings(parameters, {"image_size": 16})
    if path.startswith("Dense"):
        with rejected(sentence):
            state_dict_of(SongUNet(**song_settings(TINY)), parameters)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, r"attn_resolutions is needed, since .* fit \[32\] or \[16\] or \[8\]"),
        ({"image_size": 16}, r"attn_resolutions is needed, since .* fit \[16\] or \[8\] or \[4\]"),
        ({"attn_resolutions": [16, 8]}, r"is \[16, 8\] in the arguments, but \[32\] or \[16\] or"),
        ({"attn_resolutions": [8], "nf": 9}, "nf is 9 in the arguments, but 8 by the parameters"),
        ({"attn_resolutions": [8], "ch_mult": (2, 2)}, r"ch_mult is \[2, 2\] in the arguments, but \[2, 2, 2\]"),
        ({"attn_resolutions": [8], "fir": False}, "fir is False in the arguments, but True"),
        ({"attn_resolutions": [8], "resblock_type": "ddpm"}, "resblock_type must be 'biggan'.*got 'ddpm'"),
        ({"attn_resolutions": [8], "progressive": "output_skip"}, "progressive must be 'none'"),
        ({"attn_resolutions": [8], "nonlinearity": "tanh"}, "nonlinearity must be one of swish"),
    ],
)
def test_arguments_that_lack_or_contradict_are_named(arguments, sentence, rejected):
    _, parameters = filled(TINY | VARIANTS[0])
    with rejected(sentence):
        infer_settings(parameters, arguments)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"embedding_type": "random"}, "embedding_type must be one of positional, fourier; got 'random'"),
        ({"progressive_input": "output_skip"}, "progressive_input must be one of"),
        ({"image_size": 18}, r"img_resolution 18 cannot be halved for each of the channel_mult \[1, 2, 3\]"),
        ({"ch_mult": []}, "channel_mult"),
        ({"nf": 9, "embedding_type": "positional"}, "must be even"),
        ({"nf": 9}, "must split into 2 groups of 4 or more"),
        ({"fir_kernel": [1]}, "resample_filter must be two or more taps"),
    ],
)
def test_settings_of_no_network_are_named(change, sentence, rejected):
    with rejected(sentence):
        SongUNet(**song_settings(TINY | change))
