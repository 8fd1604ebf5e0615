"""Fine-tuning: what moves and what does not, exact resume, accumulation, the learned token."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel

from cpur import finetune, load_classifier, load_purifier
from cpur.checkpoints import DiffusersNetwork, load_network, save_network, write_json
from cpur.compare import before_and_after
from cpur.finetune import Finetuning, unconditional
from cpur.networks.dhariwal_unet import DhariwalUNet
from cpur.networks.openai_unet import OpenAIUNet
from cpur.recipes import FinetuneConfig

SHORT = FinetuneConfig(loss="l2", steps=6, batch_size=16, ema=0.5, lr=1e-3, classifier_lr=1e-3)


def weights(model):
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def tuned(tmp_path, name="run", **values):
    return Finetuning(replace(SHORT, out=str(tmp_path / name), **values)).run()


def test_a_run_that_was_interrupted_gives_the_same_weights(tmp_path, monkeypatch):
    """Stopped in the middle of a step after a state on disk; dropout and batch statistics included."""
    monkeypatch.setattr(finetune, "SAVE_EVERY", 2)
    whole = tuned(tmp_path, train="both")

    class Stopped(Exception):
        pass

    def stop(steps, done, total):
        for step in steps:
            if step == 5:
                raise Stopped
            yield step

    half = Finetuning(replace(SHORT, train="both", out=str(tmp_path / "half")))
    with pytest.raises(Stopped):
        half.run(stop)
    torch.rand(7)  # whatever else happens to the generator
    resumed = Finetuning(half.config)
    assert len(resumed.losses) == 4  # the state on disk
    result = resumed.run()
    assert torch.equal(
        weights(load_purifier("consistency", whole.purifier)), weights(load_purifier("consistency", result.purifier))
    )
    assert torch.equal(
        weights(load_classifier(checkpoint=whole.classifier)), weights(load_classifier(checkpoint=result.classifier))
    )
    assert whole.history.equals(result.history)


def test_a_finished_run_is_not_repeated_and_can_be_made_longer(tmp_path):
    first = tuned(tmp_path, steps=4)
    again = tuned(tmp_path, steps=4)
    assert first.history.equals(again.history)
    longer, whole = tuned(tmp_path), tuned(tmp_path, "whole")
    assert torch.equal(
        weights(load_purifier("consistency", longer.purifier)), weights(load_purifier("consistency", whole.purifier))
    )


def test_another_run_in_the_same_folder_is_refused(tmp_path, rejected):
    tuned(tmp_path, steps=1)
    with rejected("holds another training run"):
        tuned(tmp_path, steps=1, seed=1)
    tuned(tmp_path, steps=2)
    with rejected("holds 2 steps, and steps is 1"):
        tuned(tmp_path, steps=1)
    (tmp_path / "run/training.pt").write_bytes(b"torn")
    with rejected("cannot be read.*delete it to start anew"):
        tuned(tmp_path, steps=1)


@pytest.mark.parametrize("purifier", ["consistency", "onestep-edm", "onestep-ddpm"])
def test_only_the_purifier_moves_and_its_loss_falls(purifier, tmp_path):
    # From weights that were spoiled there is something to mend.
    source = tmp_path / "spoiled"
    good = load_purifier(purifier)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in good.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    save_network(good.network, source)
    for file in finetune.purifier_folder(purifier).glob("*er_config.json"):
        (source / file.name).write_text(file.read_text())
    for file in finetune.purifier_folder(purifier).glob("preconditioning.json"):
        (source / file.name).write_text(file.read_text())
    result = tuned(tmp_path, purifier=purifier, checkpoint=str(source), steps=60, batch_size=32)
    assert result.classifier is None
    losses = result.history["l2 distance"]
    assert losses.iloc[-10:].mean() < 0.8 * losses.iloc[:5].mean()
    before, after = load_purifier(purifier, source), load_purifier(purifier, result.purifier)
    assert type(before) is type(after)
    assert not torch.equal(weights(before), weights(after))


def test_only_the_classifier_moves(tmp_path):
    result = tuned(tmp_path, train="classifier")
    assert result.purifier is None
    assert list(result.history) == ["step", "cross-entropy"]
    assert not torch.equal(weights(load_classifier(checkpoint=result.classifier)), weights(load_classifier()))


def test_the_classifier_does_not_pull_the_purifier(tmp_path):
    """With `both`, the purifier gets the gradient of its own distance alone: it moves as without the classifier."""
    alone, both = tuned(tmp_path, "alone", steps=1), tuned(tmp_path, "both", steps=1, train="both")
    one, two = (load_purifier("consistency", result.purifier) for result in (alone, both))
    assert torch.allclose(weights(one), weights(two), atol=1e-7)


def test_accumulation_gives_the_same_step(tmp_path):
    whole, pieces = tuned(tmp_path, "a", steps=2), tuned(tmp_path, "b", steps=2, accumulate=3)
    one, two = (weights(load_purifier("consistency", result.purifier)) for result in (whole, pieces))
    moved = (one - weights(load_purifier("consistency"))).abs().max()
    assert (one - two).abs().max() < 1e-3 * moved


def test_bfloat16_is_close_and_the_weights_stay_float32(tmp_path):
    one, two = tuned(tmp_path, "a", steps=2), tuned(tmp_path, "b", steps=2, precision="bfloat16")
    assert two.history["l2 distance"].iloc[0] == pytest.approx(one.history["l2 distance"].iloc[0], rel=0.02)
    network = load_purifier("consistency", two.purifier).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_training_leaves_the_global_generator_alone(tmp_path):
    run = Finetuning(replace(SHORT, out=str(tmp_path), steps=1))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run.run()
    assert torch.equal(torch.rand(3), expected)


def test_sigmas_come_from_the_set_or_between(tmp_path):
    run = Finetuning(replace(SHORT, out=str(tmp_path / "a")))
    torch.manual_seed(0)
    assert set(run._sigmas(200).tolist()) == {0.25, 0.5, 1.0}
    run = Finetuning(replace(SHORT, out=str(tmp_path / "b"), continuous=True))
    drawn = run._sigmas(4000)
    assert 0 < drawn.min() < 0.01
    assert 0.99 < drawn.max() <= 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.03)


def conditional():
    torch.manual_seed(0)
    return DiffusersNetwork(
        UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            norm_num_groups=4,
            add_attention=False,
            num_class_embeds=5,
        )
    ).eval()


def test_a_class_conditional_network_becomes_unconditional(tmp_path, rejected):
    network = conditional()
    x, t = torch.rand(2, 1, 8, 8), torch.ones(2)
    with rejected("class-conditional .5 classes."):
        network(x, t)
    token = unconditional(network)
    table = network.unet.class_embedding.weight
    assert torch.allclose(token.unet.class_embedding.weight[0], table.mean(0), atol=1e-7)
    with torch.no_grad():
        table[3] = table.mean(0)  # a class whose embedding is the mean
        mean = table.mean(0).clone()
        table[3] = mean
        token.unet.class_embedding.weight[0] = mean
    assert torch.allclose(token(x, t), network(x, t, torch.tensor([3, 3])), atol=1e-6)
    save_network(token, tmp_path)
    assert torch.equal(load_network(tmp_path)(x, t), token(x, t))
    assert unconditional(load_purifier("consistency").network).unet.class_embedding is None


def test_networks_of_every_family_become_unconditional(rejected):
    torch.manual_seed(0)
    shape = {"in_channels": 3, "model_channels": 32, "out_channels": 3, "num_res_blocks": 1, "num_heads": 1}
    network = OpenAIUNet(**shape, attention_resolutions=(), channel_mult=(1,), num_classes=4).eval()
    x, t = torch.rand(2, 3, 8, 8), torch.ones(2)
    with rejected("class-conditional .4 classes."):
        network(x, t)
    token = unconditional(network)
    assert (token.num_classes, network.num_classes) == (1, 4)
    with torch.no_grad():
        network.label_emb.weight[2] = token.label_emb.weight[0]
    assert torch.equal(token(x, t), network(x, t, torch.tensor([2, 2])))
    classless = OpenAIUNet(**shape, attention_resolutions=(), channel_mult=(1,))
    assert unconditional(classless) is classless
    shape = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "model_channels": 16}
    with rejected("a class-conditional DhariwalUNet cannot be fine-tuned: take an unconditional checkpoint"):
        unconditional(DhariwalUNet(**shape, channel_mult=(1,), attn_resolutions=(), num_blocks=1, label_dim=4))


def test_the_token_is_learned(tmp_path):
    source = tmp_path / "conditional"
    save_network(conditional(), source)
    write_json(source / "preconditioning.json", {"kind": "consistency", "sigma_data": 0.5, "sigma_min": 0.002})
    result = tuned(tmp_path, checkpoint=str(source), steps=30)
    network = load_network(result.purifier)
    start = conditional().unet.class_embedding.weight.mean(0)
    assert network.unet.class_embedding.weight.shape[0] == 1
    assert (network.unet.class_embedding.weight[0] - start).abs().max() > 1e-4
    assert load_purifier("consistency", result.purifier).denoise(torch.rand(2, 1, 8, 8), 0.5).shape == (2, 1, 8, 8)


def test_presets_are_the_papers():
    for preset, sigmas in {"cifar10": (0.25, 0.5, 1.0), "imagenet64": (0.05, 0.15, 0.25)}.items():
        config = FinetuneConfig(preset=preset)
        assert config.sigmas == sigmas
        assert (config.loss, config.lr, config.batch_size, config.ema) == ("lpips", 1e-4, 64, 0.9999)
    assert FinetuneConfig(preset="cifar10", lr=1e-3).lr == 1e-3


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"preset": "cifar"}, "preset must be one of digits, cifar10, imagenet64"),
        ({"train": "all"}, "train must be one of purifier, classifier, both"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"lr": 0.0}, r"lr must lie in \(0, 1\)"),
        ({"flip": "true"}, "flip must be True or False"),
        ({"sigmas": 0.5}, "sigmas must be a list"),
        ({"sigmas": [0.5, -1]}, "sigma must lie in"),
        ({"accumulate": 1000}, "accumulate must be at most batch_size"),
        ({"precision": "bfloat16+compile"}, "precision must be one of float32, tf32, bfloat16"),
        ({"n": 3}, "n = 3 samples can never certify"),
        ({"lpips_net": "resnet"}, "lpips_net must be one of vgg"),
    ],
)
def test_bad_values(values, match, rejected):
    with rejected(match):
        FinetuneConfig(**values)


def test_a_classifier_of_ones_own_is_tuned(tmp_path, monkeypatch):
    """Its weights are written as safetensors, and its function gets their folder."""
    (tmp_path / "foreign.py").write_text(
        "import torch\nfrom safetensors.torch import load_model\n"
        "def make(folder=None):\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
        "    if folder: load_model(model, f'{folder}/model.safetensors')\n"
        "    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    result = tuned(tmp_path, train="classifier", classifier="foreign:make", steps=2)
    before, after = (load_classifier("foreign:make", folder) for folder in (None, result.classifier))
    assert not torch.equal(weights(before), weights(after))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, rejected):
    run = Finetuning(replace(SHORT, out=str(tmp_path), lr=0.99, steps=200, batch_size=2))
    run.distance = lambda x, y: (x - y).flatten(1).sum(1) / 0
    with rejected("the loss of step 1 is not finite"):
        run.run()


def test_what_cannot_be_tuned(tmp_path, rejected):
    for purifier in ("none", "pf-ode"):
        with rejected(f"purifier {purifier} cannot be fine-tuned"):
            tuned(tmp_path, purifier=purifier)
    with rejected("there is no .*vgg16"):
        tuned(tmp_path, loss="lpips")
    assert not list(tmp_path.iterdir())


def test_before_and_after_are_certified_alike(tmp_path):
    config = replace(
        SHORT,
        out=str(tmp_path),
        steps=2,
        sigmas=(0.25, 0.5),
        n=100,
        num_images=5,
        records_dir=str(tmp_path / "records"),
    )
    before, after = before_and_after(config, Finetuning(config).run())
    assert before.shape == after.shape == (1, 2, 5)
    headers = [json.loads(file.read_text().split("\n")[0]) for file in (tmp_path / "records").glob("*.jsonl")]
    assert len({header["identity"]["purifier_hash"] for header in headers}) == 2
    assert len(headers) == 4
    assert sorted(len(header["finetuned"]) for header in headers) == [0, 0, 1, 1]
    assert all(made["loss"] == "l2" and made["steps"] == 2 for header in headers for made in header["finetuned"])
