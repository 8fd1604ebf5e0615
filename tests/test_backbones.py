"""Published checkpoints as classifiers: tiny random ones in their true formats, preprocessing, refusals."""

import json
import sys

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import DenseNet, VisionTransformer, ViT_B_16_Weights
from torchvision.transforms import functional as vision

from cpur import load_classifier
from cpur.backbones import BACKBONES, CIFAR_MEAN, load_cifar
from cpur.checkpoints import count_parameters
from cpur.classifiers import classifier_hash, save_classifier
from cpur.networks.cifar_resnets import CifarResNet, WideResNet, on_meta
from cpur.preprocessing import Preprocess, Preprocessing, read

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COHEN_STD = (0.2023, 0.1994, 0.2010)
TINY = {
    "wrn-10-2": (WideResNet, {"depth": 10, "widen_factor": 2}),
    "resnet14": (CifarResNet, {"depth": 14}),
}


def filled(network):
    """A network in evaluation mode whose batch norms and biases do something."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(1 + torch.rand(value.shape, generator=generator))
        elif value.is_floating_point() and value.ndim == 1:
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return network.eval()


def image(size, height=None, low=0, high=256):
    """An 8-bit image, 3 x h x w."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(low, high, (3, height or size, size), dtype=torch.uint8, generator=generator)


def check_gradients(model, x):
    """Every pixel of ``x`` moves the logits."""
    x = x.clone().requires_grad_(True)
    model(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert x.grad.isfinite().all()


def close(found, expected):
    return torch.allclose(found, expected, atol=1e-5)


@pytest.fixture(params=TINY)
def cifar(request, monkeypatch):
    """A tiny network under a name of its own, its std there, and the name."""
    kind, settings = TINY[request.param]
    std = {WideResNet: (0.2471, 0.2435, 0.2616), CifarResNet: COHEN_STD}[kind]
    monkeypatch.setitem(BACKBONES, request.param, lambda file: load_cifar(file, kind, std, **settings))
    torch.manual_seed(0)
    return filled(kind(**settings, num_classes=7)), std, request.param


@pytest.fixture
def shufflenet(tmp_path):
    torch.manual_seed(0)
    network = filled(torchvision.models.shufflenet_v2_x0_5(num_classes=5))
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "r.pth")
    return network, tmp_path / "r.pth"


def test_published_sizes():
    assert count_parameters(on_meta(WideResNet, {})) == 36_479_194
    assert count_parameters(on_meta(CifarResNet, {})) == 1_730_714
    for name in ("wrn-28-10", "resnet110"):
        assert BACKBONES[name].keywords["depth"] in (28, 110)


def test_key_names_are_the_public_ones():
    wide, resnet = ({*on_meta(kind, settings).state_dict()} for kind, settings in TINY.values())
    assert {"conv1.weight", "block1.layer.0.convShortcut.weight", "block3.layer.0.bn2.running_var", "fc.bias"} <= wide
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias", "layer3.1.conv2.weight"} <= resnet
    assert not any(key.startswith("layer1.0.downsample") for key in resnet)


def test_wide_block_shortcuts():
    """The first block of a stage projects the activated input; the next one adds the input as it is."""
    torch.manual_seed(0)
    stage = filled(WideResNet(depth=16, widen_factor=2)).block2.layer
    x = torch.randn(2, 32, 8, 8)
    first, second = stage
    a = torch.relu(first.bn1(x))
    inner = first.conv2(torch.relu(first.bn2(first.conv1(a))))
    assert close(first(x), inner + first.convShortcut(a))
    x = first(x)
    inner = second.conv2(torch.relu(second.bn2(second.conv1(torch.relu(second.bn1(x))))))
    assert close(second(x), inner + x)
    assert first(x[:, :32]).shape == (2, 64, 2, 2)


@pytest.mark.parametrize("form", ["plain", "module", "wrapped", "safetensors", "cohen", "cohen-parallel", "layer"])
def test_cifar_networks_load_in_every_form(cifar, form, tmp_path):
    network, std, name = cifar
    state, mean = network.state_dict(), CIFAR_MEAN
    prefix = {"module": "module.", "cohen": "1.", "cohen-parallel": "1.module.", "layer": "1."}.get(form, "")
    state = {prefix + key: value for key, value in state.items()}
    if form == "layer":
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
        state |= {"0.means": torch.tensor(mean), "0.sds": torch.tensor(std)}
    file = tmp_path / ("model.safetensors" if form == "safetensors" else "checkpoint.pth.tar")
    if form == "safetensors":
        save_file(state, file)
    else:
        torch.save(state if form in ("plain", "layer") else {"epoch": 90, "state_dict": state}, file)
    model = load_classifier(name, file)
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert close(model(x), network(vision.normalize(x, mean, std)))
        assert model(x).shape == (2, 7)
    check_gradients(model, torch.rand(1, 3, 24, 24))


