"""OpenAI's U-Nets: the reference vectors, a tiny network's numbers, settings from tensors, and refusals."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cpur.checkpoints import count_parameters
from cpur.networks.openai_blocks import AttentionBlock
from cpur.networks.openai_unet import OpenAIUNet, infer_settings

GOLDEN = Path(os.environ.get("CPUR_GOLDEN", "/nowhere"))
VECTORS = (
    "01_improved_diffusion_unet/cifar_small",
    "02_guided_diffusion_unet/uncond_wide",
    "03_consistency_models_unet/imagenet64_small",
)
needs_golden = pytest.mark.skipif(
    not (GOLDEN / VECTORS[0]).is_dir(), reason="CPUR_GOLDEN does not name the folder of the reference vectors"
)
TINY = {
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 6,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_heads": 4,
}
VARIANTS = {
    "improved": {"use_scale_shift_norm": True},
    "improved, labels": {"num_classes": 3, "num_res_blocks": 2, "num_heads": 1, "num_heads_upsample": 2},
    "guided": {"num_head_channels": 16, "resblock_updown": True, "use_scale_shift_norm": True},
    "guided, pooling": {"conv_resample": False, "channel_mult": [1, 3, 2], "attention_resolutions": [1, 4]},
    "guided, new order": {"three_first": True, "channel_mult": [1.5, 0.5], "model_channels": 64},
    "consistency": {
        "num_classes": 5,
        "num_head_channels": 8,
        "resblock_updown": True,
        "use_scale_shift_norm": True,
        "three_first": True,
        "projections_2d": True,
    },
    "one level": {"channel_mult": [2], "attention_resolutions": []},
}


def tiny(**changes):
    """A tiny network, its weights those of a seed, each layer about as large as what it takes."""
    network = OpenAIUNet(**TINY | changes).eval()
    generator = torch.Generator().manual_seed(0)
    for weights in network.parameters():
        scale = 1 / weights[0].numel() ** 0.5 if weights.ndim > 1 else 0.3
        weights.data = torch.randn(weights.shape, generator=generator) * scale
    return network


def output(network):
    """What the network makes of a seeded batch of two."""
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([3.0, 700.25])
    with torch.inference_mode():
        return network(x, t, None if network.settings["num_classes"] is None else torch.tensor([2, 0]))


def arguments_of(settings):
    """The public constructor's words for what tensors do not tell."""
    heads = {name: settings[name] or -1 for name in ("num_heads", "num_head_channels", "num_heads_upsample")}
    return heads | {"use_new_attention_order": settings["three_first"], "dropout": 0.1, "image_size": 8}


def relative_error(out, expected):
    return float((out - torch.from_numpy(expected)).abs().max() / np.abs(expected).max())


