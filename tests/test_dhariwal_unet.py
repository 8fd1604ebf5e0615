"""ADM as EDM builds it: reference vectors, saved numbers, settings told by tensors, refusals."""

import json

import pytest
import torch
from edm_reference import check_reference, filled, needs_golden, output, relative

from cpur.checkpoints import count_parameters
from cpur.networks.dhariwal_unet import DhariwalUNet, infer_settings
from cpur.networks.song_unet import SongUNet

CONDITIONAL = {
    "img_resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 8,
}
AUGMENTED = CONDITIONAL | {
    "label_dim": 0,
    "augment_dim": 9,
    "channel_mult": [2, 1, 3],
    "channel_mult_emb": 2,
    "num_blocks": 2,
    "attn_resolutions": [8, 2],
    "out_channels": 6,
}
LABELS = torch.tensor([2, 0])


@needs_golden
def test_outputs_are_those_of_the_reference():
    check_reference("edm_adm_labels", infer_settings, DhariwalUNet)


@pytest.mark.parametrize(
    ("settings", "labels", "expected"),
    [
        (CONDITIONAL, LABELS, [-1.68392, -0.37595, -0.25778, -0.69577, 0.2548]),
        (
            AUGMENTED,
            None,
            [-1.55148, 0.41145, 1.47673, -1.33073, 0.36402, -1.00075, 0.76419, -0.56332, 0.2536, 0.09691],
        ),
    ],
)
def test_outputs_are_those_saved(settings, labels, expected):
    found = output(filled(DhariwalUNet(**settings)), labels)
    assert found.shape == (2, settings["out_channels"], 8, 8)
    assert relative(found.flatten()[::83], torch.tensor(expected)) < 1e-4


@pytest.mark.parametrize("settings", [CONDITIONAL, AUGMENTED])
def test_tensors_tell_the_settings(settings):
    network = DhariwalUNet(**settings)
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    assert infer_settings(state, {"channels_per_head": 8}) == network.settings
    arguments = network.settings | {"img_channels": 3, "dropout": 0.1, "use_fp16": True, "model_type": "DhariwalUNet"}
    assert infer_settings(state, arguments) == network.settings
    assert DhariwalUNet(**json.loads(json.dumps(network.settings))).settings == network.settings


def test_a_size_narrower_than_a_head_has_no_attention():
    settings = CONDITIONAL | {"channels_per_head": 16, "attn_resolutions": [8, 4]}
    network = DhariwalUNet(**settings)
    state = network.state_dict()
    assert "enc.4x4_block0.qkv.weight" in state
    assert "enc.8x8_block0.qkv.weight" not in state
    for arguments in ({"channels_per_head": 16}, {"channels_per_head": 16, "attn_resolutions": [8, 4]}):
        assert infer_settings(state, arguments) == network.settings
        assert network.settings["attn_resolutions"] == [4]


def test_published_size():
    with torch.device("meta"):
        network = DhariwalUNet(64, 3, 3, label_dim=1000)
    assert round(count_parameters(network) / 1e6) == 296


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (None, "channels_per_head must split the 16 channels of .*; it is 64, by default 64: give the network's own"),
        ({"channels_per_head": 0}, "channels_per_head must split"),
        ({"channels_per_head": 8, "num_blocks": 3}, "num_blocks is 3 in the arguments, but 1 in the tensors"),
        ({"channels_per_head": 8, "model_type": "SongUNet"}, "try cpur.networks.song_unet"),
    ],
)
def test_arguments_that_are_missing_or_contradict_tensors_are_named(arguments, sentence, rejected):
    with rejected(sentence):
        infer_settings(DhariwalUNet(**CONDITIONAL).state_dict(), arguments)


def test_tensors_that_do_not_fit_are_named(rejected):
    state = DhariwalUNet(**CONDITIONAL).state_dict()
    for change, sentence in {
        ("out_norm.weight", 4): r"out_norm.weight has shape \(4,\), expected \(8,\)",
        ("map_layer2.weight", 4): r"map_layer2.weight has shape \(4,\), expected none",
    }.items():
        name, size = change
        with rejected(sentence):
            infer_settings({**state, name: torch.zeros(size)}, {"channels_per_head": 8})
    with rejected("lacks map_layer0.weight"):
        infer_settings({name: value for name, value in state.items() if "map_layer0" not in name})
    with rejected("a DhariwalUNet was expected"):
        infer_settings(SongUNet(8, 3, 3, model_channels=8, channel_mult=[1], num_blocks=1).state_dict())


def test_bad_input_is_named(rejected):
    conditional, unconditional = DhariwalUNet(**CONDITIONAL), DhariwalUNet(**AUGMENTED)
    x, t = torch.zeros(2, 3, 8, 8), torch.zeros(2)
    with rejected("class-conditional .3 classes.: give labels"):
        conditional(x, t)
    with rejected("knows no classes: leave labels None"):
        unconditional(x, t, LABELS)
    with rejected("height and width divisible by 4"):
        unconditional(torch.zeros(2, 3, 8, 6), t)
    with rejected("channels_per_head must be 1 or more; got 0"):
        DhariwalUNet(**CONDITIONAL | {"channels_per_head": 0})
