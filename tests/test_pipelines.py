"""Folders of diffusers as they are published: pipelines, names on the hub, half precision, and their schedulers."""

import json
import shutil

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, DDPMScheduler, EDMEulerScheduler, UNet2DModel

from cpur import FinetuneConfig, load_purifier
from cpur.checkpoints import checkpoint_hash
from cpur.finetune import Finetuning
from cpur.purifiers import Consistency, OneStepDDPM, OneStepEDM


def small(channels=3, **settings):
    torch.manual_seed(0)
    return UNet2DModel(
        in_channels=channels,
        out_channels=channels,
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        add_attention=False,
        **settings,
    ).eval()


def pipeline(folder, scheduler, unet, **saving):
    """A folder as ``DiffusionPipeline.save_pretrained`` leaves it."""
    unet.save_pretrained(folder / "unet", **saving)
    scheduler.save_pretrained(folder / "scheduler")
    index = {"_class_name": "Pipeline", "unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_a_consistency_pipeline_gives_what_diffusers_computes(sigma, tmp_path):
    """diffusers' scheduler has the scalings, the times and the noise condition of its own."""
    unet, scheduler = small(), CMStochasticIterativeScheduler()
    purifier = load_purifier("consistency", pipeline(tmp_path, scheduler, unet))
    assert type(purifier) is Consistency
    x = torch.rand(2, 3, 8, 8) + sigma * torch.randn(2, 3, 8, 8)
    scheduler.set_timesteps(40)
    sigmas = scheduler.sigmas[:-1]
    nearest = (sigmas - 2 * sigma).abs().argmin()
    t, y = sigmas[nearest], 2 * x - 1
    c_skip, c_out = scheduler.get_scalings_for_boundary_condition(t)
    with torch.no_grad():
        scaled = y / (t**2 + scheduler.config.sigma_data**2).sqrt()
        expected = c_skip * y + c_out * unet(scaled, torch.from_numpy(scheduler.sigma_to_t(t[None].numpy()))).sample
        found = 2 * purifier.denoise(x, sigma) - 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_read_as_float32(tmp_path):
    folder = pipeline(tmp_path / "half", CMStochasticIterativeScheduler(), small().half(), variant="fp16")
    assert [file.name for file in (folder / "unet").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    whole = pipeline(tmp_path / "whole", CMStochasticIterativeScheduler(), small())
    x = torch.rand(1, 3, 8, 8)
    half = load_purifier("consistency", folder)
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    torch.testing.assert_close(
        half.denoise(x, 0.5), load_purifier("consistency", whole).denoise(x, 0.5), atol=1e-2, rtol=0
    )
    assert checkpoint_hash(folder) != checkpoint_hash(whole)


def test_schedulers_tell_the_kind(tmp_path, rejected):
    ddpm = pipeline(tmp_path / "ddpm", DDPMScheduler(), small())
    assert type(load_purifier("onestep-ddpm", ddpm)) is OneStepDDPM
    edm = pipeline(tmp_path / "edm", EDMEulerScheduler(), small())
    purifier = load_purifier("onestep-edm", edm)
    assert (type(purifier), purifier.c_noise, purifier.sigma_data) == (OneStepEDM, 0.25, 0.5)
    with rejected("ddpm is a discrete diffusion model"):
        load_purifier("consistency", ddpm)
    with rejected("needs a discrete diffusion model; edm is 'edm'"):
        load_purifier("onestep-ddpm", edm)
    shutil.rmtree(ddpm / "scheduler")
    with rejected("ddpm lacks scheduler_config.json"):
        load_purifier("onestep-ddpm", ddpm)


def test_a_name_on_the_hub_is_its_folder_in_the_cache(tmp_path, monkeypatch, rejected):
    folder = pipeline(tmp_path / "cached", CMStochasticIterativeScheduler(), small())
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **where: str(folder))
    found = load_purifier("consistency", "openai/diffusers-cd_imagenet64_lpips")
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(found.denoise(x, 0.5), load_purifier("consistency", folder).denoise(x, 0.5))
    monkeypatch.undo()
    with rejected("or run `hf download openai/diffusers-cd_imagenet64_lpips` where there is a network"):
        load_purifier("consistency", "openai/diffusers-cd_imagenet64_lpips")


def test_a_conditional_pipeline_is_tuned_to_a_folder_of_its_own(tmp_path, rejected):
    source = pipeline(tmp_path / "source", CMStochasticIterativeScheduler(), small(1, num_class_embeds=3))
    with rejected("class-conditional .3 classes. and purification knows no class: fine-tune it"):
        load_purifier("consistency", source).denoise(torch.rand(1, 1, 8, 8), 0.5)
    out = str(tmp_path / "out")
    config = FinetuneConfig(purifier="consistency", checkpoint=str(source), loss="l2", steps=1, batch_size=4, out=out)
    again = load_purifier("consistency", Finetuning(config).run().purifier)
    assert len(again.times) == 40
    assert again.network.num_classes == 1