@needs_golden
@pytest.mark.parametrize("name", VECTORS)
def test_reference_vectors(name):
    config, arrays = json.loads((GOLDEN / name / "config.json").read_text()), np.load(GOLDEN / name / "io.npz")
    state = torch.load(GOLDEN / name / "checkpoint.pt", weights_only=True)
    settings = infer_settings(state, config["network"]["constructor_arguments"])
    network = OpenAIUNet(**json.loads(json.dumps(settings))).eval()
    network.load_state_dict(state)
    assert count_parameters(network) == config["network"]["parameters"]
    if "raw_x" in arrays:
        x, labels = torch.from_numpy(arrays["raw_x"]), None
        times = [np.full(len(x), t) for t in arrays["raw_t"]] + [arrays["raw_t_mixed"]]
        cases = [(x, t, out) for t, out in zip(times, [*arrays["raw_out"], arrays["raw_out_mixed"]], strict=True)]
    else:
        labels = torch.from_numpy(arrays["labels"])
        levels = zip(arrays["x_t"], arrays["sigma"], arrays["model_output"], strict=True)
        cases = [
            (torch.from_numpy(x / np.sqrt(s**2 + np.float32(0.25))), np.full(len(x), 250 * np.log(s)), out)
            for x, s, out in levels
        ]
    with torch.inference_mode():
        for x, t, expected in cases:
            assert relative_error(network(x, torch.from_numpy(t).float(), labels), expected) < 2e-5


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_settings_are_inferred(changes):
    network = tiny(**changes)
    state, settings = network.state_dict(), network.settings
    inferred = infer_settings(state, arguments_of(settings))
    assert inferred == settings
    assert inferred == infer_settings(state, arguments_of(settings) | TINY | changes)  # what is told again agrees
    again = OpenAIUNet(**json.loads(json.dumps(inferred))).eval()
    again.load_state_dict(state)
    assert torch.equal(output(again), output(network))


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("improved", [0.11142, -0.43903, -0.14217, 0.12893]),
        ("improved, labels", [0.24692, 0.14962, -0.21316, 0.09102]),
        ("guided", [0.29746, 0.19139, -0.64329, 0.07077]),
        ("guided, pooling", [0.00325, -0.21288, 0.41583, 0.15078]),
        ("guided, new order", [0.79117, 0.48086, 0.82233, 0.33692]),
        ("consistency", [0.0172, 0.53438, -1.08908, 0.31537]),
    ],
)
def test_saved_numbers(variant, expected):
    out = output(tiny(**VARIANTS[variant]))
    assert out.shape == (2, 6, 8, 8)
    numbers = torch.stack([out[0, 0, 0, 0], out[0, 5, 7, 3], out[1, 2, 4, 4], out.square().mean()])
    assert torch.allclose(numbers, torch.tensor(expected), rtol=1e-4, atol=1e-4), numbers.tolist()


@pytest.mark.parametrize("projections_2d", [False, True])
@pytest.mark.parametrize("three_first", [False, True])
def test_attention_by_its_formula(three_first, projections_2d):
    """One head at a time, its rows of qkv picked by their number."""
    torch.manual_seed(0)
    block = AttentionBlock(32, 4, three_first, projections_2d).double()
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64)
    qkv = torch.einsum("oc,bcn->bon", block.qkv.weight.flatten(1), block.norm(x).flatten(2))
    qkv = qkv + block.qkv.bias[:, None]
    heads = []
    for head in range(4):
        starts = [8 * (head + 4 * i if three_first else 3 * head + i) for i in range(3)]
        q, k, v = (qkv[:, start : start + 8] for start in starts)
        weights = torch.softmax(torch.einsum("bdn,bdm->bnm", q, k) / 8**0.5, dim=-1)
        heads.append(torch.einsum("bnm,bdm->bdn", weights, v))
    projected = torch.einsum("oc,bcn->bon", block.proj_out.weight.flatten(1), torch.cat(heads, dim=1))
    expected = x + (projected + block.proj_out.bias[:, None]).reshape(x.shape)
    assert torch.allclose(block(x), expected, rtol=0, atol=1e-12)


def test_channels_per_head_are_a_number_of_heads():
    """Where all levels that attend are equally wide."""
    assert torch.equal(output(tiny(num_heads=None, num_head_channels=16)), output(tiny(num_heads=4)))
    assert not torch.allclose(output(tiny(num_heads=2)), output(tiny(num_heads=4)), atol=1e-3)
    assert not torch.allclose(output(tiny(num_heads_upsample=2)), output(tiny(num_heads=4)), atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give num_heads or num_head_channels"),
        ({"num_heads": -1, "num_head_channels": -1}, "give num_heads or num_head_channels"),
        ({"num_heads": "4"}, "num_heads must be a positive whole number"),
        ({"num_heads": 5}, "heads must divide 64 channels"),
        ({"num_head_channels": 48}, "heads must divide 64 channels"),
        ({"num_heads": 4, "channel_mult": (1, 2, 2)}, r"channel_mult is \(1, 2, 2\) in the arguments, but \[1, 2\]"),
        ({"num_heads": 4, "attention_resolutions": "16,8"}, "attention_resolutions is '16,8' in the arguments"),
        ({"num_heads": 4, "attention_resolutions": (1,)}, r"attention_resolutions is \(1,\) in the arguments"),
        ({"num_heads": 4, "num_classes": 10}, "num_classes is 10 in the arguments, but None by the tensors"),
        ({"num_heads": 4, "conv_resample": False}, "conv_resample is False in the arguments, but True"),
        ({"num_heads": 4, "dims": 1}, "dims must be 2"),
    ],
)
def test_arguments_are_refused(arguments, message, rejected):
    with rejected(message):
        infer_settings(tiny().state_dict(), arguments)