def test_a_full_resnet110_as_cohen_et_al_publish_it(tmp_path):
    """Their normalisation layer has no tensors: the keys merely begin with 1."""
    torch.manual_seed(0)
    network = filled(CifarResNet())
    state = {f"1.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 90, "arch": "cifar_resnet110", "state_dict": state, "optimizer": {}}, tmp_path / "c.pth.tar")
    model = load_classifier("resnet110", tmp_path / "c.pth.tar")
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert close(model(x), network(vision.normalize(x, CIFAR_MEAN, COHEN_STD)))


def test_batch_norms_of_old_files_have_no_counter(cifar, tmp_path):
    network, _, name = cifar
    state = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    x = torch.rand(2, 3, 32, 32)
    torch.save(network.state_dict(), tmp_path / "new.pth")
    with torch.inference_mode():
        new, old = (load_classifier(name, tmp_path / file)(x) for file in ("new.pth", "old.pth"))
    assert torch.equal(new, old)


def test_tensors_that_do_not_fit_are_named(cifar, tmp_path, rejected):
    network, _, name = cifar
    file = tmp_path / "w.pth"

    def refused(change, match):
        state = dict(network.state_dict())
        change(state)
        torch.save(state, file)
        with rejected(match):
            load_classifier(name, file)

    refused(lambda state: state.pop("conv1.weight"), r"conv1\.weight is missing")
    refused(lambda state: state.pop("fc.weight"), r"lack fc\.weight")
    refused(lambda state: state.update(extra=torch.zeros(1)), "extra is unknown")
    refused(lambda state: state.update({"fc.bias": torch.zeros(3)}), r"fc\.bias \(shape \[3\] instead of \[7\]\)")
    refused(lambda state: state.clear(), "must hold names and tensors")
    refused(lambda state: state.update(note="text"), "must hold names and tensors")


def test_files_of_another_kind_are_refused(cifar, tmp_path, rejected):
    network, _, name = cifar
    torch.save(network.state_dict(), tmp_path / "w.pth")
    for published in ("wrn-28-10", "resnet110"):
        with rejected(f"cannot load {published} from .*(depth 1[04] instead of|lack block1|no residual blocks)"):
            load_classifier(published, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for damaged in ("w.pth", "w.safetensors"):
        (tmp_path / damaged).write_bytes(whole[:5000])
        with rejected("damaged or no file of tensors"):
            load_classifier(name, tmp_path / damaged)
    torch.save(network, tmp_path / "module.pth")
    with rejected("damaged or no file of tensors"):
        load_classifier(name, tmp_path / "module.pth")
    with rejected("there is no file"):
        load_classifier(name, tmp_path / "none.pth")
    with rejected("no embedded checkpoint"):
        load_classifier(name)


def test_torchvision(shufflenet):
    network, file = shufflenet
    model = load_classifier("torchvision:shufflenet_v2_x0_5", file)
    x = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        assert close(model(x), network(vision.normalize(x, IMAGENET_MEAN, IMAGENET_STD)))
    check_gradients(model, torch.rand(1, 3, 32, 32))


def test_torchvision_preprocessing_is_the_library_s_own(shufflenet):
    """On the data set's crop all of it; on another size the resize to the crop, up to the rounding to bytes."""
    preprocess = load_classifier("torchvision:shufflenet_v2_x0_5", shufflenet[1]).preprocess
    weights = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    whole = image(300, 280)
    crop = vision.center_crop(vision.resize(whole, 256, antialias=True), 224)
    assert close(preprocess(crop[None] / 255)[0], weights.transforms()(whole))
    small = image(32)
    found, expected = preprocess(small[None] / 255)[0], weights.transforms(resize_size=224)(small)
    assert ((found - expected) * torch.tensor(IMAGENET_STD).view(-1, 1, 1)).abs().max() <= 0.51 / 255


def test_torchvision_reads_what_it_published(tmp_path, monkeypatch):
    """Old names; a size and an interpolation by the name of the file. The models are tiny."""
    makers = {
        "vit_b_16": lambda image_size=224, **rest: VisionTransformer(image_size, 32, 1, 2, 8, 16, **rest),
        "densenet121": lambda **rest: DenseNet(8, (1, 1), 8, **rest),
    }
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights, **rest: makers[name](**rest))
    torch.manual_seed(0)
    vit = filled(makers["vit_b_16"](384, num_classes=1000))
    nn.init.normal_(vit.heads.head.weight)
    file = tmp_path / ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.url.rsplit("/", 1)[1]
    old = (("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2."))
    torch.save(renamed(vit.state_dict(), *old), file)
    model, x = load_classifier("torchvision:vit_b_16", file), torch.rand(1, 3, 384, 384)
    assert model.preprocess.settings.mode == "bicubic"
    with torch.inference_mode():
        assert close(model(x), vit(vision.normalize(x, IMAGENET_MEAN, IMAGENET_STD)))
    save_classifier(model, tmp_path)  # the size is no longer in the name
    assert load_classifier("torchvision:vit_b_16", tmp_path).preprocess.settings == model.preprocess.settings

    dense, x = filled(makers["densenet121"](num_classes=3)), torch.rand(1, 3, 224, 224)
    torch.save(
        renamed(dense.state_dict(), *[(f".{k}{i}.", f".{k}.{i}.") for k in ("norm", "conv") for i in (1, 2)]), file
    )
    with torch.inference_mode():
        found = load_classifier("torchvision:densenet121", file)(x)
        assert close(found, dense(vision.normalize(x, IMAGENET_MEAN, IMAGENET_STD)))


def renamed(state, *names):
    """A state dict without metadata, by other names."""
    for ours, theirs in names:
        assert any(ours in key for key in state)
        state = {key.replace(ours, theirs): value for key, value in state.items()}
    return state


def test_torchvision_refusals(shufflenet, tmp_path, rejected):
    network, file = shufflenet
    with rejected("cannot load torchvision:shufflenet_v2_x1_0 from .*do not fit the network"):
        load_classifier("torchvision:shufflenet_v2_x1_0", file)
    with rejected("torchvision has no classification model 'resnet1'"):
        load_classifier("torchvision:resnet1", file)
    state = network.state_dict()
    state["conv1.0.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "w.pth")
    with rejected(r"conv1\.0\.weight \(shape \[2, 2\] instead of \[24, 3, 3, 3\]\) is misshapen"):
        load_classifier("torchvision:shufflenet_v2_x0_5", tmp_path / "w.pth")
    with rejected("takes images of 3 channels; got 1"):
        load_classifier("torchvision:shufflenet_v2_x0_5", file)(torch.rand(1, 1, 8, 8))
    with rejected("classifier must be one of .*wrn-28-10"):
        load_classifier("resnet", file)


PROCESSOR = {  # as the library wrote them for years: one size, and no word on rescaling
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
    "resample": 2,
    "size": 48,
}


def processor(folder, **values):
    """Writes preprocessor_config.json."""
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | values))


