"""The terms of diffusion calibration, and training with them."""

import pytest
import torch

from cpur import FinetuneConfig, load_purifier
from cpur.calibration import anti_consistency, both_wrong, brier
from cpur.finetune import Finetuning

SMALL = {"steps": 30, "batch_size": 32, "purifier": "onestep-ddpm", "loss": "l2"}


def test_brier_score_in_closed_form():
    shares = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])
    assert brier(shares, torch.tensor([0, 0, 0])).tolist() == [0.0, 2.0, 0.375]


def test_only_two_wrong_copies_are_asked_to_disagree():
    right, wrong, other = ([0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8])
    first = torch.tensor([right, right, wrong, wrong])
    second = torch.tensor([right, wrong, wrong, other])
    labels = torch.zeros(4, dtype=torch.int64)
    assert both_wrong(first, second, labels).tolist() == [False, False, True, True]
    found = anti_consistency(first, second, labels)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.66, 0.17]))


@pytest.mark.parametrize("purifier", ["onestep-ddpm", "consistency"])
def test_calibration_trains_the_denoiser_alone(purifier, tmp_path):
    config = FinetuneConfig(**SMALL | {"purifier": purifier}, brier=1.0, anticonsistency=0.1, out=str(tmp_path))
    run = Finetuning(config)
    before = {name: value.clone() for name, value in run.classifier.state_dict().items()}
    result = run.run()
    assert result.classifier is None
    assert list(result.history.columns) == ["step", "l2 distance", "Brier score", "anti-consistency"]
    assert all(torch.equal(value, before[name]) for name, value in run.classifier.state_dict().items())
    assert result.history["Brier score"].tail(10).mean() < result.history["Brier score"].head(10).mean()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    tuned, untuned = load_purifier(purifier, result.purifier), load_purifier(purifier)
    assert not torch.equal(tuned.denoise(x, 0.5), untuned.denoise(x, 0.5))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"brier": -1.0}, "brier must not be negative; got -1.0"),
        ({"anticonsistency": "much"}, "anticonsistency must be a number; got 'much'"),
        (
            {"brier": 0.1, "train": "both"},
            "calibration trains the purifier against a frozen classifier; got train 'both'",
        ),
    ],
)
def test_bad_weights_are_named(change, sentence, rejected):
    with rejected(sentence):
        FinetuneConfig(**change)


def test_an_identity_names_its_calibration():
    plain, calibrated = (Finetuning(FinetuneConfig(**SMALL, **w)).identity for w in ({}, {"brier": 0.1}))
    assert "brier" not in plain
    assert calibrated["brier"] == 0.1