def test_weights_of_another_network_are_refused(rejected):
    state = tiny().state_dict()
    op, heads = "input_blocks.2.0.op.weight", {"num_heads": 4, "attention_resolutions": {2, 8}}
    assert infer_settings(state, heads)["attention_resolutions"] == [2]
    with rejected("the weights lack time_embed.0.weight"):
        infer_settings({"map_layer0.weight": torch.zeros(4, 4)}, heads)
    with rejected("do not fit the network: input_blocks.2.0.op.weight is missing"):
        infer_settings({key: value for key, value in state.items() if key != op}, heads)
    with rejected("do not fit the network: ema_decay is unknown"):
        infer_settings(state | {"ema_decay": torch.zeros(1)}, heads)
    with rejected(r"op.weight has shape \[32, 32, 1, 1\] instead of \[32, 32, 3, 3\]"):
        infer_settings(state | {op: torch.zeros(32, 32, 1, 1)}, heads)
    with rejected("out.2.weight must have 4 dimensions"):
        infer_settings(state | {"out.2.weight": torch.zeros(6)}, heads)
    with rejected("3 output_blocks do not make 2 levels"):
        infer_settings({key: value for key, value in state.items() if "output_blocks.3" not in key}, heads)
    with rejected("is missing, .* is missing, .* is missing, 23 more"):
        infer_settings({key: value for key, value in state.items() if "middle_block" not in key}, heads)


def test_inputs_are_refused(rejected):
    x, t = torch.zeros(1, 3, 8, 8), torch.zeros(1)
    with rejected("labels are given, and the network knows no classes"):
        tiny()(x, t, torch.zeros(1, dtype=torch.long))
    with rejected("class-conditional .3 classes. and purification knows no class"):
        tiny(num_classes=3)(x, t)
    with rejected(r"3 channels and sides that are multiples of 2; got \[1, 8, 8\]"):
        tiny()(x[:, :1], t)
    with rejected(r"multiples of 2; got \[3, 7, 8\]"):
        tiny()(x[:, :, :7], t)
    with rejected(r"multiples of 32; got \[32, 48\]"):
        tiny(channel_mult=(1, 1.5))


CIFAR10 = {"out_channels": 6, "model_channels": 128, "num_res_blocks": 3, "num_heads": 4, "use_scale_shift_norm": True}
LARGE = {"in_channels": 3, "num_head_channels": 64, "resblock_updown": True, "use_scale_shift_norm": True}


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        (CIFAR10 | {"in_channels": 3, "channel_mult": (1, 2, 2, 2), "attention_resolutions": (2, 4)}, 52_546_438),
        (CIFAR10 | {"in_channels": 3, "channel_mult": (1, 2, 3, 4), "attention_resolutions": (4, 8)}, 121_063_942),
        (
            LARGE
            | {"model_channels": 256, "out_channels": 6, "num_res_blocks": 2}
            | {"channel_mult": (1, 1, 2, 2, 4, 4), "attention_resolutions": (8, 16, 32)},
            552_814_086,
        ),
        (
            LARGE
            | {"model_channels": 192, "out_channels": 3, "num_res_blocks": 3, "num_classes": 1000}
            | {"channel_mult": (1, 2, 3, 4), "attention_resolutions": (2, 4, 8)}
            | {"three_first": True, "projections_2d": True},
            295_899_267,
        ),
    ],
    ids=["cifar10", "imagenet64", "imagenet256", "imagenet64-consistency"],
)
def test_published_sizes(settings, parameters):
    with torch.device("meta"):
        network = OpenAIUNet(**settings)
    assert count_parameters(network) == parameters
    assert infer_settings(network.state_dict(), arguments_of(network.settings)) == network.settings
