"""The corrupted and the shifted digits."""

import pytest
import torch
from sklearn.datasets import load_digits

from cpur import load_classifier, load_dataset
from cpur.corruptions import CORRUPTIONS, SEVERITIES


@pytest.mark.parametrize("family", CORRUPTIONS)
def test_a_corruption_is_the_same_every_time(family):
    clean, first, again = (
        load_dataset(n, "val", subset=s) for n, s in (("digits", None), *[("digits-c", f"{family}-3")] * 2)
    )
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, clean.labels)
    assert not torch.equal(first.images, clean.images)
    bytes_ = first.images.double() * 255
    assert (bytes_ - bytes_.round()).abs().max() < 1e-4  # 8 bits, which the lattice holds
    assert 0 <= first.images.min() <= first.images.max() <= 1


@torch.inference_mode()
@pytest.mark.parametrize("family", CORRUPTIONS)
def test_severity_grows(family):
    classifier = load_classifier()
    right, away = [], []
    clean = load_dataset("digits", "val")
    for severity in SEVERITIES:
        data = load_dataset("digits-c", "val", subset=f"{family}-{severity}")
        right.append((classifier(data.images).argmax(1) == data.labels).float().mean())
        away.append((data.images - clean.images).square().mean())
    assert right[-1] < right[0]
    assert away == sorted(away)


def test_shifted_digits_are_the_last_of_the_file():
    pixels, labels = load_digits(return_X_y=True)
    test = load_dataset("digits-shift")
    assert torch.equal(test.images.flatten(1), torch.from_numpy(pixels[-500:] / 16).float())
    assert test.labels.tolist() == labels[-500:].tolist()
    sizes = {split: len(load_dataset("digits-shift", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 1097, "val": 200, "test": 500}


def test_part_of_a_corrupted_set():
    whole, part = (load_dataset("digits-c", subset=f"contrast-2{every}") for every in ("", "/every-50"))
    assert torch.equal(part.images, whole.images[::50])


@pytest.mark.parametrize(
    ("subset", "sentence"),
    [
        (None, "digits-c needs subset: a corruption and its severity, such as gaussian_noise-3"),
        ("fog-3", "corruption must be one of gaussian_noise"),
        ("contrast", "corruption is a family and a severity from 1 to 5, such as contrast-3"),
        ("contrast-6", "severity from 1 to 5"),
        ("every-20", "corruption must be one of|digits-c needs subset"),
    ],
)
def test_bad_corruptions_are_named(subset, sentence, rejected):
    with rejected(sentence):
        load_dataset("digits-c", subset=subset)
