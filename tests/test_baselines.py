"""The methods without diffusion: their losses by hand, training that resumes, certified selection."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from test_datasets import cifar_folder
from torch.nn import functional as F

from cpur import CertifyConfig, certify_dataset, cli, load_classifier, load_dataset, load_record
from cpur.aces import CERTIFIED, CORE, EntropySelector, combined, entropy_selector
from cpur.augment import crop_and_flip, jitter, resized_crop_and_flip
from cpur.baselines import Training, consistency_regularization
from cpur.recipes import BaselineConfig
from cpur.records import record_files

SMALL = {"epochs": 3, "batch_size": 200}


def test_loss_by_hand():
    logits = torch.tensor([[[2.0, 0.0, -1.0]], [[0.5, 0.5, 0.0]]])
    labels = torch.tensor([0])
    shares = logits.softmax(-1)
    mean = shares.mean(0)[0]
    expected = torch.stack([F.cross_entropy(one, labels) for one in logits]).mean()
    torch.testing.assert_close(consistency_regularization(logits, labels, 0.0, 0.0), expected)
    kl = sum((mean * (mean / one[0]).log()).sum() for one in shares) / 2
    entropy = -(mean * mean.log()).sum()
    found = consistency_regularization(logits, labels, 10.0, 0.5)
    torch.testing.assert_close(found, expected + 10 * kl + 0.5 * entropy)


def test_copies_that_agree_cost_their_entropy_only():
    logits = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0)).expand(2, 5, 4)
    labels = torch.arange(5) % 4
    plain = consistency_regularization(logits, labels, 0.0, 0.0)
    torch.testing.assert_close(consistency_regularization(logits, labels, 20.0, 0.0), plain)


def test_training_resumes_bit_for_bit(tmp_path):
    whole = Training(BaselineConfig(**SMALL, copies=2, lam=5.0, eta=0.5, out=str(tmp_path / "whole"))).run()
    config = BaselineConfig(**SMALL, copies=2, lam=5.0, eta=0.5, out=str(tmp_path / "parts"))

    class Killed(Exception):
        pass

    def killed(epochs, done, total):
        for count, epoch in enumerate(epochs):
            if count == 1:
                raise Killed
            yield epoch

    with pytest.raises(Killed):
        Training(config).run(killed)
    resumed = Training(config)
    assert len(resumed.losses) == 1
    again = resumed.run()
    assert again.history.equals(whole.history)
    for one, two in zip(*(load_classifier("digits-cnn", b.folder).parameters() for b in (whole, again)), strict=True):
        assert torch.equal(one, two)
    assert json.loads((again.folder / "trained.json").read_text())["lam"] == 5.0


@pytest.mark.parametrize("classifier", ["resnet110", "torchvision:resnet18"])
def test_published_networks_are_trained_from_scratch(classifier, tmp_path):
    cifar_folder(tmp_path, rows=2)
    values = {"preset": "cifar10", "dataset": "cifar10", "root": str(tmp_path), "epochs": 1, "batch_size": 5}
    training = Training(BaselineConfig(**values, classifier=classifier, out=str(tmp_path / "run")))
    trained = training.run()
    loaded = load_classifier(classifier, trained.folder).eval()
    x = load_dataset("cifar10", "test", str(tmp_path)).batch(torch.arange(2))
    with torch.inference_mode():
        assert torch.equal(loaded(x), training.model.eval()(x))


def test_the_printed_command_certifies_what_was_trained(tmp_path, capsys, monkeypatch):
    cli.train(BaselineConfig(epochs=1, out=str(tmp_path / "run")))
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("certify it: ").split()
    small = ["--n", "20", "--n0", "5", "--num-images", "2", "--records-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, *small])
    cli.main()
    (file,) = record_files(tmp_path)
    assert (
        load_record(file)[0]["config"]["classifier_checkpoint"] == command[command.index("--classifier-checkpoint") + 1]
    )


def test_what_cannot_be_trained_is_named(rejected):
    with rejected("transformers cannot be trained from scratch: take torchvision:<model> or wrn-28-10 or resnet110"):
        Training(BaselineConfig(classifier="transformers"))
    with rejected("classifier must be one of"):
        Training(BaselineConfig(classifier="resnet"))


def test_training_lowers_the_loss_and_certifies(tmp_path):
    baseline = Training(BaselineConfig(epochs=8, out=str(tmp_path / "run"), sigma=0.25)).run()
    assert baseline.history.loss.iloc[-1] < 0.6 * baseline.history.loss.iloc[0]
    shared = {"purifier": "none", "sigma": 0.25, "n": 300, "n0": 50, "num_images": 20, "records_dir": str(tmp_path)}
    trained, clean = (
        load_record(certify_dataset(CertifyConfig(**shared, classifier_checkpoint=folder)).file)[1]
        for folder in (str(baseline.folder), None)
    )
    assert (trained.correct * trained.radius).mean() > (clean.correct * clean.radius).mean()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sigma": 0}, "sigma must lie in"),
        ({"lam": 5.0}, "lam compares noisy copies: take copies of 2 or more; got 1"),
        ({"eta": -1.0}, "eta must not be negative"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"preset": "mnist"}, "preset must be one of digits, cifar10, imagenet"),
        ({"precision": "float16"}, "precision must be one of"),
    ],
)
def test_bad_values_are_named(change, sentence, rejected):
    with rejected(sentence):
        BaselineConfig(**change)


def test_presets_are_those_of_the_papers():
    cifar = BaselineConfig(preset="cifar10", copies=2, lam=10.0, eta=0.5)
    assert (cifar.lr, cifar.momentum, cifar.weight_decay, cifar.epochs, cifar.decay_every) == (0.1, 0.9, 1e-4, 90, 30)
    assert (cifar.batch_size, BaselineConfig(preset="imagenet").batch_size) == (256, 400)


def test_another_run_is_refused(tmp_path, rejected):
    Training(BaselineConfig(**SMALL, out=str(tmp_path))).run()
    with rejected("holds another training run"):
        Training(BaselineConfig(**SMALL, sigma=1.0, out=str(tmp_path)))
    (tmp_path / "training.pt").write_bytes(b"torn")
    with rejected("cannot be read"):
        Training(BaselineConfig(**SMALL, out=str(tmp_path)))


@pytest.mark.parametrize("augment", [jitter, crop_and_flip, resized_crop_and_flip])
def test_each_image_is_augmented_by_itself(augment):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = augment(image.expand(6, -1, -1, -1))
    assert found.shape == (6, 3, 32, 32)
    assert len({float(one.sum()) for one in found}) > 1
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6


class Table(torch.nn.Module):
    """Returns the first pixels of an image as logits."""

    def forward(self, x):
        return x.flatten(1)[:, :3]


def test_selector_takes_what_is_sure():
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    images = torch.cat([sure, unsure]).view(2, 1, 1, 3)
    said = EntropySelector(Table(), 0.5)(images)
    assert said.shape == (2, 3)
    assert said.argmax(1).tolist() == [CERTIFIED, CORE]
    assert EntropySelector(Table(), 0.0)(images).argmax(1).tolist() == [CORE, CORE]
    assert EntropySelector(Table(), 1.01)(images).argmax(1).tolist() == [CERTIFIED, CERTIFIED]


def test_a_selector_is_loaded_and_certified(tmp_path):
    folder = tmp_path / "selector"
    folder.mkdir()
    (folder / "selector.json").write_text(
        json.dumps({"classifier": "digits-cnn", "checkpoint": None, "threshold": 0.5})
    )
    assert entropy_selector(str(folder)).threshold == 0.5
    config = CertifyConfig(
        purifier="none",
        classifier="cpur.aces:entropy_selector",
        classifier_checkpoint=str(folder),
        sigma=0.12,
        n=200,
        n0=20,
        num_images=4,
        alpha=0.0005,
        records_dir=str(tmp_path / "records"),
    )
    _, frame = load_record(certify_dataset(config).file)
    assert all(sum(counts[2:]) == 0 for counts in frame.counts)


def record(prediction, radius, label=(0, 1, 2, 3), alpha=0.0005):
    frame = pd.DataFrame({"index": range(4), "label": label, "prediction": prediction, "radius": radius})
    frame = frame.assign(n0=10, n=100, seconds=0.1, correct=frame.prediction == frame.label)
    identity = {"dataset": "digits", "subset": None, "sigma": 0.5, "n": 100}
    return {"identity": identity, "config": {"alpha": alpha}}, frame


def test_certified_selection_by_hand():
    """Selected; passed to the core; an abstaining selector with both models right, and with the core wrong."""
    ours = record([0, 9, 2, 3], [0.5, 0.4, 0.3, 0.3])
    selector = record([CERTIFIED, CORE, -1, -1], [0.2, 0.6, 0.0, 0.0])
    header, frame = combined(ours, selector, np.array([5, 1, 2, 7]))
    assert header["config"]["alpha"] == pytest.approx(0.001)
    assert frame.prediction.tolist() == [0, 1, 2, -1]
    assert frame.radius.tolist() == [0.2, 0.0, 0.0, 0.0]
    assert frame.correct.tolist() == [True, True, True, False]


def test_an_abstaining_classifier_is_not_certified():
    ours, selector = record([-1] * 4, [0.0] * 4), record([CERTIFIED] * 4, [0.6] * 4)
    _, frame = combined(ours, selector, np.arange(4))
    assert frame.prediction.tolist() == [-1] * 4
    assert not frame.correct.any()


def test_records_must_fit(rejected):
    ours, (header, frame) = record([0] * 4, [0.1] * 4), record([1] * 4, [0.1] * 4)
    other = header | {"identity": header["identity"] | {"sigma": 0.25}}
    with rejected("of the same images at the same sigma"):
        combined(ours, (other, frame), np.zeros(4, int))