@pytest.fixture
def vit(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=48, patch_size=16, num_labels=4)
    network = filled(transformers.ViTForImageClassification(config))
    network.save_pretrained(tmp_path / "vit")
    processor(tmp_path / "vit")
    return network, tmp_path / "vit"


def test_transformers(vit):
    network, folder = vit
    model, x = load_classifier("transformers", folder), torch.rand(2, 3, 48, 48)
    with torch.inference_mode():
        expected = network(pixel_values=vision.normalize(x, PROCESSOR["image_mean"], PROCESSOR["image_std"])).logits
        assert close(model(x), expected)
        assert model(x).shape == (2, 4)
    check_gradients(model, torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(("resample", "size"), [(2, 32), (3, 32), (2, 100), (3, 100)])
@pytest.mark.parametrize("rescales", [True, False])
def test_transformers_preprocessing_is_the_library_s_own(vit, resample, size, rescales):
    """Within about one step of a byte; between 64 and 192, where no bicubic overshoot is clipped."""
    from transformers import ViTImageProcessor

    _, folder = vit
    processor(folder, resample=resample, do_rescale=rescales)
    preprocess = Preprocess(read(folder / "preprocessor_config.json"))
    whole = image(size, low=64, high=192)
    found = preprocess(whole[None] / 255)[0]
    mean, std, step = preprocess.mean, preprocess.std, 1 / 255 if rescales else 1.0
    bound = {2: 1.01, 3: 1.14}[
        resample
    ] * step  # half a byte a direction; bicubic weights sum to 1.25 in absolute value
    by_pil = vision.to_pil_image(whole).resize((48, 48), Image.Resampling(resample))
    assert (found * std + mean - vision.pil_to_tensor(by_pil) * step).abs().max() <= bound
    by_library = ViTImageProcessor.from_pretrained(folder)(whole, return_tensors="pt")["pixel_values"][0]
    assert ((found - by_library) * std).abs().max() <= bound
    same = image(48)
    assert close(preprocess(same[None] / 255)[0], (same * step - mean) / std)


def test_preprocessing_in_the_words_of_the_library(tmp_path, rejected):
    file = tmp_path / "preprocessor_config.json"

    def found(**values):
        processor(tmp_path, **values)
        return read(file)

    plain = Preprocessing((48, 48), "bilinear", (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    assert found() == found(size={"height": 48, "width": 48}) == found(size={"shortest_edge": 48}) == plain
    assert found(do_center_crop=True, size=64, crop_size=48) == plain
    assert found(do_resize=False).size is None
    assert found(do_normalize=False).std == (1.0, 1.0, 1.0)
    assert found(rescale_factor=1 / 127.5).scale == 2.0
    assert found(resample=3).mode == "bicubic"
    for values, match in (
        ({"resample": 1}, "resample must be one of 2, 3; got 1"),
        ({"size": 0}, "size must be"),
        ({"size": {"longest_edge": 48}}, "lacks a value"),
        ({"size": "48"}, "wrong kind"),
        ({"image_std": [0.5, 0.0, 0.5]}, "must be positive"),
        ({"image_std": [0.5]}, "a number a channel"),
        ({"image_mean": [None, 0.5, 0.5]}, "a number a channel|wrong kind"),
        ({"do_flip_channel_order": True}, "the step do_flip_channel_order is not known here"),
        ({"feature_extractor_type": "MobileViTFeatureExtractor"}, "may take steps that are not known here"),
        ({"rescale_factor": "1/255"}, "scale must be positive|wrong kind"),
    ):
        with rejected(match):
            found(**values)
    file.write_text("[]")
    with rejected("holds a list; expected an object"):
        read(file)


def test_transformers_refusals(vit, tmp_path, monkeypatch, rejected):
    network, folder = vit
    config = json.loads((folder / "config.json").read_text())
    for change, match in (
        ({"num_hidden_layers": 2}, r"cannot load transformers from .*vit\.\S*layers?\.1\.\S+ is missing.* more"),
        ({"hidden_size": 16}, "cannot read it"),
        ({"model_type": "unheard-of"}, "cannot read it"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with rejected(match):
            load_classifier("transformers", folder)
    (folder / "config.json").write_text(json.dumps(config))
    config = type(network.config)(**network.config.to_dict() | {"id2label": {0: "only"}, "label2id": {"only": 0}})
    type(network)(config).save_pretrained(folder)
    with rejected("num_labels of 2 or more; got 1"):
        load_classifier("transformers", folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:900])
    with rejected("cannot read it"):
        load_classifier("transformers", folder)
    (folder / "preprocessor_config.json").unlink()
    with rejected("lacks preprocessor_config.json"):
        load_classifier("transformers", folder)
    with rejected("there is no checkpoint folder at .*: give the folder that holds its config.json"):
        load_classifier("transformers", str(tmp_path / "none"))
    with rejected("no model of that name in the local cache of the hub or on it .*run `hf download someone/a-model"):
        load_classifier("transformers", "someone/a-model-that-no-cache-has")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with rejected(r'pip install "cpur\[hub\]"'):
        load_classifier("transformers", folder)


def test_transformers_finds_a_model_of_the_local_cache(vit, monkeypatch):
    _, folder = vit
    hub = pytest.importorskip("huggingface_hub")

    def cached(name, local_files_only):
        assert local_files_only
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", cached)
    assert load_classifier("transformers", "someone/vit-cifar10")(torch.rand(1, 3, 8, 8)).shape == (1, 4)


def test_hashes_and_saved_folders(cifar, shufflenet, vit, tmp_path):
    """A hash is that of what is computed; what is saved, as after fine-tuning, loads under the same name."""
    network, _, small = cifar
    torch.save(network.state_dict(), tmp_path / "w.pth")
    for name, checkpoint in (
        (small, tmp_path / "w.pth"),
        ("torchvision:shufflenet_v2_x0_5", shufflenet[1]),
        ("transformers", vit[1]),
    ):
        model, x = load_classifier(name, checkpoint), torch.rand(1, 3, 20, 20)
        saved = tmp_path / f"saved-{name[:3]}"
        saved.mkdir()
        save_classifier(model, saved)
        again = load_classifier(name, saved)
        states = model.state_dict(), again.state_dict()
        assert list(states[0]) == list(states[1])
        assert all(map(torch.equal, *(state.values() for state in states)))
        with torch.inference_mode():  # the last bit may depend on where in memory the weights lie
            torch.testing.assert_close(again(x), model(x))
        before = classifier_hash(name, checkpoint)
        assert before == classifier_hash(name, checkpoint, model) == classifier_hash(name, saved)
        file = saved / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"resample": 3}))
        assert classifier_hash(name, saved) != before
        next(model.parameters()).data.add_(1e-3)
        assert classifier_hash(name, checkpoint, model) != before
