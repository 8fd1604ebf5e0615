"""DDPM++ and NCSN++: reference vectors, saved numbers, settings told by tensors, refusals."""

import json

import pytest
import torch
from edm_reference import check_reference, filled, needs_golden, output, relative

from cpur.checkpoints import count_parameters
from cpur.networks.edm_state import raw_state
from cpur.networks.song_unet import SongUNet, infer_settings

SMALL = {
    "img_resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
DDPMPP = SMALL | {"label_dim": 3, "augment_dim": 9}
NCSNPP = SMALL | {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
    "channel_mult": [1, 2, 1],
}
SKIPS = SMALL | {
    "encoder_type": "skip",
    "decoder_type": "skip",
    "channel_mult": [1, 1, 2],
    "out_channels": 4,
    "attn_resolutions": [8, 2],
    "num_heads": 2,
}
LABELS = torch.tensor([2, 0])


@needs_golden
@pytest.mark.parametrize("folder", ["edm_ddpmpp", "edm_ncsnpp", "ect_ecm_ddpmpp"])
def test_outputs_are_those_of_the_reference(folder):
    check_reference(folder, infer_settings, SongUNet)


@pytest.mark.parametrize(
    ("settings", "labels", "expected"),
    [
        (DDPMPP, LABELS, [0.03555, -0.10092, 1.527, 0.31108, 0.8224]),
        (NCSNPP, None, [0.78184, -0.64738, -0.39215, 0.39815, -0.56462]),
        (SKIPS, None, [1.13604, 0.02954, -0.78569, 2.21526, 0.48913, -0.28884, 2.33913]),
    ],
)
def test_outputs_are_those_saved(settings, labels, expected):
    found = output(filled(SongUNet(**settings)), labels)
    assert found.shape == (2, settings["out_channels"], 8, 8)
    assert relative(found.flatten()[::83], torch.tensor(expected)) < 1e-4


@pytest.mark.parametrize("settings", [DDPMPP, NCSNPP, SKIPS])
def test_tensors_tell_the_settings(settings):
    network = SongUNet(**settings)
    heads = {"num_heads": network.settings["num_heads"]}
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    assert infer_settings(state, heads) == infer_settings(raw_state(state), heads) == network.settings
    arguments = network.settings | {"img_channels": 3, "dropout": 0.1, "use_fp16": True, "model_type": "SongUNet"}
    assert infer_settings(state, arguments) == network.settings
    assert SongUNet(**json.loads(json.dumps(network.settings))).settings == network.settings


@pytest.mark.parametrize("side", ["encoder_type", "decoder_type"])
def test_without_its_side_weights_a_skip_network_is_a_standard_one(side):
    skip, standard = filled(SongUNet(**SMALL | {side: "skip"})), SongUNet(**SMALL).eval()
    state = skip.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            if "aux_skip" in name or "4x4_aux_conv" in name:
                value.zero_()
    standard.load_state_dict({name: state[name] for name in standard.state_dict()})
    torch.testing.assert_close(output(skip), output(standard))
    assert not torch.allclose(output(filled(skip)), output(standard), atol=0.01)


def test_two_filters_that_differ_by_a_factor_are_one():
    network = SongUNet(**SMALL | {"resample_filter": [2, 2]})
    assert infer_settings(network.state_dict(), {"resample_filter": [3, 3]})["resample_filter"] == [1, 1]


def test_a_single_size_has_neither_filter_nor_side_path():
    settings = SMALL | {"channel_mult": [1], "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}
    network = SongUNet(**settings)
    assert infer_settings(network.state_dict(), settings) == network.settings
    assert infer_settings(network.state_dict())["encoder_type"] == "standard"


def test_published_size():
    with torch.device("meta"):
        network = SongUNet(32, 3, 3, augment_dim=9, channel_mult=(2, 2, 2))
    assert round(count_parameters(network) / 1e6, 1) == 55.7


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"label_dim": 10}, "label_dim is 10 in the arguments, but 3 in the tensors"),
        ({"img_channels": 1}, "in_channels is 1 in the arguments, but 3"),
        ({"attn_resolutions": [16]}, r"attn_resolutions is \[\] in the arguments, but \[4\]"),
        ({"encoder_type": "residual"}, "encoder_type is 'residual' in the arguments"),
        ({"resample_filter": [1, 3, 3, 1]}, "resample_filter is"),
        ({"model_type": "DhariwalUNet"}, "try cpur.networks.dhariwal_unet"),
        ({"num_heads": 3}, "must divide the channels"),
    ],
)
def test_arguments_that_contradict_tensors_are_named(arguments, sentence, rejected):
    with rejected(sentence):
        infer_settings(SongUNet(**DDPMPP).state_dict(), arguments)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("enc.8x8_conv.weight", None, "has 0 tensors enc.<size>x<size>_conv.weight"),
        ("dec.8x8_aux_conv.weight", None, "lacks dec.8x8_aux_conv.weight"),
        ("dec.4x4_in1.conv0.bias", None, r"dec.4x4_in1.conv0.bias has shape none, expected \(16,\)"),
        ("dec.4x4_in1.conv0.bias", torch.zeros(8), r"dec.4x4_in1.conv0.bias has shape \(8,\), expected \(16,\)"),
        ("enc.8x8_extra", torch.zeros(8), r"enc.8x8_extra has shape \(8,\), expected none"),
        ("dec.8x8_aux_conv.weight", torch.zeros(3), r"must have 4 dimensions; got shape \(3,\)"),
        ("enc.4x4_block0.conv0.weight", torch.zeros(12, 8, 3, 3), "channel_mult must be a whole number"),
    ],
)
def test_tensors_that_do_not_fit_are_named(name, value, sentence, rejected):
    state = SongUNet(**DDPMPP).state_dict()
    if value is None:
        del state[name]
    else:
        state[name] = value
    with rejected(sentence):
        infer_settings(state)


def test_bad_input_is_named(rejected):
    conditional, unconditional = SongUNet(**DDPMPP), SongUNet(**SMALL)
    x, t = torch.zeros(2, 3, 8, 8), torch.zeros(2)
    with rejected("class-conditional .3 classes.: give labels"):
        conditional(x, t)
    with rejected("knows no classes: leave labels None"):
        unconditional(x, t, LABELS)
    for shape in [(2, 1, 8, 8), (2, 3, 7, 8)]:
        with rejected("x must have 3 channels, and height and width divisible by 2"):
            unconditional(torch.zeros(shape), t)
    for change in (
        {"embedding_type": "none"},
        {"encoder_type": "none"},
        {"decoder_type": "residual"},
        {"nonlinearity": "x"},
    ):
        with rejected(f"{next(iter(change))} must be one of"):
            SongUNet(**SMALL | change)
    for taps in ([1], [1, -1], []):
        with rejected("resample_filter must be two or more taps whose sum is not 0"):
            SongUNet(**SMALL | {"resample_filter": taps})
    with rejected("must split into 1 groups of 4 or more; got 2"):
        SongUNet(**SMALL | {"model_channels": 2})
